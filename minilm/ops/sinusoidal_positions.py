"""Sinusoidal positions, a constant that is added to the embeddings.

    E[p, 2i] = sin(p / base^(2i/C))    E[p, 2i+1] = cos(p / base^(2i/C))

A curiosity: sin(p/√C) + cos(p/√C) for every channel, a formula that circulates in articles, lacks the channel in its
angle. Each position adds one number to all C channels, which is just what a layer norm removes: LN(x + c) = LN(x).

[Vaswani et al. 2017, section 3.5]
"""

import numpy as np

from minilm.backend import Array, array_namespace


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
    angles = angles_of(xp.arange(T, dtype="float64"), C, base)  # (T, ceil(C/2))
    table = xp.empty((T, C), dtype=dtype)
    table[:, 0::2] = xp.sin(angles).astype(dtype)
    table[:, 1::2] = xp.cos(angles[:, : C // 2]).astype(dtype)
    return table


def angles_of(positions: Array, C: int, base: float) -> Array:
    """positions (T,) in float64 times the frequencies base^(−2i/C): (T, ceil(C/2))."""
    frequencies = float(base) ** (array_namespace(positions).arange(0, C, 2, dtype="float64") * (-1.0 / C))
    return positions[:, None] * frequencies
