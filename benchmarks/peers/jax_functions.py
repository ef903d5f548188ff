"""Variants from functions in JAX, compiled by XLA.

Forward and backward are compiled apart, as ours are: the forward gives the output and what `jax.vjp` keeps, and the
backward applies that. Every call waits for its result: JAX returns before it is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.variants import Variant, host
from minilm.backend import to_numpy


def variant(
    jax: Any, function: Callable[..., Any], inputs: Sequence[Any], dy: Any, constants: Sequence[Any] = ()
) -> Variant:
    """y = function(*inputs, *constants) and the gradients of the inputs from dy (1 for a scalar y)."""
    device = jax.devices("cpu")[0]
    arrays = [jax.device_put(to_numpy(x), device) for x in inputs]
    fixed = [jax.device_put(to_numpy(x), device) for x in constants]
    gradient = jax.device_put(to_numpy(dy) if hasattr(dy, "shape") else to_numpy(inputs[0]).dtype.type(1), device)

    @jax.jit
    def differentiable(arrays: Any, fixed: Any) -> Any:
        return jax.vjp(lambda *args: function(*args, *fixed), *arrays)  # y, dy -> gradients

    apply = jax.jit(lambda transposed, gradient: transposed(gradient))

    def forward() -> Any:
        return jax.block_until_ready(differentiable(arrays, fixed))

    def backward(state: Any) -> Any:
        return jax.block_until_ready(apply(state[1], gradient))

    def results() -> list[Any]:
        state = forward()
        return host(state[0]) + host(list(backward(state)))

    return Variant(forward, backward, results)


def conv1d(jax: Any) -> Callable[..., Any]:
    """x (B, T, C), weight (out, in, K), padded so that the length stays."""

    def function(x: Any, weight: Any, bias: Any) -> Any:
        layout = ("NWC", "OIW", "NWC")
        return jax.lax.conv_general_dilated(x, weight, (1,), "SAME", dimension_numbers=layout) + bias

    return function


def attention(jax: Any) -> Callable[..., Any]:
    """q, k, v (B, H, T, D), causal; JAX keeps the heads behind the time."""

    def function(q: Any, k: Any, v: Any) -> Any:
        turned = (x.swapaxes(1, 2) for x in (q, k, v))  # (B, T, H, D)
        return jax.nn.dot_product_attention(*turned, is_causal=True).swapaxes(1, 2)

    return function


def cross_entropy(jax: Any) -> Callable[..., Any]:
    """The mean over rows of −log softmax(logits)[target]."""

    def function(logits: Any, targets: Any) -> Any:
        chosen = jax.numpy.take_along_axis(logits, targets[:, None], axis=1)[:, 0]
        return (jax.nn.logsumexp(logits, axis=1) - chosen).mean()

    return function


def layer_norm(jax: Any) -> Callable[..., Any]:
    """gain · (x − μ)/σ + bias over the last axis."""

    def function(x: Any, gain: Any, bias: Any) -> Any:
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = (centred * centred).mean(axis=-1, keepdims=True)
        return gain * centred * jax.lax.rsqrt(variance + 1e-5) + bias

    return function
