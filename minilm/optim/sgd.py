"""Stochastic gradient descent, with momentum and Nesterov's look-ahead.

    g ← ∇L + λ p            weight decay λ, on every parameter
    u ← μ u + g             momentum μ                                            [Polyak 1964]
    p ← p − η u             or, with Nesterov,  p ← p − η (g + μ u)               [Sutskever et al. 2013, eq. 3–4]

The same as `torch.optim.SGD` with no dampening: η multiplies u, rather than being mixed into it.
"""

from __future__ import annotations

from minilm.backend import Array
from minilm.checks import number
from minilm.layers.base import Layer
from minilm.optim.optimizer import Optimizer


class SGD(Optimizer):
    """`lr` η, `momentum` μ, `weight_decay` λ. Without momentum nothing is kept between steps."""

    def __init__(
        self, layer: Layer, lr: float, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0
    ) -> None:
        self.momentum, self.nesterov = number("momentum", momentum), nesterov
        if nesterov and not momentum:
            raise ValueError("Nesterov's look-ahead needs a momentum above 0")
        self.moments = ("momentum",) if momentum else ()
        super().__init__(layer, lr, weight_decay)

    def _update(self, p: Array, g: Array, scratch: Array, *moments: Array, lr: float, decay: float) -> None:
        xp = self.xp
        if decay:
            xp.multiply(p, decay, out=scratch)
            xp.add(g, scratch, out=g)
        update = g
        if self.momentum:
            (u,) = moments
            xp.multiply(u, self.momentum, out=u)
            xp.add(u, g, out=u)
            update = u
            if self.nesterov:
                xp.multiply(u, self.momentum, out=scratch)
                update = xp.add(g, scratch, out=scratch)
        xp.multiply(update, lr, out=scratch)
        xp.subtract(p, scratch, out=p)
