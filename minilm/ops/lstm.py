"""The long short-term memory.

    i, f, o = σ(a_i), σ(a_f), σ(a_o)    g = tanh(a_g)        a = W_ih x_t + b_ih + W_hh h_{t−1} + b_hh   (B, 4H)
    c_t = f · c_{t−1} + i · g                                 the rows of W and b in the order i, f, g, o
    h_t = o · tanh(c_t)

The cell c passes from step to step by a product with f alone: where f is near 1, its gradient survives many steps.

[Hochreiter & Schmidhuber 1997; the forget gate: Gers, Schmidhuber, Cummins 2000]
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

ARGUMENTS = ("x", "w_ih", "w_hh", "b_ih", "b_hh", "h0", "c0")


class LSTMCache(NamedTuple):
    """Gates, cells and states, 6H numbers per position. tanh(c) is recomputed: cheaper than another H to keep."""

    x: Array  # (B, T, I)      borrowed, in its own order
    w_ih: Array  # (4H, I)     borrowed
    w_hh: Array  # (4H, H)     borrowed
    gates: Array  # (T, B, 4H)  i, f, g, o
    cells: Array  # (T + 1, B, H)  c_0 first
    states: Array  # (T + 1, B, H)  h_0 first
    has: tuple[bool, bool, bool, bool]  # b_ih, b_hh, h0, c0 were given
    order: Order


@op
def lstm(
    x: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    h0: Array | None = None,
    c0: Array | None = None,
    *,
    lengths: Array | Sequence[int] | None = None,
    reverse: bool = False,
    cache: bool = True,
) -> tuple[tuple[Array, Array, Array], LSTMCache | None]:
    """All states of an LSTM over x, the last state and the last cell.

    x (B, T, I), w_ih (4H, I), w_hh (4H, H), b_ih, b_hh (4H,), h0, c0 (B, H), zeros where None. Returns y (B, T, H),
    h_n and c_n (B, H). `lengths` (B,) from 0 to T end each sequence: y is 0 from there on, h_n and c_n are those
    there. `reverse` reads from each sequence's end to its beginning. Raises ValueError where shapes or lengths do not
    fit.
    """
    xp, dtype = check_arguments("lstm", 4, x, w_hh, w_ih=w_ih, b_ih=b_ih, b_hh=b_hh, h0=h0, c0=c0)
    order = reading_order(x, lengths, reverse)
    (B, T, _), H = x.shape, w_hh.shape[1]
    gates = project_inputs(x, w_ih, add_biases(b_ih, b_hh), order, dtype)  # (T, B, 4H)
    states = xp.empty((T + 1, B, H), dtype)
    states[0] = 0 if h0 is None else h0
    kept = T + 1 if cache or order.lengths is not None else 2  # without a backward, the last cell and the next suffice
    cells = xp.empty((kept, B, H), dtype)
    cells[0] = 0 if c0 is None else c0

    # σ(a) = ½ + ½ tanh(a/2) never overflows, and lets one tanh serve all four gates: scale · tanh(scale · a) + shift.
    scale = xp.full(4 * H, 0.5, dtype)
    scale[2 * H : 3 * H] = 1
    shift = 1 - scale
    w = recurrent_weight(w_hh, T)
    for t in range(T):
        a = gates[t]  # (B, 4H)
        a += states[t] @ w
        a *= scale
        xp.tanh(a, out=a)
        a *= scale
        a += shift
        i, f, g, o = split_gates(a)
        c = xp.multiply(f, cells[t % kept], out=cells[(t + 1) % kept])  # (B, H)
        c += i * g
        xp.multiply(o, xp.tanh(c), out=states[t + 1])
    last_cell = cells[T % kept].copy() if order.lengths is None else final_state(cells, order)
    results = batch_major(states[1:], order), final_state(states, order), last_cell
    if not cache:
        return results, None
    has = b_ih is not None, b_hh is not None, h0 is not None, c0 is not None
    return results, LSTMCache(x, w_ih, w_hh, gates, cells, states, has, order)


@backward_of(lstm)
def lstm_backward(
    dy: tuple[Array | None, Array | None, Array | None], cache: LSTMCache, wrt: Container[str] = ARGUMENTS
) -> tuple[Array | None, ...]:
    """The gradients of x, w_ih, w_hh, b_ih, b_hh, h0, c0 from (dy, dh_n, dc_n), any of which may be None.

    With δ_t = ∂L/∂h_t and γ_t = ∂L/∂c_t, all that later steps and the results send back:

        γ_t += δ_t · o · (1 − tanh²(c_t))                             through h_t = o · tanh(c_t)
        ∂L/∂a_i = γ_t · g · i(1 − i)         ∂L/∂a_f = γ_t · c_{t−1} · f(1 − f)
        ∂L/∂a_g = γ_t · i · (1 − g²)         ∂L/∂a_o = δ_t · tanh(c_t) · o(1 − o)
        γ_{t−1} = γ_t · f (+ dc_n)           δ_{t−1} = ∂L/∂a W_hh + dy_{t−1} (+ dh_n)
    """
    x, w_ih, w_hh, gates, cells, states, (has_b_ih, has_b_hh, has_h0, has_c0), order = cache
    xp = array_namespace(states)
    dy, dh_n, dc_n = dy
    dstates = state_gradients(dy, dh_n, order, states)  # (T + 1, B, H)
    dcells = None if dc_n is None else state_gradients(None, dc_n, order, cells)  # (T + 1, B, H)
    dtype = dstates.dtype if dcells is None else xp.result_type(dstates, dcells)
    da = xp.empty(gates.shape, dtype)  # (T, B, 4H)
    dh = dstates[-1]
    dc = xp.zeros(dh.shape, dtype) if dcells is None else dcells[-1]
    for t in reversed(range(len(da))):
        i, f, g, o = split_gates(gates[t])
        da_i, da_f, da_g, da_o = split_gates(da[t])
        slopes = gates[t] * (1 - gates[t])  # (B, 4H)  σ' = σ(1 − σ)
        split_gates(slopes)[2][...] = 1 - g * g  # but tanh' = 1 − tanh²
        tanh_c = xp.tanh(cells[t + 1])
        dc = dc + dh * o * (1 - tanh_c * tanh_c)  # (B, H)
        xp.multiply(dc, g, out=da_i)
        xp.multiply(dc, cells[t], out=da_f)
        xp.multiply(dc, i, out=da_g)
        xp.multiply(dh, tanh_c, out=da_o)
        da[t] *= slopes
        dc = dc * f if dcells is None else dc * f + dcells[t]
        if t or "h0" in wrt:
            dh = dstates[t] + da[t] @ w_hh  # (B, H)
    dx, dw_ih, db_ih = input_gradients(da, x, w_ih, has_b_ih, order, wrt)
    dw_hh, db_hh = recurrent_gradients(da, states, has_b_hh, wrt)
    dh0 = dh if has_h0 and "h0" in wrt else None
    return dx, dw_ih, dw_hh, db_ih, db_hh, dh0, dc if has_c0 and "c0" in wrt else None


def split_gates(a: Array) -> tuple[Array, Array, Array, Array]:
    """Views (B, H) of the four gates in a (B, 4H)."""
    H = a.shape[-1] // 4
    return a[:, :H], a[:, H : 2 * H], a[:, 2 * H : 3 * H], a[:, 3 * H :]
