"""Layers one after the other: how blocks, backbones and models are put together.

    y = f_n(… f_2(f_1(x)))

    Chain        the composition, over a dictionary of layers
    Composite    the layer that owns them: parameters, names, and a chain
    Stack        the composite of equal layers, "0", "1", …

Here, and nowhere else, stands the rule that no work is done below what is frozen: backward ends at the lowest layer
that is trained, unless dx is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any, NamedTuple

from minilm.layers.base import Gradients, Layer, merge, under_first_names
from minilm.memory import add


class ChainCache(NamedTuple):
    steps: list[Any]  # of each step
    from_ids: bool  # x holds integers, which have no gradient


class Chain:
    """Layers out of the dictionary `layers`, applied in turn. It has the contract of a layer, but owns nothing.

    Chain(layers)                   all of them, in their order
    Chain(layers, "a", "b", "a")    those named; one that is named twice is used twice
    A step may be a chain over the same dictionary too: a `Residual`.

    The owner hands over its `children` themselves, not a copy: an adapter that takes a child's place is seen, and
    gradients have the owner's names. Options of forward are given by child: forward(x, self_attn={"causal": True}).
    """

    def __init__(self, layers: dict[str, Layer], *steps: str | Chain) -> None:
        self.layers, self._steps = layers, steps

    @property
    def steps(self) -> list[tuple[str, Any]]:
        """Each step as (name of the child, layer), or ("", chain)."""
        steps = self._steps or self.layers
        return [(step, self.layers[step]) if isinstance(step, str) else ("", step) for step in steps]

    @property
    def is_frozen(self) -> bool:
        return all(layer.is_frozen for _, layer in self.steps)

    @cached_property  # asked at every step of every backward; what takes a layer's place does as it does
    def reads_memory(self) -> bool:
        return any(layer.reads_memory for _, layer in self.steps)

    def forward(
        self, x: Any, *, train: bool = True, cache: bool = True, rng: Any = None, **options: dict[str, Any]
    ) -> tuple[Any, ChainCache | None]:
        """y, cache. Where x holds ids, nothing is kept below the lowest layer that is trained."""
        if unknown := options.keys() - self.layers.keys():
            raise TypeError(f"options for {', '.join(sorted(unknown))}, but the layers are {', '.join(self.layers)}")
        steps, from_ids = self.steps, x.dtype.kind in "iu"
        lowest = _lowest(steps) if cache and from_ids else 0
        caches = []
        for number, (name, layer) in enumerate(steps):
            given = options.get(name, {}) if name else options
            x, own = layer.forward(x, train=train, cache=cache and number >= lowest, rng=rng, **given)
            caches.append(own)
        return x, (ChainCache(caches, from_ids) if cache else None)

    def backward(
        self, dy: Any, cache: ChainCache, *, need_dx: bool = True, need_dmemory: bool | None = None
    ) -> tuple[Any, Gradients]:
        """dx and gradients; ((dx, dmemory), gradients) where a layer reads a memory, dmemory summed over those that do.

        `need_dmemory` is `need_dx` if not given.
        """
        need_dmemory = need_dx if need_dmemory is None else need_dmemory
        need_dx = need_dx and not cache.from_ids
        steps, grads, dmemory = self.steps, {}, None
        lowest = 0 if need_dx else _lowest(steps, need_dmemory)
        for number in reversed(range(lowest, len(steps))):
            (name, layer), kept, below = steps[number], cache.steps[number], need_dx or number > lowest
            if layer.reads_memory:
                (dy, more), own = layer.backward(dy, kept, need_dx=below, need_dmemory=need_dmemory)
                dmemory = more if dmemory is None else add(dmemory, more)
            else:
                dy, own = layer.backward(dy, kept, need_dx=below)
            merge(grads, own, f"{name}." if name else "")
        dx = dy if need_dx else None
        return ((dx, dmemory) if self.reads_memory else dx), grads

    def extend(self, x: Any, state: Any = None) -> tuple[Any, list[Any]]:
        """Inference that continues, see `Layer.extend`; the state is the list of the layers'."""
        steps = self.steps
        grown = []
        for (_, layer), past in zip(steps, state or [None] * len(steps), strict=True):
            x, longer = layer.extend(x, past)
            grown.append(longer)
        return x, grown


def _lowest(steps: list[tuple[str, Any]], need_dmemory: bool = False) -> int:
    """The number of the lowest step whose backward has something to compute."""
    wanted = (n for n, (_, layer) in enumerate(steps) if not layer.is_frozen or (need_dmemory and layer.reads_memory))
    return next(wanted, len(steps))


class Composite(Layer):
    """A layer made of its children: all of them in their order, unless a subclass sets another `chain`."""

    def __init__(self, **layers: Layer) -> None:
        super().__init__()
        self.children |= layers
        self.chain = Chain(self.children)

    @property
    def reads_memory(self) -> bool:
        return self.chain.reads_memory

    def forward(
        self, x: Any, *, train: bool = True, cache: bool = True, rng: Any = None, **options: dict[str, Any]
    ) -> tuple[Any, ChainCache | None]:
        """y, cache. Options are given by child."""
        return self.chain.forward(x, train=train, cache=cache, rng=rng, **options)

    def backward(self, dy: Any, cache: Any, *, need_dx: bool = True, **needs: bool | None) -> tuple[Any, Gradients]:
        """dx, gradients. A child in two places has its gradients summed under its first name."""
        dx, grads = self.chain.backward(dy, cache, need_dx=need_dx, **needs)
        return dx, under_first_names(self, grads)

    def extend(self, x: Any, state: Any = None) -> tuple[Any, Any]:
        return self.chain.extend(x, state)


class Stack(Composite):
    """Layers of one kind, named "0", "1", …, each with the options that the stack is given."""

    def __init__(self, layers: Iterable[Layer]) -> None:
        super().__init__(**{str(number): layer for number, layer in enumerate(layers)})

    def forward(
        self, x: Any, *, train: bool = True, cache: bool = True, rng: Any = None, **options: Any
    ) -> tuple[Any, ChainCache | None]:
        given = dict.fromkeys(self.children, options)
        return self.chain.forward(x, train=train, cache=cache, rng=rng, **given)
