"""A GPT on two screens: forward, backward, training and sampling from nothing but `minilm.ops`.

    python examples/gpt_from_ops.py          # trains on the King James text for half a minute, then writes

What the layers and models of minilm do, without them: no class, no state, one dict of parameters, one of gradients.
Parameters have the names of minilm's own GPT, and a test holds loss and gradients to it, bit by bit.

    x₀ = E[ids] + P          h = x + attention(norm(x))          x' = h + mlp(norm(h))          logits = norm(x_N) Eᵀ

Shapes: B batch, T time, C channels, H heads, D = C/H, V vocabulary.

[Radford et al. 2019, GPT-2; Kingma & Ba 2015, Adam]
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from minilm.ops import attention, cross_entropy, embedding, gelu, layer_norm, linear
from minilm.text.kjv import kjv_text

Arrays = dict[str, Any]

# ---- the model


def split_heads(x: Any, H: int) -> Any:
    B, T, C = x.shape
    return x.reshape(B, T, H, C // H).transpose(0, 2, 1, 3)  # (B, H, T, D)


def join_heads(x: Any) -> Any:
    B, H, T, D = x.shape
    return x.transpose(0, 2, 1, 3).reshape(B, T, H * D)  # (B, T, C)


def norm(x: Any, gain: Any) -> tuple[Any, Any]:
    return layer_norm(x, gain, np.zeros_like(gain))  # this GPT has no biases


def block(x: Any, p: Arrays, name: str, H: int) -> tuple[Any, Any]:
    """x + attention(norm(x)), then x + mlp(norm(x)). x (B, T, C)."""
    h, norm1 = norm(x, p[f"{name}.norm1.weight"])  # (B, T, C)
    qkv, project = linear(h, p[f"{name}.self_attn.in_proj.weight"])  # (B, T, 3C)
    q, k, v = (split_heads(part, H) for part in np.split(qkv, 3, axis=-1))  # (B, H, T, D)
    y, attend = attention(q, k, v, causal=True)  # (B, H, T, D)
    h, out = linear(join_heads(y), p[f"{name}.self_attn.out_proj.weight"])  # (B, T, C)
    x = x + h
    h, norm2 = norm(x, p[f"{name}.norm2.weight"])
    h, up = linear(h, p[f"{name}.linear1.weight"])  # (B, T, 4C)
    h, activate = gelu(h, approximate="tanh")
    h, down = linear(h, p[f"{name}.linear2.weight"])  # (B, T, C)
    return x + h, (norm1, project, attend, out, norm2, up, activate, down)


def block_backward(dx: Any, cache: Any, grads: Arrays, name: str, H: int) -> Any:
    """The same lines, read from the last to the first. A residual connection adds the gradients of its two ways."""
    norm1, project, attend, out, norm2, up, activate, down = cache
    dh, grads[f"{name}.linear2.weight"], _ = linear.backward(dx, down)  # (B, T, 4C)
    dh = gelu.backward(dh, activate)
    dh, grads[f"{name}.linear1.weight"], _ = linear.backward(dh, up)  # (B, T, C)
    dh, grads[f"{name}.norm2.weight"], _ = layer_norm.backward(dh, norm2)
    dx = dx + dh
    dh, grads[f"{name}.self_attn.out_proj.weight"], _ = linear.backward(dx, out)  # (B, T, C)
    dq, dk, dv, _ = attention.backward(split_heads(dh, H), attend)  # (B, H, T, D)
    dh = np.concatenate([join_heads(d) for d in (dq, dk, dv)], axis=-1)  # (B, T, 3C)
    dh, grads[f"{name}.self_attn.in_proj.weight"], _ = linear.backward(dh, project)  # (B, T, C)
    dh, grads[f"{name}.norm1.weight"], _ = layer_norm.backward(dh, norm1)
    return dx + dh


def forward(p: Arrays, ids: Any, layers: int, H: int) -> tuple[Any, Any]:
    """logits (B, T, V), cache. ids (B, T), T at most the number of positions."""
    T = ids.shape[1]
    x, look_up = embedding(ids, p["backbone.embedding.weight"])  # (B, T, C)
    x = x + p["backbone.positions.weight"][:T]
    blocks = []
    for n in range(layers):
        x, cache = block(x, p, f"backbone.blocks.{n}", H)
        blocks.append(cache)
    h, final = norm(x, p["backbone.norm.weight"])
    logits, head = linear(h, p["backbone.embedding.weight"])  # (B, T, V)  the embedding's own matrix
    return logits, (look_up, blocks, final, head)


def backward(dlogits: Any, cache: Any, p: Arrays, H: int) -> Arrays:
    """The gradient of every parameter. dlogits (B, T, V)."""
    look_up, blocks, final, head = cache
    grads: Arrays = {}
    dh, dhead, _ = linear.backward(dlogits, head)  # (B, T, C), (V, C)
    dx, grads["backbone.norm.weight"], _ = layer_norm.backward(dh, final)
    for n in reversed(range(len(blocks))):
        dx = block_backward(dx, blocks[n], grads, f"backbone.blocks.{n}", H)
    positions = np.zeros_like(p["backbone.positions.weight"])
    positions[: dx.shape[1]] = dx.sum(axis=0)
    grads["backbone.positions.weight"] = positions
    grads["backbone.embedding.weight"] = embedding.backward(dx, look_up) + dhead  # it is used twice
    return grads


def loss_and_gradients(p: Arrays, ids: Any, targets: Any, layers: int, H: int) -> tuple[Any, Arrays]:
    """Mean cross-entropy of the next token in nats, and its gradient for every parameter. ids, targets (B, T)."""
    logits, cache = forward(p, ids, layers, H)
    loss, entropy = cross_entropy(logits, targets)
    return loss, backward(cross_entropy.backward(1.0, entropy), cache, p, H)


# ---- training and sampling


def draw_parameters(rng: np.random.Generator, V: int, T: int, C: int, layers: int) -> Arrays:
    """N(0, 0.02²), the maps back into the residual stream smaller by √(2N); gains 1."""

    def normal(*shape: int, std: float = 0.02) -> Any:
        return rng.normal(0, std, shape).astype("float32")

    p = {"backbone.embedding.weight": normal(V, C), "backbone.positions.weight": normal(T, C)}
    for n in range(layers):
        name, back = f"backbone.blocks.{n}", 0.02 / (2 * layers) ** 0.5
        p[f"{name}.self_attn.in_proj.weight"] = normal(3 * C, C)
        p[f"{name}.self_attn.out_proj.weight"] = normal(C, C, std=back)
        p[f"{name}.linear1.weight"] = normal(4 * C, C)
        p[f"{name}.linear2.weight"] = normal(C, 4 * C, std=back)
        p[f"{name}.norm1.weight"] = p[f"{name}.norm2.weight"] = np.ones(C, "float32")
    return p | {"backbone.norm.weight": np.ones(C, "float32")}


def adam(p: Arrays, grads: Arrays, m: Arrays, v: Arrays, step: int, lr: float) -> None:
    """m ← β₁m + (1−β₁)g,  v ← β₂v + (1−β₂)g²,  p ← p − lr · m̂ / (√v̂ + ε). Writes to m and v; p gets new arrays."""
    for name, g in grads.items():
        m[name] = 0.9 * m.get(name, 0.0) + 0.1 * g
        v[name] = 0.99 * v.get(name, 0.0) + 0.01 * g * g
        m_hat, v_hat = m[name] / (1 - 0.9**step), v[name] / (1 - 0.99**step)
        p[name] = p[name] - lr * m_hat / (np.sqrt(v_hat) + 1e-8)


def windows(tokens: Any, rng: np.random.Generator, B: int, T: int) -> tuple[Any, Any]:
    """ids and targets (B, T): random windows of the text, and the same one token later."""
    starts = rng.integers(0, len(tokens) - T, B)
    rows = tokens[starts[:, None] + np.arange(T + 1)]  # (B, T + 1)
    return rows[:, :-1], rows[:, 1:]


def sample(p: Arrays, ids: list[int], count: int, layers: int, H: int, rng: np.random.Generator) -> list[int]:
    """`ids` and `count` tokens more, each drawn from softmax(logits / 0.8) of what precedes it."""
    T = len(p["backbone.positions.weight"])
    for _ in range(count):
        logits, _ = forward(p, np.array([ids[-T:]]), layers, H)
        noise = rng.gumbel(size=logits.shape[-1])  # the largest of logits + Gumbel noise is a draw from softmax
        ids = [*ids, int((logits[0, -1] / 0.8 + noise).argmax())]
    return ids


def main(steps: int = 500, B: int = 16, T: int = 32, C: int = 64, layers: int = 2, H: int = 4) -> list[float]:
    """Train for `steps`, print losses and a sample. Returns the held-out losses that were printed."""
    text = kjv_text()
    characters = sorted(set(text))
    tokens = np.array([characters.index(c) for c in text])
    train, held_out = tokens[: -len(tokens) // 10], tokens[-len(tokens) // 10 :]
    rng = np.random.default_rng(0)
    ids, targets = windows(held_out, rng, 64, T)
    p = draw_parameters(rng, len(characters), T, C, layers)
    print(f"{len(text):,} characters, {len(characters)} different; {sum(w.size for w in p.values()):,} parameters")

    m: Arrays = {}
    v: Arrays = {}
    losses, start = [], time.perf_counter()
    for step in range(1, steps + 1):
        _, grads = loss_and_gradients(p, *windows(train, rng, B, T), layers, H)
        adam(p, grads, m, v, step, lr=3e-3 * min(1.0, step / 50, 1.1 - step / steps))
        if step in (1, steps) or step % 100 == 0:
            losses.append(float(cross_entropy(forward(p, ids, layers, H)[0], targets)[0]))
            print(f"step {step:4}  held-out loss {losses[-1]:.3f} nats  {time.perf_counter() - start:4.1f} s")

    prompt = [characters.index(c) for c in "And God said"]
    print("".join(characters[i] for i in sample(p, prompt, 300, layers, H, rng)))
    return losses


if __name__ == "__main__":
    main()
