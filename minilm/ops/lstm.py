"""The long short-term memory.

    i, f, o = σ(a_i), σ(a_f), σ(a_o)    g = tanh(a_g)        a = W_ih x_t + b_ih + W_hh h_{t−1} + b_hh   (B, 4H)
    c_t = f · c_{t−1} + i · g                                 the rows of W and b in the order i, f, g, o
    h_t = o · tanh(c_t)

The cell c passes from step to step by a product with f alone: where f is near 1, its gradient survives many steps.

[Hochreiter & Schmidhuber 1997; the forget gate: Gers, Schmidhuber, Cummins 2000]
"""

from collections.abc import Container, Sequence
from typing import NamedTuple

from minilm.backend import Array, array_namespace
from minilm.ops import recurrent
from minilm.ops.linear import affine
from minilm.selection import Gradients, backward_of, op

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
    order: recurrent.Order


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
) -> tuple[tuple[Array, Array, Array], LSTMCache]:
    """All states of an LSTM over x, the last state and the last cell.

    x (B, T, I), w_ih (4H, I), w_hh (4H, H), b_ih, b_hh (4H,), h0, c0 (B, H), zeros where None. Returns y (B, T, H), h_n
    and c_n (B, H). `lengths` and `reverse` are those of `rnn`. Raises ValueError where shapes or lengths do not fit.
    """
    xp, dtype = recurrent.check_arguments("lstm", 4, x, w_hh, w_ih=w_ih, b_ih=b_ih, b_hh=b_hh, h0=h0, c0=c0)
    order = recurrent.reading_order(x, lengths, reverse)
    (B, T, _), H = x.shape, w_hh.shape[1]
    gates, cells, states = (xp.empty(shape, dtype) for shape in ((T, B, 4 * H), (T + 1, B, H), (T + 1, B, H)))
    cells[0] = 0 if c0 is None else c0
    states[0] = 0 if h0 is None else h0
    from_x = affine(recurrent.time_major(x, order), w_ih, b_ih)  # (T, B, 4H)
    for t in range(T):
        from_h = affine(states[t], w_hh, b_hh)  # (B, 4H)
        a_i, a_f, a_g, a_o = xp.split(from_x[t] + from_h, 4, axis=-1)  # (B, H) each
        i, f, g, o = recurrent.sigma(a_i), recurrent.sigma(a_f), xp.tanh(a_g), recurrent.sigma(a_o)
        c = f * cells[t] + i * g
        h = o * xp.tanh(c)
        gates[t], cells[t + 1], states[t + 1] = xp.concatenate((i, f, g, o), axis=-1), c, h
    y = recurrent.batch_major(states[1:], order)  # (B, T, H)
    h_n, c_n = (recurrent.final_state(array, order) for array in (states, cells))  # (B, H)
    has = b_ih is not None, b_hh is not None, h0 is not None, c0 is not None
    return (y, h_n, c_n), LSTMCache(x, w_ih, w_hh, gates, cells, states, has, order)


@backward_of(lstm)
def lstm_backward(
    dy: tuple[Array | None, Array | None, Array | None], cache: LSTMCache, wrt: Container[str] = ARGUMENTS
) -> Gradients:
    """The gradients of x, w_ih, w_hh, b_ih, b_hh, h0, c0 from (dy, dh_n, dc_n), any of which may be None.

    With δ_t = ∂L/∂h_t and γ_t = ∂L/∂c_t, all that later steps and the results send back:

        γ_t += δ_t · o · (1 − tanh²(c_t))                             through h_t = o · tanh(c_t)
        ∂L/∂a_i = γ_t · g · i(1 − i)         ∂L/∂a_f = γ_t · c_{t−1} · f(1 − f)
        ∂L/∂a_g = γ_t · i · (1 − g²)         ∂L/∂a_o = δ_t · tanh(c_t) · o(1 − o)
        γ_{t−1} = γ_t · f (+ dc_n)           δ_{t−1} = ∂L/∂a W_hh + dy_{t−1} (+ dh_n)
    """
    gates, cells, states, order = cache.gates, cache.cells, cache.states, cache.order
    xp = array_namespace(states)
    dstates = recurrent.state_gradients(*dy[:2], order, states)  # (T + 1, B, H)  δ, once later steps have been added
    dcells = recurrent.state_gradients(None, dy[2], order, cells)  # (T + 1, B, H)  γ, likewise
    da = xp.empty(gates.shape, xp.result_type(dstates, dcells))  # (T, B, 4H)
    for t in reversed(range(len(da))):
        i, f, g, o = xp.split(gates[t], 4, axis=-1)  # (B, H) each
        tanh_c = xp.tanh(cells[t + 1])
        dh = dstates[t + 1]
        dc = dcells[t + 1] + dh * o * (1 - tanh_c * tanh_c)
        da_i = dc * g * i * (1 - i)
        da_f = dc * cells[t] * f * (1 - f)
        da_g = dc * i * (1 - g * g)
        da_o = dh * tanh_c * o * (1 - o)
        da[t] = xp.concatenate((da_i, da_f, da_g, da_o), axis=-1)  # (B, 4H)
        dcells[t] += dc * f
        dstates[t] += da[t] @ cache.w_hh
    gradients = recurrent.parameter_gradients(da, da, cache, wrt)
    dh0 = dstates[0] if cache.has[2] and "h0" in wrt else None
    return *gradients, dh0, dcells[0] if cache.has[3] and "c0" in wrt else None
