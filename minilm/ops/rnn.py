"""The simple recurrent network.

    h_t = tanh(W_ih x_t + b_ih + W_hh h_{t−1} + b_hh)        x_t (B, I), h_t (B, H), W_ih (H, I), W_hh (H, H)

The gradient of h_0 is a product of T matrices W_hhᵀ diag(1 − h_t²): it vanishes or explodes with T, which is what the
gates of `lstm.py` and `gru.py` are for.

[Elman 1990, "Finding Structure in Time"; Bengio, Simard, Frasconi 1994, "Learning Long-Term Dependencies ..."]
"""

from collections.abc import Container, Sequence
from typing import NamedTuple

from minilm.backend import Array, array_namespace
from minilm.ops import recurrent
from minilm.ops.linear import affine
from minilm.selection import Gradients, backward_of, op

ARGUMENTS = ("x", "w_ih", "w_hh", "b_ih", "b_hh", "h0")


class RNNCache(NamedTuple):
    """All states, H numbers per position: tanh' = 1 − h² needs nothing else."""

    x: Array  # (B, T, I)  borrowed, in its own order
    w_ih: Array  # (H, I)  borrowed
    w_hh: Array  # (H, H)  borrowed
    states: Array  # (T + 1, B, H)  h_0 first
    has: tuple[bool, bool, bool]  # b_ih, b_hh, h0 were given
    order: recurrent.Order


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
) -> tuple[tuple[Array, Array], RNNCache]:
    """All states of a tanh recurrence over x, and the last.

    x (B, T, I), w_ih (H, I), w_hh (H, H), b_ih, b_hh (H,), h0 (B, H), zeros where None. Returns y (B, T, H) and
    h_n (B, H). `lengths` (B,) from 0 to T end each sequence: y is 0 from there on, h_n the state there. `reverse`
    reads from each sequence's end to its beginning. Raises ValueError where shapes or lengths do not fit.
    """
    xp, dtype = recurrent.check_arguments("rnn", 1, x, w_hh, w_ih=w_ih, b_ih=b_ih, b_hh=b_hh, h0=h0)
    order = recurrent.reading_order(x, lengths, reverse)
    (B, T, _), H = x.shape, w_hh.shape[1]
    states = xp.empty((T + 1, B, H), dtype)
    states[0] = 0 if h0 is None else h0
    from_x = affine(recurrent.time_major(x, order), w_ih, b_ih)  # (T, B, H)
    for t in range(T):
        a = from_x[t] + affine(states[t], w_hh, b_hh)  # (B, H)
        states[t + 1] = xp.tanh(a)
    results = recurrent.batch_major(states[1:], order), recurrent.final_state(states, order)
    has = b_ih is not None, b_hh is not None, h0 is not None
    return results, RNNCache(x, w_ih, w_hh, states, has, order)


@backward_of(rnn)
def rnn_backward(dy: tuple[Array | None, Array | None], cache: RNNCache, wrt: Container[str] = ARGUMENTS) -> Gradients:
    """The gradients of x, w_ih, w_hh, b_ih, b_hh, h0 from (dy, dh_n), either of which may be None.

    With a_t what tanh is taken of, and δ_t = ∂L/∂h_t what y_t, h_n and the next step send back:

        ∂L/∂a_t = δ_t · (1 − h_t²)        δ_{t−1} = dy_{t−1} + ∂L/∂a_t W_hh
    """
    states, order = cache.states, cache.order
    dstates = recurrent.state_gradients(*dy, order, states)  # (T + 1, B, H)  δ, once all later steps have been added
    da = array_namespace(states).empty(states[1:].shape, dstates.dtype)  # (T, B, H)
    for t in reversed(range(len(da))):
        h = states[t + 1]  # (B, H)
        da[t] = dstates[t + 1] * (1 - h * h)
        dstates[t] += da[t] @ cache.w_hh
    gradients = recurrent.parameter_gradients(da, da, cache, wrt)
    return *gradients, dstates[0] if cache.has[2] and "h0" in wrt else None
