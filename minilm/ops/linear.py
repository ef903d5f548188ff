"""The linear map of the last axis.

    y = x Wᵀ + b        x (..., Cin), W (Cout, Cin), b (Cout,), y (..., Cout)

The weight is stored output-first, as PyTorch stores it, so that weights move between libraries unchanged.
"""

from collections.abc import Container
from typing import NamedTuple

from minilm.backend import Array, floating_namespace
from minilm.selection import Gradients, backward_of, op


def affine(x: Array, weight: Array, bias: Array | None) -> Array:
    """x Wᵀ + b. x (..., Cin), weight (Cout, Cin), bias (Cout,) or None."""
    return x @ weight.T if bias is None else x @ weight.T + bias


class LinearCache(NamedTuple):
    """Both factors of the product, borrowed: the gradient of each is a product with the other."""

    x: Array  # (..., Cin)
    weight: Array  # (Cout, Cin)
    has_bias: bool


@op
def linear(x: Array, weight: Array, bias: Array | None = None) -> tuple[Array, LinearCache]:
    """y = x Wᵀ + b. x (..., Cin), weight (Cout, Cin), bias (Cout,) or None; y (..., Cout).

    Raises ValueError where the shapes do not fit.
    """
    floating_namespace(x, weight, bias)
    if weight.ndim != 2 or x.ndim < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"linear: x {x.shape} does not fit weight {weight.shape}; expected (..., Cin) and (Cout, Cin)")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"linear: bias has shape {bias.shape}, expected {weight.shape[:1]}")
    rows = x.reshape(-1, x.shape[-1])  # (N, Cin)  one large product instead of a batch of small ones
    y = affine(rows, weight, bias)  # (N, Cout)
    return y.reshape(*x.shape[:-1], weight.shape[0]), LinearCache(x, weight, bias is not None)


@backward_of(linear)
def linear_backward(dy: Array, cache: LinearCache, wrt: Container[str] = ("x", "weight", "bias")) -> Gradients:
    """dx = dy W,  dW = dyᵀ x,  db = Σ dy,  the sums over all positions. Only what `wrt` names is computed.

    Returns (dx, dweight, dbias), None for what was not asked for, or for a bias that was not given.
    """
    x, weight, has_bias = cache
    drows = dy.reshape(-1, dy.shape[-1])  # (N, Cout)
    dx = (drows @ weight).reshape(x.shape) if "x" in wrt else None  # (..., Cin)
    dweight = drows.T @ x.reshape(-1, x.shape[-1]) if "weight" in wrt else None  # (Cout, Cin)
    dbias = drows.sum(axis=0) if "bias" in wrt and has_bias else None  # (Cout,)
    return dx, dweight, dbias
