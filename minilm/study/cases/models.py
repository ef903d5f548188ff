"""Cases of the models: every preset has some here, under its name, small and through its loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from minilm.backend import generator
from minilm.presets import PRESETS, build
from minilm.study.cases.case import CaseTable, ModelCase, perturbed

V = 7  # vocabulary


class Texts(NamedTuple):
    """Batches of both kinds in one: models read the attributes that they need."""

    ids: np.ndarray  # (B, T)
    targets: np.ndarray  # (B, T)  -100: ignored
    lengths: np.ndarray  # (B,)
    labels: np.ndarray  # (B,)


def texts(seed: int, classes: int = 2) -> Texts:
    rng = generator(seed, 8)
    targets = rng.integers(V, size=(3, 4))
    targets[1, 2:] = -100
    labels = np.array([0, classes - 1, 1])
    return Texts(rng.integers(1, V, size=(3, 4)), targets, np.array([4, 2, 3]), labels)


class ModelCases:
    """Makes the cases of one preset: `case(label, classes, adapt=..., **options)`."""

    def __init__(self, name: str, seed: int) -> None:
        self.name, self.seed = name, seed

    def __call__(
        self, label: str, classes: int = 2, *, adapt: Callable[[Any], Any] | None = None, **options: Any
    ) -> ModelCase:
        model = build(self.name, vocab_size=V, classes=classes, seed=self.seed, dtype="float64", **options)
        if adapt is not None:
            adapt(model)
        return ModelCase(label, perturbed(model, self.seed), texts(self.seed, classes), self.seed)


MODELS = CaseTable("preset", lambda: PRESETS, ModelCases)
GPT: dict[str, Any] = {"layers": 1, "heads": 2, "width": 4, "context": 5}
LSTM_LM: dict[str, Any] = {"embedding_size": 3, "width": 4, "layers": 1}
CLASSIFIER: dict[str, Any] = {"embedding_size": 3, "width": 3}


@MODELS.of("gpt")
def gpt(case: ModelCases) -> Iterator[ModelCase]:
    yield case("two layers", **dict(GPT, layers=2))
    yield case("biases, dropout, untied", **GPT, bias=True, dropout=0.2, tied=False)
    yield case("rotary, RMS norm, one key head", **GPT, positions="rotary", norm="rms", kv_heads=1)
    yield case("ALiBi, post-norm, GELU", **GPT, positions="alibi", norm_first=False, activation="gelu")


@MODELS.of("lstm-lm")
def lstm_lm(case: ModelCases) -> Iterator[ModelCase]:
    yield case("two layers, dropout", **dict(LSTM_LM, layers=2), dropout=0.2)
    yield case("GRU", **LSTM_LM, cell="gru")
    yield case("tied", **dict(LSTM_LM, embedding_size=4), tied=True)


@MODELS.of("attention-lstm-lm")
def attention_lstm_lm(case: ModelCases) -> Iterator[ModelCase]:
    yield case("two layers, dropout", embedding_size=4, width=4, layers=2, heads=2, dropout=0.1)


@MODELS.of("lstm-classifier", "bilstm-classifier", "conv-lstm-classifier")
def classifier(case: ModelCases) -> Iterator[ModelCase]:
    yield case("two classes", **CLASSIFIER)
    for pooling in ("mean", "max"):
        yield case(f"three classes, {pooling} pooling", 3, **CLASSIFIER, pooling=pooling)


@MODELS.of("bag-of-words")
def bag_of_words(case: ModelCases) -> Iterator[ModelCase]:
    yield case("binary, two classes", weighting="binary")
    for weighting in ("count", "frequency"):
        yield case(f"{weighting}, three classes", 3, weighting=weighting)
