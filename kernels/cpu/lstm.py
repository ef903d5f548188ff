"""The LSTM, feature-major, with few calls per step: a version of `ops.lstm`.

Differs from the definition in this, besides what `recurrent` says of all three recurrences:

    - a step's five blocks lie in the order c_{t−1}, g, f, i, o: the sigmoids are one run, and so are the factors of
      c_t = [c_{t−1} g] · [f i], summed
    - σ(a) = ½ + ½ tanh(a/2) takes a/2 from halved rows of the weights
    - backward, what multiplies δ_t and γ_t is known before the loop, and computed for several steps at once

Narrow layers gain more on one thread: `python -m benchmarks lstm --sizes 32 100 64 64`.
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Sequence
from typing import Any

import numpy as np

from minilm.kernels.cpu import recurrent
from minilm.kernels.cpu.recurrent import FeatureMajorCache, Run
from minilm.memory import empty
from minilm.ops.recurrent import check_arguments
from minilm.selection import Version, register

ARGUMENTS = ("x", "w_ih", "w_hh", "b_ih", "b_hh", "h0", "c0")
ORDER = (2, 1, 0, 3)  # g, f, i, o, where the weights have i, f, g, o
SCALE = (1, 0.5, 0.5, 0.5)


class FeatureMajorLSTMCache(FeatureMajorCache):
    """Inputs, gates, cells and states: I + 6H numbers per position. tanh(c) is recomputed."""


def feature_major_lstm(
    x: np.ndarray,
    w_ih: np.ndarray,
    w_hh: np.ndarray,
    b_ih: np.ndarray | None = None,
    b_hh: np.ndarray | None = None,
    h0: np.ndarray | None = None,
    c0: np.ndarray | None = None,
    *,
    lengths: np.ndarray | Sequence[int] | None = None,
    reverse: bool = False,
    cache: bool = True,
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], FeatureMajorLSTMCache | None]:
    """y (B, T, H), h_n (B, H) and c_n (B, H), as the definition has them."""
    check_arguments("lstm", 4, x, w_hh, w_ih=w_ih, b_ih=b_ih, b_hh=b_hh, h0=h0, c0=c0)
    (B, T, _), H = x.shape, w_hh.shape[1]
    inside, outside = recurrent.arrange(w_hh, w_ih, recurrent.add_biases(b_ih, b_hh), ORDER, SCALE)
    run = recurrent.begin(x, h0, H, lengths, reverse, blocks=(T + 1, 5))
    cells = run.gates[:, 0].reshape(T + 1, H, B)
    cells[0] = 0 if c0 is None else c0.T
    recurrent.project(run.inputs, outside, out=run.gates[:T, 1:].reshape(T, 4 * H, B))
    with recurrent.in_loop(w_hh, B):
        _steps(run, inside)
    results = *recurrent.outputs(run), recurrent.final(cells, run.order)
    has = b_ih is not None, b_hh is not None, h0 is not None, c0 is not None
    return results, FeatureMajorLSTMCache(run, w_ih, w_hh, has) if cache else None


def _steps(run: Run, inside: np.ndarray) -> None:
    """The loop, in place: `gates` holds W_ih x_t + b, halved where a sigmoid follows; then the gates and all cells."""
    states, now, after = run.states, run.gates[:-1], run.gates[1:]
    T, _, n = now.shape  # n = H·B
    product, pairs, tanh_c = np.empty((4, n), now.dtype), np.empty((2, n), now.dtype), np.empty(n, now.dtype)
    in_rows, (from_cell, from_input) = product.reshape(len(inside), -1), pairs
    matmul, add, multiply, tanh = np.matmul, np.add, np.multiply, np.tanh
    views = (
        states[:-1], states[1:].reshape(T, n), now[:, 1:], now[:, 2:], now[:, :2], now[:, 2:4], now[:, 4], after[:, 0]
    )  # fmt: skip
    for h, new_h, a, sigmoids, c_g, f_i, o, new_c in zip(*views, strict=True):
        matmul(inside, h, out=in_rows)
        add(a, product, out=a)
        tanh(a, out=a)
        multiply(sigmoids, 0.5, out=sigmoids)
        add(sigmoids, 0.5, out=sigmoids)
        multiply(c_g, f_i, out=pairs)
        add(from_cell, from_input, out=new_c)
        tanh(new_c, out=tanh_c)
        multiply(o, tanh_c, out=new_h)


def feature_major_lstm_backward(
    dy: tuple[Any, Any, Any], cache: FeatureMajorLSTMCache, wrt: Container[str] = ARGUMENTS
) -> tuple[np.ndarray | None, ...]:
    """The gradients of x, w_ih, w_hh, b_ih, b_hh, h0, c0 from (dy, dh_n, dc_n), as the definition has them."""
    run, w_ih, w_hh, (has_b_ih, has_b_hh, has_h0, has_c0) = cache
    dy, dh_n, dc_n = dy
    dtype = np.result_type(w_hh, *(array for array in (dy, dh_n, dc_n) if array is not None))
    T, H, B = run.states[1:].shape
    dstates = recurrent.spread_gradients(run, dy, dh_n, dtype)  # (T + 1, H, B)
    dcells = None if dc_n is None else recurrent.spread_gradients(run, None, dc_n, dtype)
    da = empty((4 * H, T, B), dtype)
    with recurrent.in_loop(w_hh, B):
        dh0, dc0 = _steps_back(run, dstates, dcells, recurrent.transposed(w_hh), da)
    gradients = recurrent.products(run, w_ih, da, (has_b_ih, has_b_hh), wrt)
    return *gradients, dh0 if has_h0 and "h0" in wrt else None, dc0 if has_c0 and "c0" in wrt else None


def _steps_back(
    run: Run, dstates: np.ndarray, dcells: np.ndarray | None, transposed: np.ndarray, da: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fill da (4H, T, B), return δ_0 and γ_0 (B, H). `transposed` is W_hhᵀ. What f_t passes on is `carry`."""
    T, H, B = dstates[1:].shape
    dtype, n = dstates.dtype, H * B
    dstates = dstates.reshape(T + 1, n)
    dcells = None if dcells is None else dcells.reshape(T + 1, n)
    dh, product = dstates[T].copy(), np.empty((H, B), dtype)
    dc, from_state, carry = np.zeros((3, n), dtype)
    through_weights = product.reshape(n)
    matmul, add, multiply = np.matmul, np.add, np.multiply
    for steps, factors, made in recurrent.backward_blocks(T, 5, 4, n, dtype):
        carried = _factors(run.gates[steps.start : steps.stop + 1], factors)
        for_c = itertools.repeat(None) if dcells is None else dcells[steps.start + 1 : steps.stop + 1][::-1]
        in_rows = made.reshape(len(made), 4 * H, B)
        views = (*factors, carried, *made.transpose(1, 0, 2), in_rows, dstates[steps])
        for by_f, by_i, by_o, by_g, by_state, f, da_i, da_f, da_g, da_o, da_t, dh_t, dc_t in zip(
            *(view[::-1] for view in views), for_c, strict=False
        ):
            multiply(by_o, dh, out=da_o)
            multiply(by_state, dh, out=from_state)
            add(carry, from_state, out=dc)
            if dc_t is not None:
                add(dc, dc_t, out=dc)
            multiply(by_i, dc, out=da_i)
            multiply(by_f, dc, out=da_f)
            multiply(by_g, dc, out=da_g)
            multiply(f, dc, out=carry)
            matmul(transposed, da_t, out=product)
            add(through_weights, dh_t, out=dh)
        da[:, steps] = in_rows.transpose(1, 0, 2)
    if dcells is not None:
        add(carry, dcells[0], out=carry)
    return dh.reshape(H, B).T, carry.reshape(H, B).T


