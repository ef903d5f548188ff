"""The simple recurrent network, feature-major: a version of `ops.rnn`.

It differs from the definition by what `recurrent` says of all three recurrences, and computes 1 − h² for several steps
at once. With one gate there is little to win: only the products of large weights, so it serves large hidden sizes only.

It gains from 512 -> 1024 on (`python -m benchmarks rnn --sizes 32 100 512 1024`), and is a little slower at 256 -> 256.
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Sequence
from typing import Any

import numpy as np

from minilm.kernels.cpu import recurrent
from minilm.kernels.cpu.recurrent import FeatureMajorCache
from minilm.memory import empty
from minilm.ops.recurrent import check_arguments
from minilm.selection import Version, register

ARGUMENTS = ("x", "w_ih", "w_hh", "b_ih", "b_hh", "h0")
MINIMUM_HIDDEN = 512


class FeatureMajorRNNCache(FeatureMajorCache):
    """Inputs and states: I + H numbers per position."""


def refuses(x: Any, w_ih: Any, w_hh: Any, *others: Any, **options: Any) -> str | None:
    """Why a call is left to the definition; None if it is served."""
    reason = recurrent.refuses(x, w_ih, w_hh, *others, **options)
    if reason is None and w_hh.shape[1] < MINIMUM_HIDDEN:
        reason = f"a hidden size of {w_hh.shape[1]} is less than {MINIMUM_HIDDEN}"
    return reason


def feature_major_rnn(
    x: np.ndarray,
    w_ih: np.ndarray,
    w_hh: np.ndarray,
    b_ih: np.ndarray | None = None,
    b_hh: np.ndarray | None = None,
    h0: np.ndarray | None = None,
    *,
    lengths: np.ndarray | Sequence[int] | None = None,
    reverse: bool = False,
    cache: bool = True,
) -> tuple[tuple[np.ndarray, np.ndarray], FeatureMajorRNNCache | None]:
    """y (B, T, H) and h_n (B, H), as the definition has them."""
    check_arguments("rnn", 1, x, w_hh, w_ih=w_ih, b_ih=b_ih, b_hh=b_hh, h0=h0)
    inside, outside = recurrent.arrange(w_hh, w_ih, recurrent.add_biases(b_ih, b_hh), order=(0,), scale=(1,))
    run = recurrent.begin(x, h0, w_hh.shape[1], lengths, reverse, blocks=(0, 0))  # the states are enough
    recurrent.project(run.inputs, outside, out=run.states[1:])
    with recurrent.in_loop(w_hh, len(x)):
        _steps(run.states, inside)
    has = b_ih is not None, b_hh is not None, h0 is not None
    return recurrent.outputs(run), FeatureMajorRNNCache(run, w_ih, w_hh, has) if cache else None


def _steps(states: np.ndarray, inside: np.ndarray) -> None:
    """The loop, in place: states (T + 1, H, B) hold h_0, then W_ih x_t + b; then all states."""
    product = np.empty_like(states[0])
    matmul, add, tanh = np.matmul, np.add, np.tanh
    for h, a in itertools.pairwise(states):
        matmul(inside, h, out=product)
        add(a, product, out=a)
        tanh(a, out=a)


def feature_major_rnn_backward(
    dy: tuple[Any, Any], cache: FeatureMajorRNNCache, wrt: Container[str] = ARGUMENTS
) -> tuple[np.ndarray | None, ...]:
    """The gradients of x, w_ih, w_hh, b_ih, b_hh, h0 from (dy, dh_n), as the definition has them."""
    run, w_ih, w_hh, (has_b_ih, has_b_hh, has_h0) = cache
    dtype = np.result_type(w_hh, *(array for array in dy if array is not None))
    T, H, B = run.states[1:].shape
    dstates = recurrent.spread_gradients(run, *dy, dtype)  # (T + 1, H, B)
    da = empty((H, T, B), dtype)
    with recurrent.in_loop(w_hh, B):
        dh0 = _steps_back(run.states, dstates, recurrent.transposed(w_hh), da)
    gradients = recurrent.products(run, w_ih, da, (has_b_ih, has_b_hh), wrt)
    return *gradients, dh0 if has_h0 and "h0" in wrt else None


def _steps_back(states: np.ndarray, dstates: np.ndarray, transposed: np.ndarray, da: np.ndarray) -> np.ndarray:
    """Fill da (H, T, B), return δ_0 (H, B). `transposed` is W_hhᵀ."""
    T, H, B = dstates[1:].shape
    dh = dstates[T].copy()
    matmul, add, multiply = np.matmul, np.add, np.multiply
    for steps, factors, made in recurrent.backward_blocks(T, 1, 1, H * B, dstates.dtype):
        slopes, in_rows = factors.reshape(-1, H, B), made.reshape(-1, H, B)
        h = states[1:][steps]
        np.multiply(h, h, out=slopes)
        np.subtract(1, slopes, out=slopes)  # tanh' = 1 − h²
        for slope, da_t, dh_t in zip(slopes[::-1], in_rows[::-1], dstates[steps][::-1], strict=True):
            multiply(slope, dh, out=da_t)
            matmul(transposed, da_t, out=dh)
            add(dh, dh_t, out=dh)
        da[:, steps] = in_rows.transpose(1, 0, 2)
    return dh.T


register(
    "rnn",
    Version("cpu.feature_major", feature_major_rnn, feature_major_rnn_backward, FeatureMajorRNNCache, refuses),
)
