"""The gated recurrent unit.

    r, z = σ(a_r + p_r), σ(a_z + p_z)           a = W_ih x_t + b_ih        (B, 3H)   the rows of W and b
    n = tanh(a_n + r · p_n)                      p = W_hh h_{t−1} + b_hh    (B, 3H)   in the order r, z, n
    h_t = (1 − z) · n + z · h_{t−1}

The reset gate r multiplies the projected state, bias b_hn included, as in cuDNN and PyTorch; in the paper it multiplies
h before the projection. This form needs one product per step instead of two.

[Cho et al. 2014, "Learning Phrase Representations using RNN Encoder–Decoder", eq. 5–8]
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import NamedTuple

from minilm.backend import Array, array_namespace
from minilm.ops.recurrent import (
    Order,
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


class GRUCache(NamedTuple):
    """Gates, p_n and states, 5H numbers per position; p_n is kept, as a product would be needed to find it again."""

    x: Array  # (B, T, I)      borrowed, in its own order
    w_ih: Array  # (3H, I)     borrowed
    w_hh: Array  # (3H, H)     borrowed
    gates: Array  # (T, B, 3H)  r, z, n
    p_n: Array  # (T, B, H)
    states: Array  # (T + 1, B, H)  h_0 first
    has: tuple[bool, bool, bool]  # b_ih, b_hh, h0 were given
    order: Order


@op
def gru(
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
) -> tuple[tuple[Array, Array], GRUCache | None]:
    """All states of a GRU over x, and the last.

    x (B, T, I), w_ih (3H, I), w_hh (3H, H), b_ih, b_hh (3H,), h0 (B, H), zeros where None. Returns y (B, T, H) and
    h_n (B, H). `lengths` (B,) from 0 to T end each sequence: y is 0 from there on, h_n the state there. `reverse`
    reads from each sequence's end to its beginning. Raises ValueError where shapes or lengths do not fit.
    """
    xp, dtype = check_arguments("gru", 3, x, w_hh, w_ih=w_ih, b_ih=b_ih, b_hh=b_hh, h0=h0)
    order = reading_order(x, lengths, reverse)
    (B, T, _), H = x.shape, w_hh.shape[1]
    gates = project_inputs(x, w_ih, b_ih, order, dtype)  # (T, B, 3H)
    states = xp.empty((T + 1, B, H), dtype)
    states[0] = 0 if h0 is None else h0
    kept_p_n = xp.empty((T if cache else 0, B, H), dtype)
    w = recurrent_weight(w_hh, T)
    for t in range(T):
        p = states[t] @ w  # (B, 3H)
        if b_hh is not None:
            p = p + b_hh
        p_n = p[:, 2 * H :]
        rz = gates[t, :, : 2 * H]  # (B, 2H)
        rz += p[:, : 2 * H]
        rz *= 0.5  # σ(a) = ½ + ½ tanh(a/2) never overflows
        xp.tanh(rz, out=rz)
        rz *= 0.5
        rz += 0.5
        r, z, n = split_gates(gates[t])
        n += r * p_n
        xp.tanh(n, out=n)
        xp.add(n, z * (states[t] - n), out=states[t + 1])  # (B, H)
        if cache:
            kept_p_n[t] = p_n
    results = batch_major(states[1:], order), final_state(states, order)
    has = b_ih is not None, b_hh is not None, h0 is not None
    return results, GRUCache(x, w_ih, w_hh, gates, kept_p_n, states, has, order) if cache else None


@backward_of(gru)
def gru_backward(
    dy: tuple[Array | None, Array | None], cache: GRUCache, wrt: Container[str] = ARGUMENTS
) -> tuple[Array | None, ...]:
    """The gradients of x, w_ih, w_hh, b_ih, b_hh, h0 from (dy, dh_n), either of which may be None.

    With δ_t = ∂L/∂h_t, all that later steps and the results send back:

        ∂L/∂a_n = δ_t · (1 − z) · (1 − n²)                 ∂L/∂p_n = ∂L/∂a_n · r
        ∂L/∂a_z = δ_t · (h_{t−1} − n) · z(1 − z)           ∂L/∂p_z = ∂L/∂a_z
        ∂L/∂a_r = ∂L/∂a_n · p_n · r(1 − r)                 ∂L/∂p_r = ∂L/∂a_r
        δ_{t−1} = δ_t · z + ∂L/∂p W_hh + dy_{t−1} (+ dh_n)
    """
    x, w_ih, w_hh, gates, p_n, states, (has_b_ih, has_b_hh, has_h0), order = cache
    xp = array_namespace(states)
    dstates = state_gradients(*dy, order, states)  # (T + 1, B, H)
    dp = xp.empty(gates.shape, dstates.dtype)  # (T, B, 3H)
    da_n = xp.empty(p_n.shape, dstates.dtype)  # (T, B, H)  the only part in which ∂L/∂a differs from ∂L/∂p
    dh = dstates[-1]
    for t in reversed(range(len(dp))):
        r, z, n = split_gates(gates[t])
        dp_r, dp_z, dp_n = split_gates(dp[t])
        one_minus_z = 1 - z
        xp.multiply(dh * one_minus_z, 1 - n * n, out=da_n[t])
        xp.multiply(dh * (states[t] - n), z * one_minus_z, out=dp_z)
        xp.multiply(da_n[t], r, out=dp_n)
        xp.multiply(dp_n * p_n[t], 1 - r, out=dp_r)
        if t or "h0" in wrt:
            dh = dstates[t] + dh * z + dp[t] @ w_hh  # (B, H)
    dw_hh, db_hh = recurrent_gradients(dp, states, has_b_hh, wrt)
    dp[:, :, 2 * p_n.shape[2] :] = da_n  # from here on, the gradient of a
    dx, dw_ih, db_ih = input_gradients(dp, x, w_ih, has_b_ih, order, wrt)
    return dx, dw_ih, dw_hh, db_ih, db_hh, dh if has_h0 and "h0" in wrt else None


def split_gates(a: Array) -> tuple[Array, Array, Array]:
    """Views (B, H) of the three gates in a (B, 3H)."""
    H = a.shape[-1] // 3
    return a[:, :H], a[:, H : 2 * H], a[:, 2 * H :]
