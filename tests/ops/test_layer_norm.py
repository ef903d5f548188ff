"""layer_norm, rms_norm: definitions, gradients, edges."""

from __future__ import annotations

import math

import numpy as np
import pytest

from minilm import gradcheck
from minilm.ops.layer_norm import layer_norm, layer_norm_backward
from minilm.ops.rms_norm import rms_norm, rms_norm_backward
from tests.strict_cupy import no_sync

SHAPES = [
    (4, 8),
    (2, 3, 5),
    (6,),  # one position, no batch axis
    (1, 1),  # C = 1: the variance is 0 and only ε keeps the root finite
    (0, 8),  # an empty batch is legal
    (3, 1025),  # one past a power of two
]
PAIRS = [(layer_norm, layer_norm_backward), (rms_norm, rms_norm_backward)]


def draw(op, rng, shape, offset=0.0, dtype=np.float64):
    """x, gain and, for layer_norm, bias."""
    arrays = rng.normal(offset, 2.0, shape), rng.normal(size=shape[-1]), rng.normal(size=shape[-1])
    return tuple(a.astype(dtype) for a in arrays[: 3 if op is layer_norm else 2])


def one_position(op, x, gain, bias=None):
    """The definition for one position, in exact sums."""
    C = len(x)
    mean = math.fsum(x) / C if op is layer_norm else 0.0
    scale = math.sqrt(math.fsum((v - mean) ** 2 for v in x) / C + (1e-5 if op is layer_norm else 1e-6))
    return [
        g * (v - mean) / scale + (0 if bias is None else bias[c]) for c, (g, v) in enumerate(zip(gain, x, strict=True))
    ]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("op", [layer_norm, rms_norm])
def test_definition(op, shape, xp, rng):
    x, *per_channel = draw(op, rng, shape, 3.0)
    want = np.empty(shape)
    for position in np.ndindex(*shape[:-1]):
        want[position] = one_position(op, x[position].tolist(), *(a.tolist() for a in per_channel))
    y, _ = op(*xp.asarrays((x, *per_channel)))
    np.testing.assert_allclose(xp.to_numpy(y), want, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("method", ["complex-step", "central-difference"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("op", "backward"), PAIRS)
def test_gradient(op, backward, shape, method, xp, rng):
    report = gradcheck.gradcheck(op, backward, xp.asarrays(draw(op, rng, shape, 1.0)), method=method)
    assert report.max_rel_error <= (1e-11 if method == "complex-step" else 1e-7), report


@pytest.mark.parametrize(("op", "backward"), PAIRS)
def test_laws(op, backward, xp, rng):
    gradcheck.check_laws(op, backward, xp.asarrays(draw(op, rng, (2, 3, 7))))


@pytest.mark.parametrize(("op", "backward"), PAIRS)
def test_only_what_is_wanted(op, backward, xp, rng):
    y, cache = op(*xp.asarrays(draw(op, rng, (2, 7))))
    for wanted in ("x", "gain"):
        grads = dict(zip(("x", "gain", "bias"), backward(y, cache, wrt=(wanted,)), strict=False))
        assert [name for name, grad in grads.items() if grad is not None] == [wanted]


@pytest.mark.parametrize(("op", "backward"), PAIRS)
def test_float32(op, backward, xp, rng):
    x, *per_channel = draw(op, rng, (5, 513), 1.0, np.float32)
    dy = rng.normal(size=x.shape).astype(np.float32)
    want, want_cache = op(*(a.astype(np.float64) for a in (x, *per_channel)))
    got, cache = op(*xp.asarrays((x, *per_channel)))
    assert got.dtype == np.float32
    np.testing.assert_allclose(xp.to_numpy(got), want, rtol=1e-5, atol=2e-6)
    want_grads = backward(dy.astype(np.float64), want_cache)
    for grad, want_grad in zip(backward(xp.asarray(dy), cache), want_grads, strict=True):
        assert grad.dtype == np.float32
        np.testing.assert_allclose(xp.to_numpy(grad), want_grad, rtol=1e-5, atol=1e-5)


def test_large_offset_keeps_precision(xp, rng):
    """var(x) as E[x²] − E[x]² would lose every digit here in float32."""
    x = rng.normal(size=(2, 64))
    gain, bias = np.ones(64), np.zeros(64)
    want, _ = layer_norm(x, gain, bias)
    got, _ = layer_norm(*xp.asarrays(a.astype(np.float32) for a in (x + 1e4, gain, bias)))
    assert np.abs(xp.to_numpy(got) - want).max() < 2e-3  # 1e4 has steps of 1e-3 in float32


def test_one_channel_gives_the_bias(xp, rng):
    y, _ = layer_norm(*xp.asarrays((rng.normal(size=(3, 1)), np.array([2.0]), np.array([0.5]))))
    assert (xp.to_numpy(y) == 0.5).all()


def test_a_constant_position_is_finite(xp):
    """σ = √ε where nothing varies, ρ = √ε where all is zero: no division by zero, forward or backward."""
    for op, backward in PAIRS:
        args = xp.asarrays((np.zeros((2, 4)), np.ones(4), np.zeros(4))[: 3 if op is layer_norm else 2])
        y, cache = op(*args)
        assert not xp.to_numpy(y).any()
        assert np.isfinite(xp.to_numpy(backward(y + 1, cache)[0])).all()


def test_eps(xp):
    x = xp.asarray(np.array([[1.0, -1.0]]))
    one = xp.asarray(np.ones(2))
    assert np.allclose(xp.to_numpy(layer_norm(x, one, 0 * one, eps=3.0)[0]), [[0.5, -0.5]])
    assert np.allclose(xp.to_numpy(rms_norm(x, one, eps=3.0)[0]), [[0.5, -0.5]])


@pytest.mark.parametrize(("op", "backward"), PAIRS)
def test_no_synchronisation(op, backward, xp, rng):
    args = xp.asarrays(draw(op, rng, (3, 4), dtype=np.float32))
    with no_sync(("sync", "upload")):
        y, cache = op(*args)
        backward(y, cache)


def test_wrong_input(xp):
    x, good, bad = xp.asarrays((np.ones((2, 3)), np.ones(3), np.ones(2)))
    with pytest.raises(ValueError, match=r"layer_norm: bias has shape \(2,\), expected \(3,\)"):
        layer_norm(x, good, bad)
    with pytest.raises(ValueError, match=r"rms_norm: gain has shape \(2,\), expected \(3,\)"):
        rms_norm(x, bad)
    with pytest.raises(ValueError, match=r"at least one channel"):
        rms_norm(x[:, :0], good[:0])
    with pytest.raises(TypeError, match="float32"):
        layer_norm(x, good.astype(np.float32), good)
