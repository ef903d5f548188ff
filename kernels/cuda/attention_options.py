"""What the attention launchers share: every check before a launch, the options as kernels read them, and the cache.

    checked = check("attention", q, k, v, causal=..., ...)    arrays, sizes, strides, scale, dropout, all validated
    checked = check_backward(do, cache)                       the same, from what the forward kept

The rules are those of `minilm.ops.attention`, and these besides, since a kernel sees pointers and no strides: arrays
are C-contiguous, of one library and one element type, and the values have the head size of the keys.

A mask or bias (B|1, H|1, Tq|1, Tk|1) is read where it lies, not copied to full size. It goes to a kernel as a pointer
and four strides, counted in elements, 0 along an axis on which it is broadcast:

    entry (b, h, i, j) at  base + b*s0 + h*s1 + i*s2 + j*s3        (1, H, 1, Tk): strides 0, Tk, 0, 1
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from minilm.backend import Array, array_namespace
from minilm.kernels.cuda.philox import threshold_of
from minilm.kernels.cuda.rows import ACCESS_BYTES, address, real
from minilm.ops.attention import check_attention

LOG2_E = math.log2(math.e)
EXACT_HEAD_SIZES = (*range(16, 129, 8), 256)  # on plain cores
TENSOR_CORE_HEAD_SIZES = tuple(range(16, 129, 8))
EXACT_DTYPES = ("float32", "float64")
TENSOR_CORE_DTYPES = ("float16", "bfloat16")
PER_HEAD = 2**31  # kernels index within a head by 32-bit integers, from head to head by 64-bit ones


class AttentionOptions(NamedTuple):
    """How forward was called: what backward must know to compute the same weights again."""

    causal: bool
    key_lengths: Array | None  # (B,) int32
    mask: Array | None  # boolean, borrowed
    bias: Array | None  # borrowed
    scale: float
    dropout: float
    seed: int  # of the dropout mask: a function of (seed, b, h, row, column), drawn again and never stored


class FusedAttentionCache(NamedTuple):
    """What backward reads: no weights. B·H·Tq numbers, LSE, are enough to compute them again, tile by tile."""

    q: Array  # (B, H, Tq, D)    borrowed, like k and v
    k: Array  # (B, Hkv, Tk, D)
    v: Array  # (B, Hkv, Tk, D)
    y: Array  # (B, H, Tq, D)
    lse: Array  # (B, H, Tq)  log2 Σ_j exp(score_j), float32 (float64 for float64 inputs); +inf where a row sees nothing
    options: AttentionOptions


class Checked(NamedTuple):
    """A validated call, in the form that kernels take it."""

    q: Array  # (B, H, Tq, D)
    k: Array  # (B, Hkv, Tk, D)
    v: Array  # (B, Hkv, Tk, D)
    B: int
    H: int
    Hkv: int
    Tq: int
    Tk: int
    D: int
    mask: Array | None  # uint8, 0 = hidden, of four axes
    bias: Array | None  # the element type of q, of four axes
    options: AttentionOptions

    @property
    def xp(self) -> ModuleType:
        """The library of the arrays: numpy (run on the host) or cupy."""
        return array_namespace(self.q)

    @property
    def scale_log2(self) -> float:
        """c = scale · log₂ e: exp(scale · s − m) = exp2(c · s − m log₂ e)."""
        return self.options.scale * LOG2_E

    @property
    def number(self) -> type[np.floating]:
        """The type that kernels calculate in, and of LSE and D = rowsum(dO ∘ O)."""
        return real(self.q.dtype)

    @property
    def mask_arguments(self) -> tuple:
        """pointer, stride, stride, stride, stride"""
        return (self.mask, *_strides(self.mask))

    @property
    def bias_arguments(self) -> tuple:
        """pointer, stride, stride, stride, stride"""
        return (self.bias, *_strides(self.bias))

    @property
    def dropout_arguments(self) -> tuple:
        """seed, the least word whose weight is kept (0 without dropout), 1 / (1 − dropout)"""
        p = self.options.dropout
        return np.uint64(self.options.seed), threshold_of(p), self.number(1.0 / (1.0 - p))


def check(
    name: str,
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool = False,
    key_lengths: Array | Sequence[int] | None = None,
    mask: Array | None = None,
    bias: Array | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    rng: Any = None,
    dtypes: Collection[str] = (*EXACT_DTYPES, *TENSOR_CORE_DTYPES),
    head_sizes: Collection[int] | None = None,
) -> Checked:
    """Validate a forward call of the op `name`, and draw the seed of its dropout mask.

    Raises TypeError for a wrong library, dtype or generator, ValueError for everything else.
    """
    lengths = check_attention(name, q, k, v, key_lengths, mask, bias, dropout, rng)
    dropout = float(dropout)
    if dropout == 1.0:
        raise ValueError(f"{name}: dropout = 1.0; the kernels serve 0 <= dropout < 1")
    _check_arrays(name, q, k, v, bias, dtypes, head_sizes)
    for what, array in (("mask", mask), ("bias", bias)):
        if array is not None:
            _check_contiguous(name, what, array)
    if lengths is not None:  # those on a device may be out of range: kernels clamp them
        lengths = array_namespace(lengths).ascontiguousarray(lengths, dtype="int32")
    scale = q.shape[3] ** -0.5 if scale is None else float(scale)
    if not math.isfinite(scale):
        raise ValueError(f"{name}: scale = {scale}, expected a finite number")
    seed = _draw_seed(name, rng) if dropout > 0.0 else 0
    options = AttentionOptions(bool(causal), lengths, mask, bias, scale, dropout, seed)
    return _pack(q, k, v, options)


def check_backward(do: Array, cache: FusedAttentionCache) -> Checked:
    """Validate the gradient `do` against what forward kept, which was validated then."""
    name = "attention_backward"
    if type(cache) is not FusedAttentionCache:
        raise TypeError(f"{name}: cache is a {type(cache).__name__}, expected the FusedAttentionCache of the forward")
    array_namespace(cache.q, do)
    if do.dtype != cache.q.dtype:
        raise TypeError(f"{name}: do has dtype {do.dtype}, q has {cache.q.dtype}; convert it with do.astype(...)")
    if do.shape != cache.y.shape:
        raise ValueError(f"{name}: do has shape {do.shape}, the output has {cache.y.shape}")
    _check_memory(name, "do", do)
    _check_device(name, cache.q, do)
    return _pack(cache.q, cache.k, cache.v, cache.options)


def sum_to_bias(dscores: Array, checked: Checked) -> Array:
    """dbias: dS (B, H, Tq, Tk) summed over the axes on which the bias was broadcast, in its shape and dtype."""
    axes = tuple(axis for axis, n in enumerate(checked.bias.shape) if n == 1 and dscores.shape[axis] != 1)
    summed = dscores.sum(axis=axes) if axes else dscores
    return summed.reshape(checked.options.bias.shape).astype(checked.bias.dtype, copy=False)


# ---- the form that kernels take


def _pack(q: Array, k: Array, v: Array, options: AttentionOptions) -> Checked:
    B, H, Tq, D = q.shape
    Hkv, Tk = k.shape[1:3]
    mask = None if options.mask is None else _four_axes(options.mask).view("uint8")
    bias = None if options.bias is None else _four_axes(options.bias)
    return Checked(q, k, v, B, H, Hkv, Tq, Tk, D, mask, bias, options)


def _four_axes(array: Array) -> Array:
    return array.reshape((1,) * (4 - array.ndim) + array.shape)


def _strides(array: Array | None) -> tuple[np.int64, np.int64, np.int64, np.int64]:
    """Strides in elements of a contiguous array of four axes, 0 where an axis has one entry."""
    if array is None:
        return (np.int64(0),) * 4
    strides, step = [], 1
    for n in reversed(array.shape):
        strides.append(np.int64(0 if n == 1 else step))
        step *= n
    return tuple(reversed(strides))


# ---- what was given


def _check_arrays(
    name: str, q: Array, k: Array, v: Array, bias: Array | None, dtypes: Collection[str], sizes: Collection[int] | None
) -> None:
    """What the kernels ask for besides the op's rules: dtypes, sizes, layout, one device."""
    if q.dtype.name not in dtypes:
        raise TypeError(
            f"{name}: q has dtype {q.dtype}; served are {', '.join(dtypes)}: convert with array.astype(...)"
        )
    for what, array in (("k", k), ("v", v), ("bias", bias)):
        if array is not None and array.dtype != q.dtype:
            raise TypeError(f"{name}: {what} has dtype {array.dtype}, q has {q.dtype}; expected one dtype for all")
    if v.shape != k.shape:
        raise ValueError(
            f"{name}: v {v.shape} does not fit k {k.shape}: the kernels serve values of the keys' head size"
        )
    D, rows = q.shape[3], max(q.shape[2], k.shape[2])
    if sizes is None:
        sizes = EXACT_HEAD_SIZES if q.dtype.name in EXACT_DTYPES else TENSOR_CORE_HEAD_SIZES
    if D not in sizes:
        raise ValueError(
            f"{name}: head size {D} is not served for {q.dtype}; served are multiples of 8 from 16 to 128"
            f"{' and 256' if 256 in sizes else ''}: pad with zeros (and pass scale=1/sqrt(D)), or use minilm.ops"
        )
    if rows * D >= PER_HEAD:
        raise ValueError(f"{name}: {rows} rows of {D} numbers per head; the kernels index fewer than 2^31 numbers")
    for letter, array in (("q", q), ("k", k), ("v", v)):
        _check_memory(name, letter, array)
    _check_device(name, q, k, v)


def _check_contiguous(name: str, letter: str, array: Array) -> None:
    if not array.flags.c_contiguous:
        raise ValueError(
            f"{name}: {letter} is not C-contiguous (a kernel reads memory in order and knows no strides); "
            f"pass numpy/cupy.ascontiguousarray({letter})"
        )


def _check_memory(name: str, letter: str, array: Array) -> None:
    _check_contiguous(name, letter, array)
    if address(array) % ACCESS_BYTES:
        raise ValueError(
            f"{name}: {letter} starts at an address that is no multiple of {ACCESS_BYTES} bytes, which kernels read at "
            f"once; pass {letter}.copy()"
        )


def _check_device(name: str, *arrays: Array) -> None:
    devices = {getattr(getattr(array, "device", None), "id", None) for array in arrays}
    if len(devices) > 1:
        raise ValueError(f"{name}: arrays lie on different devices ({sorted(map(str, devices))}); move them to one")


def _draw_seed(name: str, rng: Any) -> int:
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            f"{name}: rng is a {type(rng).__module__}.{type(rng).__qualname__}, expected a numpy.random.Generator "
            "(also for CuPy arrays: it gives the seed, the kernel draws); pass rng=minilm.backend.generator(seed)"
        )
    return int(rng.integers(2**63))
