"""The pointwise functions: definitions, gradients, saturation, edges."""

from __future__ import annotations

import math

import numpy as np
import pytest

from minilm import gradcheck, ops

SQRT2 = math.sqrt(2)


def phi(x):
    """The normal distribution function, one number at a time."""
    return math.erfc(-x / SQRT2) / 2


CASES = {  # name: (op, backward, options, the definition for one number)
    "relu": ("relu", {}, lambda x: max(x, 0.0)),
    "gelu": ("gelu", {}, lambda x: x * phi(x)),
    "gelu-tanh": (
        "gelu",
        {"approximate": "tanh"},
        lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    ),
    "silu": ("silu", {}, lambda x: x / (1 + math.exp(-x))),
    "sigmoid": ("sigmoid", {}, lambda x: 1 / (1 + math.exp(-x))),
    "tanh": ("tanh", {}, math.tanh),
}


@pytest.fixture(params=list(CASES))
def case(request):
    name, options, definition = CASES[request.param]
    forward = getattr(ops, name)

    def op(x, **kw):
        return forward(x, **options, **kw)

    return op, getattr(ops, f"{name}_backward"), definition


def elementwise(function, x):
    return np.array([function(v) for v in x.ravel().tolist()]).reshape(x.shape)


@pytest.mark.parametrize("shape", [(), (1,), (3, 1025), (2, 3, 4), (0, 5)])
def test_definition(case, shape, xp, rng):
    op, _, definition = case
    x = 3 * np.asarray(rng.normal(size=shape))
    y, _ = op(xp.asarray(x))
    assert y.shape == shape and y.dtype == np.float64
    np.testing.assert_allclose(xp.to_numpy(y), elementwise(definition, x), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("method", ["complex-step", "central-difference"])
@pytest.mark.parametrize("shape", [(1,), (5, 33), (0, 5)])
def test_gradient(case, shape, method, xp, rng):
    op, backward, _ = case
    report = gradcheck.gradcheck(op, backward, xp.asarrays((2 * rng.normal(size=shape),)), method=method)
    assert report.max_rel_error <= (1e-11 if method == "complex-step" else 1e-7), report


def test_gradient_of_each_element(case, rng):
    op, backward, _ = case
    report = gradcheck.gradcheck(op, backward, (rng.normal(size=40),), method="complex-step", mode="full")
    assert report.max_rel_error <= 1e-11, report


def test_laws(case, xp, rng):
    op, backward, _ = case
    gradcheck.check_laws(op, backward, xp.asarrays((rng.normal(size=(3, 7)),)))


def test_float32(case, xp):
    op, backward, _ = case
    x = np.linspace(-12, 12, 4097).astype(np.float32)
    want, want_cache = op(x.astype(np.float64))
    got, cache = op(xp.asarray(x))
    dx, want_dx = backward(xp.asarray(np.ones_like(x)), cache), backward(np.ones(x.shape), want_cache)
    assert got.dtype == dx.dtype == np.float32
    np.testing.assert_allclose(xp.to_numpy(got), want, rtol=4e-7, atol=2e-6)
    np.testing.assert_allclose(xp.to_numpy(dx), want_dx, rtol=4e-7, atol=4e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_large_inputs_saturate(case, dtype, xp):
    """No overflow (a warning would fail the test), no NaN, the limits on both sides, also in the gradient."""
    op, backward, definition = case
    x = np.array([-1000.0, -100.0, 100.0, 1000.0])
    y, cache = op(xp.asarray(x.astype(dtype)))
    dx = backward(xp.asarray(np.ones_like(x).astype(dtype)), cache)
    left = -1.0 if definition is math.tanh else 0.0
    bounded = definition(30.0) < 2
    np.testing.assert_allclose(xp.to_numpy(y), [left, left, *([1.0, 1.0] if bounded else x[2:])], atol=1e-40)
    np.testing.assert_allclose(xp.to_numpy(dx), [0, 0, *([0.0, 0.0] if bounded else [1.0, 1.0])], atol=1e-40)


def test_nan_stays_nan(case, xp):
    op, _, _ = case
    y, _ = op(xp.asarray(np.array([np.nan, 1.0])))
    assert np.isnan(xp.to_numpy(y)).tolist() == [True, False]


def test_gelu_keeps_the_digits_of_its_left_tail(xp):
    """x (1 + erf(x/√2))/2 is exactly 0 from about −8.3 on, and has no correct digit long before."""
    x = np.array([-3.0, -6.0, -8.0, -12.0, -20.0, -30.0])
    y, _ = ops.gelu(xp.asarray(x))
    np.testing.assert_allclose(xp.to_numpy(y), elementwise(lambda v: v * phi(v), x), rtol=4e-13)  # 900 · 2⁻⁵² of x²
    y, _ = ops.gelu(xp.asarray(x[:4].astype(np.float32)))
    np.testing.assert_allclose(xp.to_numpy(y), elementwise(lambda v: v * phi(v), x[:4]), rtol=3e-5)


def test_relu_stops_at_its_kink(xp):
    """The gradient at 0 is 0, at −0.0 too, and a NaN that flows back is not let through where nothing came out."""
    _, cache = ops.relu(xp.asarray(np.array([0.0, -0.0, -1.0, 1.0])))
    dx = ops.relu_backward(xp.asarray(np.array([1.0, 1.0, np.nan, 2.0])), cache)
    assert xp.to_numpy(dx).tolist() == [0.0, 0.0, 0.0, 2.0]


def test_non_contiguous(case, xp, rng):
    op, _, _ = case
    x = rng.normal(size=(6, 10))
    np.testing.assert_array_equal(xp.to_numpy(op(xp.asarray(x)[::2, ::-3].T)[0]), op(x[::2, ::-3].T.copy())[0])


def test_wrong_input(case, xp):
    op, _, _ = case
    with pytest.raises(TypeError, match="int64"):
        op(xp.asarray(np.arange(3)))
    with pytest.raises(TypeError, match="list"):
        op([1.0, 2.0])


def test_gelu_refuses_an_unknown_approximation(xp):
    with pytest.raises(ValueError, match="'erf' is unknown"):
        ops.gelu(xp.asarray(np.ones(3)), approximate="erf")


def test_gelu_refuses_a_precision_that_erf_was_not_fitted_for(xp):
    with pytest.raises(TypeError, match="float16 is not served, expected float32 or float64"):
        ops.gelu(xp.asarray(np.ones(3, np.float16)))
