"""How a model that sees a set of vectors learns their order: sinusoids, rotations, or a penalty on distance.

    sinusoidal   added to the embeddings    E[p, 2i] = sin(p / base^(2i/C))    E[p, 2i+1] = cos(p / base^(2i/C))
    rotary       turns q and k              (x₁, x₂) ↦ (x₁ cos θ − x₂ sin θ, x₂ cos θ + x₁ sin θ),  θ = p · base^(−2i/D)
    ALiBi        added to the scores        bias[h, i, j] = −slope_h · |distance of query i and key j|

Sinusoids and ALiBi are constants. Rotary is an op with a backward; as it is a rotation, q_i · k_j depends on positions
through i − j alone. Learned positions are an embedding (`embedding.py`).

A curiosity: sin(p/√C) + cos(p/√C) for every channel, a formula that circulates in articles. The angle lacks the
channel, so that each position adds one number to all C channels: the table has rank one, along (1, …, 1). That is just
what a layer norm removes: LN(x + c·(1, …, 1)) = LN(x). Where one follows, the positions are gone exactly. The sinusoids
above have a frequency for every pair of channels instead, and rank up to C.

[Vaswani et al. 2017, section 3.5; Su et al. 2021, "RoFormer", section 3.4.2; Press, Smith, Lewis 2022, "Train Short,
Test Long", section 3 and its released code for head counts that are no power of two]
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import numpy as np

from minilm.backend import Array, array_namespace, asarray_like, floating_namespace
from minilm.kernels.selection import follows_cache, selectable


def sinusoidal_positions(
    T: int, C: int, base: float = 10000.0, dtype: str = "float32", *, like: Array | None = None
) -> Array:
    """The table E (T, C): sin in the even channels, cos in the odd ones, wavelengths from 2π to 2π·base.

    With odd C the last channel is a sine without its cosine. Made on the host, or in the library of `like`; angles in
    float64 whatever the dtype. Raises ValueError for T < 0 or C < 1.
    """
    if T < 0 or C < 1:
        raise ValueError(f"sinusoidal_positions: T is {T} and C is {C}; expected T >= 0 and C >= 1")
    xp = np if like is None else array_namespace(like)
    angles = _angles(xp, xp.arange(T, dtype="float64"), C, base)  # (T, ceil(C/2))
    table = xp.empty((T, C), dtype=dtype)
    table[:, 0::2] = xp.sin(angles).astype(dtype)
    table[:, 1::2] = xp.cos(angles[:, : C // 2]).astype(dtype)
    return table


class RotaryCache(NamedTuple):
    """The rotation itself: x is not needed, the map is linear. Small: D/2 angles a position."""

    cos: Array  # (T, D/2)
    sin: Array  # (T, D/2)
    interleaved: bool


@selectable
def rotary(
    x: Array, positions: Array | range, base: float = 10000.0, interleaved: bool = False
) -> tuple[Array, RotaryCache]:
    """Rotate the channel pairs of x (..., T, D) by their position's angles; y (..., T, D). D is even.

    positions    (T,) integers, a range or an array; a host array with x on a GPU is uploaded
    interleaved  which channels are a pair: (i, i + D/2) as in GPT-NeoX and LLaMA, or (2i, 2i + 1) as in RoFormer.
                 Weights trained with one do not fit the other.

    Angles are computed in float64: in float32 a position of 10⁵ would be off by a hundredth of a radian.
    Raises ValueError where D is odd or the number of positions is not T.
    """
    xp = floating_namespace(x)
    if x.ndim < 2 or x.shape[-1] % 2 or x.shape[-1] == 0:
        raise ValueError(f"rotary: x has shape {x.shape}, expected (..., T, D) with D even")
    T, D = x.shape[-2:]
    if isinstance(positions, range):
        positions = xp.arange(positions.start, positions.stop, positions.step)  # (T,)
    elif isinstance(positions, np.ndarray):
        positions = asarray_like(positions, x)
    array_namespace(x, positions)
    if positions.dtype.kind not in "iu":
        raise TypeError(f"rotary: positions have dtype {positions.dtype}, expected integers")
    if positions.shape != (T,):
        raise ValueError(f"rotary: positions have shape {positions.shape}, expected {(T,)} for x {x.shape}")
    angles = _angles(xp, positions.astype("float64"), D, base)  # (T, D/2)
    dtype = x.real.dtype
    cos, sin = xp.cos(angles).astype(dtype), xp.sin(angles).astype(dtype)
    return _rotate(xp, x, cos, sin, interleaved), RotaryCache(cos, sin, interleaved)


@follows_cache
def rotary_backward(dy: Array, cache: RotaryCache) -> Array:
    """dx: the transpose of a rotation is the rotation by −θ."""
    return _rotate(array_namespace(dy), dy, cache.cos, -cache.sin, cache.interleaved)


def alibi_bias(H: int, Tq: int, Tk: int, dtype: str = "float32", *, like: Array | None = None) -> Array:
    """The penalty −slope_h · |i + Tk − Tq − j| as (H, Tq, Tk), the `bias` of `ops.attention`; 0 on the diagonal.

    Aligned at the end, as causal attention is: the last query stands at the last key. Keys to the right of the query,
    which only an unmasked model sees, are penalised by their distance likewise (the paper is about causal models).
    Slopes are 2^(−8/H), 2^(−16/H), … 2^(−8); for H that is no power of two those of the next lower power n, and then
    every other one of 2n. Made on the host, or in the library of `like`.
    """
    if H < 1 or Tq < 0 or Tk < 0:
        raise ValueError(f"alibi_bias: H is {H}, Tq is {Tq}, Tk is {Tk}; expected H >= 1 and lengths >= 0")
    xp = np if like is None else array_namespace(like)
    slopes = xp.asarray(_alibi_slopes(H), dtype=dtype)  # (H,)
    place = xp.arange(Tk - Tq, Tk)  # (Tq,)  where the queries stand among the keys
    distance = xp.absolute(place[:, None] - xp.arange(Tk)).astype(dtype)  # (Tq, Tk)
    return -slopes[:, None, None] * distance  # (H, Tq, Tk)


def _alibi_slopes(H: int) -> list[float]:
    """A geometric sequence that starts at 2^(−8/n), its own ratio."""
    n = 1 << (H.bit_length() - 1)  # the largest power of two up to H
    slopes = [2.0 ** (-8.0 * (h + 1) / n) for h in range(n)]
    between = [2.0 ** (-4.0 * (h + 1) / n) for h in range(0, 2 * n, 2)]
    return slopes + between[: H - n]


def _angles(xp: ModuleType, positions: Array, C: int, base: float) -> Array:
    """positions (T,) in float64 times the frequencies base^(−2i/C): (T, ceil(C/2))."""
    frequencies = float(base) ** (xp.arange(0, C, 2, dtype="float64") * (-1.0 / C))
    return positions[:, None] * frequencies


def _rotate(xp: ModuleType, x: Array, cos: Array, sin: Array, interleaved: bool) -> Array:
    """Rotate each pair of channels of x (..., T, D) by the angles whose cos and sin (T, D/2) are given."""
    half = x.shape[-1] // 2
    first = slice(0, None, 2) if interleaved else slice(0, half)
    second = slice(1, None, 2) if interleaved else slice(half, None)
    x1, x2 = x[..., first], x[..., second]  # (..., T, D/2)
    y = xp.empty(x.shape, dtype=x.dtype)
    y[..., first] = x1 * cos - x2 * sin
    y[..., second] = x2 * cos + x1 * sin
    return y
