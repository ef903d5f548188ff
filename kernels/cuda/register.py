"""Announces the CUDA versions of softmax, cross-entropy and attention to `minilm.ops`: which calls they serve.

    ops.softmax(x), x a CuPy array      runs cuda.fused, if everything below allows it; else the definition
    minilm.which("softmax", x)          which of them, and the reason
    minilm.kernels.cuda.softmax(x)      the launcher itself: no choice, an error for what it doesn't serve

They serve CuPy arrays whose library can compile. NumPy arrays run the same sources on the CPU, which is slow: only a
direct call of a launcher does that. What a kernel doesn't serve, wrong input included, is left to the definition, whose
error says what is wrong.

There is no lower limit on sizes but the empty array, for which nothing is launched: at small sizes the time is that of
the launches, some 5 µs each, and a kernel is one where the definition is many (about 8 in softmax, 12 in attention, 20
in cross-entropy). That is an estimate from the number of launches, not a measurement.

What differs from the definition for a caller:

    dropout      other weights are dropped, with the same probability: the mask comes from Philox by (seed, head, row,
                 column) instead of an array of uniforms; the seed is one draw from `rng`, a NumPy generator
    strides      a kernel knows none: views, as the heads of a projection are, are copied to contiguous arrays first
    one query    without a cache wanted, attention of one query per head (a step of generation) runs attention_decode

Importing this module imports no CuPy and compiles nothing.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Container
from typing import Any

import numpy as np

from minilm.backend import Array, array_namespace
from minilm.kernels.cuda.attention import attention, attention_backward
from minilm.kernels.cuda.attention_options import (
    EXACT_DTYPES,
    EXACT_HEAD_SIZES,
    PER_HEAD,
    TENSOR_CORE_DTYPES,
    TENSOR_CORE_HEAD_SIZES,
    FusedAttentionCache,
)
from minilm.kernels.cuda.cross_entropy import FusedCrossEntropyCache, cross_entropy, cross_entropy_backward
from minilm.kernels.cuda.decode import attention_decode
from minilm.kernels.cuda.embedding import TournamentCache, add_by_tournament, look_up
from minilm.kernels.cuda.launch import MAX_GRID
from minilm.kernels.cuda.rows import ACCESS_BYTES, ELEMENT_DEFINES, LONGEST_ROW
from minilm.kernels.cuda.softmax import FusedSoftmaxCache, softmax, softmax_backward
from minilm.ops.attention import check_attention
from minilm.ops.cross_entropy import check_cross_entropy
from minilm.selection import Version, problem, register

NAME = "cuda.fused"
AMPERE = 80  # compute capability times ten: the first with bfloat16 and the tensor-core instructions that are used


# ---- softmax


def softmax_refuses(x: Any, axis: int = -1) -> str | None:
    """Why a call of `ops.softmax` is left to the definition; None if it is served."""
    reason = _not_served(x)
    if reason is not None:
        return reason
    if x.ndim == 0 or axis not in (-1, x.ndim - 1):
        return f"serves the last axis, not axis {axis} of {x.ndim}"
    return _rows_refused(x)


def _rows_refused(x: Array) -> str | None:
    if x.shape[-1] > LONGEST_ROW or x.size // x.shape[-1] > MAX_GRID[0]:
        return f"more than {LONGEST_ROW} numbers a row, or {MAX_GRID[0]} rows"
    return None


def _softmax(x: Array, axis: int = -1) -> tuple[Array, FusedSoftmaxCache]:
    return softmax(_as_memory(x))


def _softmax_backward(dy: Array, cache: FusedSoftmaxCache) -> Array:
    return softmax_backward(_as_memory(dy), cache)


# ---- cross-entropy


def cross_entropy_refuses(
    logits: Any, targets: Any, *, ignore_index: int = -100, label_smoothing: float = 0.0, **options: Any
) -> str | None:
    """Why a call of `ops.cross_entropy` is left to the definition; None if it is served."""
    reason = _not_served(logits)
    if reason is not None:
        return reason
    weights, reduction = options.get("class_weights"), options.get("reduction", "mean")
    wrong = problem(check_cross_entropy, logits, targets, ignore_index, label_smoothing, weights, reduction)
    return wrong or _rows_refused(logits)


def _cross_entropy(
    logits: Array, targets: Array, *, cache: bool = True, **options: Any
) -> tuple[Array, FusedCrossEntropyCache | None]:
    return cross_entropy(_as_memory(logits), targets, cache=cache, **options)


# ---- attention


def attention_refuses(
    q: Any, k: Any, v: Any, *, bias: Any = None, dropout: float = 0.0, rng: Any = None, **options: Any
) -> str | None:
    """Why a call of `ops.attention` is left to the definition; None if it is served."""
    reason = _not_served(q)
    if reason is not None:
        return reason
    masks = options.get("key_lengths"), options.get("mask"), bias
    if wrong := problem(check_attention, "attention", q, k, v, *masks, dropout, rng):
        return wrong
    if any(array is not None and array.dtype != q.dtype for array in (k, v, bias)):
        return "serves one dtype for all of q, k, v and bias"
    if v.shape != k.shape:
        return f"serves values of the keys' head size {k.shape[3]}, not {v.shape[3]}"
    dtype, D = q.dtype.name, q.shape[3]
    if dtype in TENSOR_CORE_DTYPES and (reason := _too_old(q)):
        return reason
    if D not in (EXACT_HEAD_SIZES if dtype in EXACT_DTYPES else TENSOR_CORE_HEAD_SIZES):
        more = " and 256" if dtype in EXACT_DTYPES else ""
        return f"head size {D} is not served for {dtype}: multiples of 8 from 16 to 128{more} are"
    if max(q.shape[2], k.shape[2]) * D >= PER_HEAD:
        return "more than 2^31 numbers per head"
    if max(q.shape[:2]) > MAX_GRID[1]:
        return f"more than {MAX_GRID[1]} sequences or heads"
    if k.size == 0:
        return "there are no keys"
    scale = options.get("scale")
    if scale is not None and not math.isfinite(scale):
        return f"serves a finite scale, not {scale}"
    if dropout == 1.0:
        return f"serves dropout below 1, not {dropout}"
    if dropout > 0.0 and not isinstance(rng, np.random.Generator):
        return (
            f"rng is a {type(rng).__module__}.{type(rng).__qualname__}: the seed would have to be read back from the "
            "device, which waits for it; pass a numpy.random.Generator"
        )
    return None


def _attention(
    q: Array, k: Array, v: Array, *, mask: Any = None, bias: Any = None, cache: bool = True, **options: Any
) -> tuple[Array, FusedAttentionCache | None]:
    q, k, v, mask, bias = (_as_memory(array) for array in (q, k, v, mask, bias))
    if q.shape[2] == 1 and not cache and bias is None and not options.get("dropout"):
        for name in ("causal", "dropout", "rng"):  # the newest token sees all keys: causal or not
            options.pop(name, None)
        return attention_decode(q, k, v, mask=mask, **options), None
    return attention(q, k, v, mask=mask, bias=bias, cache=cache, **options)


def _attention_backward(
    dy: Array, cache: FusedAttentionCache, wrt: Container[str] = ("q", "k", "v", "bias")
) -> tuple[Array | None, Array | None, Array | None, Array | None]:
    return attention_backward(_as_memory(dy), cache, wrt)


# ---- embedding


def embedding_refuses(ids: Any, weight: Any, padding_idx: int | None = None) -> str | None:
    """Why a call of `ops.embedding` is left to the definition; None if it is served."""
    return None if _is_cupy(weight) else "serves CuPy arrays"


# ---- what all have in common


def _is_cupy(array: Any) -> bool:
    return type(array).__module__.partition(".")[0] == "cupy" and hasattr(array, "dtype")


def _not_served(array: Any) -> str | None:
    """Why no kernel serves this array: its library, dtype, device or size."""
    if not _is_cupy(array):
        return "serves CuPy arrays"
    if not hasattr(sys.modules["cupy"], "RawModule"):
        return "the arrays' library compiles no kernels"
    name = array.dtype.name
    if name not in ELEMENT_DEFINES:
        return f"serves {', '.join(ELEMENT_DEFINES)}, not {name}"
    if array.size == 0:
        return "nothing to launch: the array is empty"
    return _too_old(array) if name == "bfloat16" else None


def _too_old(array: Array) -> str | None:
    capability = str(array.device.compute_capability)  # "75", "80", "100"
    if int(capability) >= AMPERE:
        return None
    return f"{array.dtype.name} needs compute capability 8.0, the device has {capability[:-1]}.{capability[-1]}"


def _as_memory(array: Array | None) -> Array | None:
    """The array as a kernel reads it: in order, and from an address that its widest loads can start at."""
    if array is None:
        return None
    array = array_namespace(array).ascontiguousarray(array)
    return array.copy() if array.data.ptr % ACCESS_BYTES else array


register("softmax", Version(NAME, _softmax, _softmax_backward, FusedSoftmaxCache, softmax_refuses))
register(
    "cross_entropy",
    Version(NAME, _cross_entropy, cross_entropy_backward, FusedCrossEntropyCache, cross_entropy_refuses),
)
register("embedding", Version("cuda.tournament", look_up, add_by_tournament, TournamentCache, embedding_refuses))
register("attention", Version(NAME, _attention, _attention_backward, FusedAttentionCache, attention_refuses))
