"""Low-rank adaptation: a frozen weight W learns an update of rank r, the product of two thin matrices.

    W' = W + s B A        s = α/r        W (Cout, Cin), A (r, Cin), B (Cout, r)

B starts at zero, so that an adapted layer first computes exactly what it computed before. Two forms of one idea:

    LoRALinear    y = base(x) + s (x Aᵀ) Bᵀ      the update acts on x: neither W' nor its gradient is ever formed
    LoRAWeights   base computes with W'           for a weight inside a layer: recurrent stacks, convolutions

Both are transparent: they take the arguments of the layer they wrap, and other attributes are read from it, so a parent
whose `children[name]` is replaced by one notices nothing. Replacing, merging and saving: `adapt/adaptation.py`.

[Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1; A is drawn as in the paper's code]
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minilm.backend import Array, array_namespace, asarray_like
from minilm.layers.base import Gradients, Layer, merge
from minilm.layers.initialization import uniform
from minilm.layers.linear import Linear
from minilm.ops.dropout import DropoutCache, dropout, dropout_backward
from minilm.ops.linear import LinearCache, linear, linear_backward


class LoRA(Layer):
    """What both forms share: the child `base`, whose weights are frozen, and the factors A and B of their updates.

    `adapted` names the weights of `base` that are updated. A weight with more than two axes, a convolution's
    (Cout, Cin, K), counts as the matrix (Cout, Cin·K). Raises ValueError for a rank outside 1..min(Cout, Cin).
    """

    adapted: tuple[str, ...]

    def __init__(
        self, base: Layer, adapted: tuple[str, ...], rank: int, alpha: float, rng: np.random.Generator
    ) -> None:
        super().__init__()
        self.children["base"] = base
        self.adapted, self.rank, self.alpha = adapted, rank, alpha
        for name in adapted:
            weight = base.params[name]
            rows, columns = matrix_shape(weight)
            if not 1 <= rank <= min(rows, columns):
                raise ValueError(f"LoRA rank {rank} does not fit {name} {weight.shape}; choose 1..{min(rows, columns)}")
            # The paper's code draws A by kaiming_uniform_(a=√5), which is U(−1/√Cin, 1/√Cin).
            a = uniform(rng, (rank, columns), columns**-0.5, "float64").astype(weight.dtype)
            name_a, name_b = self.factor_names(name)
            self.params[name_a] = asarray_like(a, weight)  # (r, Cin)
            self.params[name_b] = array_namespace(weight).zeros((rows, rank), dtype=weight.dtype)  # (Cout, r)
        self.scale = alpha / rank
        base.freeze()

    def __getattr__(self, name: str) -> Any:
        """What this layer has not is read from the wrapped one: its weights as W', its methods computing with W'."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            base = self.__dict__.get("children", {}).get("base")
            if base is None:  # while being copied or unpickled
                raise
        value = getattr(base, name)
        changed = name in self.adapted or getattr(value, "__self__", None) is base
        return getattr(self.effective(), name) if changed else value

    def factor_names(self, weight: str) -> tuple[str, str]:
        """The names of A and B of one adapted weight."""
        return f"{weight}_lora_A", f"{weight}_lora_B"

    def effective_weight(self, name: str) -> Array:
        """W' = W + s B A, a new array in the shape of W."""
        name_a, name_b = self.factor_names(name)
        weight = self.base.params[name]
        update = self.params[name_b] @ (self.scale * self.params[name_a])  # (Cout, Cin)
        return weight + update.reshape(weight.shape)

    def effective(self) -> Layer:
        """The wrapped layer with W' in place of W: a plain layer that computes the same. W itself is not touched."""
        return self.base.with_params(**{name: self.effective_weight(name) for name in self.adapted})


class LoRALinearCache(NamedTuple):
    """The caches of the parts. x is kept once (both branches borrow it), besides the r numbers a position of s x Aᵀ."""

    base: Any
    dropout: DropoutCache | None
    down: LinearCache
    up: LinearCache


