"""gradcheck: right gradients pass to the last digits; each planted mistake fails, at the right argument."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import pytest

from minilm.gradcheck import gradcheck
from tests.gradcheck import toys

METHODS = ["complex-step", "central-difference", "auto"]
MODES = ["fast", "full"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("op", ["affine", "layer_norm"])
def test_right_gradients_pass(op, method, mode, xp, rng):
    args = xp.asarrays(toys.inputs(rng, *(toys.AFFINE if op == "affine" else toys.NORM)))
    forward, backward = getattr(toys, op), getattr(toys, f"{op}_backward")
    report = gradcheck(forward, backward, args, method=method, mode=mode)
    assert report and report.passed, report
    assert report.max_rel_error <= (1e-8 if method == "central-difference" else 1e-13), report
    assert {row.argument for row in report.rows} >= set(("x", "weight", "bias") if op == "affine" else ("x", "gain"))
    assert {row.method for row in report.rows} == {method if method != "auto" else "complex-step"}


def change(backward, position, how):
    """`backward` with one of its gradients changed."""

    def wrong(dy, cache):
        gradients = list(backward(dy, cache))
        gradients[position] = how(gradients[position], dy, cache)
        return tuple(gradients)

    return wrong


def bump(gradient, dy, cache):
    """One element of many, off by one part in a thousand."""
    gradient = gradient.copy()
    gradient[3, 2] = gradient[3, 2] * 1.001
    return gradient


PLANTED = {
    "wrong sign": ("affine", 0, lambda g, dy, c: -g),
    "wrong sign of one factor": ("affine", 1, lambda g, dy, c: -g),
    "transposed gradient of a square matrix": ("affine", 1, lambda g, dy, c: g.T),
    "factor 1 + 1e-6": ("affine", 0, lambda g, dy, c: g * (1 + 1e-6)),
    "one element": ("affine", 0, bump),
    "mean instead of sum": ("affine", 2, lambda g, dy, c: g / dy.shape[0]),
    "missing term": ("layer_norm", 0, lambda g, dy, c: (dy * c[2] - (dy * c[2]).mean(axis=-1, keepdims=True)) * c[1]),
    "zero": ("layer_norm", 1, lambda g, dy, c: g * 0.0),
    "infinite": ("layer_norm", 1, lambda g, dy, c: g + float("inf")),
    "none": ("layer_norm", 2, lambda g, dy, c: None),
    "wrong axis, other shape": ("layer_norm", 2, lambda g, dy, c: dy.sum(axis=1)),
    "scalar": ("layer_norm", 2, lambda g, dy, c: 0.0),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mistake", PLANTED)
def test_planted_mistake_fails_at_its_argument(mistake, method, mode, rng):
    op, position, how = PLANTED[mistake]
    shapes = toys.AFFINE if op == "affine" else toys.NORM
    backward = change(getattr(toys, f"{op}_backward"), position, how)
    report = gradcheck(getattr(toys, op), backward, toys.inputs(rng, *shapes), method=method, mode=mode)
    names = ("x", "weight", "bias") if op == "affine" else ("x", "gain", "bias")
    assert not report
    assert {row.argument for row in report.failures} == {names[position]}, report


def test_wrong_axis_of_the_right_shape(rng):
    """B = C: the sum over the wrong axis has the right shape and is caught by its numbers."""
    backward = change(toys.layer_norm_backward, 2, lambda g, dy, c: dy.sum(axis=1))
    report = gradcheck(toys.layer_norm, backward, toys.inputs(rng, (5, 5), (5,), (5,)))
    assert {row.argument for row in report.failures} == {"bias"}


@pytest.mark.parametrize("mistake", ["factor 1 + 1e-6", "one element"])
def test_planted_mistake_on_both_libraries(mistake, xp, rng):
    _, position, how = PLANTED[mistake]
    report = gradcheck(
        toys.affine, change(toys.affine_backward, position, how), xp.asarrays(toys.inputs(rng, *toys.AFFINE))
    )
    assert {row.argument for row in report.failures} == {"x"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", METHODS)
def test_one_wrong_element_is_named(method, mode, rng):
    backward = change(toys.affine_backward, 0, bump)
    report = gradcheck(toys.affine, backward, toys.inputs(rng, *toys.AFFINE), method=method, mode=mode)
    assert [row.index for row in report.failures if row.index is not None] == [(3, 2)]
    assert "x[3, 2]" in str(report)


@pytest.mark.parametrize("size", [1000, 5000])
def test_one_wrong_element_among_thousands(size, rng):
    def wrong(dy, x):
        gradient = toys.square_backward(dy, x)
        gradient[size // 2] *= 1.001
        return gradient

    assert not gradcheck(toys.square, wrong, toys.inputs(rng, (size,)))


@pytest.mark.parametrize("seed", range(25))
def test_small_factor_is_caught_by_differences_whatever_the_seed(seed, rng):
    args = toys.inputs(rng, (7, 9), (3, 9))
    backward = change(lambda dy, c: toys.affine_backward(dy, c)[:2], 1, lambda g, dy, c: g * (1 + 1e-6))
    assert not gradcheck(toys.affine, backward, args, method="central-difference", seed=seed)


@pytest.mark.parametrize("factor", [1e-8, 1e8])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("op", ["affine", "layer_norm", "square"])
def test_scale_of_inputs_does_not_matter(op, method, factor, rng):
    shapes = {"affine": toys.AFFINE, "layer_norm": toys.NORM, "square": ((7,),)}[op]
    args = toys.inputs(rng, *shapes, scale=factor)
    forward, backward = getattr(toys, op), getattr(toys, f"{op}_backward")
    report = gradcheck(forward, backward, args, method=method)
    assert report.max_rel_error <= (1e-8 if method == "central-difference" else 1e-11), report

    def wrong(dy, cache):
        result = backward(dy, cache)
        return 1.01 * result if op == "square" else (1.01 * result[0], *result[1:])

    assert {row.argument for row in gradcheck(forward, wrong, args, method=method).failures} == {"x"}


@pytest.mark.parametrize("method", METHODS)
def test_zero_gradient(method, rng):
    """A sum over a softmax is 1 whatever x: its gradient is zero up to rounding, which must not be divided by itself."""

    def total(x):
        e = np.exp(x)
        weights = e / e.sum(axis=-1, keepdims=True)
        return weights.sum(axis=-1), weights

    def total_backward(dy, weights):
        return weights * (dy[..., None] - (dy[..., None] * weights).sum(axis=-1, keepdims=True))

    args = toys.inputs(rng, (4, 6))
    report = gradcheck(total, total_backward, args, method=method)
    assert report, report
    assert not gradcheck(total, lambda dy, w: w * dy[..., None], args, method=method)


@pytest.mark.parametrize("mode", MODES)
def test_constant_forward(mode, rng):
    """The complex step finds no imaginary part in a constant; that is no proof of a zero gradient, differences are."""
    report = gradcheck(lambda x: (np.ones(3), x), lambda dy, x: np.zeros_like(x), toys.inputs(rng, (4,)), mode=mode)
    assert report
    assert {row.method for row in report.rows} == {"central-difference"}
    assert not gradcheck(lambda x: (np.ones(3), x), lambda dy, x: 1e-3 * x, toys.inputs(rng, (4,)), mode=mode)


@pytest.mark.parametrize("mode", MODES)
def test_empty_arrays(mode, xp, rng):
    args = xp.asarrays(toys.inputs(rng, (0, 4), (4, 4), (4,)))
    report = gradcheck(toys.affine, toys.affine_backward, args, mode=mode)
    assert report, report
    wrong = change(toys.affine_backward, 0, lambda g, dy, c: g.T)
    assert {row.argument for row in gradcheck(toys.affine, wrong, args, mode=mode).failures} == {"x"}


# ---- imaginary parts that are lost on the way


def abs_forward(x):
    return x * np.abs(x), x


def real_forward(x):
    return x * x.real, x


def cast_forward(x):
    y = np.empty(x.shape)
    y[...] = x * x
    return y, x


def refusing_forward(x):
    if x.dtype.kind == "c":
        raise TypeError("no complex numbers here")
    return x * x, x


@pytest.mark.parametrize("forward", [abs_forward, real_forward, cast_forward, refusing_forward])
def test_auto_is_not_fooled_by_lost_imaginary_parts(forward, rng):
    """x |x| and x Re(x) under a complex step look like the derivative without the second factor's term."""
    x = rng.uniform(0.5, 2.0, 6)
    report = gradcheck(forward, toys.square_backward, (x,))
    assert report, report
    assert [row.method for row in report.rows] == ["central-difference"]
    assert report.rows[0].note  # says why it is not the complex step
    assert not gradcheck(forward, lambda dy, x: x * dy, (x,))


