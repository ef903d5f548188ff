"""Checks of what users give: whole numbers, numbers, names out of a list. Each error names what was given and expected.

NumPy's numbers are numbers; a bool is none.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import Any

import numpy as np


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
