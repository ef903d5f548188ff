"""The common part of the tuned recurrences: feature-major arrays, the products outside the loop, threads.

The definitions hold a step as (B, ·). Here it is (·, B), with the weight on the left of the product:

    (4H, H) @ (H, B)    for (B, H) @ (H, 4H)        a gate of (4H, B) is one contiguous run, of (B, 4H) a column of it

OpenBLAS computes the former at 205 GFLOP/s where the latter gets 147 (H 512, B 32, 1 thread, AVX-512), and NumPy goes
over a gate in one loop over H·B numbers, not in B loops over H. To get feature-major from (B, T, ·), and to come back,
costs a copy each, which is little.

With H = 64 the half microsecond that every call of NumPy takes counts as much as what it computes, and a call on a
strided or broadcast array takes that again for every row. So the loops call little, and on contiguous arrays only;
what does not depend on the later steps is computed for several steps at once, in blocks that stay in the cache.

The loops run in one thread, besides their products. To share the batch out to two threads was tried, and takes a third
to a half longer (LSTM, B 32, H 64 to 512): calls this short fight for the interpreter's lock. Where the product of a
step is small, BLAS is better off with one thread too. Where it is large, no other threads are called between products:
those of BLAS wait for the next one in a busy loop, for some 20 ms, and take the processor from whoever comes meanwhile
(with the inputs' products on a pool `python -m benchmarks lstm --threads 2` took 109 ms, with BLAS's own it takes 100).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np

from minilm.kernels.cpu.blocks import unlike
from minilm.memory import empty
from minilm.ops.recurrent import Order, batch_major, reading_order, time_major
from minilm.threads import count, one_blas_thread, spread

MINIMUM_SIZE = 1 << 14  # B·T·H
MINIMUM_POSITIONS = 64  # B·T: the weights are copied once per call, which fewer don't pay for
SMALL_PRODUCT = 3 << 19  # multiplications of a step, below which a second BLAS thread costs more than it helps
BLOCK_BYTES = 1 << 19  # what is computed for several steps at once
STRIP = 64  # rows that are transposed at a time


class Run(NamedTuple):
    """The steps through all sequences, and what their backward reads."""

    order: Order
    inputs: np.ndarray  # (T, B, I)  in the order of the steps
    gates: np.ndarray  # (T', k, H·B)  what the op keeps of a step: k blocks
    states: np.ndarray  # (T + 1, H, B)  h_0 first


class FeatureMajorCache(NamedTuple):
    """The run of a recurrence, its weights, borrowed, and which of b_ih, b_hh, h0 (and c0) were given."""

    run: Run
    w_ih: np.ndarray  # (rows, I)
    w_hh: np.ndarray  # (rows, H)
    has: tuple[bool, ...]


def refuses(
    x: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None, h0: Any = None, c0: Any = None, **_: Any
) -> str | None:
    """Why a call is left to the definition; None if it is served. Shapes that do not fit raise in the forward."""
    if reason := unlike(x, w_ih, w_hh, b_ih, b_hh, h0, c0):
        return reason
    if x.ndim != 3 or w_hh.ndim != 2 or not (x.size and w_hh.size):
        return "an array is empty, or of a wrong shape"
    positions, H = x.shape[0] * x.shape[1], w_hh.shape[1]
    if positions < MINIMUM_POSITIONS or positions * H < MINIMUM_SIZE:
        return f"fewer than {MINIMUM_POSITIONS} positions or {MINIMUM_SIZE} numbers in all states"
    return None


# ---- forward


def begin(x: np.ndarray, h0: np.ndarray | None, H: int, lengths: Any, reverse: bool, blocks: tuple[int, int]) -> Run:
    """A run over x (B, T, I) with its inputs and initial state; `gates`, of (steps, blocks of a step), isn't filled."""
    B, T, I = x.shape
    order = reading_order(x, lengths, reverse)
    inputs, states = empty((T, B, I), x.dtype), empty((T + 1, H, B), x.dtype)
    inputs[...] = _ordered(x, order)
    states[0] = 0 if h0 is None else h0.T
    return Run(order, inputs, empty((*blocks, H * B), x.dtype), states)


