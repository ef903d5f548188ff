"""LoRA on one linear map, by hand: forward, backward, the check of both, and a small real task.

    python examples/lora_by_hand.py          # a few seconds

A trained weight W stays as it is and learns an update of rank r, the product of two thin matrices:

    y = x Wᵀ + s (x Aᵀ) Bᵀ        x (N, Cin), W (Cout, Cin), A (r, Cin), B (Cout, r), s = α/r

With u = x Aᵀ the r numbers per row in the middle:

    ∂L/∂B = s dyᵀ u        ∂L/∂u = s dy B        ∂L/∂A = (∂L/∂u)ᵀ x        ∂L/∂x = dy W + (∂L/∂u) A

W gets no gradient: dyᵀ x, the largest product of a backward pass, is not formed. B starts at zero, so that the adapted
map first computes exactly what it computed before.

The task: a linear map from the last four characters to the next one is trained on the five books of Moses, then adapted
to the Psalms, once by A and B alone, once by training all of W.

[Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minilm.adapt import LoRALinear
from minilm.gradcheck import Report, check_laws, gradcheck
from minilm.layers import Linear, bind
from minilm.ops import cross_entropy, linear
from minilm.text.kjv import BOOKS, kjv_verses

Arrays = dict[str, Any]

# ---- LoRA


class LoRACache(NamedTuple):
    """The caches of the three products, and s."""

    base: Any  # x Wᵀ
    down: Any  # u = x Aᵀ
    up: Any  # u Bᵀ
    scale: float


def lora(x: Any, weight: Any, a: Any, b: Any, scale: float) -> tuple[Any, LoRACache]:
    """y = x Wᵀ + s (x Aᵀ) Bᵀ. x (N, Cin), weight (Cout, Cin), a (r, Cin), b (Cout, r); y (N, Cout)."""
    y, base = linear(x, weight)  # (N, Cout)
    u, down = linear(x, a)  # (N, r)
    update, up = linear(u, b)  # (N, Cout)
    return y + scale * update, LoRACache(base, down, up, scale)


def lora_backward(dy: Any, cache: LoRACache) -> tuple[Any, None, Any, Any]:
    """The gradients of x, weight, a and b: None for the weight, which is frozen."""
    base, down, up, scale = cache
    through_base, _, _ = linear.backward(dy, base, wrt=("x",))  # (N, Cin)
    du, db, _ = linear.backward(scale * dy, up)  # (N, r), (Cout, r)
    through_update, da, _ = linear.backward(du, down)  # (N, Cin), (r, Cin)
    return through_base + through_update, None, da, db


# ---- is it right?


def check(seed: int = 0) -> Report:
    """Every element of dx, dA and dB against the complex step, and the laws of a backward."""
    rng = np.random.default_rng(seed)
    args = rng.normal(size=(5, 7)), rng.normal(size=(4, 7)), rng.normal(size=(2, 7)), rng.normal(size=(4, 2)), 0.5
    checked = ("x", "a", "b")
    check_laws(lora, lora_backward, args, wrt=checked)
    return gradcheck(lora, lora_backward, args, wrt=checked, mode="full")


def difference_from_the_layer(seed: int = 0) -> float:
    """The largest difference from `minilm.adapt.LoRALinear`, over y, dx, dA and dB."""
    rng = np.random.default_rng(seed)
    layer = LoRALinear(Linear(7, 4, bias=False, rng=rng, dtype="float64"), rank=2, alpha=1.0, rng=rng)
    layer.params["lora_B"] = rng.normal(size=(4, 2))  # at zero, as it starts, it would hide dA
    x, dy = rng.normal(size=(5, 7)), rng.normal(size=(5, 4))
    own = layer.parameters()
    y, cache = lora(x, own["base.weight"], own["lora_A"], own["lora_B"], scale=1.0 / 2)
    dx, _, da, db = lora_backward(dy, cache)
    layer_y, backward = bind(layer, x)
    layer_dx, grads = backward(dy)
    pairs = (y, layer_y), (dx, layer_dx), (da, grads["lora_A"]), (db, grads["lora_B"])
    return max(float(np.abs(ours - theirs).max()) for ours, theirs in pairs)


# ---- the task

CONTEXT = 4  # characters that the next one is guessed from


class Text:
    """The characters of some books, as numbers; the last tenth is held out."""

    def __init__(self, books: tuple[str, ...], characters: list[str]) -> None:
        text = "".join(verse.text + "\n" for verse in kjv_verses() if verse.book in books)
        self.tokens, self.V = np.array([characters.index(c) for c in text]), len(characters)
        self.cut = len(text) * 9 // 10

    def rows(self, ends: Any) -> tuple[Any, Any]:
        """One-hot contexts (N, 4V), and the characters (N,) at `ends`, which follow them."""
        before = self.tokens[ends[:, None] + np.arange(-CONTEXT, 0)]  # (N, 4)
        return np.eye(self.V)[before].reshape(len(ends), -1), self.tokens[ends]

    def batch(self, rng: np.random.Generator, N: int = 256) -> tuple[Any, Any]:
        return self.rows(rng.integers(CONTEXT, self.cut, N))

    def held_out(self, weight: Any) -> float:
        """The mean loss, in nats per character, of 4,096 places in the held-out part."""
        x, targets = self.rows(np.linspace(self.cut + CONTEXT, len(self.tokens) - 1, 4096).astype(int))
        return float(cross_entropy(linear(x, weight)[0], targets)[0])


def train_whole(weight: Any, text: Text, steps: int, lr: float) -> Any:
    """All of W. Returns the new one."""

    def gradients(p: Arrays, x: Any, targets: Any) -> Arrays:
        logits, cache = linear(x, p["weight"])  # (N, V)
        _, entropy = cross_entropy(logits, targets)
        _, dweight, _ = linear.backward(cross_entropy.backward(1.0, entropy), cache, wrt=("weight",))
        return {"weight": dweight}

    return adam({"weight": weight}, gradients, text, steps, lr)["weight"]


def train_lora(weight: Any, text: Text, steps: int, lr: float, rank: int, scale: float = 1.0) -> tuple[Any, Any]:
    """A and B alone: W is read and never written."""
    rng = np.random.default_rng(1)
    Cout, Cin = weight.shape

    def gradients(p: Arrays, x: Any, targets: Any) -> Arrays:
        logits, cache = lora(x, weight, p["a"], p["b"], scale)  # (N, V)
        _, entropy = cross_entropy(logits, targets)
        _, _, da, db = lora_backward(cross_entropy.backward(1.0, entropy), cache)
        return {"a": da, "b": db}

    start = {"a": rng.uniform(-(Cin**-0.5), Cin**-0.5, (rank, Cin)), "b": np.zeros((Cout, rank))}
    trained = adam(start, gradients, text, steps, lr)
    return trained["a"], trained["b"]


def adam(p: Arrays, gradients: Callable[..., Arrays], text: Text, steps: int, lr: float) -> Arrays:
    """The parameters after `steps` of Adam, the learning rate falling to zero."""
    rng = np.random.default_rng(0)
    m, v = dict.fromkeys(p, 0.0), dict.fromkeys(p, 0.0)
    for step in range(1, steps + 1):
        for name, g in gradients(p, *text.batch(rng)).items():
            m[name], v[name] = 0.9 * m[name] + 0.1 * g, 0.99 * v[name] + 0.01 * g * g
            change = m[name] / (1 - 0.9**step) / (np.sqrt(v[name] / (1 - 0.99**step)) + 1e-8)
            p = p | {name: p[name] - lr * (1 - step / steps) * change}
    return p


def main(steps: int = 500, rank: int = 8) -> dict[str, float]:
    """Check, train, adapt, print. Returns the held-out losses on the Psalms."""
    print(check())
    print(f"largest difference from minilm.adapt.LoRALinear: {difference_from_the_layer():.1e}\n")

    characters = sorted({c for verse in kjv_verses() for c in verse.text} | {"\n"})
    law, psalms = Text(BOOKS[:5], characters), Text(("Psalms",), characters)
    weight = train_whole(np.zeros((law.V, CONTEXT * law.V)), law, steps, lr=0.03)
    a, b = train_lora(weight, psalms, steps, lr=0.01, rank=rank)
    whole = train_whole(weight, psalms, steps, lr=0.01)

    losses = {
        "W of the five books": psalms.held_out(weight),
        f"W + B A, rank {rank}": psalms.held_out(weight + b @ a),
        "all of W": psalms.held_out(whole),
    }
    trained = (0, a.size + b.size, whole.size)
    print("the Psalms, read by    numbers trained  held-out loss in nats per character")
    for (name, loss), count in zip(losses.items(), trained, strict=True):
        print(f"{name:21}  {count:15,}  {loss:.3f}")
    return losses


if __name__ == "__main__":
    main()
