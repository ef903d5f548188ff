"""Checks of what users give: whole numbers, numbers, names out of a list; then those that several ops share.

Each error names what was given and expected. NumPy's numbers are numbers; a bool is none.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import numpy as np

from minilm.backend import Array, array_namespace, floating_namespace

REDUCTIONS = ("mean", "sum", "none")  # of a loss


def whole(name: str, value: Any, at_least: int = 0) -> int:
    """`value` as an int. Raises ValueError where it is no whole number of at least `at_least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < at_least:
        raise ValueError(f"{name} is {value!r}, expected a whole number of at least {at_least}")
    return int(value)


def number(name: str, value: Any, at_least: float = 0.0, below: float = math.inf) -> float:
    """`value` as a float. Raises ValueError where it is no number in [at_least, below)."""
    known = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not known or not at_least <= value < below:
        limits = f"of at least {at_least:g}" + ("" if below == math.inf else f" and below {below:g}")
        raise ValueError(f"{name} is {value!r}, expected a finite number {limits}")
    return float(value)


def one_of(name: str, value: Any, choices: Iterable[str]) -> str:
    """`value`. Raises ValueError, naming the closest, where it is none of `choices`."""
    choices = list(choices)
    if not isinstance(value, str) or value not in choices:
        raise ValueError(unknown(name, value, choices))
    return value


def unknown(what: str, given: Any, known: Iterable[str]) -> str:
    """The message for a name that is not among `known`, with the names that are close to it."""
    known = list(known)
    lower = {name.lower(): name for name in reversed(known)}
    close = [lower[match] for match in difflib.get_close_matches(str(given).lower(), lower, n=3, cutoff=0.6)]
    meant = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{what} {given!r} is unknown; {meant}choose {', '.join(known)}"


# ---- arguments of ops


def check_reduction(op: str, reduction: str) -> None:
    """ValueError unless a loss can be reduced like that."""
    one_of(f"{op}: reduction", reduction, REDUCTIONS)


def check_dropout(name: str, p: float, rng: Any) -> None:
    """ValueError unless p is a probability, and there is a generator to draw from where it is not 0."""
    if not 0 <= p <= 1:
        raise ValueError(f"{name} = {p} is no probability; expected a number from 0 to 1")
    if p > 0 and rng is None:
        raise ValueError(f"{name} = {p} needs a generator; pass rng=minilm.backend.generator(seed)")


def check_channels(op: str, x: Array, **per_channel: Array) -> ModuleType:
    """The library of all arrays; ValueError unless x is (..., C) with C ≥ 1 and the others are (C,)."""
    xp = floating_namespace(x, *per_channel.values())
    if x.ndim < 1 or x.shape[-1] < 1:
        raise ValueError(f"{op}: x has shape {x.shape}, expected (..., C) with at least one channel")
    for name, array in per_channel.items():
        if array.shape != x.shape[-1:]:
            raise ValueError(f"{op}: {name} has shape {array.shape}, expected {x.shape[-1:]} to fit x {x.shape}")
    return xp


def check_broadcast(name: str, array: Array | None, to: tuple[int, ...]) -> None:
    """ValueError unless `array` is None, or broadcasts to the shape `to`."""
    if array is None:
        return
    fits = (n in (1, m) for n, m in zip(reversed(array.shape), reversed(to), strict=False))
    if array.ndim > len(to) or not all(fits):
        raise ValueError(f"{name} has shape {array.shape}, which does not broadcast to {to}")


def check_lengths(name: str, lengths: Any, B: int, T: int) -> Array:
    """`lengths` (B,), an array or list of integers in 0..T, as an array.

    Values on a GPU are not looked at: the host would wait for it.
    """
    if isinstance(lengths, list | tuple):
        lengths = np.asarray(lengths, dtype=None if len(lengths) else np.int64)
    on_host = array_namespace(lengths) is np
    if lengths.dtype.kind not in "iu":
        raise TypeError(f"{name} have dtype {lengths.dtype}, expected integers")
    if lengths.shape != (B,):
        raise ValueError(f"{name} have shape {lengths.shape}, expected ({B},): one for each sequence of the batch")
    if on_host and (wrong := (lengths < 0) | (lengths > T)).any():
        raise ValueError(f"{name}: got {lengths[wrong][0]} for sequence {wrong.argmax()}, expected 0..{T}")
    return lengths
