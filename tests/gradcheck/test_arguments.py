"""What goes in and what comes out: nested results, alignment, precision, errors, the report."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import pytest

from minilm.gradcheck import gradcheck
from tests.gradcheck import toys

MODES = ["fast", "full"]


class Step(NamedTuple):
    y: object
    state: object


def test_nested_results(xp, rng):
    """A recurrent op's result: a tuple in a NamedTuple, a part without gradient, a scalar."""

    def forward(x, w):
        y, cache = toys.product(x, w)
        return Step(y, (y.sum(axis=0), None)), cache

    def backward(dy, cache):
        return toys.product_backward(dy.y + dy.state[0], cache)

    args = xp.asarrays(toys.inputs(rng, (3, 4), (3, 4)))
    assert gradcheck(forward, backward, args).max_rel_error < 1e-13
    failed = gradcheck(forward, lambda dy, c: toys.product_backward(dy.y, c), args)
    assert {row.argument for row in failed.failures} == {"x", "w"}


@pytest.mark.parametrize("kind", [float, np.float64, np.asarray])
def test_scalar_results(kind, rng):
    def forward(x):
        return (kind((x * x).sum()) if x.dtype.kind == "f" else (x * x).sum()), x

    report = gradcheck(forward, lambda dy, x: 2 * x * dy, toys.inputs(rng, (5,)))
    assert report, report


def test_optional_argument_left_out(rng):
    x, weight, _ = toys.inputs(rng, *toys.AFFINE)

    def backward(dy, cache):
        dx, dweight, _ = toys.affine_backward(dy, cache)
        return dx, dweight, None

    for args in [(x, weight), (x, weight, None)]:
        report = gradcheck(toys.affine, backward, args)
        assert report, report
        assert {row.argument for row in report.rows} == {"x", "weight"}
    report = gradcheck(toys.affine, toys.affine_backward, (x, weight))
    assert [(row.argument, row.passed) for row in report.rows][-1] == ("bias", False)  # a gradient for nothing
    wrapper = gradcheck(lambda x, weight: toys.affine(x, weight), backward, (x, weight))
    assert wrapper, wrapper


def test_forgotten_none(rng):
    """b was not given: two gradients where three have their places leave w without one."""
    report = gradcheck(toys.affine, lambda dy, c: (dy @ c.weight, None), toys.inputs(rng, (5, 4), (4, 4)))
    assert {row.argument for row in report.failures} == {"weight"}


def test_wrt_selects_by_name_and_position(rng):
    args = toys.inputs(rng, *toys.NORM)
    for wrt in ["gain", ("gain",), 1, (1,), [-2]]:
        assert {row.argument for row in gradcheck(toys.layer_norm, toys.layer_norm_backward, args, wrt=wrt).rows} == {
            "gain"
        }
    backward = toys.change(toys.layer_norm_backward, 0, lambda g, dy, c: -g)
    assert gradcheck(toys.layer_norm, backward, args, wrt=("gain", "bias"))
    with pytest.raises(ValueError, match="x, gain, bias"):
        gradcheck(toys.layer_norm, backward, args, wrt="beta")


def test_floating_argument_that_is_no_variable(rng):
    """Running statistics: floating, but backward returns nothing for them; wrt says so."""

    def forward(x, mean, w):
        return (x - mean) * w, (x - mean, w)

    def backward(dy, cache):
        return dy * cache[1], dy * cache[0]

    args = toys.inputs(rng, (3,), (3,), (3,))
    assert gradcheck(forward, backward, args, wrt=("x", "w"))
    assert gradcheck(forward, backward, args, wrt=("w",), gradients=("x", "w"))
    with pytest.raises(ValueError, match=r"2 gradients .* 3 floating"):
        gradcheck(forward, backward, args)


def test_declared_gradients_name_the_results(rng):
    """The default of backward's `wrt` is the order of its results, whatever the order of the forward's arguments."""

    def forward(w, x):
        return toys.product(x, w)

    def backward(dy, cache, wrt=("x", "w")):
        return toys.product_backward(dy, cache)

    assert gradcheck(forward, backward, toys.inputs(rng, (3,), (3,)))


def test_options_pass_through_and_generators_repeat(rng):
    def dropout(x, p, rng):
        keep = rng.random(x.shape) >= p
        return x * keep / (1 - p), keep / (1 - p)

    args = (rng.normal(size=(4, 5)), 0.4, np.random.default_rng(3))
    assert gradcheck(dropout, lambda dy, keep: dy * keep, args)
    assert args[2].random() == np.random.default_rng(3).random()  # the caller's generator is not moved


