"""The Transformer as a backbone: embedding, positions, dropout, N blocks, a last norm.

    h_0 = dropout(W_e[ids] + positions)      h_n = block_n(h_{n−1})      hidden = norm(h_N)

With causal=True it is the body of a GPT [Radford et al. 2019], with causal=False that of a BERT-like encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from minilm.backend import Array
from minilm.checks import one_of
from minilm.layers.activation import ACTIVATIONS
from minilm.layers.chain import Chain, Stack
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
        one_of("initialization", initialization, ("gpt2", "pytorch"))
        if width % heads:
            raise ValueError(f"width {width} must be a multiple of the number of heads, {heads}")
        encoding = positional_encoding(positions, context, width, heads, rng, dtype)
        self.vocab_size, self.width, self.causal, self.context = vocab_size, width, causal, encoding.context
        self.bias = bias
        self.children["embedding"] = Embedding(vocab_size, width, rng=rng, dtype=dtype)
        if encoding.additive:
            self.children["positions"] = encoding
        self.children["dropout"] = Dropout(dropout)
        block = {
            "kv_heads": kv_heads, "positions": None if encoding.additive else encoding, "dropout": dropout,
            "activation": activation, "norm": norm, "norm_first": norm_first, "bias": bias, "rng": rng, "dtype": dtype,
        }  # fmt: skip
        self.children["blocks"] = Stack(TransformerEncoderBlock(width, heads, hidden, **block) for _ in range(layers))
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

    def _options(self, lengths: Array | None) -> dict[str, dict[str, Any]]:
        return {"blocks": {"causal": self.causal, "key_lengths": lengths}}

    def attention_weights(self, ids: Array, *, lengths: Array | None = None) -> list[Array]:
        """One array (B, H, T, T) per block: row t says where position t looks. For pictures."""
        self._check(ids)
        below = [name for name in self.children if name not in ("blocks", "norm")]
        x, _ = Chain(self.children, *below).forward(ids, train=False, cache=False)
        masks, maps = self._options(lengths)["blocks"], []
        for block in self.blocks.children.values():
            maps.append(block.attention_weights(x, **masks))
            x, _ = block.forward(x, train=False, cache=False, **masks)
        return maps
