"""Launchers of softmax.cu: softmax along the last axis, scale, causal mask and key lengths fused, and its gradient.

    y, cache = softmax(x)            x (..., N), float32, float16, bfloat16 or float64, C-contiguous
    dx = softmax_backward(dy, cache)

Which calls of `minilm.ops.softmax` come here: `register`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from minilm.backend import Array, array_namespace
from minilm.kernels.cuda import launch
from minilm.kernels.cuda.instances import Instance
from minilm.kernels.cuda.rows import ACCESS_BYTES, ITEM_BYTES, are_wide, check_rows, geometry, real, row_defines

# Numbers of a row that one thread holds in registers at most: the forward holds one array, the backward two. 32 floats
# take 48 registers at N = 4096, and 64 would not fit beside 1024 threads per block, which have 64 registers each; with
# them the backward spills. Doubles take two registers each. So the forward reads rows of up to 32,768 numbers once, the
# backward rows of up to 16,384 (float64: 8,192 and 4,096); longer ones are read twice.
#
# What they compile to at N = 4096, float32 (NVRTC 13.0): registers, and instructions per number, no stack, no spill.
#
#                                           sm_75        sm_80        sm_90        sm_100
#   forward    128 lanes x 32 numbers    49   10.0    48   10.0    47   10.2    46    9.8
#   backward   256 lanes x 16 numbers    48    7.4    45    7.7    45    8.2    45    8.4
FORWARD_PER_LANE = {"float32": 32, "float16": 32, "bfloat16": 32, "float64": 8}
BACKWARD_PER_LANE = {"float32": 16, "float16": 16, "bfloat16": 16, "float64": 4}


class FusedSoftmaxCache(NamedTuple):
    """The output is enough, with what was hidden: gradients there are neither read nor passed on."""

    y: Array  # (..., N)
    scale: float
    causal: bool
    key_lengths: Array | None  # (B,) int32


def defines_for(entry: str, dtype: str, N: int, wide: bool, hiding: bool) -> dict[str, int]:
    """The instance of softmax_forward or softmax_backward that serves rows of N numbers."""
    backward = entry == "softmax_backward"
    defines = row_defines(dtype, N, wide, (BACKWARD_PER_LANE if backward else FORWARD_PER_LANE)[dtype])
    capacity = defines["LANES"] * defines["HELD"] * (ACCESS_BYTES // ITEM_BYTES[dtype] if wide else 1)
    defines |= {"HIDING": int(hiding), "EXACT": int(capacity == N)}
    return defines | {"ENTRY_BACKWARD": 1} if backward else defines


def softmax(
    x: Array, axis: int = -1, *, scale: float = 1.0, causal: bool = False, key_lengths: Array | None = None
) -> tuple[Array, FusedSoftmaxCache]:
    """y = softmax(scale · x) along the last axis, 0 where a column is hidden. x (..., N), y (..., N).

    causal        for x (..., Tq, Tk): row i sees the columns j <= i + Tk − Tq
    key_lengths   (B,) integers, for x (B, ..., Tk): sequence b has columns below key_lengths[b] alone
    A row that sees nothing, or only −inf, gives zeros; a NaN or +inf that it sees makes it NaN.

    Raises TypeError for a dtype that isn't served or mixed libraries; ValueError for another axis than the last, an
    array that isn't contiguous, a scale that is not a positive number, and shapes that do not fit.
    """
    array_namespace(x, key_lengths)
    if x.ndim and axis not in (-1, x.ndim - 1):
        raise ValueError(
            f"softmax: axis {axis} of an array of {x.ndim} axes is not served by the kernel, only the "
            "last; move it there with moveaxis and ascontiguousarray"
        )
    check_rows("softmax", "x", x)
    if not (math.isfinite(scale) and np.finfo(np.float32).tiny <= scale <= np.finfo(np.float32).max):
        raise ValueError(f"softmax: scale = {scale}, expected a positive, finite number")
    if causal and x.ndim < 2:
        raise ValueError(f"softmax: causal needs x (..., Tq, Tk), got shape {x.shape}")
    key_lengths = _checked_lengths(x, key_lengths)

    y = array_namespace(x).empty_like(x)
    _launch("softmax_forward", (x, y), scale, causal, key_lengths)
    return y, FusedSoftmaxCache(y, scale, causal, key_lengths)


def softmax_backward(dy: Array, cache: FusedSoftmaxCache) -> Array:
    """dx = y (dy − Σ y dy) · scale: raising one score takes from all others in proportion to their share."""
    y, scale, causal, key_lengths = cache
    xp = array_namespace(dy, y)
    if dy.shape != y.shape or dy.dtype != y.dtype:
        raise ValueError(f"softmax_backward: dy is {dy.dtype.name} {dy.shape}, expected y's {y.dtype.name} {y.shape}")
    check_rows("softmax_backward", "dy", dy)
    dx = xp.empty_like(dy)
    _launch("softmax_backward", (dy, y, dx), scale, causal, key_lengths)
    return dx


def _checked_lengths(x: Array, key_lengths: Array | None) -> Array | None:
    if key_lengths is None:
        return None
    if x.ndim < 2 or key_lengths.shape != (x.shape[0],):
        raise ValueError(
            f"softmax: key_lengths of shape {key_lengths.shape} do not fit x {x.shape}; "
            "expected (B,) for x (B, ..., Tk)"
        )
    if key_lengths.dtype.kind not in "iu":
        raise TypeError(f"softmax: key_lengths have dtype {key_lengths.dtype}, expected integers")
    if key_lengths.dtype == np.int32 and key_lengths.flags.c_contiguous:
        return key_lengths
    return key_lengths.clip(0, x.shape[-1]).astype(np.int32)


def _launch(name: str, arrays: tuple[Array, ...], scale: float, causal: bool, key_lengths: Array | None) -> None:
    x = arrays[0]
    N = x.shape[-1]
    rows = x.size // N
    if rows == 0:
        return
    queries = x.shape[-2] if causal else 1
    if queries > 2**31 - 1:
        raise ValueError(f"{name}: {queries} queries are more than the kernel can index: 2^31 - 1")
    rows_per_sequence = rows if key_lengths is None else rows // x.shape[0]
    hiding = causal or key_lengths is not None
    defines = defines_for(name, x.dtype.name, N, are_wide(N, *arrays), hiding)
    grid, block = geometry(rows, defines)
    run = launch.kernel("softmax.cu", name, defines, x)
    sizes = (np.int64(rows), np.int32(N), np.int64(rows_per_sequence), np.int32(queries))
    run(grid, block, (*arrays, key_lengths, *sizes, np.int32(causal), real(x.dtype)(scale)))


def _instances() -> tuple[Instance, ...]:
    """A warp or a block per row, the longest held row, two passes; unaligned rows; hidden columns."""
    found = []
    for dtype in FORWARD_PER_LANE:
        for N, wide, hiding in (
            (1000, True, False),
            (1000, False, True),
            (4096, True, False),
            (4096, True, True),
            (4097, False, False),
            (8192, True, False),
            (16384, False, True),
            (32768, True, False),
            (32768, False, True),
            (65536, True, True),
            (65537, False, False),
        ):
            note = f"N={N} {dtype}" + (" hiding" if hiding else "") + ("" if wide else " unaligned")
            for entry in ("softmax_forward", "softmax_backward"):
                defines = defines_for(entry, dtype, N, wide, hiding)
                found.append(Instance("softmax.cu", entry, defines, threads=geometry(1, defines)[1][0], note=note))
    return tuple(found)


INSTANCES = _instances()
