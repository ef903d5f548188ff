"""Layer normalization: each position is centred and scaled on its own, over its channels.

    y = gain · x̂ + bias      x̂ = (x − μ) / σ      σ = √(var + ε)      μ, var: over the last axis

x, y (..., C); gain, bias (C,). No running statistics and no batch axis: what a position sees does not depend on its
neighbours. Batch normalization, which does, is in `batch_norm.py`.

[Ba, Kiros, Hinton 2016, "Layer Normalization", eq. 3-4]
"""

from collections.abc import Container
from typing import NamedTuple

from minilm.backend import Array
from minilm.checks import check_channels
from minilm.selection import Gradients, backward_of, op


def sum_positions(x: Array) -> Array:
    """The sum over all axes but the last: (..., C) -> (C,)."""
    return x.reshape(-1, x.shape[-1]).sum(axis=0)


class LayerNormCache(NamedTuple):
    """What the backward reads. x̂ is kept (…·C numbers) rather than recomputed from x: one pass less over x."""

    xhat: Array  # (..., C)  normalised input
    rstd: Array  # (..., 1)  1/σ
    gain: Array  # (C,)      borrowed from the caller, never written


@op
def layer_norm(x: Array, gain: Array, bias: Array, eps: float = 1e-5) -> tuple[Array, LayerNormCache]:
    """Normalise over the last axis. x (..., C), gain, bias (C,); y (..., C).

    With C = 1 every x̂ is 0, so y is the bias. Raises ValueError where the shapes do not fit.
    """
    xp = check_channels("layer_norm", x, gain=gain, bias=bias)
    centred = x - x.mean(axis=-1, keepdims=True)  # (..., C)
    variance = (centred * centred).mean(axis=-1, keepdims=True)  # (..., 1)  not ⟨x²⟩ − ⟨x⟩²: an offset would cancel
    rstd = 1 / xp.sqrt(variance + eps)
    xhat = centred * rstd
    return gain * xhat + bias, LayerNormCache(xhat, rstd, gain)


@backward_of(layer_norm)
def layer_norm_backward(dy: Array, cache: LayerNormCache, wrt: Container[str] = ("x", "gain", "bias")) -> Gradients:
    """The gradients of x, gain and bias, None for what `wrt` leaves out.

    With g = ∂L/∂x̂ = gain · dy, and ⟨·⟩ the mean over C: x̂ depends on x directly, through μ, and through σ, so

        ∂L/∂x = (g − ⟨g⟩ − x̂ ⟨g · x̂⟩) / σ

    where ⟨g⟩ is what flows through μ, and x̂ ⟨g · x̂⟩ what flows through σ.
    """
    xhat, rstd, gain = cache
    dx = None
    if "x" in wrt:
        dxhat = dy * gain  # (..., C)
        through_mean = dxhat.mean(axis=-1, keepdims=True)  # (..., 1)
        through_sigma = (dxhat * xhat).mean(axis=-1, keepdims=True)  # (..., 1)
        dx = (dxhat - through_mean - xhat * through_sigma) * rstd
    dgain = sum_positions(dy * xhat) if "gain" in wrt else None  # (C,)
    dbias = sum_positions(dy) if "bias" in wrt else None  # (C,)
    return dx, dgain, dbias
