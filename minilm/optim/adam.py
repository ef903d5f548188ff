"""Adam and AdamW: steps scaled by running moments of the gradient.

    m ← β₁ m + (1 − β₁) g           mean of the gradient
    v ← β₂ v + (1 − β₂) g²          mean of its square
    m̂ = m / (1 − β₁ᵗ)    v̂ = v / (1 − β₂ᵗ)      both start at 0: this undoes the bias towards it
    p ← p − η m̂ / (√v̂ + ε)                                                       [Kingma & Ba 2015, algorithm 1]

Weight decay λ is added to the gradient by Adam, g ← g + λ p, and so is divided by √v̂ too; AdamW shrinks the parameter
itself, p ← (1 − η λ) p, before the update.                                      [Loshchilov & Hutter 2019, algorithm 2]
The same as `torch.optim.Adam` and `AdamW`, but for which parameters decay in AdamW: see `default_no_decay`.
"""

from __future__ import annotations

from collections.abc import Callable

from minilm.backend import Array
from minilm.checks import number
from minilm.layers.base import Layer
from minilm.optim.optimizer import Optimizer


def default_no_decay(layer: Layer) -> Callable[[str, Array], bool]:
    """The rule (name, array) -> True for the parameters of `layer` that AdamW does not decay.

    Gains and biases (fewer than two axes), and what a layer lists in its attribute `no_decay` (embedding tables): decay
    pulls these towards 0 without making the function simpler.
    """
    listed = {prefix + key for prefix, part in layer.walk() for key in getattr(part, "no_decay", ())}
    return lambda name, array: array.ndim < 2 or name in listed


class Adam(Optimizer):
    """`lr` η, `betas` (β₁, β₂), `eps` ε, `weight_decay` λ in the gradient, of every parameter."""

    moments = ("mean", "square")
    decoupled = False

    def __init__(
        self,
        layer: Layer,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        no_decay: Callable[[str, Array], bool] = lambda name, array: False,
    ) -> None:
        if len(betas) != 2:
            raise ValueError(f"betas are {betas}, expected two numbers, at least 0 and below 1")
        self.betas = (number("betas[0]", betas[0], below=1), number("betas[1]", betas[1], below=1))
        self.eps = number("eps", eps)
        super().__init__(layer, lr, weight_decay, no_decay)

    def _update(self, p: Array, g: Array, scratch: Array, *moments: Array, lr: float, decay: float) -> None:
        xp, (beta1, beta2), (m, v) = self.xp, self.betas, moments
        if decay and self.decoupled:
            xp.multiply(p, 1.0 - lr * decay, out=p)
        elif decay:
            xp.multiply(p, decay, out=scratch)
            xp.add(g, scratch, out=g)

        xp.subtract(g, m, out=scratch)  # m + (1 − β₁)(g − m): one rounding of m fewer than β₁ m + (1 − β₁) g
        xp.multiply(scratch, 1.0 - beta1, out=scratch)
        xp.add(m, scratch, out=m)

        xp.multiply(v, beta2, out=v)
        xp.multiply(g, g, out=scratch)
        xp.multiply(scratch, 1.0 - beta2, out=scratch)
        xp.add(v, scratch, out=v)

        # m̂ / (√v̂ + ε) = √c₂ / c₁ · m / (√v + √c₂ ε): the corrections move to two scalars  [section 2, last paragraph]
        correction1, correction2 = 1.0 - beta1**self.steps, (1.0 - beta2**self.steps) ** 0.5
        xp.sqrt(v, out=scratch)
        xp.add(scratch, self.eps * correction2, out=scratch)
        xp.divide(m, scratch, out=scratch)
        xp.multiply(scratch, lr * correction2 / correction1, out=scratch)
        xp.subtract(p, scratch, out=p)


class AdamW(Adam):
    """Adam with decoupled weight decay. `no_decay` is `default_no_decay(layer)` unless it is given."""

    decoupled = True

    def __init__(
        self,
        layer: Layer,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        no_decay: Callable[[str, Array], bool] | None = None,
    ) -> None:
        super().__init__(layer, lr, betas, eps, weight_decay, no_decay or default_no_decay(layer))
