"""One-dimensional convolution over time (cross-correlation, as every framework has it).

    y[t] = Σ_k W[:, :, k] · x[stride·t + dilation·k − left] + b

    x (B, T, Cin), W (Cout, Cin, K), b (Cout,), y (B, Tout, Cout); x counts as 0 outside 0..T−1

The channels are last, as everywhere here; the weight is laid out as PyTorch's. With R = dilation·(K − 1) + 1 the number
of steps that one output looks over (its receptive field), the paddings are

    valid    none                                                 Tout = ⌊(T − R)/stride⌋ + 1
    causal   R − 1 zeros on the left: y[t] sees x[≤ stride·t]     Tout = ⌈T/stride⌉
    same     as many as it takes, the odd one on the right        Tout = ⌈T/stride⌉

"same" is TensorFlow's rule: with stride 1 it is PyTorch's too, (R − 1)//2 zeros on the left, whatever T is; with a
larger stride the padding depends on T, and PyTorch has no such mode.

[LeCun et al. 1989; van den Oord et al. 2016, "WaveNet", section 2.1, for causal and dilated]
"""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

from minilm.backend import Array, array_namespace, floating_namespace
from minilm.selection import backward_of, op


class ConvolutionCache(NamedTuple):
    """The padded x is kept; its windows, K times as large, are gathered again."""

    padded: Array  # (B, left + T + right, Cin)   x itself where nothing was padded
    weight: Array  # (Cout, Cin, K)
    T: int
    left: int
    taps: list[slice]  # K slices of the time axis: what tap k of the kernel meets, Tout steps each
    has_bias: bool


@op
def conv1d(
    x: Array, weight: Array, bias: Array | None = None, *, padding: str = "same", stride: int = 1, dilation: int = 1
) -> tuple[Array, ConvolutionCache]:
    """y (B, Tout, Cout) of x (B, T, Cin), weight (Cout, Cin, K) and bias (Cout,) or None.

    padding "same", "valid" or "causal"; stride: steps from one output to the next; dilation: steps between taps.
    Raises ValueError where shapes do not fit, and for "valid" with T shorter than the receptive field.
    """
    xp = floating_namespace(x, weight, bias)
    if x.ndim != 3 or weight.ndim != 3 or x.shape[2] != weight.shape[1] or weight.shape[2] == 0:
        raise ValueError(f"conv1d: x {x.shape} does not fit weight {weight.shape}; expected (B,T,Cin) and (Cout,Cin,K)")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"conv1d: bias has shape {bias.shape}, expected {weight.shape[:1]}")
    if stride < 1 or dilation < 1:
        raise ValueError(f"conv1d: stride is {stride} and dilation is {dilation}; both are at least 1")
    T, (Cout, _, K) = x.shape[1], weight.shape
    Tout, left, right = _geometry(T, dilation * (K - 1) + 1, padding, stride)

    padded = xp.pad(x, ((0, 0), (left, right), (0, 0))) if left or right else x  # (B, left + T + right, Cin)
    taps = [slice(dilation * k, dilation * k + stride * Tout, stride) for k in range(K)]
    y = _windows(padded, taps) @ _as_matrix(weight)  # (B·Tout, Cout)  one product for all positions and taps
    if bias is not None:
        y = y + bias
    return y.reshape(x.shape[0], Tout, Cout), ConvolutionCache(padded, weight, T, left, taps, bias is not None)


@backward_of(conv1d)
def conv1d_backward(
    dy: Array, cache: ConvolutionCache, wrt: Container[str] = ("x", "weight", "bias")
) -> tuple[Array | None, Array | None, Array | None]:
    """The linear map's gradients, on windows: each step of x gets what all the windows that it is in send back.

        dx[s] = Σ_{t, k: stride·t + dilation·k − left = s} W[:, :, k]ᵀ dy[t]      dW[:, :, k] = Σ_t dy[t] x[…]ᵀ

    Returns (dx, dweight, dbias), None for what was not asked for, or for a bias that was not given.
    """
    padded, weight, T, left, taps, has_bias = cache
    xp = array_namespace(dy, padded)
    B, Tout, Cout = dy.shape
    _, Cin, K = weight.shape
    drows = dy.reshape(B * Tout, Cout)
    dx = dweight = dbias = None
    if "x" in wrt:
        dwindows = (drows @ _as_matrix(weight).T).reshape(B, Tout, K, Cin)
        dpadded = xp.zeros(padded.shape, dtype=dwindows.dtype)
        for k, tap in enumerate(taps):
            dpadded[:, tap] += dwindows[:, :, k]
        dx = dpadded[:, left : left + T]  # (B, T, Cin)
    if "weight" in wrt:
        dweight = (drows.T @ _windows(padded, taps)).reshape(Cout, K, Cin).swapaxes(1, 2)  # (Cout, Cin, K)
    if "bias" in wrt and has_bias:
        dbias = drows.sum(axis=0)  # (Cout,)
    return dx, dweight, dbias


def _geometry(T: int, field: int, padding: str, stride: int) -> tuple[int, int, int]:
    """(Tout, zeros on the left, zeros on the right) for a receptive field of `field` steps."""
    if padding == "valid":
        if field > T:
            raise ValueError(
                f"conv1d: x has {T} steps and the receptive field is {field}; "
                'padding "valid" needs at least as many: use "same" or "causal", a longer x, or a smaller kernel'
            )
        return (T - field) // stride + 1, 0, 0
    Tout = -(-T // stride)
    if padding == "causal":
        return Tout, field - 1, 0
    if padding == "same":
        zeros = max((Tout - 1) * stride + field - T, 0)
        return Tout, zeros // 2, zeros - zeros // 2
    raise ValueError(f'conv1d: padding {padding!r} is unknown; choose "same", "valid" or "causal"')


def _windows(padded: Array, taps: list[slice]) -> Array:
    """What each output sees, one row each: (B·Tout, K·Cin), a copy. Slices, so that it is legal on a GPU too."""
    xp = array_namespace(padded)
    gathered = xp.stack([padded[:, tap] for tap in taps], axis=2)  # (B, Tout, K, Cin)
    B, Tout, K, Cin = gathered.shape
    return gathered.reshape(B * Tout, K * Cin)


def _as_matrix(weight: Array) -> Array:
    """(Cout, Cin, K) as (K·Cin, Cout): rows in the order of a window."""
    Cout, Cin, K = weight.shape
    return weight.transpose(2, 1, 0).reshape(K * Cin, Cout)
