"""What the stand-in forbids, and what happened on it: the policy, the events, the table of CuPy's API."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import types
from pathlib import Path

API = json.loads((Path(__file__).parent / "cupy_api.json").read_text())
TOP = API["top"]

# "error": also forbid what CuPy allows, but neutral code should not do. Any other word: as permissive as CuPy.
policy = types.SimpleNamespace(
    numpy_calls="error",  # np.exp(device_array)
    host_index="error",  # x[numpy_array]: one upload a call
    host_value="error",  # x[i] = numpy_array
    iterate_1d="error",  # list(x): one 0-d device array an element
    promotion="error",  # float32 with float64
    duplicates="error",  # x[[1, 1]] = ...: which value stays is undefined
    strided_arguments="error",  # a kernel given an array that is not C-contiguous: it knows no strides
    poison=True,  # empty() gives NaN, not whatever was there
)

events: list[tuple[str, str, str]] = []  # (kind, what, where); kind is "sync" or "upload". A fixture clears it.
_forbidden_kinds: list[tuple[str, ...]] = []


class StrictViolation(Exception):
    """CuPy would not raise here: it would be silently wrong, undefined, slow or synchronising with the device."""


def caller() -> str:
    """file:line of the innermost caller outside this folder."""
    frame = sys._getframe(1)
    while frame and os.path.dirname(frame.f_code.co_filename) == os.path.dirname(__file__):
        frame = frame.f_back
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}" if frame else "?"


def note(kind: str, what: str) -> None:
    """An event, which a no_sync() block forbids."""
    where = caller()
    events.append((kind, what, where))
    if _forbidden_kinds and kind in _forbidden_kinds[-1]:
        raise StrictViolation(f"{kind} inside a no_sync() block: {what} at {where}")


@contextlib.contextmanager
def no_sync(kinds=("sync",)):
    """Raise at the first synchronisation; no_sync(("sync", "upload")) also forbids copies from host to device."""
    _forbidden_kinds.append(kinds)
    try:
        yield
    finally:
        _forbidden_kinds.pop()


@contextlib.contextmanager
def record():
    """The events of the block, in a list that is filled when it ends."""
    start, seen = len(events), []
    try:
        yield seen
    finally:
        seen += events[start:]


@contextlib.contextmanager
def relaxed(**changes):
    """Other entries of `policy` within the block."""
    before = dict(vars(policy))
    vars(policy).update(changes)
    try:
        yield
    finally:
        vars(policy).update(before)
