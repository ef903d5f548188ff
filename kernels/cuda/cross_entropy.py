"""Launchers of cross_entropy.cu: softmax cross-entropy and its gradient in one kernel.

    loss, cache = cross_entropy(logits, targets)    logits (..., V), float32, float16, bfloat16 or float64, C-contiguous
    dlogits = cross_entropy_backward(dloss, cache)

The forward reads the logits once and writes the gradient for dloss = 1, which is all that the cache holds: backward
multiplies by dloss. In float16 the gradient is rounded before that, so what underflows in a mean over many rows
(below 6e-8) doesn't come back with a large dloss.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minilm.backend import Array, array_namespace
from minilm.kernels.cuda import launch
from minilm.kernels.cuda.instances import Instance
from minilm.kernels.cuda.rows import ELEMENT_DEFINES, are_wide, check_rows, geometry, real, row_defines
from minilm.ops.cross_entropy import check_cross_entropy

ACCUMULATOR_THREADS = 1024  # as in cross_entropy.cu: one block adds up over the rows
SCALE_LANES = 128  # of scale_gradient: one block per row, which streams

# Logits of a row that one thread holds in registers at most. With smoothing and class weights a weight stands beside
# each logit, and 32 of both don't fit beside 1024 threads per block, which have 64 registers each. Doubles take two.
PER_LANE = {"float32": 32, "float16": 32, "bfloat16": 32, "float64": 8}
PER_LANE_WITH_WEIGHTS = 16


class FusedCrossEntropyCache(NamedTuple):
    """The gradient for dloss = 1: the one array of the logits' size."""

    dlogits: Array  # (..., V)  in place: the logits' own memory
    loss_shape: tuple[int, ...]  # () for "mean" and "sum", (...) for "none"
    inplace: bool


def defines_for(dtype: str, V: int, wide: bool, smoothed: bool = False, weighted: bool = False) -> dict[str, int]:
    """The instance of cross_entropy that serves rows of V logits."""
    per_lane = min(PER_LANE[dtype], PER_LANE_WITH_WEIGHTS) if smoothed and weighted else PER_LANE[dtype]
    options = {"SMOOTHED": int(smoothed), "WEIGHTED": int(weighted), "ENTRY_LOSS": 1}
    return row_defines(dtype, V, wide, per_lane) | options


def cross_entropy(
    logits: Array,
    targets: Array,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    class_weights: Array | None = None,
    reduction: str = "mean",
    inplace: bool = False,
    cache: bool = True,
) -> tuple[Array, FusedCrossEntropyCache | None]:
    """−Σ q log softmax(logits), in nats, as `minilm.ops.cross_entropy` defines it. Returns the loss and its cache.

    logits (..., V); targets (...) integers; class_weights (V,) any real dtype. The loss has the logits' dtype, 0-d for
    "mean" and "sum", (...) for "none". A row whose target is ignored is not read: loss 0, gradient zeros.

    inplace   the gradient overwrites the logits, and backward with dloss 1.0 returns that very array. For a caller who
              needs neither again: then no other array of their size is made.
    cache     False: no gradient is written, and None stands for the cache

    Raises TypeError for dtypes that aren't served and for mixed libraries; ValueError for arrays that aren't
    contiguous, options and shapes that don't fit, and a target that is no class (on a GPU asking would wait for the
    device: there the loss and the row's gradient become NaN).
    """
    check_cross_entropy(logits, targets, ignore_index, label_smoothing, class_weights, reduction)
    xp = array_namespace(logits)
    check_rows("cross_entropy", "logits", logits)
    if inplace and not cache:
        raise ValueError("cross_entropy: inplace=True without a cache makes no sense: no gradient would be written")
    if inplace and not getattr(logits.flags, "writeable", True):
        raise ValueError("cross_entropy: the logits are read-only; inplace=True would write to them")
    targets = targets.reshape(-1).astype(np.int64)  # (rows,)
    V = logits.shape[-1]
    rows = targets.size
    number = real(logits.dtype)
    weights = None if class_weights is None else class_weights.astype(number)  # (V,)
    dlogits = (logits if inplace else xp.empty_like(logits)) if cache else None
    loss_shape = logits.shape[:-1] if reduction == "none" else ()
    loss = xp.empty(loss_shape, logits.dtype)

    inverse, sizes = None, (np.int64(rows), np.int32(V), np.int64(ignore_index))
    if reduction == "mean":
        inverse = xp.empty((1,), number)
        _accumulate("inverse_weight", logits, weights is not None, (targets, weights, inverse, *sizes))
    losses = None if reduction == "none" else xp.empty((rows,), number)
    if rows:
        wide = are_wide(V, logits) and (dlogits is None or are_wide(V, dlogits))
        defines = defines_for(logits.dtype.name, V, wide, bool(label_smoothing), weights is not None)
        grid, block = geometry(rows, defines)
        run = launch.kernel("cross_entropy.cu", "cross_entropy", defines, logits)
        one_loss = loss if losses is None else None
        arrays = (logits, targets, weights, inverse, dlogits, losses, one_loss)
        run(grid, block, (*arrays, *sizes, number(label_smoothing)))
    if losses is not None:
        _accumulate("sum_losses", logits, False, (losses, inverse, loss, np.int64(rows)))
    return loss, (FusedCrossEntropyCache(dlogits, loss_shape, inplace) if cache else None)


