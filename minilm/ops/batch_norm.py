"""Batch normalization: each channel is centred and scaled over all positions of the batch.

    y = gain · x̂ + bias      x̂ = (x − μ) / √(var + ε)

x, y (..., C); gain, bias, μ, var (C,). While training μ and var are those of the batch, over all axes but the last, and

    running ← (1 − momentum) running + momentum · batch

follows them (with the unbiased variance, n/(n − 1) var, as PyTorch's); at inference the running values take their place
and are constants. Channels come last, unlike PyTorch's (B, C, T): the same layout as everywhere in this package.

[Ioffe & Szegedy 2015, "Batch Normalization", algorithms 1-2]
"""

from collections.abc import Container
from typing import NamedTuple

from minilm.backend import Array
from minilm.checks import check_channels
from minilm.ops.layer_norm import sum_positions
from minilm.selection import Gradients, backward_of, op


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
    xp = check_channels("batch_norm", x, gain=gain, bias=bias, running_mean=running_mean, running_var=running_var)
    n = x.size // x.shape[-1]
    if train and n < 2:
        raise ValueError(f"batch_norm: x {x.shape} has {n} value(s) per channel; training needs 2: use train=False")
    mean = sum_positions(x) / n if train else running_mean  # (C,)
    centred = x - mean
    var = sum_positions(centred * centred) / n if train else running_var  # (C,)
    rstd = 1 / xp.sqrt(var + eps)  # (C,)
    xhat = centred * rstd
    new_mean = (1 - momentum) * running_mean + momentum * mean if train else running_mean  # (C,)
    new_var = (1 - momentum) * running_var + momentum * n / (n - 1) * var if train else running_var  # (C,)
    return gain * xhat + bias, BatchNormCache(xhat, rstd, gain, new_mean, new_var, train)


@backward_of(batch_norm)
def batch_norm_backward(dy: Array, cache: BatchNormCache, wrt: Container[str] = ("x", "gain", "bias")) -> Gradients:
    """The gradients of x, gain and bias, None for what `wrt` leaves out. With g = gain · dy and ⟨·⟩ the batch mean,

        train     ∂L/∂x = (g − ⟨g⟩ − x̂ ⟨g · x̂⟩) / √(var + ε)      what flows through μ and through var is taken off
        else      ∂L/∂x = g / √(var + ε)                          the statistics are constants

    The running statistics get no gradient.
    """
    xhat, rstd = cache.xhat, cache.rstd
    dx = None
    if "x" in wrt:
        dxhat = dy * cache.gain  # (..., C)
        n = xhat.size // xhat.shape[-1]
        through_mean = sum_positions(dxhat) / n if cache.train else 0  # (C,)
        through_var = sum_positions(dxhat * xhat) / n if cache.train else 0  # (C,)
        dx = (dxhat - through_mean - xhat * through_var) * rstd
    dgain = sum_positions(dy * xhat) if "gain" in wrt else None  # (C,)
    dbias = sum_positions(dy) if "bias" in wrt else None  # (C,)
    return dx, dgain, dbias
