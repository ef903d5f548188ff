"""What the recurrent ops share: the order in which they read, their checks, and the products outside the loop.

A recurrence reads x (B, T, C) one position at a time. Direction and lengths are settled before its loop starts, so that
the loop knows nothing of either:

    position   0 1 2 3 4        reverse = False      reverse = True       (one sequence of length 3, T = 5)
    time       0 1 2 . .        reads 0 1 2 . .      reads 2 1 0 . .

At time t it reads position t, or length − 1 − t in reverse: a permutation that is its own inverse. Padding (.) stays at
the end, reads 0 and emits 0. In this order arrays are time-major, (T, B, ·), and the products that do not depend on the
state are done at once, the input's before the loop and those of the weight gradients after it. The state after a
sequence's end is picked out of all states, as is its gradient.
"""

from collections.abc import Container, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from minilm import checks
from minilm.backend import Array, array_namespace, asarray_like, floating_namespace
from minilm.selection import Gradients


class Order(NamedTuple):
    """Which position each step reads."""

    reverse: bool
    full: bool  # every sequence is T long
    lengths: Array  # (B,)
    inside: Array  # (T, B, 1)  step t of this sequence is not padding
    position: Array  # (T, B)   what step t reads


def reading_order(x: Array, lengths: Array | Sequence[int] | None, reverse: bool) -> Order:
    """The order over x (B, T, ...)."""
    xp, (B, T) = array_namespace(x), x.shape[:2]
    given = check_lengths(lengths, x)
    ends = xp.full(B, T) if given is None else given  # (B,)
    time = xp.arange(T)[:, None]  # (T, 1)
    inside = time < ends  # (T, B)
    position = xp.where(inside & reverse, ends - 1 - time, time)  # (T, B)
    return Order(reverse, given is None, ends, inside[:, :, None], position)


def time_major(x: Array, order: Order) -> Array:
    """x (B, T, C) in this order: (T, B, C), 0 at padding whatever x holds there."""
    xp = array_namespace(x)
    return xp.where(order.inside, x[xp.arange(len(x)), order.position], 0)


def batch_major(a: Array, order: Order) -> Array:
    """The inverse of `time_major`: (T, B, C) to (B, T, C)."""
    xp = array_namespace(a)
    return xp.where(order.inside, a, 0)[order.position.T, xp.arange(a.shape[1])[:, None]]


def final_state(states: Array, order: Order) -> Array:
    """The state (B, H) after each sequence's last step. `states` (T + 1, B, H) begins with the initial one."""
    return states[order.lengths, array_namespace(states).arange(states.shape[1])]


def sigma(a: Array) -> Array:
    """σ(a) = ½ + ½ tanh(a/2), which never overflows: shorter than `sigmoid.logistic`, whose left tail no gate needs."""
    return 0.5 + 0.5 * array_namespace(a).tanh(0.5 * a)


def state_gradients(dy: Array | None, dfinal: Array | None, order: Order, like: Array) -> Array:
    """∂L/∂state from outside the recurrence, for every state: that of y, and at each sequence's end that of h_n.

    `like` are the states (T + 1, B, H), which begin with the initial one. Returns (T + 1, B, H).
    """
    xp = array_namespace(like)
    dstates = xp.zeros(like.shape, xp.result_type(*(array for array in (like, dy, dfinal) if array is not None)))
    if dy is not None:
        dstates[1:] = time_major(dy, order)
    if dfinal is not None:
        dstates[order.lengths, xp.arange(like.shape[1])] += dfinal
    return dstates


def parameter_gradients(da: Array, dp: Array, cache: Any, wrt: Container[str]) -> Gradients:
    """dx, dw_ih, dw_hh, db_ih, db_hh from ∂L/∂a and ∂L/∂p (T, B, gates·H), a = W_ih x + b_ih and p = W_hh h + b_hh."""
    xp, order, (has_b_ih, has_b_hh) = array_namespace(da), cache.order, cache.has[:2]
    over_steps = ((0, 1), (0, 1))  # the sum over T and B
    dx = batch_major(da @ cache.w_ih, order) if "x" in wrt else None  # (B, T, I)
    dw_ih = xp.tensordot(da, time_major(cache.x, order), over_steps) if "w_ih" in wrt else None  # (gates·H, I)
    dw_hh = xp.tensordot(dp, cache.states[:-1], over_steps) if "w_hh" in wrt else None  # (gates·H, H)
    db_ih = da.sum(axis=(0, 1)) if "b_ih" in wrt and has_b_ih else None  # (gates·H,)
    db_hh = dp.sum(axis=(0, 1)) if "b_hh" in wrt and has_b_hh else None  # (gates·H,)
    return dx, dw_ih, dw_hh, db_ih, db_hh


def check_lengths(lengths: Array | Sequence[int] | None, x: Array) -> Array | None:
    """`lengths` (B,) in the library of x (B, T, ...); None where every sequence is T long.

    Lengths on the host are checked: integers in 0..T, else TypeError or ValueError. Lengths on a GPU are cut to 0..T
    instead, because looking at them would make the host wait for the device.
    """
    if lengths is None:
        return None
    B, T = x.shape[:2]
    checked = checks.check_lengths("lengths", lengths, B, T)
    if array_namespace(checked) is not np:
        return array_namespace(x, checked).clip(checked.astype(np.int64), 0, T)
    return None if (checked == T).all() else asarray_like(checked.astype(np.int64), x)


def check_arguments(op: str, gates: int, x: Array, w_hh: Array, **others: Array | None) -> tuple[ModuleType, np.dtype]:
    """The array library and the dtype of the result. Raises ValueError or TypeError where the arguments do not fit."""
    arrays = {"x": x, "w_hh": w_hh} | {name: array for name, array in others.items() if array is not None}
    xp = floating_namespace(*arrays.values())
    if x.ndim != 3 or w_hh.ndim != 2:
        raise ValueError(f"{op}: x {x.shape} and w_hh {w_hh.shape}; expected (B, T, I) and ({gates}·H, H)")
    (B, _, I), H = x.shape, w_hh.shape[1]
    rows = gates * H
    expected = {"x": x.shape, "w_ih": (rows, I), "w_hh": (rows, H), "b_ih": (rows,), "b_hh": (rows,)}
    for name, array in arrays.items():
        shape = expected.get(name, (B, H))  # of a state
        if array.shape != shape:
            raise ValueError(f"{op}: {name} has shape {array.shape}, expected {shape} (B={B}, I={I}, H={H})")
    return xp, xp.result_type(*arrays.values())
