"""Small op pairs for tests of the checker, and what can be done wrong in them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minilm.backend import array_namespace


class AffineCache(NamedTuple):
    x: object
    weight: object


def affine(x, weight, bias=None):
    """y = x Wᵀ + b, with a square W in most tests so that a transposed gradient still has the right shape."""
    y = x @ weight.T
    return (y if bias is None else y + bias), AffineCache(x, weight)


def affine_backward(dy, cache):
    return dy @ cache.weight, dy.T @ cache.x, dy.sum(axis=0)


def layer_norm(x, gain, bias):
    centred = x - x.mean(axis=-1, keepdims=True)
    rstd = ((centred * centred).mean(axis=-1, keepdims=True) + 1e-5) ** -0.5
    xhat = centred * rstd
    return gain * xhat + bias, (xhat, rstd, gain)


def layer_norm_backward(dy, cache):
    xhat, rstd, gain = cache
    g = dy * gain
    dx = (g - g.mean(axis=-1, keepdims=True) - xhat * (g * xhat).mean(axis=-1, keepdims=True)) * rstd
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


def relu(x):
    xp = array_namespace(x)
    return xp.where(x.real > 0, x, 0.0), x


def relu_backward(dy, x):
    return array_namespace(x).where(x > 0, dy, 0.0)


def product(x, w):
    """y = sin(x) w: smooth, nonlinear, two arguments of one shape."""
    xp = array_namespace(x)
    return xp.sin(x) * w, (x, w)


def product_backward(dy, cache):
    x, w = cache
    xp = array_namespace(x)
    return dy * xp.cos(x) * w, dy * xp.sin(x)


def square(x):
    return x * x, x


def square_backward(dy, x):
    return 2.0 * x * dy


def inputs(rng, *shapes, scale=1.0):
    return tuple(scale * rng.normal(size=shape) for shape in shapes)


AFFINE = ((5, 4), (4, 4), (4,))
NORM = ((6, 5), (5,), (5,))


def host(xp, array):
    return np.asarray(xp.to_numpy(array))


def change(backward, position, how):
    """`backward` with one of its gradients changed."""

    def wrong(dy, cache):
        gradients = list(backward(dy, cache))
        gradients[position] = how(gradients[position], dy, cache)
        return tuple(gradients)

    return wrong
