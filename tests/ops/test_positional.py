"""Sinusoids, rotations, ALiBi: definitions, what makes them positions, and the formula that is none."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from minilm import gradcheck
from minilm.ops.alibi_bias import alibi_bias
from minilm.ops.attention import attention_weights
from minilm.ops.layer_norm import layer_norm
from minilm.ops.rotary import rotary, rotary_backward
from minilm.ops.sinusoidal_positions import sinusoidal_positions
from tests import strict_cupy

# ---- sinusoids


@pytest.mark.parametrize(("T", "C"), [(5, 8), (4, 7), (3, 1), (1, 2), (0, 4)])
def test_sinusoids_by_their_definition(T, C, xp):
    like = xp.asarray(np.zeros(1))
    table = xp.to_numpy(sinusoidal_positions(T, C, base=100.0, dtype="float64", like=like))
    assert table.shape == (T, C)
    for p in range(T):
        for c in range(C):
            angle = p / 100.0 ** (2 * (c // 2) / C)
            assert table[p, c] == pytest.approx(math.cos(angle) if c % 2 else math.sin(angle), abs=1e-14)


def test_sinusoids_are_accurate_in_float32(xp):
    """Angles in float32 would be off by 1e-3 at position 10,000."""
    got = sinusoidal_positions(10_001, 4, like=xp.asarray(np.zeros(1)))
    assert got.dtype == np.float32
    assert isinstance(got, xp.module.ndarray)
    assert np.abs(xp.to_numpy(got) - sinusoidal_positions(10_001, 4, dtype="float64")).max() < 1e-7


def test_sinusoids_tell_positions_apart():
    """Products of two rows depend on their distance alone, as Vaswani et al. wanted."""
    table = sinusoidal_positions(50, 32, dtype="float64")
    gram = table @ table.T
    for offset in range(1, 49):
        diagonal = np.diagonal(gram, offset)
        assert np.ptp(diagonal) < 1e-12
        assert diagonal[0] < gram[0, 0]


@pytest.mark.parametrize(("T", "C"), [(-1, 4), (3, 0)])
def test_sinusoids_of_wrong_size(T, C):
    with pytest.raises(ValueError, match=f"T is {T} and C is {C}"):
        sinusoidal_positions(T, C)


# ---- the formula without channels


def test_one_number_for_all_channels_is_no_position(rng):
    """sin(p/√C) + cos(p/√C): a table of rank one, which a layer norm takes away; the sinusoids pass it."""
    T, C = 20, 16
    x, gain, bias = rng.normal(size=(T, C)), rng.normal(size=C), rng.normal(size=C)
    p = np.arange(T)[:, None] / math.sqrt(C)
    curiosity = (np.sin(p) + np.cos(p)) * np.ones(C)  # (T, C)
    assert np.linalg.matrix_rank(curiosity) == 1
    assert np.linalg.matrix_rank(sinusoidal_positions(T, C, dtype="float64")) > C // 2

    plain, _ = layer_norm(x, gain, bias)
    assert np.allclose(layer_norm(x + curiosity, gain, bias)[0], plain, rtol=0, atol=1e-12)
    assert not np.allclose(layer_norm(x + sinusoidal_positions(T, C, dtype="float64"), gain, bias)[0], plain, atol=0.1)


# ---- rotary


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
def test_rotary_by_its_definition(shape, interleaved, xp, rng):
    x, positions = rng.normal(size=shape), rng.integers(0, 1000, shape[-2])
    y, _ = rotary(*xp.asarrays((x, positions)), base=500.0, interleaved=interleaved)
    assert np.allclose(xp.to_numpy(y), rotate_in_a_loop(x, positions, 500.0, interleaved), rtol=0, atol=1e-12)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_rotary_gradient(shape, interleaved, xp, rng):
    def forward(x):
        return rotary(x, range(shape[-2]), interleaved=interleaved)

    args = xp.asarrays((rng.normal(size=shape),))
    report = gradcheck.gradcheck(forward, rotary_backward, args, method="complex-step", mode="full")
    assert report.max_rel_error <= 1e-11, report
    gradcheck.check_laws(forward, rotary_backward, args)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_backward_undoes_it(interleaved, xp, rng):
    """Lengths stay, and the transpose is the inverse."""
    x = rng.normal(size=(2, 3, 7, 10))
    y, cache = rotary(xp.asarray(x), range(3, 10), interleaved=interleaved)
    assert np.allclose((xp.to_numpy(y) ** 2).sum(-1), (x * x).sum(-1))
    assert np.allclose(xp.to_numpy(rotary_backward(y, cache)), x)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_scores_depend_on_distance_alone(interleaved, rng):
    q, k = rng.normal(size=(2, 1, 1, 6, 8))  # (B, H, T, D) each

    def weights(start):
        turned = [rotary(a, range(start, start + 6), interleaved=interleaved)[0] for a in (q, k)]
        return attention_weights(*turned)

    assert np.allclose(weights(0), weights(1234), rtol=0, atol=1e-12)
    assert not np.allclose(weights(0), attention_weights(q, k), atol=1e-3)


def test_rotary_takes_ranges_and_arrays_alike(xp, rng):
    x = xp.asarray(rng.normal(size=(5, 4)))
    by_range, _ = rotary(x, range(2, 12, 2))
    for positions in (np.arange(2, 12, 2), xp.asarray(np.arange(2, 12, 2, dtype=np.int32))):
        assert np.array_equal(xp.to_numpy(rotary(x, positions)[0]), xp.to_numpy(by_range))


def test_rotary_in_float32_far_out(xp, rng):
    x = rng.normal(size=(1, 8)).astype(np.float32)
    positions = np.array([100_003])
    with strict_cupy.no_sync():
        got, _ = rotary(*xp.asarrays((x, positions)))
    assert got.dtype == np.float32
    want = rotate_in_a_loop(x.astype(np.float64), positions, 10000.0, False)
    assert np.abs(xp.to_numpy(got) - want).max() < 1e-6


def test_rotary_of_a_transposed_view(xp, rng):
    x = rng.normal(size=(2, 5, 3, 4))  # (B, T, H, D), as a projection gives it
    y, _ = rotary(xp.asarray(x).transpose(0, 2, 1, 3), range(5))
    assert np.allclose(xp.to_numpy(y), rotate_in_a_loop(x.transpose(0, 2, 1, 3), range(5), 10000.0, False))


def test_rotary_wrong_input(xp):
    x = xp.asarray(np.zeros((2, 3, 4)))
    with pytest.raises(ValueError, match=re.escape("x has shape (2, 4, 3), expected (..., T, D) with D even")):
        rotary(x.swapaxes(1, 2), range(4))
    with pytest.raises(ValueError, match=re.escape("positions have shape (4,), expected (3,)")):
        rotary(x, range(4))
    with pytest.raises(TypeError, match="positions have dtype float64"):
        rotary(x, xp.asarray(np.zeros(3)))
    with pytest.raises(TypeError, match="expected a NumPy or CuPy array"):
        rotary(x, [0, 1, 2])


# ---- ALiBi


def test_alibi_slopes():
    """1/2, 1/4, ... 1/256 for 8 heads, as in the paper; for 12 heads those and every other one of 16."""
    assert np.array_equal(alibi_bias(8, 1, 2)[:, 0, 0], [-(2.0**-h) for h in range(1, 9)])
    twelve = -alibi_bias(12, 1, 2, dtype="float64")[:, 0, 0]
    assert np.allclose(twelve[:8], [2.0**-h for h in range(1, 9)])
    assert np.allclose(twelve[8:], [2.0 ** (-h / 2) for h in (1, 3, 5, 7)])
    assert np.array_equal(alibi_bias(1, 1, 2)[:, 0, 0], [-(2.0**-8)])
    assert np.unique(alibi_bias(7, 1, 2)).size == 8  # seven slopes that differ, and the zero


@pytest.mark.parametrize(("H", "Tq", "Tk"), [(2, 4, 4), (3, 2, 5), (4, 5, 2), (1, 0, 3), (1, 3, 0)])
def test_alibi_by_its_definition(H, Tq, Tk, xp):
    bias = xp.to_numpy(alibi_bias(H, Tq, Tk, like=xp.asarray(np.zeros(1))))
    assert bias.shape == (H, Tq, Tk)
    assert bias.dtype == np.float32
    slopes = -alibi_bias(H, 1, 2)[:, 0, 0]
    for i in range(Tq):
        for j in range(Tk):
            assert np.array_equal(bias[:, i, j], -slopes * abs(i + Tk - Tq - j))


def test_alibi_wrong_sizes():
    with pytest.raises(ValueError, match="H is 0, Tq is 2, Tk is 2"):
        alibi_bias(0, 2, 2)
    with pytest.raises(ValueError, match="Tq is -1"):
        alibi_bias(1, -1, 2)
