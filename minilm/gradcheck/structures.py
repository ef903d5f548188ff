"""Nested results of forward and backward: how the checker looks into them, copies them and draws dy for them.

A result or a cache is a tree of tuples, NamedTuples, lists, dicts and plain objects with arrays as leaves. A leaf here
is an array of either library or a NumPy scalar; Python numbers, None and everything else are carried along unchanged.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minilm.backend import Array, array_namespace, to_numpy


def is_array(value: Any) -> bool:
    """True for an array of NumPy or CuPy and for a NumPy scalar."""
    if isinstance(value, np.ndarray | np.generic):
        return True
    return type(value).__module__.partition(".")[0] == "cupy" and hasattr(value, "dtype") and hasattr(value, "shape")


def is_floating(value: Any) -> bool:
    """True for an array of real or complex floating dtype."""
    return is_array(value) and value.dtype.kind in "fc"


def is_variable(value: Any) -> bool:
    """True for a floating array, which has a gradient; NumPy's scalars are options."""
    return is_floating(value) and not isinstance(value, np.generic)


def is_generator(value: Any) -> bool:
    """True for a source of random numbers, NumPy's or CuPy's."""
    return hasattr(value, "random") and (hasattr(value, "bit_generator") or hasattr(value, "standard_normal"))


def has_state(value: Any) -> bool:
    """True for what its text does not make again: a generator, and whatever holds an array."""
    return is_generator(value) or any(True for _ in leaves(value))


def rebuild(like: Any, children: list[Any]) -> Any:
    """A tuple, NamedTuple or list of the type of `like`."""
    return type(like)(*children) if hasattr(like, "_fields") else type(like)(children)


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """The same tree of tuples, lists and dicts, with function(leaf) at every array; other leaves pass through."""
    if isinstance(tree, tuple | list):
        return rebuild(tree, [map_leaves(function, child) for child in tree])
    if isinstance(tree, dict):
        return {key: map_leaves(function, child) for key, child in tree.items()}
    return function(tree) if is_array(tree) else tree


def leaves(tree: Any, path: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Array]]:
    """Every array of a tree with its path ("[0].xhat"), objects' attributes included. Shared objects come once."""
    seen = set() if seen is None else seen
    if is_array(tree):
        yield path, tree
        return
    if callable(tree) or is_generator(tree) or id(tree) in seen:
        return
    seen.add(id(tree))
    names = getattr(tree, "_fields", ()) if isinstance(tree, tuple) else ()
    if names:  # a named tuple
        children = [(f".{name}", child) for name, child in zip(names, tree, strict=True)]
    elif isinstance(tree, tuple | list):
        children = [(f"[{number}]", child) for number, child in enumerate(tree)]
    elif isinstance(tree, dict):
        children = [(f"[{key!r}]", child) for key, child in tree.items()]
    else:
        children = [(f".{name}", child) for name, child in getattr(tree, "__dict__", {}).items()]
    for step, child in children:
        yield from leaves(child, path + step, seen)


def host_copies(tree: Any) -> list[np.ndarray]:
    """Host copies of the floating arrays and Python floats of a result, in order: what dy is contracted with."""
    if isinstance(tree, tuple | list):
        return [array for child in tree for array in host_copies(child)]
    if isinstance(tree, float | complex):
        return [np.array(tree)]
    return [np.array(to_numpy(tree))] if is_floating(tree) else []


def fresh(value: Any) -> Any:
    """A copy that may be written to: of arrays (also inside tuples), and of generators in their present state."""
    if is_generator(value):
        return copy.deepcopy(value)
    return map_leaves(lambda leaf: leaf.copy(), value)


def snapshot(tree: Any) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """dtype, shape and bytes of every array in a tree: equal snapshots mean equal to the last bit."""
    return {
        path: (str(array.dtype), tuple(array.shape), np.ascontiguousarray(to_numpy(array)).tobytes())
        for path, array in leaves(tree)
    }


def changed(before: dict[str, Any], after: dict[str, Any]) -> str | None:
    """The path of the first array that differs between two snapshots, None if there is none."""
    for path in before.keys() | after.keys():
        if before.get(path) != after.get(path):
            return path or "(itself)"
    return None


def draw_like(y: Any, rng: np.random.Generator) -> Any:
    """A dy for the result `y`: same structure, library and dtype; magnitudes in [0.5, 1.5] so that none hides a term.

    A Python float gets a Python float; integer arrays and None get None: no gradient comes back through them.
    """
    if isinstance(y, tuple | list):
        return rebuild(y, [draw_like(child, rng) for child in y])
    if isinstance(y, float) and not isinstance(y, np.generic):
        return float(signed_uniform(rng, ()))
    if not is_floating(y):
        return None
    host = signed_uniform(rng, tuple(y.shape)).astype(y.dtype)
    return y.dtype.type(host) if isinstance(y, np.generic) else array_namespace(y).asarray(host)


def signed_uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Random signs times U(0.5, 1.5): random, and with no component near zero."""
    return np.asarray(rng.uniform(0.5, 1.5, shape) * rng.choice([-1.0, 1.0], shape))


def describe(value: Any) -> str:
    """A short text of an argument, for reports."""
    if is_array(value):
        return f"{value.dtype}{tuple(value.shape)}"
    if isinstance(value, tuple | list):
        return "(" + ", ".join(map(describe, value)) + ")"
    return type(value).__name__ if is_generator(value) else repr(value)
