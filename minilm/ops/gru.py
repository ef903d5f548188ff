"""The gated recurrent unit.

    r, z = σ(a_r + p_r), σ(a_z + p_z)           a = W_ih x_t + b_ih        (B, 3H)   the rows of W and b
    n = tanh(a_n + r · p_n)                      p = W_hh h_{t−1} + b_hh    (B, 3H)   in the order r, z, n
    h_t = (1 − z) · n + z · h_{t−1}

The reset gate r multiplies the projected state, bias b_hn included, as in cuDNN and PyTorch; in the paper it multiplies
h before the projection. This form needs one product per step instead of two.

[Cho et al. 2014, "Learning Phrase Representations using RNN Encoder–Decoder", eq. 5–8]
"""

from collections.abc import Container, Sequence
from typing import NamedTuple

from minilm.backend import Array, array_namespace
from minilm.ops import recurrent
from minilm.ops.linear import affine
from minilm.selection import Gradients, backward_of, op

ARGUMENTS = ("x", "w_ih", "w_hh", "b_ih", "b_hh", "h0")


class GRUCache(NamedTuple):
    """Gates, p_n and states, 5H numbers per position; p_n is kept, as a product would be needed to find it again."""

    x: Array  # (B, T, I)      borrowed, in its own order
    w_ih: Array  # (3H, I)     borrowed
    w_hh: Array  # (3H, H)     borrowed
    gates: Array  # (T, B, 4H)  r, z, n, and p_n
    states: Array  # (T + 1, B, H)  h_0 first
    has: tuple[bool, bool, bool]  # b_ih, b_hh, h0 were given
    order: recurrent.Order


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
) -> tuple[tuple[Array, Array], GRUCache]:
    """All states of a GRU over x, and the last.

    x (B, T, I), w_ih (3H, I), w_hh (3H, H), b_ih, b_hh (3H,), h0 (B, H), zeros where None. Returns y (B, T, H) and
    h_n (B, H). `lengths` and `reverse` are those of `rnn`. Raises ValueError where shapes or lengths do not fit.
    """
    xp, dtype = recurrent.check_arguments("gru", 3, x, w_hh, w_ih=w_ih, b_ih=b_ih, b_hh=b_hh, h0=h0)
    order = recurrent.reading_order(x, lengths, reverse)
    (B, T, _), H = x.shape, w_hh.shape[1]
    gates, states = (xp.empty(shape, dtype) for shape in ((T, B, 4 * H), (T + 1, B, H)))
    states[0] = 0 if h0 is None else h0
    a = affine(recurrent.time_major(x, order), w_ih, b_ih)  # (T, B, 3H)
    for t in range(T):
        a_r, a_z, a_n = xp.split(a[t], 3, axis=-1)  # (B, H) each
        p_r, p_z, p_n = xp.split(affine(states[t], w_hh, b_hh), 3, axis=-1)
        r, z = recurrent.sigma(a_r + p_r), recurrent.sigma(a_z + p_z)
        n = xp.tanh(a_n + r * p_n)
        h = (1 - z) * n + z * states[t]
        gates[t], states[t + 1] = xp.concatenate((r, z, n, p_n), axis=-1), h
    results = recurrent.batch_major(states[1:], order), recurrent.final_state(states, order)
    has = b_ih is not None, b_hh is not None, h0 is not None
    return results, GRUCache(x, w_ih, w_hh, gates, states, has, order)


@backward_of(gru)
def gru_backward(dy: tuple[Array | None, Array | None], cache: GRUCache, wrt: Container[str] = ARGUMENTS) -> Gradients:
    """The gradients of x, w_ih, w_hh, b_ih, b_hh, h0 from (dy, dh_n), either of which may be None.

    With δ_t = ∂L/∂h_t, all that later steps and the results send back:

        ∂L/∂a_n = δ_t · (1 − z) · (1 − n²)                 ∂L/∂p_n = ∂L/∂a_n · r
        ∂L/∂a_z = δ_t · (h_{t−1} − n) · z(1 − z)           ∂L/∂p_z = ∂L/∂a_z
        ∂L/∂a_r = ∂L/∂a_n · p_n · r(1 − r)                 ∂L/∂p_r = ∂L/∂a_r
        δ_{t−1} = δ_t · z + ∂L/∂p W_hh + dy_{t−1} (+ dh_n)
    """
    gates, states, order = cache.gates, cache.states, cache.order
    xp, (T, B, H) = array_namespace(states), states[1:].shape
    dstates = recurrent.state_gradients(*dy, order, states)  # (T + 1, B, H)  δ, once all later steps have been added
    da, dp = (xp.empty((T, B, 3 * H), dstates.dtype) for _ in "ap")
    for t in reversed(range(T)):
        r, z, n, p_n = xp.split(gates[t], 4, axis=-1)  # (B, H) each
        dh = dstates[t + 1]
        da_n = dh * (1 - z) * (1 - n * n)
        da_z = dh * (states[t] - n) * z * (1 - z)
        da_r = da_n * p_n * r * (1 - r)
        dp_n = da_n * r
        da[t] = xp.concatenate((da_r, da_z, da_n), axis=-1)  # (B, 3H)
        dp[t] = xp.concatenate((da_r, da_z, dp_n), axis=-1)
        dstates[t] += dh * z + dp[t] @ cache.w_hh
    gradients = recurrent.parameter_gradients(da, dp, cache, wrt)
    return *gradients, dstates[0] if cache.has[2] and "h0" in wrt else None
