"""ALiBi: attention with a linear penalty on distance, a constant that is added to the scores.

    bias[h, i, j] = −slope_h · |distance of query i and key j|

[Press, Smith, Lewis 2022, "Train Short, Test Long", section 3 and its released code for head counts that are no power
of two]
"""

import numpy as np

from minilm.backend import Array, array_namespace


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
    n = 1 << (H.bit_length() - 1)  # the largest power of two up to H
    powers = [8 * (h + 1) / n for h in range(n)] + [4 * (h + 1) / n for h in range(0, 2 * n, 2)]
    slopes = xp.asarray([2.0**-power for power in powers[:H]], dtype=dtype)  # (H,)
    place = xp.arange(Tk - Tq, Tk)  # (Tq,)  where the queries stand among the keys
    distance = xp.absolute(place[:, None] - xp.arange(Tk)).astype(dtype)  # (Tq, Tk)
    return -slopes[:, None, None] * distance  # (H, Tq, Tk)