@pytest.mark.parametrize("forward", [cast_forward, refusing_forward])
def test_complex_step_on_request_says_when_it_cannot(forward):
    with pytest.raises(ValueError, match="complex x"):
        gradcheck(forward, toys.square_backward, (np.ones(3),), method="complex-step")


def test_only_one_argument_is_complex_at_a_time(rng):
    """An op that needs all its arguments complex does not carry a complex one: differences are used, and say so."""

    def fussy(x, w):
        if x.dtype != w.dtype:
            raise TypeError("x and w differ in dtype")
        return toys.product(x, w)

    report = gradcheck(fussy, toys.product_backward, toys.inputs(rng, (3,), (3,)))
    assert report
    assert {row.method for row in report.rows} == {"central-difference"}


# ---- kinks


@pytest.mark.parametrize("at_zero", [0.0, 1.0, 0.5])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", ["auto", "central-difference"])
def test_any_subgradient_passes_at_a_kink(method, mode, at_zero, xp, rng):
    x = rng.normal(size=(4, 5))
    x[1, 2] = x[3, 0] = 0.0

    def backward(dy, x):
        module = toys.array_namespace(x)
        return module.where(x > 0, dy, 0.0) + module.where(x == 0, at_zero * dy, 0.0)

    report = gradcheck(toys.relu, backward, (xp.asarray(x),), method=method, mode=mode)
    assert report, report
    assert report.max_rel_error <= 1e-8
    if at_zero != 0.5:  # the central difference itself is the middle: nothing to excuse
        assert "at a kink" in str(report)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", ["auto", "central-difference"])
