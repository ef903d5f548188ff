"""What every backbone is: token ids in, one hidden vector per token out. Heads stand on it, fine-tuning takes it along.

hidden, cache = backbone.forward(ids, lengths=None, train=True, cache=True, rng=None)   ids (B, T), hidden (B, T, C)
_, grads = backbone.backward(dhidden, cache)
hidden, state = backbone.extend(ids, state)                                             inference that continues
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from minilm.backend import Array
from minilm.checks import whole
from minilm.layers.base import Layer
from minilm.layers.chain import ChainCache, Composite


class Architecture(NamedTuple):
    """One kind of backbone, and the dataclass of its options."""

    options: type
    backbone: Callable[..., Backbone]  # (vocab_size, **options, rng=..., dtype=...)


class LossCache(NamedTuple):
    """What a model's loss keeps: the caches of the logits and of the loss itself."""

    logits: Any
    loss: Any


class BackboneState(NamedTuple):
    """What inference remembers: how many tokens it has seen, and what the layers remember of them."""

    length: int
    layers: Any


class Backbone(Composite):
    """The interface. Subclasses set the attributes, the children, and where children take options `_options`."""

    vocab_size: int
    width: int  # C of hidden
    causal = True  # False where the hidden vector of a token depends on later tokens
    bias = True  # whether linear maps have one, a head's included
    directions = 1  # 2 where hidden is [left to right, right to left], halves of equal width
    context: int | None = None  # the longest text, None where there is no limit

    def _options(self, lengths: Array | None) -> dict[str, dict[str, Any]]:
        """The options of the children's forward, by child."""
        return {}

    def forward(
        self, ids: Array, *, lengths: Array | None = None, train: bool = True, cache: bool = True, rng: Any = None
    ) -> tuple[Array, ChainCache | None]:
        """hidden (B, T, C), cache, of ids (B, T). lengths (B,): tokens at or after a row's length are padding."""
        self._check(ids)
        return self.chain.forward(ids, train=train, cache=cache, rng=rng, **self._options(lengths))

    def extend(self, ids: Array, state: BackboneState | None = None) -> tuple[Array, BackboneState]:
        """hidden (B, T, C) of ids (B, T) that follow the tokens in `state` (None at the start), and the new state.

        Equal to the same positions of `forward` over the whole text, without computing the earlier ones again. The
        state given is not changed. Raises ValueError where the model needs to see later tokens.
        """
        if not self.causal:
            raise ValueError(
                f"{type(self).__name__} sees later tokens, so it can't continue a text: build it causal and "
                "in one direction"
            )
        length, layers = (0, None) if state is None else state
        self._check(ids, length)
        hidden, layers = self.chain.extend(ids, layers)
        return hidden, BackboneState(length + ids.shape[1], layers)

    def classifier(self, classes: int, pooling: str | None, *, rng: Any, dtype: str = "float32") -> Layer:
        """A classifier of texts on this backbone, with a new head drawn from `rng`. pooling None: "mean"."""
        from minilm.models.classifier import TextClassifier  # it stands on backbones

        return TextClassifier(self, classes, pooling or "mean", rng=rng, dtype=dtype)

    def _check(self, ids: Array, offset: int = 0) -> None:
        """ids must be integers (B, T) that end within the context."""
        if ids.ndim != 2:
            raise ValueError(f"ids have shape {ids.shape}, expected (B, T): one row for each text")
        if ids.dtype.kind not in "iu":
            raise TypeError(f"ids have dtype {ids.dtype}, expected integers")
        if self.context is not None and offset + ids.shape[1] > self.context:
            raise ValueError(
                f"the text is {offset + ids.shape[1]} tokens long, but the context of this model is {self.context}: "
                "shorten the text, or train with a longer context"
            )


def positive(**sizes: int | None) -> None:
    """Raise ValueError for a size that is no whole number of at least 1. None passes: it stands for a default."""
    for name, size in sizes.items():
        if size is not None:
            whole(name, size, 1)
