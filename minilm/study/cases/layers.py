"""Cases of the layers: every public class of `minilm.layers` has some here, under its name."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np

import minilm.layers
from minilm.backend import generator
from minilm.layers import (
    Activation,
    Chain,
    Composite,
    Embedding,
    Layer,
    LayerNorm,
    Linear,
    MultiHeadAttention,
    Residual,
    Stack,
    TiedLinear,
    positional_encoding,
)
from minilm.layers.activation import ACTIVATIONS
from minilm.ops.pool import POOLINGS
from minilm.study.cases.case import CaseTable, LayerCase, perturbed


class LayerCases:
    """Makes the cases of one layer class: `case(label, x, *sizes, forward={...}, **options)`."""

    def __init__(self, name: str, seed: int) -> None:
        self.name, self.seed, self.rng = name, seed, generator(seed, 3)
        self.make = getattr(minilm.layers, name)
        taken = inspect.signature(self.make).parameters
        passed_on = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in taken.values())
        self.drawn: dict[str, Any] = {"rng": generator(seed, 4), "dtype": "float64"}
        self.always = {name: value for name, value in self.drawn.items() if name in taken or passed_on}

    def normal(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape)

    def __call__(
        self, label: str, x: np.ndarray, *sizes: Any, forward: dict[str, Any] | None = None, **options: Any
    ) -> LayerCase:
        return self.made(label, self.make(*sizes, **self.always, **options), x, **(forward or {}))

    def made(self, label: str, layer: Layer, x: np.ndarray, **forward: Any) -> LayerCase:
        """A case of a layer that is put together by hand."""
        return LayerCase(label, perturbed(layer, self.seed), x, forward, self.seed)


def public_layers() -> list[str]:
    """The layer classes of `minilm.layers`; `Layer` itself defines no forward."""
    classes = {name: thing for name, thing in vars(minilm.layers).items() if inspect.isclass(thing)}
    return [name for name, thing in classes.items() if issubclass(thing, Layer) and thing is not Layer]


LAYERS = CaseTable("layer", public_layers, LayerCases)


@LAYERS.of("Linear")
def linear(case: LayerCases) -> Iterator[LayerCase]:
    yield case("bias", case.normal(2, 3, 4), 4, 5)
    yield case("no bias", case.normal(3, 4), 4, 5, bias=False)


@LAYERS.of("TiedLinear")
def tied_linear(case: LayerCases) -> Iterator[LayerCase]:
    yield case.made("its embedding's W", TiedLinear(Embedding(5, 4, **case.drawn)), case.normal(2, 3, 4))


@LAYERS.of("Embedding")
def embedding(case: LayerCases) -> Iterator[LayerCase]:
    yield case("ids (B, T)", np.array([[1, 0, 3], [3, 1, 1]]), 5, 3)


@LAYERS.of("Activation")
def activation(case: LayerCases) -> Iterator[LayerCase]:
    for name in ACTIVATIONS:
        yield case(name, case.normal(2, 3, 4), name)


@LAYERS.of("Conv1d")
def conv1d(case: LayerCases) -> Iterator[LayerCase]:
    yield case("same", case.normal(2, 6, 2), 2, 3, 3)
    yield case("causal, stride 2, dilation 2", case.normal(2, 6, 2), 2, 3, 3, padding="causal", stride=2, dilation=2)
    yield case("valid, no bias", case.normal(2, 6, 2), 2, 3, 3, padding="valid", bias=False)


@LAYERS.of("Dropout")
def dropout(case: LayerCases) -> Iterator[LayerCase]:
    yield case("p=0.4", case.normal(2, 3, 4), 0.4)
    yield case("p=0", case.normal(2, 3, 4), 0.0)
    yield case("p=0.4, as it infers", case.normal(2, 3, 4), 0.4, forward={"train": False})


@LAYERS.of("LayerNorm", "RMSNorm", "BatchNorm")
def norm(case: LayerCases) -> Iterator[LayerCase]:
    yield case("x (B, T, C)", case.normal(2, 3, 5), 5)
    if case.name == "BatchNorm":
        yield case("fixed statistics", case.normal(2, 3, 5), 5, forward={"train": False})


@LAYERS.of("RNN", "GRU", "LSTM")
def recurrent(case: LayerCases) -> Iterator[LayerCase]:
    x, lengths = generator(case.seed, 6).standard_normal((2, 3, 2)), np.array([3, 1])

    def state(runs: int) -> Any:
        h, c = case.normal(runs, 2, 3), case.normal(runs, 2, 3)
        return (h, c) if case.name == "LSTM" else h

    yield case("one layer, initial state", x, 2, 3, forward={"state": state(1)})
    yield case("two layers, dropout", x, 2, 3, 2, dropout=0.3, initialization="orthogonal")
    yield case("both directions, lengths", x, 2, 3, 1, True, forward={"lengths": lengths})
    both = {"lengths": lengths, "state": state(4)}
    yield case("2 layers, both directions, lengths, state", x, 2, 3, 2, True, bias=False, forward=both)


@LAYERS.of("Pooling")
def pooling(case: LayerCases) -> Iterator[LayerCase]:
    for kind in POOLINGS:
        yield case(kind, case.normal(2, 3, 4), kind)
        yield case(
            f"{kind}, both directions, lengths", case.normal(2, 3, 4), kind, 2, forward={"lengths": np.array([3, 1])}
        )


@LAYERS.of("ZeroPadding")
def zero_padding(case: LayerCases) -> Iterator[LayerCase]:
    yield case("lengths", case.normal(2, 3, 4), forward={"lengths": np.array([3, 1])})
    yield case("no padding", case.normal(2, 3, 4))


@LAYERS.of("Composite")
def composite(case: LayerCases) -> Iterator[LayerCase]:
    one, x = Linear(4, 4, **case.drawn), case.normal(2, 3, 4)
    yield case.made("a chain", Composite(first=one, tanh=Activation("tanh"), second=Linear(4, 3, **case.drawn)), x)
    yield case.made("a layer in two places", Composite(first=one, tanh=Activation("tanh"), again=one), x)
    block = Composite(norm=LayerNorm(4, dtype="float64"), inner=one)
    block.chain = Chain(block.children, Residual(block.children, "norm", "inner"))
    yield case.made("a residual connection", block, x)


@LAYERS.of("Stack")
def stack(case: LayerCases) -> Iterator[LayerCase]:
    yield case.made("two layers", Stack(Linear(4, 4, **case.drawn) for _ in range(2)), case.normal(2, 3, 4))


@LAYERS.of("Learned", "Sinusoidal")
def positions_of_embeddings(case: LayerCases) -> Iterator[LayerCase]:
    x = generator(case.seed, 6).standard_normal((2, 3, 4))
    yield case("offset 1", x, *((5, 4) if case.name == "Learned" else (4,)), forward={"offset": 1})


@LAYERS.of("PositionalEncoding", "NoPositions")
def no_positions(case: LayerCases) -> Iterator[LayerCase]:
    yield case("x as it is", case.normal(2, 3, 4))


@LAYERS.of("Rotary", "ALiBi")
def positions_in_attention(case: LayerCases) -> Iterator[LayerCase]:
    options = {"all see all": {}, "causal, key_lengths": {"causal": True, "key_lengths": np.array([3, 2])}}
    for label, forward in options.items():
        attention = MultiHeadAttention(4, 2, positions=case.make(), **case.drawn)
        yield case.made(f"in attention, {label}", attention, case.normal(2, 3, 4), **forward)


@LAYERS.of("MultiHeadAttention")
def multi_head_attention(case: LayerCases) -> Iterator[LayerCase]:
    x, memory = case.normal(2, 3, 4), case.normal(2, 4, 4)
    placed = {
        kind: positional_encoding(kind, 5, 4, 2, generator(case.seed, 7), "float64") for kind in ("rotary", "alibi")
    }
    yield case("self", x, 4, 2)
    yield case("self, causal, key_lengths", x, 4, 2, forward={"causal": True, "key_lengths": np.array([3, 2])})
    yield case("self, one key head, no bias", x, 4, 2, kv_heads=1, bias=False)
    yield case("self, rotary", x, 4, 2, positions=placed["rotary"], forward={"causal": True})
    yield case("self, ALiBi, dropout", x, 4, 2, positions=placed["alibi"], dropout=0.2, forward={"causal": True})
    yield case("cross", x, 4, 2, cross=True, forward={"memory": memory, "key_lengths": np.array([4, 2])})
    yield case("cross, one key head", x, 4, 2, cross=True, kv_heads=1, forward={"memory": memory})


@LAYERS.of("TransformerEncoderBlock")
def encoder_block(case: LayerCases) -> Iterator[LayerCase]:
    x = case.normal(2, 3, 4)
    yield case("post-norm", x, 4, 2, 5, activation="gelu")
    yield case("pre-norm, causal, dropout", x, 4, 2, 5, norm_first=True, dropout=0.2, forward={"causal": True})
    without_biases = {"norm_first": True, "norm": "rms", "activation": "silu", "bias": False}
    yield case("pre-norm, RMS norm, SiLU, no biases", x, 4, 2, 5, **without_biases)
    yield case("post-norm, key_lengths, ReLU", x, 4, 2, 5, forward={"key_lengths": np.array([3, 2])})


@LAYERS.of("TransformerDecoderBlock")
def decoder_block(case: LayerCases) -> Iterator[LayerCase]:
    x, memory = case.normal(2, 3, 4), case.normal(2, 4, 4)
    for norm_first in (False, True):
        options = {"norm_first": norm_first, "activation": "gelu"}
        label = "pre-norm" if norm_first else "post-norm"
        yield case(label, x, 4, 2, 5, **options, forward={"memory": memory, "memory_lengths": np.array([4, 2])})
