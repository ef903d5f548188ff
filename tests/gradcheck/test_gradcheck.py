"""gradcheck: right gradients pass to the last digits; each planted mistake fails, at the right argument."""

from __future__ import annotations

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
    backward = toys.change(getattr(toys, f"{op}_backward"), position, how)
    report = gradcheck(getattr(toys, op), backward, toys.inputs(rng, *shapes), method=method, mode=mode)
    names = ("x", "weight", "bias") if op == "affine" else ("x", "gain", "bias")
    assert not report
    assert {row.argument for row in report.failures} == {names[position]}, report


def test_wrong_axis_of_the_right_shape(rng):
    """B = C: the sum over the wrong axis has the right shape and is caught by its numbers."""
    backward = toys.change(toys.layer_norm_backward, 2, lambda g, dy, c: dy.sum(axis=1))
    report = gradcheck(toys.layer_norm, backward, toys.inputs(rng, (5, 5), (5,), (5,)))
    assert {row.argument for row in report.failures} == {"bias"}


@pytest.mark.parametrize("mistake", ["factor 1 + 1e-6", "one element"])
def test_planted_mistake_on_both_libraries(mistake, xp, rng):
    _, position, how = PLANTED[mistake]
    report = gradcheck(
        toys.affine, toys.change(toys.affine_backward, position, how), xp.asarrays(toys.inputs(rng, *toys.AFFINE))
    )
    assert {row.argument for row in report.failures} == {"x"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", METHODS)
def test_one_wrong_element_is_named(method, mode, rng):
    backward = toys.change(toys.affine_backward, 0, bump)
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
    backward = toys.change(lambda dy, c: toys.affine_backward(dy, c)[:2], 1, lambda g, dy, c: g * (1 + 1e-6))
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
    """A softmax sums to 1 whatever x: its gradient is zero up to rounding, which must not be divided by itself."""

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
    wrong = toys.change(toys.affine_backward, 0, lambda g, dy, c: g.T)
    assert {row.argument for row in gradcheck(toys.affine, wrong, args, mode=mode).failures} == {"x"}
