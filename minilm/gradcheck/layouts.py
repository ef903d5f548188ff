"""The same values in other memory layouts: what a function must not notice."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilm.backend import Array, array_namespace


def transposed(array: Array) -> Array:
    """The same values in column-major order."""
    if array.ndim < 2 or isinstance(array, np.generic):
        return array
    return array_namespace(array).ascontiguousarray(array.T).T


def strided(array: Array) -> Array:
    """A view of every other element of a larger buffer, along the last axis."""
    if array.ndim < 1 or isinstance(array, np.generic):
        return array
    buffer = array_namespace(array).zeros((*array.shape[:-1], 2 * array.shape[-1]), dtype=array.dtype)
    buffer[..., ::2] = array
    return buffer[..., ::2]


def reversed_(array: Array) -> Array:
    """A view with negative strides along the first and last axis."""
    if array.ndim < 1 or isinstance(array, np.generic):
        return array
    flip = (slice(None, None, -1), ...) if array.ndim == 1 else (slice(None, None, -1), ..., slice(None, None, -1))
    return array[flip].copy()[flip]


LAYOUTS: dict[str, Callable[[Array], Array]] = {"transposed": transposed, "strided": strided, "reversed": reversed_}
