"""Hypothesis strategies for the inputs of ops: shapes, dtypes, arrays in any memory layout, masks, lengths, ids.

    from hypothesis import given
    from minilm.gradcheck import check_laws, strategies

    @given(x=strategies.float_arrays(strategies.shapes(min_dims=2)))
    def test_laws(x):
        check_laws(softmax, softmax_backward, (x,))

Shapes and layouts shrink; the numbers come from a drawn seed: as generic as real inputs, and they cost nothing.
Needs the package hypothesis (the extra `test`); nothing else in minilm does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minilm.gradcheck.layouts import LAYOUTS

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise ImportError(
        "minilm.gradcheck.strategies needs the package hypothesis; install it with pip install 'minilm[test]'"
    ) from error

Shapes = tuple[int, ...] | st.SearchStrategy[tuple[int, ...]]

FLOATS = ("float32", "float64")
NASTY_SIDES = (1, 2, 3, 5, 8, 17)  # one, primes, a power of two and one past it


def shapes(
    min_dims: int = 1, max_dims: int = 3, max_side: int = 8, *, last: int | None = None, empty: bool = False
) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes of `min_dims` to `max_dims` axes. `last` fixes the last side; `empty` allows sides of 0."""
    sides = st.sampled_from([side for side in ((0,) if empty else ()) + NASTY_SIDES if side <= max_side])
    if last is None:
        return st.lists(sides, min_size=min_dims, max_size=max_dims).map(tuple)
    return st.lists(sides, min_size=min_dims - 1, max_size=max_dims - 1).map(lambda leading: (*leading, last))


def dtypes(names: Sequence[str] = FLOATS) -> st.SearchStrategy[np.dtype]:
    """The floating dtypes that ops take."""
    return st.sampled_from(list(names)).map(np.dtype)


def layouts() -> st.SearchStrategy[str]:
    """Names of memory layouts: "contiguous", and those of `gradcheck.layouts.LAYOUTS`."""
    return st.sampled_from(["contiguous", *LAYOUTS])


@st.composite
def float_arrays(
    draw: st.DrawFn,
    shape: Shapes | None = None,
    dtype: str | np.dtype | st.SearchStrategy[np.dtype] = "float64",
    *,
    scales: Sequence[float] = (1.0, 1e-3, 1e3),
    offsets: Sequence[float] = (0.0,),
    layout: str | None = None,
) -> np.ndarray:
    """Arrays of offset + scale · N(0, 1). `layout` None draws one: contiguous, transposed, strided or reversed."""
    drawn = _drawn(draw, shapes() if shape is None else shape)
    dtype = draw(dtype) if isinstance(dtype, st.SearchStrategy) else dtype
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale, offset = draw(st.sampled_from(list(scales))), draw(st.sampled_from(list(offsets)))
    array = np.asarray(offset + scale * rng.standard_normal(drawn)).astype(dtype)
    return in_layout(array, draw(layouts()) if layout is None else layout)


@st.composite
def masks(draw: st.DrawFn, shape: Shapes, *, broadcast: bool = True) -> np.ndarray:
    """Boolean arrays: all True, all False, or mixed. With `broadcast` any axes may be of size 1 instead."""
    drawn = _drawn(draw, shape)
    if broadcast:
        drawn = tuple(1 if draw(st.booleans()) else side for side in drawn)
    share = draw(st.sampled_from([1.0, 0.0, 0.3, 0.7]))  # shrinks to "everything is seen"
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng.random(drawn) < share


@st.composite
def key_lengths(draw: st.DrawFn, batch: int, longest: int, *, shortest: int = 0) -> np.ndarray:
    """Lengths (batch,) between `shortest` and `longest`."""
    return np.array(draw(st.lists(st.integers(shortest, longest), min_size=batch, max_size=batch)), dtype=np.int64)


@st.composite
def ids(draw: st.DrawFn, shape: Shapes, vocabulary: int) -> np.ndarray:
    """Integers below `vocabulary`; small vocabularies repeat, which is what an embedding's gradient has to add up."""
    drawn = _drawn(draw, shape)
    dtype = draw(st.sampled_from(["int64", "int32"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng.integers(vocabulary, size=drawn).astype(dtype)


def in_layout(array: np.ndarray, layout: str) -> np.ndarray:
    """The same values in the named layout. Raises ValueError for an unknown one."""
    if layout == "contiguous":
        return array
    if layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r} is unknown; choose contiguous, {', '.join(LAYOUTS)}")
    return LAYOUTS[layout](array)


def _drawn(draw: st.DrawFn, shape: Shapes) -> tuple[int, ...]:
    return draw(shape) if isinstance(shape, st.SearchStrategy) else tuple(shape)
