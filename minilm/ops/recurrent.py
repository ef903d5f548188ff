"""What the recurrent ops share: the order in which they read, their checks, and the products outside the loop.

A recurrence reads x (B, T, C) one position at a time. Direction and lengths are settled before its loop starts, so that
the loop knows nothing of either:

    position   0 1 2 3 4        reverse = False      reverse = True       (one sequence of length 3, T = 5)
    time       0 1 2 . .        reads 0 1 2 . .      reads 2 1 0 . .

At time t it reads position t, or length − 1 − t in reverse: a permutation that is its own inverse. Padding (.) stays at
the end, reads 0 and emits 0. In this order arrays are time-major, (T, B, ·): all T times are one matrix of T·B rows,
and the products that do not depend on the state are done at once, the input's before the loop and those of the weight
gradients after it. The state after a sequence's end is picked out of all states, as is its gradient.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from types import ModuleType
from typing import NamedTuple

import numpy as np

from minilm.backend import Array, array_namespace, asarray_like, floating_namespace


class Order(NamedTuple):
    """Which position each step reads. Arrays are None where no sequence is shorter than T."""

    reverse: bool
    lengths: Array | None  # (B,)
    inside: Array | None  # (T, B, 1)  step t of this sequence is not padding
    position: Array | None  # (T, B)   the position that step t reads, where it is not t


def reading_order(x: Array, lengths: Array | Sequence[int] | None, reverse: bool) -> Order:
    """The order over x (B, T, ...)."""
    lengths = check_lengths(lengths, x)
    if lengths is None:
        return Order(reverse, None, None, None)
    time = array_namespace(x).arange(x.shape[1])[:, None]  # (T, 1)
    inside = time < lengths  # (T, B)
    position = array_namespace(x).where(inside, lengths - 1 - time, time) if reverse else None
    return Order(reverse, lengths, inside[:, :, None], position)


def time_major(x: Array, order: Order) -> Array:
    """x (B, T, C) in this order: (T, B, C), contiguous, 0 at padding whatever x holds there."""
    xp = array_namespace(x)
    if order.position is not None:
        ordered = x[xp.arange(x.shape[0]), order.position]  # (T, B, C)
    else:
        ordered = (x[:, ::-1] if order.reverse else x).transpose(1, 0, 2)  # (T, B, C)
    return xp.ascontiguousarray(ordered) if order.inside is None else xp.where(order.inside, ordered, 0)


def batch_major(a: Array, order: Order) -> Array:
    """The inverse of `time_major`: (T, B, C) to (B, T, C), always a copy."""
    xp = array_namespace(a)
    if order.inside is not None:
        a = xp.where(order.inside, a, 0)
    if order.position is not None:
        return a[order.position.T, xp.arange(a.shape[1])[:, None]]  # (B, T, C)
    batch_first = a.transpose(1, 0, 2)  # (B, T, C)
    return (batch_first[:, ::-1] if order.reverse else batch_first).copy()


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


def recurrent_weight(w_hh: Array, T: int) -> Array:
    """w_hhᵀ (H, gates·H), laid out for the T products of the loop; a single step is not worth the copy."""
    return array_namespace(w_hh).ascontiguousarray(w_hh.T) if T > 1 else w_hh.T


def final_state(states: Array, order: Order) -> Array:
    """The state after each sequence's last step. `states` (T + 1, B, H) begins with the initial one. Returns (B, H)."""
    if order.lengths is None:
        return states[-1].copy()
    return states[order.lengths, array_namespace(states).arange(states.shape[1])]


def state_gradients(dy: Array | None, dfinal: Array | None, order: Order, like: Array) -> Array:
    """∂L/∂state from outside the recurrence, for every state: that of y, and at each sequence's end that of h_n.

    `like` are the states (T + 1, B, H), which begin with the initial one. Returns (T + 1, B, H).
    """
    xp = array_namespace(like)
    dtype = xp.result_type(*(array for array in (like, dy, dfinal) if array is not None))
    dstates = xp.zeros(like.shape, dtype)
    if dy is not None:
        dstates[1:] = time_major(dy, order)
    if dfinal is not None:
        at_end = -1 if order.lengths is None else (order.lengths, xp.arange(like.shape[1]))
        dstates[at_end] += dfinal
    return dstates


def project_inputs(x: Array, w_ih: Array, bias: Array | None, order: Order, dtype: np.dtype) -> Array:
    """x w_ihᵀ + bias for all steps in one product. Returns a new (T, B, gates·H) of `dtype`."""
    B, T, I = x.shape
    projected = (time_major(x, order).reshape(T * B, I) @ w_ih.T).astype(dtype, copy=False)  # (T·B, gates·H)
    if bias is not None:
        projected += bias
    return projected.reshape(T, B, w_ih.shape[0])


def input_gradients(
    dgates: Array, x: Array, w_ih: Array, has_bias: bool, order: Order, wrt: Container[str]
) -> tuple[Array | None, Array | None, Array | None]:
    """dx, dw_ih, db_ih of `project_inputs` from dgates (T, B, gates·H): one product each for all order."""
    B, T, I = x.shape
    drows = dgates.reshape(T * B, w_ih.shape[0])
    dx = dw_ih = db_ih = None
    if "x" in wrt:
        dx = batch_major((drows @ w_ih).reshape(T, B, I), order)  # (B, T, I)
    if "w_ih" in wrt:
        dw_ih = drows.T @ time_major(x, order).reshape(T * B, I)  # (gates·H, I)
    if "b_ih" in wrt and has_bias:
        db_ih = drows.sum(axis=0)  # (gates·H,)
    return dx, dw_ih, db_ih


def recurrent_gradients(
    dgates: Array, states: Array, has_bias: bool, wrt: Container[str]
) -> tuple[Array | None, Array | None]:
    """dw_hh, db_hh from dgates (T, B, gates·H) and the states (T + 1, B, H): one product for all order."""
    T, B, rows = dgates.shape
    drows = dgates.reshape(T * B, rows)
    dw_hh = drows.T @ states[:-1].reshape(T * B, states.shape[2]) if "w_hh" in wrt else None  # (gates·H, H)
    return dw_hh, drows.sum(axis=0) if "b_hh" in wrt and has_bias else None
