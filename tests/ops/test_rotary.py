"""rotary: its definition, its gradient, and what makes it a position."""

from __future__ import annotations

import re

import numpy as np
import pytest

from minilm import gradcheck
from minilm.ops.attention import attention_weights
from minilm.ops.rotary import rotary, rotary_backward
from tests import strict_cupy


def rotate_in_a_loop(x, positions, base, interleaved):
    """Each pair of channels as a complex number, times e^(iθ)."""
    y, half = np.empty_like(x), x.shape[-1] // 2
    for t, p in enumerate(positions):
        for i in range(half):
            first, second = (2 * i, 2 * i + 1) if interleaved else (i, i + half)
            turned = (x[..., t, first] + 1j * x[..., t, second]) * np.exp(1j * p * base ** (-i / half))
            y[..., t, first], y[..., t, second] = turned.real, turned.imag
    return y


SHAPES = [(2, 3, 5, 8), (4, 2), (1, 1, 1, 6), (0, 3, 4), (2, 0, 4)]


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_by_its_definition(shape, interleaved, xp, rng):
    x, positions = rng.normal(size=shape), rng.integers(0, 1000, shape[-2])
    y, _ = rotary(*xp.asarrays((x, positions)), base=500.0, interleaved=interleaved)
    assert np.allclose(xp.to_numpy(y), rotate_in_a_loop(x, positions, 500.0, interleaved), rtol=0, atol=1e-12)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradient(shape, interleaved, xp, rng):
    def forward(x):
        return rotary(x, range(shape[-2]), interleaved=interleaved)

    args = xp.asarrays((rng.normal(size=shape),))
    report = gradcheck.gradcheck(forward, rotary_backward, args, method="complex-step", mode="full")
    assert report.max_rel_error <= 1e-11, report
    gradcheck.check_laws(forward, rotary_backward, args)


@pytest.mark.parametrize("interleaved", [False, True])
def test_backward_undoes_it(interleaved, xp, rng):
    """Lengths stay, and the transpose is the inverse."""
    x = rng.normal(size=(2, 3, 7, 10))
    y, cache = rotary(xp.asarray(x), range(3, 10), interleaved=interleaved)
    assert np.allclose((xp.to_numpy(y) ** 2).sum(-1), (x * x).sum(-1))
    assert np.allclose(xp.to_numpy(rotary_backward(y, cache)), x)


@pytest.mark.parametrize("interleaved", [False, True])
def test_scores_depend_on_distance_alone(interleaved, rng):
    q, k = rng.normal(size=(2, 1, 1, 6, 8))  # (B, H, T, D) each

    def weights(start):
        turned = [rotary(a, range(start, start + 6), interleaved=interleaved)[0] for a in (q, k)]
        return attention_weights(*turned)

    assert np.allclose(weights(0), weights(1234), rtol=0, atol=1e-12)
    assert not np.allclose(weights(0), attention_weights(q, k), atol=1e-3)


def test_takes_ranges_and_arrays_alike(xp, rng):
    x = xp.asarray(rng.normal(size=(5, 4)))
    by_range, _ = rotary(x, range(2, 12, 2))
    for positions in (np.arange(2, 12, 2), xp.asarray(np.arange(2, 12, 2, dtype=np.int32))):
        assert np.array_equal(xp.to_numpy(rotary(x, positions)[0]), xp.to_numpy(by_range))


def test_in_float32_far_out(xp, rng):
    x = rng.normal(size=(1, 8)).astype(np.float32)
    positions = np.array([100_003])
    with strict_cupy.no_sync():
        got, _ = rotary(*xp.asarrays((x, positions)))
    assert got.dtype == np.float32
    want = rotate_in_a_loop(x.astype(np.float64), positions, 10000.0, False)
    assert np.abs(xp.to_numpy(got) - want).max() < 1e-6


def test_of_a_transposed_view(xp, rng):
    x = rng.normal(size=(2, 5, 3, 4))  # (B, T, H, D), as a projection gives it
    y, _ = rotary(xp.asarray(x).transpose(0, 2, 1, 3), range(5))
    assert np.allclose(xp.to_numpy(y), rotate_in_a_loop(x.transpose(0, 2, 1, 3), range(5), 10000.0, False))


def test_wrong_input(xp):
    x = xp.asarray(np.zeros((2, 3, 4)))
    with pytest.raises(ValueError, match=re.escape("x has shape (2, 4, 3), expected (..., T, D) with D even")):
        rotary(x.swapaxes(1, 2), range(4))
    with pytest.raises(ValueError, match=re.escape("positions have shape (4,), expected (3,)")):
        rotary(x, range(4))
    with pytest.raises(TypeError, match="positions have dtype float64"):
        rotary(x, xp.asarray(np.zeros(3)))
    with pytest.raises(TypeError, match="expected a NumPy or CuPy array"):
        rotary(x, [0, 1, 2])
