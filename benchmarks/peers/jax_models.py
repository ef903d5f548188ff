"""A training step in JAX, on copies of our weights, compiled as a whole: what `gpt-step` is compared with."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.peers.jax_functions import copies, cross_entropy, layer_norm
from benchmarks.variants import Setting, Variant, call
from minilm.backend import to_numpy


def gpt_step(setting: Setting, model: Any, batch: Any) -> Variant:
    """One AdamW step of the preset `gpt` with a learning rate of 0. Compared: the loss and the gradients."""
    jax = setting.on_the_cpu("jax")
    device = jax.devices("cpu")[0]
    weights = {name: jax.device_put(to_numpy(array), device) for name, array in model.parameters().items()}
    texts = copies(setting, jax, [batch.ids, batch.targets])
    blocks = model.backbone.blocks.children
    differentiate = jax.value_and_grad(_gpt_loss(jax, len(blocks), blocks["0"].self_attn.attention.heads))

    @jax.jit
    def step(weights: Any, m: Any, v: Any, count: Any, lr: Any, texts: Any) -> Any:
        loss, gradients = differentiate(weights, *texts)
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, gradients)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, gradients)
        scale1, scale2 = 1 - 0.9**count, 1 - 0.999**count
        new = jax.tree.map(lambda w, m, v: w - lr * (m / scale1) / (jax.numpy.sqrt(v / scale2) + 1e-8), weights, m, v)
        return loss, gradients, new, m, v, count + 1

    zeros = jax.tree.map(jax.numpy.zeros_like, weights)
    state = [weights, zeros, zeros, jax.numpy.float32(1)]

    def run() -> Any:
        loss, gradients, *state[:] = jax.block_until_ready(step(*state, jax.numpy.float32(0), texts))
        return loss, gradients

    names = list(model.parameters())
    return call(run, lambda value: [value[0], *(value[1][name] for name in names)])


def _gpt_loss(jax: Any, layers: int, heads: int) -> Callable[..., Any]:
    """(weights, ids, targets) -> mean cross-entropy, for learned positions, pre-norm blocks, a tied head, no biases."""
    norm = partial(layer_norm, jax)

    def loss_of(weights: Any, ids: Any, targets: Any) -> Any:
        def of(name: str) -> Any:
            return weights[f"backbone.{name}.weight"]

        (B, T), C = ids.shape, of("embedding").shape[1]
        x = of("embedding")[ids] + of("positions")[:T]  # (B, T, C)
        for block in (f"blocks.{number}" for number in range(layers)):
            qkv = norm(x, of(f"{block}.norm1"), 0.0) @ of(f"{block}.self_attn.in_proj").T  # (B, T, 3C)
            q, k, v = (part.reshape(B, T, heads, C // heads) for part in jax.numpy.split(qkv, 3, axis=2))
            y = jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(B, T, C)
            x = x + y @ of(f"{block}.self_attn.out_proj").T
            h = jax.nn.gelu(norm(x, of(f"{block}.norm2"), 0.0) @ of(f"{block}.linear1").T, approximate=True)
            x = x + h @ of(f"{block}.linear2").T
        logits = norm(x, of("norm"), 0.0) @ of("embedding").T  # (B, T, V)
        return cross_entropy(jax, logits.reshape(B * T, -1), targets.reshape(-1))

    return loss_of
