"""check_laws: a sound op pair passes on every library; each planted breach is named."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from minilm.gradcheck import LawViolation, check_laws
from tests.gradcheck import toys


@pytest.mark.parametrize("op", ["affine", "layer_norm", "product", "relu", "square"])
def test_sound_ops_pass(op, xp, rng):
    shapes = {"affine": toys.AFFINE, "layer_norm": toys.NORM, "product": ((3, 4), (3, 4))}.get(op, ((3, 4),))
    check_laws(getattr(toys, op), getattr(toys, f"{op}_backward"), xp.asarrays(toys.inputs(rng, *shapes)))


def test_empty_and_huge_inputs_pass(xp, rng):
    check_laws(toys.affine, toys.affine_backward, xp.asarrays(toys.inputs(rng, (0, 4), (4, 4), (4,))))
    check_laws(toys.layer_norm, toys.layer_norm_backward, xp.asarrays(toys.inputs(rng, *toys.NORM, scale=1e8)))


def writes_to_x(x, w):
    x *= 1.0 + 1e-12
    return toys.product(x, w)


def counting(x, w):
    """Another result at each call: randomness that is no argument."""
    y, cache = toys.product(x, w)
    return y + np.random.default_rng().random(), cache


def float64_forward(x, w):
    y, cache = toys.product(x, w)
    return y * np.float64(1.0), cache


def contiguous_only(x, w):
    """Reads the memory, not the array: right for C order alone."""
    y, cache = toys.product(np.frombuffer(x.tobytes("A"), x.dtype).reshape(x.shape).copy(), w)
    return y, cache


def writes_to_dy(dy, cache):
    dy *= 2.0
    return toys.product_backward(dy / 2.0, cache)


def writes_to_cache(dy, cache):
    dx, dw = toys.product_backward(dy, cache)
    cache[0][0, 0] += 1.0
    return dx, dw


def writes_deep_into_cache(dy, cache):
    inner, seen = cache
    seen["calls"][0] += 1
    return toys.product_backward(dy, inner)


def writes_to_argument(dy, cache):
    gradients = toys.product_backward(dy, cache)
    cache[1][...] = 0.0  # the cache borrows w
    return gradients


def accumulates():
    """Adds to its own earlier result instead of returning a new one."""
    total = {}

    def backward(dy, cache):
        dx, dw = toys.product_backward(dy, cache)
        total["dw"] = total.get("dw", 0.0) + dw
        return dx, total["dw"]

    return backward


def reuses_a_buffer():
    buffer = {}

    def backward(dy, cache):
        dx, dw = toys.product_backward(dy, cache)
        out = buffer.setdefault(dx.dtype, np.empty_like(dx))
        out[...] = dx
        return out, dw

    return backward


def random_backward(dy, cache):
    dx, dw = toys.product_backward(dy, cache)
    return dx, dw * (1.0 + 1e-9 * np.random.default_rng().random())


def nonlinear(dy, cache):
    dx, dw = toys.product_backward(dy, cache)
    return dx * np.abs(dy), dw


def clipped(dy, cache):
    dx, dw = toys.product_backward(dy, cache)
    return dx, np.clip(dw, -5.0, 5.0)


def affine_in_dy(dy, cache):
    dx, dw = toys.product_backward(dy, cache)
    return dx + 1e-12, dw


def float64_gradient(dy, cache):
    dx, dw = toys.product_backward(dy, cache)
    return dx, dw.astype(np.float64)


def float32_gradient(dy, cache):
    dx, dw = toys.product_backward(dy, cache)
    return dx.astype(np.float32), dw


def transposed_shape(dy, cache):
    dx, dw = toys.product_backward(dy, cache)
    return dx, dw.T


def none_gradient(dy, cache):
    return toys.product_backward(dy, cache)[0], None


BREACHES = {
    "arguments kept: .* forward writes to the argument x": (writes_to_x, toys.product_backward),
    "arguments kept: .* backward writes to the argument w": (toys.product, writes_to_argument),
    "forward repeatable": (counting, toys.product_backward),
    "kinds: .* w: the gradient has shape": (toys.product, transposed_shape),
    "kinds: .* w: the gradient is None": (toys.product, none_gradient),
    "kinds: .* x: the gradient has dtype float32": (toys.product, float32_gradient),
    "dy kept": (toys.product, writes_to_dy),
    r"cache kept: .* cache\[1\]\['calls'\]": (
        lambda x, w: (toys.product(x, w)[0], (toys.product(x, w)[1], {"calls": np.zeros(1)})),
        writes_deep_into_cache,
    ),
    "backward repeatable: .* another gradient of w": (toys.product, random_backward),
    "linear: .* the gradient of x": (toys.product, nonlinear),
    "linear: .* the gradient of w": (toys.product, clipped),
    "linear: .* dy = 0 gives a gradient of x": (toys.product, affine_in_dy),
    "float32: .* float64 y": (float64_forward, toys.product_backward),
    "float32: .* float64 gradient of w": (toys.product, float64_gradient),
    "layouts: .* transposed": (contiguous_only, toys.product_backward),
}


@pytest.mark.parametrize("message", BREACHES)
def test_each_breach_is_named(message, rng):
    forward, backward = BREACHES[message]
    with pytest.raises(LawViolation, match=message):
        check_laws(forward, backward, toys.inputs(rng, (3, 4), (3, 4)))


def test_write_into_the_cache(rng):
    """x itself is in the cache: one write, seen as the one or the other."""
    with pytest.raises(LawViolation, match=r"(arguments|cache) kept"):
        check_laws(toys.product, writes_to_cache, toys.inputs(rng, (3, 4), (3, 4)))

    def own_cache(x, w):
        y, cache = toys.product(x, w)
        return y, tuple(a.copy() for a in cache)

    with pytest.raises(LawViolation, match=r"cache kept: .* cache\[0\]"):
        check_laws(own_cache, writes_to_cache, toys.inputs(rng, (3, 4), (3, 4)))


def test_breaches_on_the_strict_library(xp, rng):
    args = xp.asarrays(toys.inputs(rng, (3, 4), (3, 4)))
    for backward in (writes_to_dy, affine_in_dy, transposed_shape):
        with pytest.raises(LawViolation):
            check_laws(toys.product, backward, args)


@pytest.mark.parametrize("make", [accumulates, reuses_a_buffer])
def test_results_of_two_calls_are_independent(make, rng):
    with pytest.raises(LawViolation, match="backward repeatable"):
        check_laws(toys.product, make(), toys.inputs(rng, (3, 4), (3, 4)))


def test_another_forward_leaves_the_cache_alone(rng):
    """A workspace that is shared between calls."""
    workspace = {}

    def forward(x, w):
        shared = workspace.setdefault((x.shape, x.dtype), np.empty_like(x))
        shared[...] = x
        return np.sin(x) * w, (shared, w.copy())

    with pytest.raises(LawViolation, match="backward repeatable"):
        check_laws(forward, toys.product_backward, toys.inputs(rng, (3, 4), (3, 4)))


def test_selection(rng):
    args = toys.inputs(rng, (3, 4), (3, 4))

    def sound(dy, cache, wrt=("x", "w")):
        return tuple(g if n in wrt else None for n, g in zip(("x", "w"), toys.product_backward(dy, cache), strict=True))

    def gives_all(dy, cache, wrt=("x", "w")):
        return toys.product_backward(dy, cache)

    def gives_other(dy, cache, wrt=("x", "w")):
        dx, dw = sound(dy, cache, wrt)
        return (dx if dw is not None else None if dx is None else 2 * dx), dw

    def gives_none(dy, cache, wrt=("x", "w")):
        return sound(dy, cache, wrt) if len(wrt) > 1 else (None, None)

    check_laws(toys.product, sound, args)
    for wrong in (gives_all, gives_other, gives_none):
        with pytest.raises(LawViolation, match="selection"):
            check_laws(toys.product, wrong, args)


def test_no_cache(rng):
    args = toys.inputs(rng, (3, 4), (3, 4))

    def option(x, w, *, cache=True, wrong=None):
        y, made = toys.product(x, w)
        if not cache and wrong == "y":
            y = y + 1.0
        return y, made if cache or wrong == "cache" else None

    check_laws(option, toys.product_backward, args)
    for wrong in ("y", "cache"):
        with pytest.raises(LawViolation, match="no cache"):
            check_laws(functools.partial(option, wrong=wrong), toys.product_backward, args)


def test_randomness_is_an_argument(rng):
    def dropout(x, p, rng):
        keep = rng.random(x.shape) >= p
        return x * keep, keep

    check_laws(dropout, lambda dy, keep: dy * keep, (rng.normal(size=(4, 5)), 0.3, np.random.default_rng(1)))


def test_message_says_how_to_repeat(rng):
    with pytest.raises(LawViolation, match=r"product .*x float64\(3, 4\), w float64\(3, 4\).* seed 5"):
        check_laws(toys.product, clipped, toys.inputs(rng, (3, 4), (3, 4)), seed=5)
