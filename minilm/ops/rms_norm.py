"""Root-mean-square normalization: each position is scaled on its own, over its channels, and not centred.

    y = gain · x̂             x̂ = x / ρ            ρ = √(⟨x²⟩ + ε)     ⟨·⟩: the mean over the last axis

x, y (..., C); gain (C,).

[Zhang & Sennrich 2019, "Root Mean Square Layer Normalization", eq. 4]
"""

from collections.abc import Container
from typing import NamedTuple

from minilm.backend import Array
from minilm.checks import check_channels
from minilm.ops.layer_norm import sum_positions
from minilm.selection import Gradients, backward_of, op


class RMSNormCache(NamedTuple):
    """As for layer_norm: x̂ is kept rather than recomputed."""

    xhat: Array  # (..., C)  x/ρ
    rrms: Array  # (..., 1)  1/ρ
    gain: Array  # (C,)      borrowed


@op
def rms_norm(x: Array, gain: Array, eps: float = 1e-6) -> tuple[Array, RMSNormCache]:
    """Divide by the root mean square of the last axis. x (..., C), gain (C,); y (..., C).

    Raises ValueError where the shapes do not fit.
    """
    xp = check_channels("rms_norm", x, gain=gain)
    rrms = 1 / xp.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)  # (..., 1)
    xhat = x * rrms
    return gain * xhat, RMSNormCache(xhat, rrms, gain)


@backward_of(rms_norm)
def rms_norm_backward(dy: Array, cache: RMSNormCache, wrt: Container[str] = ("x", "gain")) -> Gradients:
    """The gradients of x and gain. As for layer_norm, without the path through μ:  ∂L/∂x = (g − x̂ ⟨g · x̂⟩) / ρ."""
    xhat, rrms, gain = cache
    dx = None
    if "x" in wrt:
        dxhat = dy * gain  # (..., C)
        through_rms = (dxhat * xhat).mean(axis=-1, keepdims=True)  # (..., 1)
        dx = (dxhat - xhat * through_rms) * rrms
    return dx, sum_positions(dy * xhat) if "gain" in wrt else None  # (..., C), (C,)
