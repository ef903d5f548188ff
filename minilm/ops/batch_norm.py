"""Batch normalization: each channel is centred and scaled over all positions of the batch.

    y = gain · x̂ + bias      x̂ = (x − μ) / √(var + ε)

x, y (..., C); gain, bias, μ, var (C,). While training μ and var are those of the batch, over all axes but the last, and

    running ← (1 − momentum) running + momentum · batch

follows them (with the unbiased variance, n/(n − 1) var, as PyTorch's); at inference the running values take their place
and are constants. Channels come last, unlike PyTorch's (B, C, T): the same layout as everywhere in this package.

[Ioffe & Szegedy 2015, "Batch Normalization", algorithms 1-2]
"""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

from minilm.backend import Array
from minilm.ops.layer_norm import channels_namespace, sum_positions
from minilm.selection import backward_of, op


class BatchNormCache(NamedTuple):
    """x̂ is kept rather than recomputed. The new running statistics travel here: the forward writes to no argument."""

    xhat: Array  # (..., C)  normalised input
    rstd: Array  # (C,)      1/√(var + ε)
    gain: Array  # (C,)      borrowed
    running_mean: Array  # (C,)  after this batch; with train=False as given
    running_var: Array  # (C,)
    train: bool


@op
def batch_norm(
    x: Array,
    gain: Array,
    bias: Array,
    running_mean: Array,
    running_var: Array,
    train: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Array, BatchNormCache]:
    """Normalise each channel over all axes but the last. x (..., C), the others (C,); y (..., C).

    Raises ValueError where the shapes do not fit, and with train=True where a channel has fewer than two values.
    """
    xp = channels_namespace("batch_norm", x, gain=gain, bias=bias, running_mean=running_mean, running_var=running_var)
    if train:
        rows = x.reshape(-1, x.shape[-1])  # (N, C)
        n = rows.shape[0]
        if n < 2:
            raise ValueError(
                f"batch_norm: x {x.shape} has {n} value(s) per channel; training needs at least 2, use train=False"
            )
        mean = rows.mean(axis=0)  # (C,)
        centred = x - mean
        var = sum_positions(centred * centred) / n  # (C,)
        running_mean = (1 - momentum) * running_mean + momentum * mean
        running_var = (1 - momentum) * running_var + (momentum * n / (n - 1)) * var
    else:
        centred, var = x - running_mean, running_var
    rstd = 1 / xp.sqrt(var + eps)  # (C,)
    xhat = centred * rstd
    return gain * xhat + bias, BatchNormCache(xhat, rstd, gain, running_mean, running_var, train)


@backward_of(batch_norm)
def batch_norm_backward(
    dy: Array, cache: BatchNormCache, wrt: Container[str] = ("x", "gain", "bias")
) -> tuple[Array | None, Array | None, Array | None]:
    """The gradients of x, gain and bias, None for what `wrt` leaves out. With g = gain · dy and ⟨·⟩ the batch mean,

        train     ∂L/∂x = (g − ⟨g⟩ − x̂ ⟨g · x̂⟩) / √(var + ε)      what flows through μ and through var is taken off
        else      ∂L/∂x = g / √(var + ε)                          the statistics are constants

    The running statistics get no gradient.
    """
    xhat, rstd, gain = cache.xhat, cache.rstd, cache.gain
    dx = dgain = dbias = None
    if "gain" in wrt or ("x" in wrt and cache.train):
        dgain = sum_positions(dy * xhat)  # (C,)
    if "bias" in wrt or ("x" in wrt and cache.train):
        dbias = sum_positions(dy)  # (C,)
    if "x" in wrt and cache.train:
        n = xhat.size // xhat.shape[-1]
        dx = (dy - dbias / n - xhat * (dgain / n)) * (gain * rstd)  # ⟨g⟩ = gain · dbias/n,  ⟨g · x̂⟩ = gain · dgain/n
    elif "x" in wrt:
        dx = dy * (gain * rstd)
    return dx, dgain if "gain" in wrt else None, dbias if "bias" in wrt else None
