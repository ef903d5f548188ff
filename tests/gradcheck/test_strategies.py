"""The hypothesis strategies: what they promise, and that they reach the nasty corners."""

from __future__ import annotations

import importlib
import sys

import numpy as np
import pytest
from hypothesis import find, given, strategies as st

from minilm.gradcheck import check_laws, gradcheck, strategies
from tests.gradcheck import toys


@given(strategies.shapes(min_dims=2, max_dims=4, max_side=5, last=7))
def test_shapes(shape):
    assert 2 <= len(shape) <= 4
    assert shape[-1] == 7
    assert all(1 <= side <= 5 for side in shape[:-1])


@given(strategies.float_arrays(strategies.shapes(empty=True), strategies.dtypes()))
def test_float_arrays(array):
    assert array.dtype in (np.float32, np.float64)
    assert np.isfinite(array).all()


@given(st.data(), strategies.shapes(max_side=5, empty=True))
def test_layouts_keep_values(data, shape):
    array = data.draw(strategies.float_arrays(shape, layout="contiguous"))
    for name in ("transposed", "strided", "reversed"):
        other = strategies.in_layout(array, name)
        assert other.shape == array.shape
        assert np.array_equal(other, array)
    with pytest.raises(ValueError, match="contiguous, transposed"):
        strategies.in_layout(array, "diagonal")


@given(st.data())
def test_masks_lengths_and_ids(data):
    mask = data.draw(strategies.masks((2, 3, 4)))
    assert mask.dtype == bool
    assert np.broadcast_shapes(mask.shape, (2, 3, 4)) == (2, 3, 4)
    lengths = data.draw(strategies.key_lengths(5, 7, shortest=1))
    assert lengths.shape == (5,)
    assert lengths.min() >= 1
    assert lengths.max() <= 7
    tokens = data.draw(strategies.ids((2, 3), 4))
    assert tokens.dtype.kind == "i"
    assert tokens.min() >= 0
    assert tokens.max() < 4


@pytest.mark.parametrize(
    "strategy, corner",
    [
        (strategies.shapes(empty=True), lambda shape: 0 in shape),
        (strategies.float_arrays((3, 4)), lambda a: not a.flags.c_contiguous),
        (strategies.float_arrays((3, 4)), lambda a: a.strides[0] < 0),
        (strategies.float_arrays((3,), strategies.dtypes()), lambda a: a.dtype == np.float32),
        (strategies.masks((2, 3)), lambda m: not m.any()),
        (strategies.masks((2, 3)), lambda m: m.shape == (1, 1)),
        (strategies.key_lengths(3, 5), lambda lengths: (lengths == 0).any() and (lengths == 5).any()),
    ],
)
def test_corners_are_reached(strategy, corner):
    find(strategy, corner)


@given(strategies.float_arrays(strategies.shapes(max_dims=2, max_side=5), layout=None), st.integers(0, 9))
def test_the_checker_takes_any_of_them(x, seed):
    assert gradcheck(toys.square, toys.square_backward, (x,), seed=seed)
    check_laws(toys.square, toys.square_backward, (x,), seed=seed)


def test_missing_hypothesis_is_one_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(ImportError, match=r"needs the package hypothesis.*minilm\[test\]"):
        importlib.reload(strategies)
    monkeypatch.undo()
    importlib.reload(strategies)
