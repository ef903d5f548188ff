"""The GRU, feature-major, with few calls per step: a version of `ops.gru`.

Differs from the definition in this, besides what `recurrent` says of all three recurrences:

    - σ(a) = ½ + ½ tanh(a/2) takes a/2 from halved rows of the weights
    - b_hr and b_hz join b_ih outside the loop; b_hn, which the reset gate multiplies, stays inside
    - backward, all that multiplies δ_t is known before the loop, and computed for several steps at once

Narrow layers gain more: `python -m benchmarks gru --sizes 32 100 64 64`.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import numpy as np

from minilm.kernels.cpu import recurrent
from minilm.kernels.cpu.recurrent import FeatureMajorCache, Run
from minilm.memory import empty
from minilm.ops.recurrent import check_arguments
from minilm.selection import Version, register

ARGUMENTS = ("x", "w_ih", "w_hh", "b_ih", "b_hh", "h0")
ORDER = (0, 1, 2)  # r, z, n, as the weights have them
SCALE = (0.5, 0.5, 1)


class FeatureMajorGRUCache(FeatureMajorCache):
    """Inputs, gates, p_n and states: I + 5H numbers per position."""


def feature_major_gru(
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
) -> tuple[tuple[np.ndarray, np.ndarray], FeatureMajorGRUCache | None]:
    """y (B, T, H) and h_n (B, H), as the definition has them."""
    check_arguments("gru", 3, x, w_hh, w_ih=w_ih, b_ih=b_ih, b_hh=b_hh, h0=h0)
    (B, T, _), H = x.shape, w_hh.shape[1]
    b_hn = np.zeros((H, 1), x.dtype)
    joined = None if b_hh is None else b_hh.copy()  # b_hr, b_hz, 0
    if b_hh is not None:
        b_hn[:, 0], joined[2 * H :] = b_hh[2 * H :], 0
    inside, outside = recurrent.arrange(w_hh, w_ih, recurrent.add_biases(b_ih, joined), ORDER, SCALE)
    run = recurrent.begin(x, h0, H, lengths, reverse, blocks=(T, 4))
    recurrent.project(run.inputs, outside, out=run.gates[:, :3].reshape(T, 3 * H, B))
    with recurrent.in_loop(w_hh, B):
        _steps(run, inside, b_hn)
    has = b_ih is not None, b_hh is not None, h0 is not None
    return recurrent.outputs(run), FeatureMajorGRUCache(run, w_ih, w_hh, has) if cache else None


def _steps(run: Run, inside: np.ndarray, b_hn: np.ndarray) -> None:
    """The loop, in place: `gates` holds W_ih x_t + b, halved where a sigmoid follows; then r, z, n and p_n."""
    gates, states = run.gates, run.states
    T, H, B = states[1:].shape
    product, reset = np.empty((3, H * B), gates.dtype), np.empty(H * B, gates.dtype)
    in_rows, from_rz, from_n = product.reshape(3 * H, B), product[:2], product[2]
    bias = np.repeat(b_hn, B, axis=1).reshape(-1)  # (H·B,)
    flat = states.reshape(T + 1, H * B)
    matmul, add, multiply, subtract, tanh = np.matmul, np.add, np.multiply, np.subtract, np.tanh
    views = states[:-1], flat[:-1], flat[1:], gates[:, :2], *gates.transpose(1, 0, 2)
    for h_rows, h, new_h, rz, r, z, n, p_n in zip(*views, strict=True):
        matmul(inside, h_rows, out=in_rows)
        add(rz, from_rz, out=rz)
        tanh(rz, out=rz)
        multiply(rz, 0.5, out=rz)
        add(rz, 0.5, out=rz)
        add(from_n, bias, out=p_n)
        multiply(r, p_n, out=reset)
        add(n, reset, out=n)
        tanh(n, out=n)
        subtract(h, n, out=new_h)
        multiply(new_h, z, out=new_h)
        add(new_h, n, out=new_h)


def feature_major_gru_backward(
    dy: tuple[Any, Any], cache: FeatureMajorGRUCache, wrt: Container[str] = ARGUMENTS
) -> tuple[np.ndarray | None, ...]:
    """The gradients of x, w_ih, w_hh, b_ih, b_hh, h0 from (dy, dh_n), as the definition has them."""
    run, w_ih, w_hh, (has_b_ih, has_b_hh, has_h0) = cache
    dtype = np.result_type(w_hh, *(array for array in dy if array is not None))
    T, H, B = run.states[1:].shape
    dstates = recurrent.spread_gradients(run, *dy, dtype)  # (T + 1, H, B)
    dp, da_n = empty((3 * H, T, B), dtype), empty((H, T, B), dtype)
    with recurrent.in_loop(w_hh, B):
        dh0 = _steps_back(run, dstates, recurrent.transposed(w_hh), dp, da_n)

    def turn(dp: np.ndarray) -> None:
        dp[2 * H :] = da_n  # the only part in which ∂L/∂a differs from ∂L/∂p

    gradients = recurrent.products(run, w_ih, dp, (has_b_ih, has_b_hh), wrt, turn)
    return *gradients, dh0 if has_h0 and "h0" in wrt else None


def _steps_back(run: Run, dstates: np.ndarray, transposed: np.ndarray, dp: np.ndarray, da_n: np.ndarray) -> np.ndarray:
    """Fill dp (3H, T, B) and da_n (H, T, B), return δ_0 (B, H). `transposed` is W_hhᵀ."""
    T, H, B = dstates[1:].shape
    dtype, n = dstates.dtype, H * B
    dstates = dstates.reshape(T + 1, n)
    dh, carry, product = dstates[T].copy(), np.empty(n, dtype), np.empty((H, B), dtype)
    through_weights = product.reshape(n)
    matmul, add, multiply = np.matmul, np.add, np.multiply
    for steps, factors, made in recurrent.backward_blocks(T, 5, 4, n, dtype):
        carried = _factors(run.gates[steps], run.states[steps].reshape(-1, n), factors)
        in_rows = made.reshape(len(made), 4 * H, B)
        views = (*factors[:4], carried, *made.transpose(1, 0, 2), in_rows[:, : 3 * H], dstates[steps])
        for by_r, by_z, by_p, by_n, z, dp_r, dp_z, dp_n, da, dp_t, dh_t in zip(
            *(view[::-1] for view in views), strict=True
        ):
            multiply(by_r, dh, out=dp_r)
            multiply(by_z, dh, out=dp_z)
            multiply(by_p, dh, out=dp_n)
            multiply(by_n, dh, out=da)
            multiply(z, dh, out=carry)
            matmul(transposed, dp_t, out=product)
            add(through_weights, carry, out=dh)
            add(dh, dh_t, out=dh)
        dp[:, steps] = in_rows[:, : 3 * H].transpose(1, 0, 2)
        da_n[:, steps] = in_rows[:, 3 * H :].transpose(1, 0, 2)
    return dh.reshape(H, B).T


def _factors(gates: np.ndarray, h: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Fill four of factors (5, k, H·B) of k steps from gates (k, 4, H·B) and the states before (k, H·B); return z.

    ∂L/∂p_r = δ_t · (1 − z)(1 − n²) p_n r(1 − r)      ∂L/∂p_z = δ_t · (h_{t−1} − n) z(1 − z)
    ∂L/∂p_n = δ_t · (1 − z)(1 − n²) r                 ∂L/∂a_n = δ_t · (1 − z)(1 − n²)
    """
    r_z_n_p = np.ascontiguousarray(gates.transpose(1, 0, 2))  # (4, k, H·B)
    r, z, n, p_n = r_z_n_p
    of_r, of_z, of_p, of_n, difference = factors
    np.subtract(1, r_z_n_p[:2], out=factors[:2])
    np.multiply(n, n, out=of_n)
    np.subtract(1, of_n, out=of_n)
    of_n *= of_z
    np.multiply(of_n, r, out=of_p)
    of_r *= p_n
    of_r *= of_p
    of_z *= z
    np.subtract(h, n, out=difference)
    of_z *= difference
    return z


register(
    "gru",
    Version(
        "cpu.feature_major", feature_major_gru, feature_major_gru_backward, FeatureMajorGRUCache, recurrent.refuses
    ),
)