def cross_entropy_backward(dloss: Array | float, cache: FusedCrossEntropyCache) -> Array:
    """dlogits for dloss: a number, or an array of the loss's shape and dtype. An array of its own, except after
    inplace=True with the number 1: then the cache's.
    """
    dlogits, loss_shape, inplace = cache
    xp = array_namespace(dlogits)
    factor = 1.0
    if isinstance(dloss, int | float | np.number) and not isinstance(dloss, xp.ndarray):
        factor, dloss = float(dloss), None
        if inplace and factor == 1.0:
            return dlogits
    else:
        array_namespace(dlogits, dloss)
        if dloss.shape != loss_shape or dloss.dtype != dlogits.dtype:
            raise ValueError(
                f"cross_entropy_backward: dloss is {dloss.dtype.name} {dloss.shape}, expected a number or "
                f"the loss's {dlogits.dtype.name} {loss_shape}"
            )
        if not dloss.flags.c_contiguous:
            dloss = xp.ascontiguousarray(dloss)
    scaled = xp.empty_like(dlogits)
    V = dlogits.shape[-1]
    rows = dlogits.size // V
    if rows:
        defines = scale_defines(dlogits.dtype.name, are_wide(V, dlogits, scaled))
        grid, block = geometry(rows, defines)
        run = launch.kernel("cross_entropy.cu", "scale_gradient", defines, dlogits)
        sizes = (np.int64(rows), np.int32(V), np.int32(len(loss_shape) > 0))
        run(grid, block, (dlogits, dloss, scaled, *sizes, real(dlogits.dtype)(factor)))
    return scaled


def accumulator_defines(dtype: str, weighted: bool = False) -> dict[str, int]:
    """The instance of inverse_weight and sum_losses: one for all row lengths."""
    return {ELEMENT_DEFINES[dtype]: 1, "WEIGHTED": int(weighted), "ENTRY_SUMS": 1}


def scale_defines(dtype: str, wide: bool) -> dict[str, int]:
    """The instance of scale_gradient: it holds nothing and reduces nothing, so rows of all lengths share one."""
    return {ELEMENT_DEFINES[dtype]: 1, "LANES": SCALE_LANES, "HELD": 0, "WIDE": int(wide), "ENTRY_SCALE": 1}


def _accumulate(name: str, like: Array, weighted: bool, args: tuple) -> None:
    run = launch.kernel("cross_entropy.cu", name, accumulator_defines(like.dtype.name, weighted), like)
    run((1,), (ACCUMULATOR_THREADS,), args)


def _instances() -> tuple[Instance, ...]:
    """A warp or a block per row, a usual vocabulary, one in two passes, unaligned; smoothing and class weights."""
    found = []
    for dtype in PER_LANE:
        for V, wide, smoothed, weighted in (
            (512, True, False, False),
            (4096, True, False, False),
            (32000, True, False, False),
            (32000, True, True, False),
            (32001, False, True, True),
            (16384, True, True, True),
            (50257, False, False, False),
            (50304, True, False, False),
            (50304, True, True, True),
        ):
            defines = defines_for(dtype, V, wide, smoothed, weighted)
            note = f"V={V} {dtype}" + (" smoothing" if smoothed else "") + (" weights" if weighted else "")
            found.append(
                Instance("cross_entropy.cu", "cross_entropy", defines, threads=geometry(1, defines)[1][0], note=note)
            )
        for wide in (True, False):
            defines = scale_defines(dtype, wide)
            found.append(Instance("cross_entropy.cu", "scale_gradient", defines, threads=SCALE_LANES, note=dtype))
        for entry, weighted in (("inverse_weight", False), ("inverse_weight", True), ("sum_losses", False)):
            defines = accumulator_defines(dtype, weighted)
            found.append(Instance("cross_entropy.cu", entry, defines, threads=ACCUMULATOR_THREADS, note=dtype))
    return tuple(found)


INSTANCES = _instances()
