"""Variants from functions in JAX, compiled by XLA.

Forward and backward are compiled apart, as ours are: the forward gives the output and what `jax.vjp` keeps, and the
backward applies that. Every call waits for its result: JAX returns before it is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.variants import Setting, Variant


def variant(
    setting: Setting, function: Callable[..., Any], inputs: Sequence[Any], dy: Any, constants: Sequence[Any] = ()
) -> Variant:
    """y = function(*inputs, *constants) and the gradients of the inputs from dy (1 for a scalar y)."""
    jax = setting.on_the_cpu("jax")
    arrays, fixed = copies(setting, jax, inputs), copies(setting, jax, constants)
    gradient = copies(setting, jax, [dy if hasattr(dy, "shape") else inputs[0].dtype.type(1)])

    @jax.jit
    def differentiable(arrays: Any, fixed: Any) -> Any:
        return jax.vjp(lambda *args: function(*args, *fixed), *arrays)  # y, dy -> gradients

    apply = jax.jit(lambda transposed, gradient: transposed(gradient))

    def forward() -> Any:
        return jax.block_until_ready(differentiable(arrays, fixed))

    def backward(state: Any) -> Any:
        return list(jax.block_until_ready(apply(state[1], gradient[0])))

    return Variant(forward, backward, lambda state: state[0])


def copies(setting: Setting, jax: Any, arrays: Sequence[Any]) -> list[Any]:
    """JAX's copies of arrays, in a list that changes with them."""
    device = jax.devices("cpu")[0]
    held = [jax.device_put(np.array(array), device) for array in arrays]
    for place, array in enumerate(arrays if setting.inputs else ()):
        setting.inputs.follow_jax(jax, array, held, place)
    return held


# ---- functions of JAX, the library first


def conv1d(jax: Any, x: Any, weight: Any, bias: Any) -> Any:
    """x (B, T, C), weight (out, in, K), padded so that the length stays."""
    layout = ("NWC", "OIW", "NWC")
    return jax.lax.conv_general_dilated(x, weight, (1,), "SAME", dimension_numbers=layout) + bias


def attention(jax: Any, q: Any, k: Any, v: Any, causal: bool = True) -> Any:
    """q, k, v (B, H, T, D); JAX keeps the heads behind the time."""
    turned = (x.swapaxes(1, 2) for x in (q, k, v))  # (B, T, H, D)
    return jax.nn.dot_product_attention(*turned, is_causal=causal).swapaxes(1, 2)


def cross_entropy(jax: Any, logits: Any, targets: Any) -> Any:
    """The mean over rows of −log softmax(logits)[target]."""
    chosen = jax.numpy.take_along_axis(logits, targets[:, None], axis=1)[:, 0]
    return (jax.nn.logsumexp(logits, axis=1) - chosen).mean()


def layer_norm(jax: Any, x: Any, gain: Any, bias: Any) -> Any:
    """gain · (x − μ)/σ + bias over the last axis."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    return gain * centred * jax.lax.rsqrt(variance + 1e-5) + bias
