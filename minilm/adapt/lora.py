"""Low-rank adaptation: a frozen weight W learns an update of rank r, the product of two thin matrices.

    W' = W + s B A        s = α/r        W (Cout, Cin), A (r, Cin), B (Cout, r)

B starts at zero, so that an adapted layer first computes exactly what it computed before. Two forms of one idea:

    LoRALinear    y = base(x) + s (x Aᵀ) Bᵀ      the update acts on x: neither W' nor its gradient is ever formed
    LoRAWeights   base computes with W'           for a weight inside a layer: recurrent stacks, convolutions

    apply_lora(model, rank=8, targets=("*.self_attn.*",), train=("head.*",), rng=rng)

Both take the arguments of the layer they wrap, so that a parent notices nothing. Merging and saving: `wrapping.py`.

[Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1; A is drawn as in the paper's code]
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from minilm.adapt.method import HEAD, Method
from minilm.adapt.wrapping import Site, Wrapper, listed, matching_parameters, refuse_adapted, sites, wrap
from minilm.backend import Array, array_namespace, asarray_like, generator
from minilm.layers.base import Gradients, Layer, merge
from minilm.layers.dropout import Dropout
from minilm.layers.embedding import Embedding
from minilm.layers.initialization import uniform
from minilm.layers.linear import Linear
from minilm.layers.positional import PositionalEncoding
from minilm.ops.linear import LinearCache, linear, linear_backward
from minilm.options import check_options, option


class LoRA(Wrapper):
    """What both forms share: the factors A and B of the updates of the weights of `base` that `adapted` names.

    A weight with more than two axes, a convolution's (Cout, Cin, K), counts as the matrix (Cout, Cin·K).
    Raises ValueError for a rank outside 1..min(Cout, Cin).
    """

    def __init__(
        self, base: Layer, adapted: tuple[str, ...], rank: int = 8, alpha: float = 16.0, *, rng: np.random.Generator
    ) -> None:
        super().__init__(base)
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

    def factor_names(self, weight: str) -> tuple[str, str]:
        """The names of A and B of one adapted weight."""
        return f"{weight}_lora_A", f"{weight}_lora_B"

    def merged_weights(self) -> dict[str, Array]:
        """W' = W + s B A of each adapted weight, new arrays in the shape of W."""
        merged = {}
        for name in self.adapted:
            weight, (name_a, name_b) = self.base.params[name], self.factor_names(name)
            update = self.params[name_b] @ (self.scale * self.params[name_a])  # (Cout, Cin)
            merged[name] = weight + update.reshape(weight.shape)
        return merged


class LoRALinearCache(NamedTuple):
    """The caches of the parts. x is kept once (both branches borrow it), besides the r numbers a position of s x Aᵀ."""

    base: Any
    dropout: Any
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
        self, base: Linear, rank: int = 8, alpha: float = 16.0, dropout: float = 0.0, *, rng: np.random.Generator
    ) -> None:
        super().__init__(base, ("weight",), rank, alpha, rng=rng)
        self.children["dropout"] = Dropout(dropout)

    def factor_names(self, weight: str) -> tuple[str, str]:
        return "lora_A", "lora_B"

    def forward(
        self, x: Array, *, train: bool = True, cache: bool = True, rng: Any = None
    ) -> tuple[Array, LoRALinearCache | None]:
        """y, cache. Raises ValueError where dropout has no generator to draw from."""
        y, base_cache = self.base.forward(x, train=train, cache=cache, rng=rng)  # (..., Cout)
        dropped, dropout_cache = self.children["dropout"].forward(x, train=train, cache=cache, rng=rng)
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
                dx = dx + self.children["dropout"].backward(through, cache.dropout)[0]
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


# ---- on whole models


def linear_maps(model: Layer) -> dict[str, tuple[str, Layer, str]]:
    """The weights below `model` that LoRA can adapt, by dotted name: each with its layer's name, layer, and own name.

    A linear map is a parameter called weight... with two axes or more. Tables of embeddings and of positions are none:
    they are looked up, not multiplied with. A layer in two places has the name of the first.
    """
    first: dict[int, Site] = {}
    for site in sites(model):
        first.setdefault(id(site.layer), site)
    return {
        f"{site.name}.{name}": (site.name, site.layer, name)
        for site in first.values()
        if not isinstance(site.layer, Wrapper | PositionalEncoding | Embedding)
        for name, weight in site.layer.params.items()
        if name.startswith("weight") and weight.ndim >= 2
    }


