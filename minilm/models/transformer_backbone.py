"""The Transformer as a backbone: embedding, positions, dropout, N blocks, a last norm.

    h_0 = dropout(W_e[ids] + positions)      h_n = block_n(h_{n−1})      hidden = norm(h_N)

With causal=True it is the body of a GPT [Radford et al. 2019], with causal=False that of a BERT-like encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from minilm.backend import Array
from minilm.layers.activation import ACTIVATIONS
from minilm.layers.base import Gradients, Layer, chain_backward
from minilm.layers.dropout import Dropout
from minilm.layers.embedding import Embedding
from minilm.layers.initialization import normal
from minilm.layers.positional import KINDS, positional_encoding
from minilm.layers.transformer import NORMS, TransformerEncoderBlock, make_norm
from minilm.models.backbone import Backbone, positive
from minilm.options import check_options, option


@dataclass(frozen=True)
class TransformerOptions:
    """Options of a Transformer."""

    layers: int = option(4, "number of blocks", at_least=1)
    heads: int = option(4, "attention heads, a divisor of the width", at_least=1)
    kv_heads: int | None = option(
        None, "key/value heads, a divisor of heads that groups share; by default as many as heads", at_least=1
    )
    width: int = option(128, "channels of the hidden vectors", at_least=1)
    hidden: int | None = option(None, "width of the feed-forward layers; by default four times the width", at_least=1)
    context: int | None = option(
        None, "tokens of a training window; learned positions allow no longer text", at_least=1
    )
    positions: str = option("learned", "how order is told", choices=KINDS)
    dropout: float = option(0.0, "probability with which numbers are dropped while training", below=1.0)
    activation: str = option("gelu-tanh", "of the feed-forward layers", choices=ACTIVATIONS)
    norm: str = option("layer", "the kind of norm", choices=NORMS)
    norm_first: bool = option(True, "norms in front of the sub-layers (pre-norm), not behind the residual connections")
    bias: bool = option(True, "whether linear maps and layer norms have biases")
    causal: bool = option(True, "no token sees a later one")
    initialization: str = option("gpt2", "of the weights", choices=("gpt2", "pytorch"))

    def __post_init__(self) -> None:
        check_options(self)


class Stack(Layer):
    """Layers of one kind, named "0", "1", …: a branch of the tree, applied by its owner."""

    def __init__(self, layers: list[Layer]) -> None:
        super().__init__()
        self.children.update((str(number), layer) for number, layer in enumerate(layers))


class TransformerState(NamedTuple):
    """What inference remembers: how many tokens it has seen, and the keys and values of each block."""

    length: int
    pasts: tuple[Any, ...]


class TransformerBackbone(Backbone):
    """ids (B, T) -> hidden (B, T, C). Children embedding, positions (where they are added), dropout, blocks, norm.

    context        the longest text; only learned positions have one that can't be exceeded
    positions      "learned", "sinusoidal", "rotary", "alibi" or "none"
    causal         token t sees 0 … t; otherwise all tokens within `lengths`
    norm_first     pre-norm blocks, with a last norm after them; post-norm blocks end with one of their own
    initialization "gpt2": N(0, 0.02²), and N(0, 0.02²/2N) for the maps that write into the residual path, whose 2N
                   terms then sum to the same variance at any depth [Radford et al. 2019, §2.3]; "pytorch": each
                   layer's own
    Other options are those of TransformerEncoderBlock.
    """

    def __init__(
        self,
        vocab_size: int,
        width: int,
        layers: int,
        heads: int,
        *,
        context: int | None = None,
        positions: str = "learned",
        hidden: int | None = None,
        kv_heads: int | None = None,
        dropout: float = 0.0,
        activation: str = "gelu-tanh",
        norm: str = "layer",
        norm_first: bool = True,
        bias: bool = True,
        causal: bool = True,
        initialization: str = "gpt2",
        rng: np.random.Generator,
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        positive(
            vocab_size=vocab_size, width=width, layers=layers, heads=heads, context=context, hidden=hidden,
            kv_heads=kv_heads,
        )  # fmt: skip
        if initialization not in ("gpt2", "pytorch"):
            raise ValueError(f"initialization {initialization!r} is unknown; choose gpt2 or pytorch")
        if width % heads:
            raise ValueError(f"width {width} must be a multiple of the number of heads, {heads}")
        encoding = positional_encoding(positions, context, width, heads, rng, dtype)
        self.vocab_size, self.width, self.causal, self.bidirectional = vocab_size, width, causal, not causal
        self.context, self.bias = encoding.context, bias
        self.children["embedding"] = Embedding(vocab_size, width, rng=rng, dtype=dtype)
        if encoding.additive:
            self.children["positions"] = encoding
        self.children["dropout"] = Dropout(dropout)
        block = {
            "kv_heads": kv_heads, "positions": None if encoding.additive else encoding, "dropout": dropout,
            "activation": activation, "norm": norm, "norm_first": norm_first, "bias": bias, "rng": rng, "dtype": dtype,
        }  # fmt: skip
        self.children["blocks"] = Stack([TransformerEncoderBlock(width, heads, hidden, **block) for _ in range(layers)])
        if norm_first:
            self.children["norm"] = make_norm(norm, width, bias=bias, dtype=dtype)
        if initialization == "gpt2":
            self._draw_as_gpt2(rng, layers)

    def _draw_as_gpt2(self, rng: np.random.Generator, layers: int) -> None:
        into_residual = ("self_attn.out_proj.weight", "linear2.weight")

        def draw(name: str, array: np.ndarray) -> np.ndarray:
            if array.ndim == 1:
                return np.zeros_like(array) if name.endswith(".bias") else array
            std = 0.02 * (2 * layers) ** -0.5 if name.endswith(into_residual) else 0.02
            return normal(rng, array.shape, std, array.dtype.name)

        self.map_arrays(draw)

    @property
    def _chain(self) -> dict[str, Layer]:
        """All parts in the order in which they are applied, by the prefix of their parameters."""
        blocks = {f"blocks.{name}": block for name, block in self.blocks.children.items()}
        own = self.children
        below = {name: own[name] for name in ("embedding", "positions", "dropout") if name in own}
        return below | blocks | ({"norm": self.norm} if "norm" in own else {})

    def forward(
        self, ids: Array, *, lengths: Array | None = None, train: bool = True, cache: bool = True, rng: Any = None
    ) -> tuple[Array, list[Any] | None]:
        """hidden (B, T, C), cache. lengths (B,): tokens at or after a row's length are padding, seen by none."""
        self._check(ids)
        x, caches = ids, []
        for name, layer in self._chain.items():
            masks = {"causal": self.causal, "key_lengths": lengths} if name.startswith("blocks.") else {}
            x, own = layer.forward(x, train=train, cache=cache, rng=rng, **masks)
            caches.append(own)
        return x, (caches if cache else None)

    def backward(self, dy: Array, cache: list[Any], *, need_dx: bool = False) -> tuple[None, Gradients]:
        return None, chain_backward(self._chain, dy, cache, need_dx=False)[1]

    def step(self, ids: Array, state: TransformerState | None = None) -> tuple[Array, TransformerState]:
        self._check_causal()
        state = TransformerState(0, (None,) * len(self.blocks.children)) if state is None else state
        self._check(ids, state.length)
        x, _ = self.embedding.forward(ids, train=False, cache=False)
        if "positions" in self.children:
            x, _ = self.positions.forward(x, offset=state.length, train=False, cache=False)
        pasts = []
        for block, past in zip(self.blocks.children.values(), state.pasts, strict=True):
            x, longer = block.step(x, past)
            pasts.append(longer)
        if "norm" in self.children:
            x, _ = self.norm.forward(x, train=False, cache=False)
        return x, TransformerState(state.length + ids.shape[1], tuple(pasts))

    def attention_weights(self, ids: Array, *, lengths: Array | None = None) -> list[Array]:
        """One array (B, H, T, T) a block: row t says where position t looks. For pictures."""
        self._check(ids)
        maps, x = [], ids
        for name, layer in self._chain.items():
            masks = {}
            if name.startswith("blocks."):
                masks = {"causal": self.causal, "key_lengths": lengths}
                maps.append(layer.attention_weights(x, **masks))
            x, _ = layer.forward(x, train=False, cache=False, **masks)
        return maps
