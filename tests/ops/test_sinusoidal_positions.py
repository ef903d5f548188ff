"""sinusoidal_positions: the definition, what makes it a position, and the formula that is none."""

from __future__ import annotations

import math

import numpy as np
import pytest

from minilm.ops.layer_norm import layer_norm
from minilm.ops.sinusoidal_positions import sinusoidal_positions


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
