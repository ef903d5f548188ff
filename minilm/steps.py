"""The steps of a recurrence over padded sequences: which position each of them reads, and back. And what its ops check.

A recurrence reads x (B, T, C) one position at a time. Direction and lengths are settled before its loop starts, so that
the loop knows nothing of either:

    position   0 1 2 3 4        reverse = False      reverse = True       (one sequence of length 3, T = 5)
    step       0 1 2 . .        reads 0 1 2 . .      reads 2 1 0 . .

Step t reads position t, or length − 1 − t in reverse: a permutation that is its own inverse. Padding (.) stays at the
end, reads 0 and emits 0. In the order of the steps arrays are time-major, (T, B, ·): step t is one contiguous block.

The definitions in `minilm.ops` and their tuned versions in `minilm.kernels.cpu` share this.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import numpy as np

from minilm.backend import Array, array_namespace, asarray_like, floating_namespace


class Steps(NamedTuple):
    """Which position each step reads. Arrays are None where no sequence is shorter than T."""

    reverse: bool
    lengths: Array | None  # (B,)
    inside: Array | None  # (T, B, 1)  step t of this sequence is not padding
    order: Array | None  # (T, B)      the position that step t reads, where it is not t


def plan_steps(x: Array, lengths: Array | Sequence[int] | None, reverse: bool) -> Steps:
    """The steps over x (B, T, ...)."""
    lengths = check_lengths(lengths, x)
    if lengths is None:
        return Steps(reverse, None, None, None)
    time = array_namespace(x).arange(x.shape[1])[:, None]  # (T, 1)
    inside = time < lengths  # (T, B)
    order = array_namespace(x).where(inside, lengths - 1 - time, time) if reverse else None
    return Steps(reverse, lengths, inside[:, :, None], order)


def to_steps(x: Array, steps: Steps) -> Array:
    """x (B, T, C) in the order of the steps: (T, B, C), contiguous, 0 at padding whatever x holds there."""
    xp = array_namespace(x)
    if steps.order is not None:
        ordered = x[xp.arange(x.shape[0]), steps.order]  # (T, B, C)
    else:
        ordered = (x[:, ::-1] if steps.reverse else x).transpose(1, 0, 2)  # (T, B, C)
    return xp.ascontiguousarray(ordered) if steps.inside is None else xp.where(steps.inside, ordered, 0)


def to_positions(steps_first: Array, steps: Steps) -> Array:
    """The inverse of `to_steps`: (T, B, C) to (B, T, C), always a copy."""
    xp = array_namespace(steps_first)
    if steps.inside is not None:
        steps_first = xp.where(steps.inside, steps_first, 0)
    if steps.order is not None:
        return steps_first[steps.order.T, xp.arange(steps_first.shape[1])[:, None]]  # (B, T, C)
    batch_first = steps_first.transpose(1, 0, 2)  # (B, T, C)
    return (batch_first[:, ::-1] if steps.reverse else batch_first).copy()


def check_lengths(lengths: Array | Sequence[int] | None, x: Array) -> Array | None:
    """`lengths` (B,) in the library of x (B, T, ...); None where every sequence is T long.

    Lengths on the host are checked: integers in 0..T, else TypeError or ValueError. Lengths on a GPU are cut to 0..T
    instead, because looking at them would make the host wait for the device.
    """
    if lengths is None:
        return None
    B, T = x.shape[:2]
    if isinstance(lengths, list | tuple):
        lengths = np.asarray(lengths, dtype=None if len(lengths) else np.int64)
    on_host = array_namespace(lengths) is np
    if lengths.dtype.kind not in "iu":
        raise TypeError(f"lengths have dtype {lengths.dtype}, expected integers")
    if lengths.shape != (B,):
        raise ValueError(f"lengths have shape {lengths.shape}, expected ({B},): one for each sequence of the batch")
    if not on_host:
        return array_namespace(x, lengths).clip(lengths.astype(np.int64), 0, T)
    wrong = (lengths < 0) | (lengths > T)
    if wrong.any():
        raise ValueError(f"lengths must be from 0 to T={T}, got {lengths[wrong][0]} for sequence {wrong.argmax()}")
    return None if (lengths == T).all() else asarray_like(lengths.astype(np.int64), x)


def check_arguments(op: str, gates: int, x: Array, w_hh: Array, **others: Array | None) -> tuple[ModuleType, np.dtype]:
    """The array library and the dtype of the result. Raises ValueError or TypeError where the arguments do not fit."""
    arrays = {"x": x, "w_hh": w_hh} | {name: array for name, array in others.items() if array is not None}
    xp = floating_namespace(*arrays.values())
    if x.ndim != 3 or w_hh.ndim != 2:
        raise ValueError(f"{op}: x {x.shape} and w_hh {w_hh.shape}; expected (B, T, I) and ({gates}·H, H)")
    (B, _, I), H = x.shape, w_hh.shape[1]
    expected = {
        "x": x.shape,
        "w_ih": (gates * H, I),
        "w_hh": (gates * H, H),
        "b_ih": (gates * H,),
        "b_hh": (gates * H,),
    }
    for name, array in arrays.items():
        shape = expected.get(name, (B, H))  # of a state
        if array.shape != shape:
            raise ValueError(f"{op}: {name} has shape {array.shape}, expected {shape} (B={B}, I={I}, H={H})")
    return xp, xp.result_type(*arrays.values())


def add_biases(b_ih: Array | None, b_hh: Array | None) -> Array | None:
    """Their sum, for gates in which the two always appear together."""
    if b_ih is None or b_hh is None:
        return b_hh if b_ih is None else b_ih
    return b_ih + b_hh
