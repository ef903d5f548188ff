"""The linear map into recycled memory, held to the definition."""

from __future__ import annotations

import numpy as np
import pytest

from minilm import gradcheck, ops, reference
from minilm.kernels.cpu.linear import RecycledLinearCache
from minilm.memory import MemoryPool
from minilm.selection import which

pytestmark = pytest.mark.filterwarnings("error")


def arguments(rng, dtype=np.float32, bias=True):
    x, weight = rng.standard_normal((7, 60, 90)).astype(dtype), rng.standard_normal((130, 90)).astype(dtype)
    return (x, weight, rng.standard_normal(130).astype(dtype)) if bias else (x, weight)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_agrees_with_the_definition(bias, dtype, rng):
    args = arguments(rng, dtype, bias)
    dy = rng.standard_normal((7, 60, 130)).astype(dtype)
    with MemoryPool():
        y, cache = ops.linear(*args)
        gradients = ops.linear_backward(dy, cache)
        assert isinstance(cache, RecycledLinearCache)
    with reference():
        expected, other = ops.linear(*(a.astype(np.float64) for a in args))
        wanted = ops.linear_backward(dy.astype(np.float64), other)
    tolerance = 2e-6 if dtype == np.float32 else 1e-13
    for got, want in zip((y, *gradients), (expected, *wanted), strict=True):
        if want is None:
            assert got is None
            continue
        assert got.dtype == dtype and got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


def test_gradients_and_laws(rng):
    args = arguments(rng, np.float64)
    report = gradcheck.gradcheck(ops.linear, ops.linear_backward, args, method="central-difference")
    assert report.passed, report
    gradcheck.check_laws(ops.linear, ops.linear_backward, args)


def test_only_what_is_wanted_is_computed(rng):
    args = arguments(rng)
    dy = rng.standard_normal((7, 60, 130)).astype(np.float32)
    _, cache = ops.linear(*args)
    assert [g is None for g in ops.linear_backward(dy, cache, wrt=("weight",))] == [True, False, True]


def test_strided_input_and_gradient(rng):
    x, weight, bias = arguments(rng)
    dy = rng.standard_normal((60, 7, 130)).astype(np.float32).transpose(1, 0, 2)
    strided = np.asfortranarray(x)
    got = ops.linear_backward(dy, ops.linear(strided, weight, bias)[1])
    want = ops.linear_backward(dy.copy(), ops.linear(x, weight, bias)[1])
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


def test_refuses_what_it_does_not_serve(rng):
    x, weight, bias = arguments(rng)
    assert which("linear", x, weight, bias) == "linear: cpu.recycled"
    for args, reason in [
        ((x[:1, :2], weight[:3]), "bytes each"),
        ((x.astype(complex), weight.astype(complex)), "float32 and float64"),
        ((x, weight.astype(np.float64)), "the same for all"),
        ((x, weight[:, :3]), "do not fit"),
        ((x, weight, bias[:5]), "do not fit"),
        ((x.tolist(), weight), "NumPy arrays"),
    ]:
        assert reason in which("linear", *args)
