"""Convolution without gathering windows: a version of `ops.conv1d`.

The K steps that one output sees lie side by side in memory, (K, Cin): with stride and dilation 1 the matrix of windows,
K times as large as x, need not be made. Windows overlap, which BLAS can't read, but every K-th of them doesn't:

    padded steps of one sequence after the other     a b c d e f g h ...       K = 3
    windows 0, 3, 6, ...                             [a b c][d e f] ...        rows of a plain matrix (n, K·Cin)
    windows 1, 4, 7, ...                               [b c d][e f g] ...      the same, begun one step later

So K products of 1/K of the positions each, and a result in every K-th row. Windows that reach from one sequence into
the next are computed too, and left out; that is (K − 1)/T more work. The gradients are made of the same products: dx
correlates dy with the mirrored kernel, dW multiplies dy, padded with zeros, with the same windows.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any, NamedTuple

import numpy as np

from minilm.kernels.cpu.blocks import unlike
from minilm.memory import empty
from minilm.ops.conv1d import check_conv1d
from minilm.selection import Version, problem, register

MINIMUM_SIZE = 1 << 14  # numbers of x
LARGEST_KERNEL = 16  # more products than that are too thin


class StridedWindowsCache(NamedTuple):
    """The padded x is kept."""

    padded: np.ndarray  # (B·P + K − 1, Cin)  P = T + K − 1 steps a sequence, "valid": T; zeros behind the last one
    weight: np.ndarray  # (Cout, Cin, K)  borrowed
    shape: tuple[int, int, int]  # of x
    left: int  # zeros before a sequence
    has_bias: bool


def refuses(
    x: Any, weight: Any, bias: Any = None, *, padding: str = "same", stride: int = 1, dilation: int = 1
) -> str | None:
    """Why a call is left to the definition, wrong input included; None if it is served."""
    if wrong := unlike(x, weight, bias) or problem(check_conv1d, x, weight, bias, padding, stride, dilation):
        return wrong
    if stride != 1 or dilation != 1:
        return f"serves stride and dilation 1, not {stride} and {dilation}"
    if not 1 <= weight.shape[2] <= min(LARGEST_KERNEL, x.shape[1]):
        return f"serves kernels of up to {LARGEST_KERNEL} steps that are no longer than x"
    if x.size < MINIMUM_SIZE:
        return f"{x.size} elements are fewer than {MINIMUM_SIZE}"
    return None if np.isfinite(weight).all() else "the weight is not finite: times the zeros between sequences, NaN"


def conv1d_of_windows(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    padding: str = "same",
    stride: int = 1,
    dilation: int = 1,
) -> tuple[np.ndarray, StridedWindowsCache]:
    """y (B, Tout, Cout), as the definition has it."""
    (B, T, Cin), (Cout, _, K) = x.shape, weight.shape
    left = {"same": (K - 1) // 2, "causal": K - 1, "valid": 0}[padding]
    P = T if padding == "valid" else T + K - 1
    Tout = P - K + 1
    padded = empty((B * P + K - 1, Cin), x.dtype)
    sequences = padded[: B * P].reshape(B, P, Cin)
    sequences[:, :left], sequences[:, left + T :], padded[B * P :] = 0, 0, 0
    sequences[:, left : left + T] = x
    rows = _correlate(padded, weight.transpose(2, 1, 0).reshape(K * Cin, Cout), B * P)  # (B·P, Cout)
    y = empty((B, Tout, Cout), x.dtype)
    np.add(rows.reshape(B, P, Cout)[:, :Tout], 0 if bias is None else bias, out=y)
    return y, StridedWindowsCache(padded, weight, x.shape, left, bias is not None)


def conv1d_of_windows_backward(
    dy: np.ndarray, cache: StridedWindowsCache, wrt: Container[str] = ("x", "weight", "bias")
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """dx, dweight, dbias, as the definition has them."""
    padded, weight, (B, T, Cin), left, has_bias = cache
    Cout, _, K = weight.shape
    Tout, N = dy.shape[1], len(padded) - K + 1
    P = N // B
    dtype = np.result_type(dy, padded)
    upstream = empty((K - 1 + N + K - 1, Cout), dtype)  # zeros around every sequence
    upstream[: K - 1], upstream[K - 1 + N :] = 0, 0
    drows = upstream[K - 1 : K - 1 + N].reshape(B, P, Cout)
    drows[:, :Tout], drows[:, Tout:] = dy, 0
    dx = dweight = dbias = None
    if "x" in wrt:
        mirrored = weight.transpose(2, 0, 1)[::-1].reshape(K * Cout, Cin)
        dx = _correlate(upstream, mirrored, N).reshape(B, P, Cin)[:, left : left + T]  # (B, T, Cin)
    if "weight" in wrt:
        dweight = _weight_gradient(drows, padded, K).reshape(Cout, K, Cin).swapaxes(1, 2)  # (Cout, Cin, K)
    if "bias" in wrt and has_bias:
        dbias = np.ones(N, dtype) @ upstream[K - 1 : K - 1 + N]
    return dx, dweight, dbias


def _weight_gradient(drows: np.ndarray, padded: np.ndarray, K: int) -> np.ndarray:
    """Σ dyᵀ window (Cout, K·Cin), with drows (B, P, Cout) 0 where a window reaches into the next sequence."""
    (B, P, Cout), Cin = drows.shape, padded.shape[1]
    flat = drows.reshape(B * P, Cout)
    total = np.zeros((Cout, K * Cin), drows.dtype)
    with np.errstate(invalid="ignore"):
        for first in range(K):
            total += flat[first::K].T @ _windows(padded, first, K, B * P)
    if np.isfinite(total).all():
        return total
    steps, Tout = padded[: B * P].reshape(B, P, Cin), P - K + 1  # 0 · NaN is NaN: leave those windows out instead
    windows = np.stack([steps[:, k : k + Tout] for k in range(K)], axis=2)  # (B, Tout, K, Cin)
    return drows[:, :Tout].reshape(-1, Cout).T @ windows.reshape(-1, K * Cin)


def _windows(steps: np.ndarray, first: int, K: int, N: int) -> np.ndarray:
    """Of the N windows of K steps, every K-th from `first` on: a view (n, K·C) of steps (≥ N + K − 1, C)."""
    n = len(range(first, N, K))
    return steps[first : first + n * K].reshape(n, K * steps.shape[1])


def _correlate(steps: np.ndarray, matrix: np.ndarray, N: int) -> np.ndarray:
    """(N, Cout): each of the N windows of steps times the matrix (K·C, Cout)."""
    K = matrix.shape[0] // steps.shape[1]
    out = empty((N, matrix.shape[1]), steps.dtype)
    for first in range(K):
        np.matmul(_windows(steps, first, K, N), matrix, out=out[first::K])
    return out


register(
    "conv1d",
    Version("cpu.strided_windows", conv1d_of_windows, conv1d_of_windows_backward, StridedWindowsCache, refuses),
)
