"""alibi_bias: its slopes, its definition, wrong sizes."""

from __future__ import annotations

import numpy as np
import pytest

from minilm.ops.alibi_bias import alibi_bias


def test_slopes():
    """1/2, 1/4, ... 1/256 for 8 heads, as in the paper; for 12 heads those and every other one of 16."""
    assert np.array_equal(alibi_bias(8, 1, 2)[:, 0, 0], [-(2.0**-h) for h in range(1, 9)])
    twelve = -alibi_bias(12, 1, 2, dtype="float64")[:, 0, 0]
    assert np.allclose(twelve[:8], [2.0**-h for h in range(1, 9)])
    assert np.allclose(twelve[8:], [2.0 ** (-h / 2) for h in (1, 3, 5, 7)])
    assert np.array_equal(alibi_bias(1, 1, 2)[:, 0, 0], [-(2.0**-8)])
    assert np.unique(alibi_bias(7, 1, 2)).size == 8  # seven slopes that differ, and the zero


@pytest.mark.parametrize(("H", "Tq", "Tk"), [(2, 4, 4), (3, 2, 5), (4, 5, 2), (1, 0, 3), (1, 3, 0)])
def test_by_its_definition(H, Tq, Tk, xp):
    bias = xp.to_numpy(alibi_bias(H, Tq, Tk, like=xp.asarray(np.zeros(1))))
    assert bias.shape == (H, Tq, Tk)
    assert bias.dtype == np.float32
    slopes = -alibi_bias(H, 1, 2)[:, 0, 0]
    for i in range(Tq):
        for j in range(Tk):
            assert np.array_equal(bias[:, i, j], -slopes * abs(i + Tk - Tq - j))


def test_wrong_sizes():
    with pytest.raises(ValueError, match="H is 0, Tq is 2, Tk is 2"):
        alibi_bias(0, 2, 2)
    with pytest.raises(ValueError, match="Tq is -1"):
        alibi_bias(1, -1, 2)
