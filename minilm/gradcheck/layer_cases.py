"""Cases of the layers: parameters and inputs, freezing, buffers. See `cases`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minilm.backend import generator
from minilm.gradcheck.cases import Case
from minilm.gradcheck.trees import check_layer


class Maker:
    """Makes cases of one layer class. Parameters are moved off their initial zeros and ones, which would hide terms."""

    def __init__(self, name: str, module: str, seed: int, **always: Any) -> None:
        self.make = getattr(importlib.import_module(f"minilm.layers.{module}"), name)
        self.seed, self.rng = seed, generator(seed, 3)
        self.always = {"rng": generator(seed, 4), "dtype": "float64"} | always

    def normal(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape)

    def __call__(
        self, label: str, x: np.ndarray, *sizes: Any, forward: dict[str, Any] | None = None, **options: Any
    ) -> Case:
        given = {name: value for name, value in (self.always | options).items() if value is not _LEFT_OUT}
        layer = moved(self.make(*sizes, **given), self.seed)
        return Case(label, lambda seed: check_layer(layer, x, seed=seed, **(forward or {})))


_LEFT_OUT: Any = object()  # in place of an option that a class does not have


def moved(layer: Any, seed: int) -> Any:
    """`layer` with a little noise on every parameter."""
    rng = generator(seed, 5)
    names = layer.parameters().keys()
    layer.map_arrays(lambda name, a: a + 0.2 * rng.standard_normal(a.shape) if name in names else a)
    return layer


def linear(seed: int) -> Iterator[Case]:
    make = Maker("Linear", "linear", seed)
    yield make("bias", make.normal(2, 3, 4), 4, 5)
    yield make("no bias", make.normal(3, 4), 4, 5, bias=False)


def embedding(seed: int) -> Iterator[Case]:
    make = Maker("Embedding", "embedding", seed)
    yield make("ids (B, T)", np.array([[1, 0, 3], [3, 1, 1]]), 5, 3)


def conv1d(seed: int) -> Iterator[Case]:
    make = Maker("Conv1d", "convolution", seed)
    yield make("same", make.normal(2, 6, 2), 2, 3, 3)
    yield make("causal, stride 2, dilation 2", make.normal(2, 6, 2), 2, 3, 3, padding="causal", stride=2, dilation=2)
    yield make("valid, no bias", make.normal(2, 6, 2), 2, 3, 3, padding="valid", bias=False)


def dropout(seed: int) -> Iterator[Case]:
    make = Maker("Dropout", "dropout", seed, rng=_LEFT_OUT, dtype=_LEFT_OUT)
    yield make("p=0.4", make.normal(2, 3, 4), 0.4)
    yield make("p=0", make.normal(2, 3, 4), 0.0)
    yield make("p=0.4, as it infers", make.normal(2, 3, 4), 0.4, forward={"train": False})


def _norm(name: str) -> Callable[[int], Iterator[Case]]:
    def build(seed: int) -> Iterator[Case]:
        make = Maker(name, "normalization", seed, rng=_LEFT_OUT)
        yield make("x (B, T, C)", make.normal(2, 3, 5), 5)
        if name == "BatchNorm":
            yield make("fixed statistics", make.normal(2, 3, 5), 5, forward={"train": False})

    return build


def _recurrent(name: str) -> Callable[[int], Iterator[Case]]:
    def build(seed: int) -> Iterator[Case]:
        make, x, lengths = (
            Maker(name, "recurrent", seed),
            generator(seed, 6).standard_normal((2, 3, 2)),
            np.array([3, 1]),
        )

        def state(runs: int) -> Any:
            h, c = make.normal(runs, 2, 3), make.normal(runs, 2, 3)
            return (h, c) if name == "LSTM" else h

        yield make("one layer, initial state", x, 2, 3, forward={"state": state(1)})
        yield make("two layers, dropout", x, 2, 3, 2, dropout=0.3, initialization="orthogonal")
        yield make("both directions, lengths", x, 2, 3, 1, True, forward={"lengths": lengths})
        yield make(
            "2 layers, both directions, lengths, state", x, 2, 3, 2, True,
            bias=False, forward={"lengths": lengths, "state": state(4)},
        )  # fmt: skip

    return build


def positions(seed: int) -> Iterator[Case]:
    x = generator(seed, 6).standard_normal((2, 3, 4))
    make = Maker("positional_encoding", "positional", seed)
    for kind in ("learned", "sinusoidal"):
        yield make(kind, x, kind, 5, 4, 2, forward={"offset": 1})


def multi_head_attention(seed: int) -> Iterator[Case]:
    make = Maker("MultiHeadAttention", "attention", seed)
    x, memory = make.normal(2, 3, 4), make.normal(2, 4, 4)
    encode = Maker("positional_encoding", "positional", seed).make
    placed = {kind: encode(kind, 5, 4, 2, generator(seed, 7), "float64") for kind in ("rotary", "alibi")}
    yield make("self", x, 4, 2)
    yield make("self, causal, key_lengths", x, 4, 2, forward={"causal": True, "key_lengths": np.array([3, 2])})
    yield make("self, one key head, no bias", x, 4, 2, kv_heads=1, bias=False)
    yield make("self, rotary", x, 4, 2, positions=placed["rotary"], forward={"causal": True})
    yield make("self, ALiBi, dropout", x, 4, 2, positions=placed["alibi"], dropout=0.2, forward={"causal": True})
    yield make("cross", x, 4, 2, cross=True, forward={"memory": memory, "key_lengths": np.array([4, 2])})
    yield make("cross, one key head", x, 4, 2, cross=True, kv_heads=1, forward={"memory": memory})


def encoder_block(seed: int) -> Iterator[Case]:
    make = Maker("TransformerEncoderBlock", "transformer", seed)
    x = make.normal(2, 3, 4)
    yield make("post-norm", x, 4, 2, 5, activation="gelu")
    yield make("pre-norm, causal, dropout", x, 4, 2, 5, norm_first=True, dropout=0.2, forward={"causal": True})
    yield make(
        "pre-norm, RMS norm, SiLU, no biases", x, 4, 2, 5, norm_first=True, norm="rms", activation="silu", bias=False
    )
    yield make("post-norm, key_lengths, ReLU", x, 4, 2, 5, forward={"key_lengths": np.array([3, 2])})


def decoder_block(seed: int) -> Iterator[Case]:
    make = Maker("TransformerDecoderBlock", "transformer", seed)
    x, memory = make.normal(2, 3, 4), make.normal(2, 4, 4)
    for norm_first in (False, True):
        options = {"norm_first": norm_first, "activation": "gelu"}
        label = "pre-norm" if norm_first else "post-norm"
        yield make(label, x, 4, 2, 5, **options, forward={"memory": memory, "memory_lengths": np.array([4, 2])})


CASES: dict[str, Callable[[int], Iterator[Case]]] = {
    "Linear": linear,
    "Embedding": embedding,
    "Conv1d": conv1d,
    "Dropout": dropout,
    **{name: _norm(name) for name in ("LayerNorm", "RMSNorm", "BatchNorm")},
    **{name: _recurrent(name) for name in ("RNN", "GRU", "LSTM")},
    "PositionalEncoding": positions,
    "MultiHeadAttention": multi_head_attention,
    "TransformerEncoderBlock": encoder_block,
    "TransformerDecoderBlock": decoder_block,
}
