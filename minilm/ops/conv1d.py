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

from collections.abc import Container
from typing import NamedTuple

from minilm.backend import Array, array_namespace, floating_namespace
from minilm.checks import one_of
from minilm.selection import Gradients, backward_of, op


class ConvolutionCache(NamedTuple):
    """The padded x is kept; what a tap of the kernel meets is a slice of it."""

    padded: Array  # (B, left + T + right, Cin)
    weight: Array  # (Cout, Cin, K)  borrowed
    inside: slice  # the T steps of x in it
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
    check_conv1d(x, weight, bias, padding, stride, dilation)
    xp = floating_namespace(x, weight, bias)
    T, K = x.shape[1], weight.shape[2]
    R = dilation * (K - 1) + 1
    Tout = (T - R) // stride + 1 if padding == "valid" else -(-T // stride)
    missing = max((Tout - 1) * stride + R - T, 0)  # steps that all outputs together lack
    left = {"valid": 0, "causal": R - 1, "same": missing // 2}[padding]
    right = max(missing - left, 0)
    padded = xp.pad(x, ((0, 0), (left, right), (0, 0)))  # (B, left + T + right, Cin)
    taps = [slice(dilation * k, dilation * k + stride * Tout, stride) for k in range(K)]
    products = [padded[:, tap] @ weight[:, :, k].T for k, tap in enumerate(taps)]  # K of (B, Tout, Cout)
    y = sum(products) if bias is None else sum(products) + bias
    return y, ConvolutionCache(padded, weight, slice(left, left + T), taps, bias is not None)


@backward_of(conv1d)
def conv1d_backward(dy: Array, cache: ConvolutionCache, wrt: Container[str] = ("x", "weight", "bias")) -> Gradients:
    """Each step of x gets what all outputs that look at it send back; each tap of W meets one slice of x.

        dx[s] = Σ_{t, k: stride·t + dilation·k − left = s} W[:, :, k]ᵀ dy[t]
        dW[:, :, k] = Σ_t dy[t] x[stride·t + dilation·k − left]ᵀ        db = Σ_t dy[t]        sums over the batch too

    Returns (dx, dweight, dbias), None for what was not asked for, or for a bias that was not given.
    """
    padded, weight, inside, taps, has_bias = cache
    xp = array_namespace(dy, padded)
    dx = None
    if "x" in wrt:
        dpadded = xp.zeros(padded.shape, xp.result_type(dy, weight))
        for k, tap in enumerate(taps):
            dpadded[:, tap] += dy @ weight[:, :, k]  # (B, Tout, Cin)
        dx = dpadded[:, inside]  # (B, T, Cin)
    over = ((0, 1), (0, 1))  # the sum over B and Tout; the result is (Cout, Cin) per tap
    dweight = xp.stack([xp.tensordot(dy, padded[:, tap], over) for tap in taps], axis=-1) if "weight" in wrt else None
    dbias = dy.sum(axis=(0, 1)) if "bias" in wrt and has_bias else None  # (Cout,)
    return dx, dweight, dbias


def check_conv1d(x: Array, weight: Array, bias: Array | None, padding: str, stride: int, dilation: int) -> None:
    """Raises ValueError where the arguments do not fit, dtypes apart."""
    if x.ndim != 3 or weight.ndim != 3 or x.shape[2] != weight.shape[1] or weight.shape[2] == 0:
        raise ValueError(f"conv1d: x {x.shape} does not fit weight {weight.shape}; expected (B,T,Cin) and (Cout,Cin,K)")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"conv1d: bias has shape {bias.shape}, expected {weight.shape[:1]}")
    if stride < 1 or dilation < 1:
        raise ValueError(f"conv1d: stride is {stride} and dilation is {dilation}; both are at least 1")
    R, T = dilation * (weight.shape[2] - 1) + 1, x.shape[1]
    if one_of("conv1d: padding", padding, ("same", "valid", "causal")) == "valid" and R > T:
        needs = "padding 'valid' needs as many: use 'same' or 'causal', a longer x, or a smaller kernel"
        raise ValueError(f"conv1d: x has {T} steps and the receptive field is {R}; {needs}")
