"""Rotary positions: the channel pairs of q and k turned by angles that grow with the position.

    (x₁, x₂) ↦ (x₁ cos θ − x₂ sin θ, x₂ cos θ + x₁ sin θ)        θ = p · base^(−2i/D)

As it is a rotation, q_i · k_j depends on positions through i − j alone.

[Su et al. 2021, "RoFormer", section 3.4.2]
"""

from typing import NamedTuple

from minilm.backend import Array, array_namespace, asarray_like, floating_namespace
from minilm.ops.sinusoidal_positions import angles_of
from minilm.selection import backward_of, op


class RotaryCache(NamedTuple):
    """The rotation itself: x is not needed, the map is linear. Small: D/2 angles a position."""

    cos: Array  # (T, D/2)
    sin: Array  # (T, D/2)
    interleaved: bool


@op
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
    given = xp.arange(positions.start, positions.stop, positions.step) if isinstance(positions, range) else positions
    array_namespace(given)
    if given.dtype.kind not in "iu":
        raise TypeError(f"rotary: positions have dtype {given.dtype}, expected integers")
    if given.shape != (T,):
        raise ValueError(f"rotary: positions have shape {given.shape}, expected {(T,)} for x {x.shape}")
    angles = angles_of(asarray_like(given, x).astype("float64"), D, base)  # (T, D/2)
    cos, sin = xp.cos(angles).astype(x.real.dtype), xp.sin(angles).astype(x.real.dtype)
    return _rotate(x, cos, sin, interleaved), RotaryCache(cos, sin, interleaved)


@backward_of(rotary)
def rotary_backward(dy: Array, cache: RotaryCache) -> Array:
    """dx: the transpose of a rotation is the rotation by −θ."""
    return _rotate(dy, cache.cos, -cache.sin, cache.interleaved)


def _rotate(x: Array, cos: Array, sin: Array, interleaved: bool) -> Array:
    """Rotate each pair of channels of x (..., T, D) by the angles whose cos and sin (T, D/2) are given."""
    half = x.shape[-1] // 2
    first = slice(0, None, 2) if interleaved else slice(0, half)
    second = slice(1, None, 2) if interleaved else slice(half, None)
    x1, x2 = x[..., first], x[..., second]  # (..., T, D/2)
    y = array_namespace(x).empty(x.shape, dtype=x.dtype)
    y[..., first] = x1 * cos - x2 * sin
    y[..., second] = x2 * cos + x1 * sin
    return y