def test_infinite_inputs_are_left_out(rng):
    """A mask of -inf is an input like another; only its finite elements can be perturbed."""

    def forward(x):
        e = np.exp(x.real) * np.exp(1j * x.imag) if x.dtype.kind == "c" else np.exp(x)
        return e, np.exp(x.real)

    x = rng.normal(size=(2, 3))
    x[0, 1] = -np.inf
    for mode in MODES:
        report = gradcheck(forward, lambda dy, e: dy * e, (x,), mode=mode)
        assert report, report
        assert (0, 1) not in {row.index for row in report.rows}


def test_float32_is_refused_unless_allowed(rng):
    args = tuple(a.astype(np.float32) for a in toys.inputs(rng, *toys.NORM))
    with pytest.raises(TypeError, match="needs float64"):
        gradcheck(toys.layer_norm, toys.layer_norm_backward, args)
    assert gradcheck(toys.layer_norm, toys.layer_norm_backward, args, allow_float32=True)
    wrong = toys.change(toys.layer_norm_backward, 0, lambda g, dy, c: g * np.float32(1.01))
    assert not gradcheck(toys.layer_norm, wrong, args, allow_float32=True)


def test_float32_only_forward(rng):
    def forward(x):
        if x.dtype != np.float32:
            raise TypeError("float32 only")
        return x * x * x, x

    x = rng.normal(size=8).astype(np.float32)
    report = gradcheck(forward, lambda dy, x: 3 * x * x * dy, (x,), allow_float32=True)
    assert report, report
    assert not gradcheck(forward, lambda dy, x: 2.9 * x * x * dy, (x,), allow_float32=True)


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda x: gradcheck(toys.square, toys.square_backward, (x,), method="magic"), ValueError, "complex-step"),
        (lambda x: gradcheck(toys.square, toys.square_backward, (x,), mode="slow"), ValueError, "fast, full"),
        (lambda x: gradcheck(toys.square, toys.square_backward, x), TypeError, "tuple"),
        (lambda x: gradcheck(toys.square, toys.square_backward, (x, x)), TypeError, "do not fit"),
        (lambda x: gradcheck(toys.square, toys.square_backward, (3,)), ValueError, "nothing to check"),
        (lambda x: gradcheck(lambda x: x * x, toys.square_backward, (x,)), TypeError, "must return"),
        (lambda x: gradcheck(toys.square, toys.square_backward, (x * 1j,)), TypeError, "real arguments"),
        (lambda x: gradcheck(toys.product, toys.product_backward, (x, x.astype("f4"))), TypeError, "one precision"),
        (lambda x: gradcheck(toys.product, lambda dy, c: (dy, dy, dy), (x, x)), ValueError, "3 gradients"),
        (lambda x: gradcheck(toys.square, toys.square_backward, (x,), wrt=3), ValueError, "arguments are x"),
        (lambda x: gradcheck(toys.product, toys.product_backward, (x, 2), wrt=1), TypeError, "no floating array"),
    ],
)
def test_clear_errors(call, error, text):
    with pytest.raises(error, match=text):
        call(np.ones(3))


def test_arguments_and_warnings_are_left_alone(rng):
    """gradcheck works on copies even where the forward writes, and lets no warning of its own trials out."""

    def careless(x):
        x *= 1.0
        return np.sqrt(x) * np.sqrt(x), x

    x = rng.uniform(1e-3, 1.0, 5)
    before = x.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradcheck(careless, lambda dy, x: dy, (x,), method="central-difference")
    assert np.array_equal(x, before)


def test_report_holds_all_to_repeat(rng):
    backward = toys.change(toys.affine_backward, 1, lambda g, dy, c: 2 * g)
    args = toys.inputs(rng, *toys.AFFINE)
    report = gradcheck(toys.affine, backward, args, wrt=("weight",), mode="full", seed=11, rtol=1e-9)
    text = str(report)
    for piece in ["FAILED", "weight[", "analytic", "numeric", "relative error", "seed: 11", "weight float64(4, 4)"]:
        assert piece in text, piece
    assert "gradcheck(affine, wrong, args, wrt=('weight',), method='auto', mode='full', seed=11, rtol=1e-09)" in text
    again = gradcheck(toys.affine, backward, args, wrt=("weight",), mode="full", seed=11, rtol=1e-9)
    assert again == report
    assert gradcheck(toys.affine, backward, args, wrt=("weight",), mode="full", seed=12).rows[0] != report.rows[0]


def test_atol_and_rtol(rng):
    backward = toys.change(toys.affine_backward, 0, lambda g, dy, c: g * (1 + 1e-6))
    args = toys.inputs(rng, *toys.AFFINE)
    assert not gradcheck(toys.affine, backward, args)
    assert gradcheck(toys.affine, backward, args, rtol=1e-5)
    strict = gradcheck(toys.layer_norm, toys.layer_norm_backward, toys.inputs(rng, *toys.NORM), rtol=1e-13)
    assert {row.method for row in strict.rows} == {"complex-step"}  # rtol judges the gradient, not the method
    assert gradcheck(toys.affine, backward, args, atol=1e-3)