def arrange(
    w_hh: np.ndarray, w_ih: np.ndarray, bias: np.ndarray | None, order: Sequence[int], scale: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """W_hh (rows, H) and [W_ih | b] (rows, I + 1), gate by gate in `order`, each times its scale."""
    (rows, I), H = w_ih.shape, w_hh.shape[1]
    inside, outside = empty((rows, H), w_hh.dtype), empty((rows, I + 1), w_hh.dtype)
    for place, (gate, factor) in enumerate(zip(order, scale, strict=True)):
        to, of = slice(place * H, (place + 1) * H), slice(gate * H, (gate + 1) * H)
        np.multiply(w_hh[of], factor, out=inside[to])
        np.multiply(w_ih[of], factor, out=outside[to, :I])
        outside[to, I] = 0 if bias is None else factor * bias[of]
    return inside, outside


def add_biases(b_ih: np.ndarray | None, b_hh: np.ndarray | None) -> np.ndarray | None:
    """Their sum, for gates in which the two always appear together."""
    if b_ih is None or b_hh is None:
        return b_hh if b_ih is None else b_ih
    return b_ih + b_hh


def project(inputs: np.ndarray, outside: np.ndarray, out: np.ndarray) -> None:
    """W_ih x_t + b of all steps into out (T, rows, B): `outside` is [W_ih | b], a last input of 1 brings the bias."""
    T, B, I = inputs.shape
    columns = empty((T, I + 1, B), inputs.dtype)
    columns[:, :I] = inputs.transpose(0, 2, 1)  # (T, I, B)
    columns[:, I] = 1
    if _small(outside, B):
        spread(lambda start, stop: np.matmul(outside, columns[start:stop], out=out[start:stop]), T)
    else:
        np.matmul(outside, columns, out=out)


def in_loop(w_hh: np.ndarray, B: int) -> AbstractContextManager:
    """Where the steps run: with one BLAS thread if their products are small."""
    return one_blas_thread() if count() > 1 and _small(w_hh, B) else nullcontext()


def _small(weights: np.ndarray, B: int) -> bool:
    """Whether a step's product is better off without a second BLAS thread."""
    return weights.size * B < SMALL_PRODUCT


def outputs(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """y (B, T, H) and h_n (B, H)."""
    T, H, B = run.states[1:].shape
    rows, y = empty((T, B, H), run.states.dtype), empty((B, T, H), run.states.dtype)
    rows[...] = run.states[1:].transpose(0, 2, 1)  # (T, B, H); two copies are faster than one from (T, H, B)
    _place(y, rows, run.order)
    return y, final(run.states, run.order)


def final(states: np.ndarray, order: Order) -> np.ndarray:
    """The state (B, H) after each sequence's last step, a copy. `states` (T + 1, H, B) begins with the initial one."""
    if order.full:
        return states[-1].T.copy()
    return states[order.lengths, :, np.arange(states.shape[2])]


def _ordered(x: np.ndarray, order: Order) -> np.ndarray:
    """x (B, T, C) in the order of the steps, (T, B, C): a view where no sequence is shorter than T."""
    if not order.full:
        return time_major(x, order)
    return (x[:, ::-1] if order.reverse else x).transpose(1, 0, 2)


def _place(y: np.ndarray, rows: np.ndarray, order: Order) -> None:
    """The inverse: rows (T, B, C) into y (B, T, C)."""
    if not order.full:
        y[...] = batch_major(rows, order)
    else:
        (y[:, ::-1] if order.reverse else y)[...] = rows.transpose(1, 0, 2)


# ---- backward


def spread_gradients(run: Run, dy: np.ndarray | None, dfinal: np.ndarray | None, dtype: np.dtype) -> np.ndarray:
    """What reaches each state from outside the recurrence, (T + 1, H, B): dy its own, dfinal the last."""
    dstates = empty(run.states.shape, dtype)
    dstates[0] = 0
    dstates[1:] = 0 if dy is None else _ordered(dy, run.order).transpose(0, 2, 1)
    if dfinal is not None and run.order.full:
        dstates[-1] += dfinal.T
    elif dfinal is not None:
        dstates[run.order.lengths, :, np.arange(len(dfinal))] += dfinal
    return dstates


def transposed(weight: np.ndarray) -> np.ndarray:
    """weightᵀ, contiguous, copied strip by strip: a strip's lines stay in the cache until all of each was used.

    (2048, 512) in float32 takes 0.9 ms, all at once (`python -m timeit`, `np.ascontiguousarray(w.T)`) 2.8 ms.
    """
    result = np.empty(weight.shape[::-1], weight.dtype)
    for start in range(0, len(weight), STRIP):
        strip = slice(start, start + STRIP)
        result[:, strip] = weight[strip].T
    return result


def backward_blocks(
    T: int, factors: int, made: int, n: int, dtype: np.dtype
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Runs of steps that stay in the cache, the last run first, each with scratch: `factors` and `made` blocks a step.

    The scratch is (factors, steps, n), where one pass goes over all steps of a block, and (steps, made, n), where the
    blocks of a step are one matrix.
    """
    longest = min(T, max(1, BLOCK_BYTES // (n * dtype.itemsize * (factors + made))))
    all_factors, all_made = np.empty(factors * longest * n, dtype), np.empty((longest, made, n), dtype)
    for stop in range(T, 0, -longest):
        steps = slice(max(stop - longest, 0), stop)
        size = steps.stop - steps.start
        yield steps, all_factors[: factors * size * n].reshape(factors, size, n), all_made[:size]


def products(
    run: Run,
    w_ih: np.ndarray,
    dp: np.ndarray,
    has_biases: tuple[bool, bool],
    wrt: Container[str],
    turn: Callable[[np.ndarray], None] | None = None,
) -> tuple[np.ndarray | None, ...]:
    """dx, dw_ih, dw_hh, db_ih, db_hh from dp (rows, T, B), the gradient of W_hh h + b_hh: one product each.

    turn(dp) makes of it the gradient of W_ih x + b_ih, in place, where the two differ.
    """
    (T, B, I), H, columns = run.inputs.shape, run.states.shape[1], dp.reshape(len(dp), -1)  # (rows, T·B)
    dx = dw_ih = dw_hh = db_ih = db_hh = None
    ones = np.ones(T * B, dp.dtype)
    if "w_hh" in wrt:
        before = run.states[:-1].transpose(0, 2, 1).reshape(T * B, H)
        dw_hh = np.matmul(columns, before, out=empty((len(dp), H), dp.dtype))
    if "b_hh" in wrt and has_biases[1]:
        db_hh = columns @ ones
    if turn is not None:
        turn(dp)
    if "w_ih" in wrt:
        dw_ih = np.matmul(columns, run.inputs.reshape(T * B, I), out=empty((len(dp), I), dp.dtype))
    if "b_ih" in wrt and has_biases[0]:
        db_ih = columns @ ones
    if "x" in wrt:
        drows, dx = empty((T * B, I), dp.dtype), empty((B, T, I), dp.dtype)
        np.matmul(columns.T, w_ih, out=drows)
        _place(dx, drows.reshape(T, B, I), run.order)
    return dx, dw_ih, dw_hh, db_ih, db_hh
