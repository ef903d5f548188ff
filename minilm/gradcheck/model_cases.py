"""Cases of the models: every preset, small, through its loss. See `cases`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from minilm.backend import generator
from minilm.gradcheck.cases import Case
from minilm.gradcheck.layer_cases import moved
from minilm.gradcheck.report import Report
from minilm.gradcheck.trees import check_model

V = 7  # vocabulary


class Texts(NamedTuple):
    """Batches of both kinds in one: models read the attributes that they need."""

    ids: np.ndarray  # (B, T)
    targets: np.ndarray  # (B, T)  -100: ignored
    lengths: np.ndarray  # (B,)
    labels: np.ndarray  # (B,)


def _texts(seed: int, classes: int = 2) -> Texts:
    rng = generator(seed, 8)
    targets = rng.integers(V, size=(3, 4))
    targets[1, 2:] = -100
    labels = np.array([0, classes - 1, 1])
    return Texts(rng.integers(1, V, size=(3, 4)), targets, np.array([4, 2, 3]), labels)


def _case(label: str, preset: str, classes: int = 2, adapt: Callable[[Any], Any] | None = None, **options: Any) -> Case:
    def run(seed: int) -> Report:
        from minilm.presets import build

        model = build(preset, vocab_size=V, classes=classes, seed=seed, dtype="float64", **options)
        if adapt is not None:
            adapt(model)
        return check_model(moved(model, seed), _texts(seed, classes), seed=seed)

    return Case(label, run)


GPT = {"layers": 1, "heads": 2, "width": 4, "context": 5}
LSTM_LM = {"embedding_size": 3, "width": 4, "layers": 1}
CLASSIFIER = {"embedding_size": 3, "width": 3}


def gpt(seed: int) -> Iterator[Case]:
    yield _case("two layers", "gpt", **GPT | {"layers": 2})
    yield _case("biases, dropout, untied", "gpt", **GPT, bias=True, dropout=0.2, tied=False)
    yield _case("rotary, RMS norm, one key head", "gpt", **GPT, positions="rotary", norm="rms", kv_heads=1)
    yield _case("ALiBi, post-norm, GELU", "gpt", **GPT, positions="alibi", norm_first=False, activation="gelu")
    yield _case("LoRA", "gpt", **GPT, adapt=_lora)


def lstm_lm(seed: int) -> Iterator[Case]:
    yield _case("two layers, dropout", "lstm-lm", **LSTM_LM | {"layers": 2}, dropout=0.2)
    yield _case("GRU", "lstm-lm", **LSTM_LM, cell="gru")
    yield _case("tied", "lstm-lm", **LSTM_LM | {"embedding_size": 4}, tied=True)
    yield _case("LoRA", "lstm-lm", **LSTM_LM, adapt=_lora)


def attention_lstm_lm(seed: int) -> Iterator[Case]:
    sizes = {"embedding_size": 4, "width": 4, "layers": 2, "heads": 2}
    yield _case("two layers, dropout", "attention-lstm-lm", **sizes)


def _classifier(name: str) -> Callable[[int], Iterator[Case]]:
    def build(seed: int) -> Iterator[Case]:
        yield _case("two classes", name, **CLASSIFIER)
        for pooling in ("mean", "max"):
            yield _case(f"three classes, {pooling} pooling", name, 3, **CLASSIFIER, pooling=pooling)

    return build


def bag_of_words(seed: int) -> Iterator[Case]:
    def run(weighting: str, classes: int, seed: int) -> Report:
        from minilm.models.bag_of_words import WEIGHTINGS, BagOfWords

        model = BagOfWords(V, classes, weighting=weighting or WEIGHTINGS[-1], dtype="float64")
        return check_model(moved(model, seed), _texts(seed, classes), seed=seed)

    yield Case("binary, two classes", functools.partial(run, "binary", 2))
    yield Case("counts, three classes", functools.partial(run, "", 3))


def _lora(model: Any) -> None:
    from minilm.adapt import apply_lora

    apply_lora(model, rank=2, alpha=4.0, targets=("backbone.*",), rng=generator(9))


CASES: dict[str, Callable[[int], Iterator[Case]]] = {
    "gpt": gpt,
    "lstm-lm": lstm_lm,
    "attention-lstm-lm": attention_lstm_lm,
    **{name: _classifier(name) for name in ("lstm-classifier", "bilstm-classifier", "conv-lstm-classifier")},
    "bag-of-words": bag_of_words,
}
