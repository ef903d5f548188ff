"""The simple recurrent network.

    h_t = tanh(W_ih x_t + b_ih + W_hh h_{t−1} + b_hh)        x_t (B, I), h_t (B, H), W_ih (H, I), W_hh (H, H)

The gradient of h_0 is a product of T matrices W_hhᵀ diag(1 − h_t²): it vanishes or explodes with T, which is what the
gates of `lstm.py` and `gru.py` are for.

[Elman 1990, "Finding Structure in Time"; Bengio, Simard, Frasconi 1994, "Learning Long-Term Dependencies ..."]
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import NamedTuple

from minilm.backend import Array, array_namespace
from minilm.ops.recurrent import (
    Order,
    add_biases,
    batch_major,
    check_arguments,
    final_state,
    input_gradients,
    project_inputs,
    reading_order,
    recurrent_gradients,
    recurrent_weight,
    state_gradients,
)
from minilm.selection import backward_of, op

ARGUMENTS = ("x", "w_ih", "w_hh", "b_ih", "b_hh", "h0")


class RNNCache(NamedTuple):
    """All states, H numbers per position: tanh' = 1 − h² needs nothing else. x is borrowed, in its own order."""

    x: Array  # (B, T, I)
    w_ih: Array  # (H, I)
    w_hh: Array  # (H, H)
    states: Array  # (T + 1, B, H)  h_0 first
    has: tuple[bool, bool, bool]  # b_ih, b_hh, h0 were given
    order: Order


@op
def rnn(
    x: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    h0: Array | None = None,
    *,
    lengths: Array | Sequence[int] | None = None,
    reverse: bool = False,
    cache: bool = True,
) -> tuple[tuple[Array, Array], RNNCache | None]:
    """All states of a tanh recurrence over x, and the last.

    x (B, T, I), w_ih (H, I), w_hh (H, H), b_ih, b_hh (H,), h0 (B, H), zeros where None. Returns y (B, T, H) and
    h_n (B, H). `lengths` (B,) from 0 to T end each sequence: y is 0 from there on, h_n the state there. `reverse`
    reads from each sequence's end to its beginning. Raises ValueError where shapes or lengths do not fit.
    """
    xp, dtype = check_arguments("rnn", 1, x, w_hh, w_ih=w_ih, b_ih=b_ih, b_hh=b_hh, h0=h0)
    order = reading_order(x, lengths, reverse)
    (B, T, _), H = x.shape, w_hh.shape[1]
    projected = project_inputs(x, w_ih, add_biases(b_ih, b_hh), order, dtype)  # (T, B, H)
    states = xp.empty((T + 1, B, H), dtype)
    states[0] = 0 if h0 is None else h0
    w = recurrent_weight(w_hh, T)
    for t in range(T):
        h = xp.matmul(states[t], w, out=states[t + 1])  # (B, H)
        h += projected[t]
        xp.tanh(h, out=h)
    results = batch_major(states[1:], order), final_state(states, order)
    has = b_ih is not None, b_hh is not None, h0 is not None
    return results, RNNCache(x, w_ih, w_hh, states, has, order) if cache else None


@backward_of(rnn)
def rnn_backward(
    dy: tuple[Array | None, Array | None], cache: RNNCache, wrt: Container[str] = ARGUMENTS
) -> tuple[Array | None, ...]:
    """The gradients of x, w_ih, w_hh, b_ih, b_hh, h0 from (dy, dh_n), either of which may be None.

    With a_t what tanh is taken of, and δ_t = ∂L/∂h_t what y_t, h_n and the next step send back:

        ∂L/∂a_t = δ_t · (1 − h_t²)        δ_{t−1} = dy_{t−1} + ∂L/∂a_t W_hh
    """
    x, w_ih, w_hh, states, (has_b_ih, has_b_hh, has_h0), order = cache
    xp = array_namespace(states)
    dstates = state_gradients(*dy, order, states)  # (T + 1, B, H)
    da = xp.empty(states[1:].shape, dstates.dtype)  # (T, B, H)
    dh = dstates[-1]
    for t in reversed(range(len(da))):
        h = states[t + 1]
        xp.multiply(dh, 1 - h * h, out=da[t])
        if t or "h0" in wrt:
            dh = dstates[t] + da[t] @ w_hh  # (B, H)
    dx, dw_ih, db_ih = input_gradients(da, x, w_ih, has_b_ih, order, wrt)
    dw_hh, db_hh = recurrent_gradients(da, states, has_b_hh, wrt)
    return dx, dw_ih, dw_hh, db_ih, db_hh, dh if has_h0 and "h0" in wrt else None
