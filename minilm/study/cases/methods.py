"""Cases of the methods of adaptation: exactly what a method trains has a gradient, and it is right."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

import minilm.adapt
from minilm.adapt import LoRALinear, LoRAWeights, apply_lora
from minilm.backend import generator
from minilm.layers import LSTM, Conv1d, Linear
from minilm.study.cases.case import Case, CaseTable, LayerCase, ModelCase, perturbed
from minilm.study.cases.models import CLASSIFIER, GPT, LSTM_LM, ModelCases


class MethodCases:
    """Makes the cases of one method: `case.classifier(preset, **options)` and `case.layer(label, layer, *shape)`."""

    def __init__(self, name: str, seed: int) -> None:
        self.name, self.seed, self.rng = name, seed, generator(seed, 3)
        self.drawn: dict[str, Any] = {"rng": generator(seed, 4), "dtype": "float64"}

    def classifier(self, preset: str, **options: Any) -> ModelCase:
        """A classifier into which the method is installed as `minilm finetune` does it."""
        method = minilm.adapt.METHODS[self.name]

        def install(model: Any) -> None:
            method.install(model, method.options(**options), generator(9))

        return ModelCases(preset, self.seed)(preset, 3, **CLASSIFIER, adapt=install)

    def layer(self, label: str, layer: Any, *shape: int, **forward: Any) -> LayerCase:
        return LayerCase(label, perturbed(layer, self.seed), self.rng.standard_normal(shape), forward, self.seed)


METHODS = CaseTable("method", lambda: minilm.adapt.METHODS, MethodCases)


@METHODS.of("full")
def everything(case: MethodCases) -> Iterator[Case]:
    yield case.classifier("lstm-classifier")


@METHODS.of("head")
def head(case: MethodCases) -> Iterator[Case]:
    for preset in ("lstm-classifier", "conv-lstm-classifier"):
        yield case.classifier(preset)


@METHODS.of("lora")
def low_rank(case: MethodCases) -> Iterator[Case]:
    rng = case.drawn["rng"]
    yield case.layer("LoRALinear", LoRALinear(Linear(4, 5, **case.drawn), 2, rng=rng), 2, 3, 4)
    yield case.layer("LoRALinear, dropout", LoRALinear(Linear(4, 5, **case.drawn), 2, dropout=0.3, rng=rng), 2, 3, 4)
    convolution = Conv1d(2, 3, 3, **case.drawn)
    yield case.layer("LoRAWeights of Conv1d", LoRAWeights(convolution, ("weight",), 2, rng=rng), 2, 6, 2)
    stack = LSTM(2, 3, 2, True, **case.drawn)
    adapted = tuple(name for name in stack.params if name.startswith("weight"))
    lengths = np.array([3, 1])
    yield case.layer("LoRAWeights of LSTM", LoRAWeights(stack, adapted, 2, rng=rng), 2, 3, 2, lengths=lengths)
    yield case.classifier("conv-lstm-classifier", rank=2, alpha=4.0, targets=("backbone.*",))
    for preset, sizes in (("gpt", GPT), ("lstm-lm", LSTM_LM)):
        lora = partial(apply_lora, rank=2, alpha=4.0, targets=("backbone.*",), rng=generator(9))
        yield ModelCases(preset, case.seed)(preset, **sizes, adapt=lora)