class LoRALinear(LoRA):
    """y = base(x) + s (D(x) Aᵀ) Bᵀ with D dropout, for a child `base` that is a `Linear`. x (..., Cin), y (..., Cout).

    With u = s D(x) Aᵀ, of which there are r numbers a position,

        ∂L/∂B = dyᵀ u        ∂L/∂u = dy B        ∂L/∂A = s (∂L/∂u)ᵀ D(x)        dx = dy W + s D'((∂L/∂u) A)

    so the adapter costs r (Cin + Cout) multiplications a position in each product, and ∂L/∂W = dyᵀ x, which would cost
    Cin·Cout, is not computed.
    """

    def __init__(
        self,
        base: Linear,
        rank: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        *,
        rng: np.random.Generator,
    ) -> None:
        super().__init__(base, ("weight",), rank, alpha, rng)
        self.dropout = dropout

    def factor_names(self, weight: str) -> tuple[str, str]:
        return "lora_A", "lora_B"

    def forward(
        self, x: Array, *, train: bool = True, cache: bool = True, rng: Any = None
    ) -> tuple[Array, LoRALinearCache | None]:
        """y, cache. Raises ValueError where dropout has no generator to draw from."""
        y, base_cache = self.base.forward(x, train=train, cache=cache, rng=rng)  # (..., Cout)
        dropped, dropout_cache = x, None
        if train and self.dropout > 0:
            if rng is None:
                raise ValueError(f"LoRA dropout {self.dropout} draws random numbers while training; pass rng=")
            dropped, dropout_cache = dropout(x, self.dropout, rng, cache=cache)
        low, down = linear(dropped, self.lora_A, cache=cache)  # (..., r)
        update, up = linear(self.scale * low, self.lora_B, cache=cache)  # (..., Cout)
        return y + update, LoRALinearCache(base_cache, dropout_cache, down, up) if cache else None

    def backward(self, dy: Array, cache: LoRALinearCache, *, need_dx: bool = True) -> tuple[Array | None, Gradients]:
        trained = {name for name in ("lora_A", "lora_B") if name not in self.frozen}
        dx, grads = None, {}
        if need_dx or not self.base.is_frozen:  # a bias of the base may be trained
            dx, base_grads = self.base.backward(dy, cache.base, need_dx=need_dx)
            merge(grads, base_grads, "base.")
        below = need_dx or "lora_A" in trained
        wrt = ({"x"} if below else set()) | ({"weight"} if "lora_B" in trained else set())
        dlow, dlora_b, _ = linear_backward(dy, cache.up, wrt=wrt)  # (..., r), (Cout, r)
        dlora_a = None
        if below:
            wrt = ({"x"} if need_dx else set()) | ({"weight"} if "lora_A" in trained else set())
            through, dlora_a, _ = linear_backward(self.scale * dlow, cache.down, wrt=wrt)  # (..., Cin), (r, Cin)
            if need_dx:
                dx = dx + (through if cache.dropout is None else dropout_backward(through, cache.dropout))
        return dx, grads | self.grads(lora_A=dlora_a, lora_B=dlora_b)


class LoRAWeightsCache(NamedTuple):
    """The layer that computed with W', and its cache. W' is kept by them, as any layer's weight is."""

    layer: Layer
    factors: dict[str, tuple[Array, Array]]  # A (r, Cin) and B (Cout, r) of each adapted weight, borrowed
    cache: Any


class LoRAWeights(LoRA):
    """Any layer computing with W' = W + s B A in place of each weight W that `adapted` names.

        ∂L/∂B = s G Aᵀ        ∂L/∂A = s Bᵀ G        with G = ∂L/∂W' (Cout, Cin)

    Here G *is* formed, by the wrapped layer's own backward: inside a recurrent loop its factors, the gates' gradients
    and the states before them, are not ours to see. So one step does the products of full training and those with A
    and B besides; what is saved is the optimizer's state and the size of what is stored, not the time. W' is formed at
    every forward: merge before generating token by token. Dropout on the adapter's input has no meaning for a weight.
    """

    def __init__(
        self,
        base: Layer,
        adapted: tuple[str, ...],
        rank: int = 8,
        alpha: float = 16.0,
        *,
        rng: np.random.Generator,
    ) -> None:
        super().__init__(base, adapted, rank, alpha, rng)

    def extend(self, x: Any, state: Any = None) -> tuple[Any, Any]:
        return self.effective().extend(x, state)

    def forward(
        self, x: Any, *args: Any, train: bool = True, cache: bool = True, rng: Any = None, **kwargs: Any
    ) -> tuple[Any, LoRAWeightsCache | None]:
        layer = self.effective()
        y, inner = layer.forward(x, *args, train=train, cache=cache, rng=rng, **kwargs)
        if not cache:
            return y, None
        factors = {name: tuple(self.params[f] for f in self.factor_names(name)) for name in self.adapted}
        return y, LoRAWeightsCache(layer, factors, inner)

    def backward(self, dy: Any, cache: LoRAWeightsCache, *, need_dx: bool = True) -> tuple[Any, Gradients]:
        layer = cache.layer.with_params()
        # Where A and B are both frozen, so is W', and G is not formed.
        used = [name for name in self.adapted if not self.frozen.issuperset(self.factor_names(name))]
        layer.frozen = self.base.frozen.difference(used)
        dx, grads = layer.backward(dy, cache.cache, need_dx=need_dx)
        own: Gradients = {}
        for name in used:
            gradient = grads[name].reshape(grads[name].shape[0], -1) * self.scale  # (Cout, Cin)
            if name in self.base.frozen:
                del grads[name]
            a, b = cache.factors[name]
            name_a, name_b = self.factor_names(name)
            if name_a not in self.frozen:
                own[name_a] = b.T @ gradient  # (r, Cin)
            if name_b not in self.frozen:
                own[name_b] = gradient @ a.T  # (Cout, r)
        return dx, merge(own, grads, "base.")


def matrix_shape(weight: Array) -> tuple[int, int]:
    """(Cout, Cin) of a weight seen as a matrix: the axes after the first count as one."""
    return weight.shape[0], weight.size // max(weight.shape[0], 1)