@pytest.mark.parametrize("mistake", ["outside at the kink", "factor elsewhere", "one element elsewhere"])
def test_a_kink_excuses_nothing_else(mistake, method, mode, rng):
    x = rng.normal(size=(4, 5))
    x[1, 2] = 0.0
    x[2, 2] = 0.7

    def backward(dy, x):
        gradient = np.where(x > 0, dy, 0.0)
        if mistake == "outside at the kink":
            gradient[1, 2] = 1.01 * dy[1, 2]
        elif mistake == "factor elsewhere":
            gradient *= 1 + 1e-5
        else:
            gradient[2, 2] *= 1.001
        return gradient

    report = gradcheck(toys.relu, backward, (x,), method=method, mode=mode)
    assert not report
    if mistake != "factor elsewhere":
        expected = (1, 2) if mistake == "outside at the kink" else (2, 2)
        assert expected in [row.index for row in report.failures], report


@pytest.mark.parametrize("distance", [1e-2, 1e-4, 1e-6, 1e-9])
@pytest.mark.parametrize("mode", MODES)
def test_a_kink_nearby_is_stepped_over(mode, distance, rng):
    """tanh(relu(x)): curved on one side, so that steps across the kink would mislead every extrapolation."""
    x = rng.normal(size=6)
    x[2], x[4] = distance, -distance

    def forward(x):
        y = np.tanh(np.maximum(x, 0.0))
        return y, (x, y)

    def backward(dy, cache):
        x, y = cache
        return np.where(x > 0, dy * (1 - y * y), 0.0)

    report = gradcheck(forward, backward, (x,), mode=mode, method="central-difference")
    assert report, report
    assert not gradcheck(forward, lambda dy, c: dy * (1 - c[1] * c[1]), (x,), mode=mode, method="central-difference")


def test_ties_of_a_maximum(rng):
    x = rng.normal(size=(3, 4))
    x[1] = [0.5, 2.0, 2.0, 1.0]

    def forward(x):
        return x.max(axis=1), x == x.max(axis=1, keepdims=True)

    def shared(dy, winners):
        return dy[:, None] * winners / winners.sum(axis=1, keepdims=True)

    assert gradcheck(forward, shared, (x,))
    assert gradcheck(forward, shared, (x,), mode="full")
    assert not gradcheck(forward, lambda dy, winners: -dy[:, None] * winners, (x,))


def test_a_kink_of_the_direction_alone():
    """max(min(x, y), 0) at 0 is flat along either axis and has its kink along x = y: each element is compared."""

    def forward(x):
        return np.maximum(np.minimum(x[0], x[1]), 0.0), x

    reports = [gradcheck(forward, lambda dy, x: np.zeros(2), (np.zeros(2),), seed=seed) for seed in range(12)]
    assert all(reports)
    assert any("the direction is at a kink" in str(report) for report in reports)
    assert not gradcheck(forward, lambda dy, x: np.ones(2), (np.zeros(2),))


# ---- structures, alignment, errors


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
    backward = change(toys.layer_norm_backward, 0, lambda g, dy, c: -g)
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
    with pytest.raises(ValueError, match="2 gradients .* 3 floating"):
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
    wrong = change(toys.layer_norm_backward, 0, lambda g, dy, c: g * np.float32(1.01))
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
    backward = change(toys.affine_backward, 1, lambda g, dy, c: 2 * g)
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
    backward = change(toys.affine_backward, 0, lambda g, dy, c: g * (1 + 1e-6))
    args = toys.inputs(rng, *toys.AFFINE)
    assert not gradcheck(toys.affine, backward, args)
    assert gradcheck(toys.affine, backward, args, rtol=1e-5)
    assert gradcheck(toys.affine, backward, args, atol=1e-3)
