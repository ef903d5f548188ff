"""The tuned convolution is held to its definition: values, gradients, laws, edges, and what it refuses."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from minilm import gradcheck, ops, reference
from minilm.kernels.cpu import conv1d as convolution
from minilm.selection import which

pytestmark = pytest.mark.filterwarnings("error")

# (B, T, Cin, Cout, K): a kernel of one, of one channel, even, as long as x; lengths that K divides, and doesn't
SIZES = [(2, 5, 3, 4, 1), (3, 7, 1, 2, 3), (2, 6, 3, 1, 4), (1, 5, 2, 3, 5), (4, 9, 2, 2, 3), (1, 1, 1, 1, 1)]


@pytest.fixture(autouse=True)
def any_size(monkeypatch):
    monkeypatch.setattr(convolution, "MINIMUM_SIZE", 1)


def arrays(rng, B, T, Cin, Cout, K):
    return rng.normal(size=(B, T, Cin)), rng.normal(size=(Cout, Cin, K)), rng.normal(size=Cout)


@pytest.mark.parametrize("padding", ["same", "causal", "valid"])
@pytest.mark.parametrize("size", SIZES)
def test_agrees_with_the_definition(size, padding, rng):
    args = arrays(rng, *size)
    assert which("conv1d", *args, padding=padding).startswith("conv1d: cpu.strided_windows")
    y, cache = ops.conv1d(*args, padding=padding)
    dy = rng.normal(size=y.shape)
    with reference():
        want, plain = ops.conv1d(*args, padding=padding)
    for got, expected in zip(
        (y, *ops.conv1d_backward(dy, cache)), (want, *ops.conv1d_backward(dy, plain)), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


def test_float32_is_as_accurate_as_the_definition(rng):
    args = arrays(rng, 8, 50, 16, 16, 3)
    single = [a.astype(np.float32) for a in args]
    dy = rng.normal(size=(8, 50, 16))

    def run(arrays, dy):
        y, cache = ops.conv1d(*arrays)
        return (y, *ops.conv1d_backward(dy, cache))

    tuned = run(single, dy.astype(np.float32))
    with reference():
        plain, best = run(single, dy.astype(np.float32)), run(args, dy)
    for ours, theirs, exact in zip(tuned, plain, best, strict=True):
        assert ours.dtype == np.float32
        scale = np.abs(exact).max()
        assert np.abs(ours - exact).max() / scale <= 2 * np.abs(theirs - exact).max() / scale + 5e-7


@pytest.mark.parametrize("padding", ["same", "causal", "valid"])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_gradient(size, has_bias, padding, rng):
    args = arrays(rng, *size)[: 3 if has_bias else 2]
    op = functools.partial(ops.conv1d, padding=padding)
    report = gradcheck.gradcheck(op, ops.conv1d_backward, args, method="central-difference")
    assert report.max_rel_error <= 1e-8, report


@pytest.mark.parametrize("padding", ["same", "causal", "valid"])
def test_laws(padding, rng):
    gradcheck.check_laws(functools.partial(ops.conv1d, padding=padding), ops.conv1d_backward, arrays(rng, *SIZES[4]))


def test_layout_does_not_matter(rng):
    x, weight, bias = arrays(rng, *SIZES[4])
    y, cache = ops.conv1d(x, weight, bias)
    gradients = ops.conv1d_backward(y, cache)
    views = np.repeat(x, 2, axis=2)[:, :, ::2], weight.T.copy().T, np.repeat(bias, 2)[::2]
    got, cache = ops.conv1d(*views)
    np.testing.assert_array_equal(got, y)
    for g, w in zip(ops.conv1d_backward(y[:, ::-1].copy()[:, ::-1], cache), gradients, strict=True):
        np.testing.assert_array_equal(g, w)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("padding", ["same", "causal", "valid"])
def test_what_is_not_finite_reaches_what_it_reaches_in_the_definition(padding, bad, rng):
    """Windows that reach from one sequence into the next carry nothing over."""
    x, weight, bias = arrays(rng, *SIZES[4])
    x[1, 0, 0] = bad
    with np.errstate(invalid="ignore"):
        y, cache = ops.conv1d(x, weight, bias, padding=padding)
        dy = rng.normal(size=y.shape)
        dy[2, -1, 0] = bad
        got = y, *ops.conv1d_backward(dy, cache)
        with reference():
            want, plain = ops.conv1d(x, weight, bias, padding=padding)
            want = want, *ops.conv1d_backward(dy, plain)
    assert type(cache) is not type(plain)
    for ours, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"stride": 2}, "stride"),
        ({"dilation": 2}, "dilation"),
        ({"dtype": np.complex128}, "float32"),
        ({"x": np.zeros((2, 3, 2))}, "no longer than x"),
        ({"x": np.zeros((2, 0, 2))}, "no longer than x"),
        ({"weight": np.full((2, 2, 3), np.inf)}, "not finite"),
    ],
)
def test_what_is_not_served_goes_to_the_definition(change, word, rng):
    x, weight, bias = arrays(rng, 2, 9, 2, 2, 4 if "x" in change else 3)
    x, weight, dtype = change.pop("x", x), change.pop("weight", weight), change.pop("dtype", np.float64)
    shown = which("conv1d", *(a.astype(dtype) for a in (x, weight, bias)), **change)
    assert shown.startswith("conv1d: definition")
    assert word in shown
