"""Elementwise nonlinearities: relu, gelu, silu, sigmoid, tanh. x and y have any shape, the same.

    relu(x)    = max(x, 0)
    gelu(x)    = x Φ(x)                      Φ: the normal distribution function
               ≈ x (1 + tanh u)/2            u = √(2/π) (x + 0.044715 x³)          approximate="tanh"
    silu(x)    = x σ(x)
    sigmoid(x) = σ(x) = 1 / (1 + exp(−x))
    tanh(x)    = (eˣ − e⁻ˣ) / (eˣ + e⁻ˣ)

Branches are taken on the real part and nothing takes an absolute value, so every one of them is analytic away from
relu's kink. Large inputs saturate without overflow.

[relu: Nair & Hinton 2010; gelu: Hendrycks & Gimpel 2016, eq. 1-2; silu: Elfwing et al. 2017, there also "swish"]
"""

from __future__ import annotations

import math
from typing import NamedTuple

from minilm.backend import Array, array_namespace, floating_namespace
from minilm.kernels.selection import follows_cache, selectable
from minilm.ops.erf import erfc

TANH_SCALE = math.sqrt(2 / math.pi)
TANH_CUBIC = 0.044715


# ---- relu


class ReluCache(NamedTuple):
    """Where the gradient stops: one byte an element, x itself is not kept."""

    stopped: Array  # (...) bool, x <= 0


@selectable
def relu(x: Array) -> tuple[Array, ReluCache]:
    """y = max(x, 0). x (...), y (...). NaN stays NaN."""
    xp = floating_namespace(x)
    stopped = x.real <= 0
    return xp.where(stopped, 0.0, x), ReluCache(stopped)


@follows_cache
def relu_backward(dy: Array, cache: ReluCache) -> Array:
    """dx = dy where x > 0, else 0; at the kink x = 0 the left slope, 0, as in PyTorch."""
    return array_namespace(dy).where(cache.stopped, 0.0, dy)


# ---- gelu


class GeluCache(NamedTuple):
    """x is borrowed; one array is kept beside it, so that erfc is not evaluated twice. φ is cheaper to recompute."""

    x: Array  # (...)
    cdf: Array  # (...)  Φ(x)


class GeluTanhCache(NamedTuple):
    """x is borrowed; tanh u is kept, the rest of the slope is a polynomial in x and it."""

    x: Array  # (...)
    tanh_u: Array  # (...)


@selectable
def gelu(x: Array, approximate: str = "none") -> tuple[Array, GeluCache | GeluTanhCache]:
    """y = x Φ(x). x (...), y (...). approximate: "none" (exact) or "tanh" (GPT-2's formula, off by at most 5e-4).

    Φ(x) = erfc(−x/√2)/2 and not (1 + erf(x/√2))/2: the left tail keeps its digits.
    """
    xp = floating_namespace(x)
    if approximate == "none":
        cdf = 0.5 * erfc(x * -math.sqrt(0.5))
        return x * cdf, GeluCache(x, cdf)
    if approximate == "tanh":
        tanh_u = xp.tanh(TANH_SCALE * (x + TANH_CUBIC * (x * x * x)))
        return 0.5 * x * (1 + tanh_u), GeluTanhCache(x, tanh_u)
    raise ValueError(f'gelu: approximate={approximate!r} is unknown; choose "none" or "tanh"')


@follows_cache
def gelu_backward(dy: Array, cache: GeluCache | GeluTanhCache) -> Array:
    """dx = dy (Φ(x) + x φ(x)) with the normal density φ = Φ′ = exp(−x²/2)/√(2π).

    With tanh: dx = dy ((1 + tanh u)/2 + x (1 − tanh² u)/2 · u′),  u′ = √(2/π) (1 + 3 · 0.044715 x²).
    """
    xp = array_namespace(dy)
    x = cache.x
    if isinstance(cache, GeluCache):
        density = xp.exp(-0.5 * (x * x)) * (1 / math.sqrt(2 * math.pi))
        return dy * (cache.cdf + x * density)
    du = TANH_SCALE * (1 + 3 * TANH_CUBIC * (x * x))
    return dy * (0.5 * (1 + cache.tanh_u) + 0.5 * x * (1 - cache.tanh_u * cache.tanh_u) * du)


# ---- sigmoid and silu


def logistic(x: Array) -> Array:
    """σ(x) without overflow: exp is only ever taken of −|x|. Keeps its digits in the left tail, where σ(x) ≈ eˣ."""
    xp = array_namespace(x)
    left = x.real < 0
    e = xp.exp(xp.where(left, x, -x))
    return xp.where(left, e, 1.0) / (1 + e)


class SigmoidCache(NamedTuple):
    """The output is enough: σ′ = σ (1 − σ)."""

    y: Array  # (...)


@selectable
def sigmoid(x: Array) -> tuple[Array, SigmoidCache]:
    """y = 1 / (1 + exp(−x)). x (...), y (...)."""
    floating_namespace(x)
    y = logistic(x)
    return y, SigmoidCache(y)


@follows_cache
def sigmoid_backward(dy: Array, cache: SigmoidCache) -> Array:
    """dx = dy y (1 − y)."""
    return dy * (cache.y * (1 - cache.y))


class SiluCache(NamedTuple):
    """x is borrowed; σ(x) is kept rather than recomputed: one exponential less, one array more."""

    x: Array  # (...)
    gate: Array  # (...)  σ(x)


@selectable
def silu(x: Array) -> tuple[Array, SiluCache]:
    """y = x σ(x). x (...), y (...)."""
    floating_namespace(x)
    gate = logistic(x)
    return x * gate, SiluCache(x, gate)


@follows_cache
def silu_backward(dy: Array, cache: SiluCache) -> Array:
    """dx = dy (σ + x σ (1 − σ))."""
    x, gate = cache
    return dy * (gate + x * gate * (1 - gate))


# ---- tanh


class TanhCache(NamedTuple):
    """The output is enough: tanh′ = 1 − tanh²."""

    y: Array  # (...)


@selectable
def tanh(x: Array) -> tuple[Array, TanhCache]:
    """y = tanh x. x (...), y (...)."""
    y = floating_namespace(x).tanh(x)
    return y, TanhCache(y)


@follows_cache
def tanh_backward(dy: Array, cache: TanhCache) -> Array:
    """dx = dy (1 − y²)."""
    return dy * (1 - cache.y * cache.y)