def _factors(gates: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Fill factors (5, n, H·B) of n steps from their gates and the cell after them, (n + 1, 5, H·B); return f.

    ∂L/∂a_f = γ_t · c_{t−1} f(1 − f)      ∂L/∂a_i = γ_t · g i(1 − i)      ∂L/∂a_g = γ_t · i (1 − g²)
    ∂L/∂a_o = δ_t · tanh(c_t) o(1 − o)    γ_t = f_{t+1} γ_{t+1} + δ_t · o (1 − tanh²(c_t))
    """
    c_g_f_i_o = np.ascontiguousarray(gates[:-1].transpose(1, 0, 2))  # (5, n, H·B)
    _, g, f, i, o = c_g_f_i_o
    of_o, of_g, of_state = factors[2:]
    np.subtract(1, c_g_f_i_o[2:], out=factors[:3])
    factors[:3] *= c_g_f_i_o[2:]  # σ' = σ(1 − σ) of f, i, o
    factors[:2] *= c_g_f_i_o[:2]
    tanh_c = np.tanh(gates[1:, 0], out=of_g)  # scratch so far
    of_o *= tanh_c
    np.multiply(tanh_c, tanh_c, out=of_state)
    np.subtract(1, of_state, out=of_state)
    of_state *= o
    np.multiply(g, g, out=of_g)
    np.subtract(1, of_g, out=of_g)
    of_g *= i
    return f


register(
    "lstm",
    Version(
        "cpu.feature_major", feature_major_lstm, feature_major_lstm_backward, FeatureMajorLSTMCache, recurrent.refuses
    ),
)