def apply_lora(
    model: Layer,
    rank: int = 8,
    alpha: float = 16.0,
    targets: Iterable[str] = ("*",),
    *,
    train: Iterable[str] = (),
    dropout: float = 0.0,
    rng: np.random.Generator | None = None,
) -> list[str]:
    """Freeze `model` and put a LoRA adapter on every linear map that `targets` names. Returns the adapted names.

    targets     patterns over dotted names of layers ("*.self_attn.*", "backbone.rnn") or of weights ("*.weight_hh*")
    train       patterns over names of parameters that are trained whole, with no adapter: a new head, say
    dropout     on what the adapters read; only `Linear` layers have that
    rng         draws A; without one it is generator(0), as when the weights are loaded next

    The optimizer must be made afterwards. Raises ValueError, and changes nothing, for a pattern that matches nothing, a
    rank outside 1..min(Cout, Cin) of a matched weight, or options out of range.
    """
    patterns = (targets,) if isinstance(targets, str) else tuple(targets)
    options = LoRAOptions(rank, alpha, patterns, dropout)  # checks them
    refuse_adapted(model)
    trained = matching_parameters(model, (train,) if isinstance(train, str) else train)
    candidates = linear_maps(model)
    chosen: dict[str, list[str]] = {}  # own names of weights, by the layer's name
    for full_name, (site, layer, name) in candidates.items():
        matches = any(fnmatchcase(n, pattern) for pattern in options.targets for n in (site, full_name))
        if (id(layer), name) in trained or not matches:
            continue
        rows, columns = matrix_shape(layer.params[name])
        if options.rank > min(rows, columns):
            raise ValueError(
                f"LoRA rank {rank} does not fit {full_name} ({rows}, {columns}): at most {min(rows, columns)}; lower "
                "the rank, or leave this layer out of targets, or train it whole (train=)"
            )
        if dropout and not isinstance(layer, Linear):
            raise ValueError(
                f"LoRA dropout {dropout} is not defined for {full_name}, whose update is added to the weight; use "
                "dropout=0 or targets that name Linear layers only"
            )
        chosen.setdefault(site, []).append(name)
    if not chosen:
        raise ValueError(f"no linear map matches targets {', '.join(options.targets)}; there are {listed(candidates)}")
    rng = generator(0) if rng is None else rng
    wrap(model, {name: partial(_adapter, weights=tuple(own), options=options, rng=rng) for name, own in chosen.items()})
    for layer, name in trained.values():
        layer.frozen.discard(name)
    return [f"{layer}.{name}" for layer, names in chosen.items() for name in names]


def _adapter(layer: Layer, *, weights: tuple[str, ...], options: LoRAOptions, rng: np.random.Generator) -> LoRA:
    if isinstance(layer, Linear):
        return LoRALinear(layer, options.rank, options.alpha, options.adapter_dropout, rng=rng)
    return LoRAWeights(layer, weights, options.rank, options.alpha, rng=rng)


@dataclass(frozen=True)
class LoRAOptions:
    """What can be said about LoRA."""

    rank: int = option(8, "rank of the updates", at_least=1)
    alpha: float = option(16.0, "updates count alpha/rank")
    targets: tuple[str, ...] = option(("*",), "layers whose linear maps get an update, by name pattern")
    adapter_dropout: float = option(0.0, "dropout on what the updates read; linear layers only", below=1.0)

    def __post_init__(self) -> None:
        check_options(self)
        if self.alpha == 0:
            raise ValueError("alpha is 0, expected a finite number above 0")


def _install(model: Layer, options: LoRAOptions, rng: np.random.Generator) -> list[str]:
    return apply_lora(
        model, options.rank, options.alpha, options.targets, train=(HEAD,), dropout=options.adapter_dropout, rng=rng
    )


LORA = Method("lora", "the head, and low-rank updates of linear maps", _install, 2e-3, LoRAOptions)
