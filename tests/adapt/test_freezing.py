"""Which parameters are trained: the head alone, or all."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from minilm.adapt import apply_lora, full, head_only
from minilm.models import num_parameters
from minilm.presets import build


def classifier():
    return build("lstm-classifier", vocab_size=7, classes=3, embedding_size=4, width=5, dropout=0.0)


def test_head_only():
    model = classifier()
    assert head_only(model) == ["head.weight", "head.bias"]
    data = SimpleNamespace(ids=np.array([[1, 2], [3, 0]]), lengths=np.array([2, 1]), labels=np.array([0, 2]))
    _, cache = model.loss(data, rng=np.random.default_rng(0))
    assert model.loss_backward(1.0, cache).keys() == model.trainable().keys() == {"head.weight", "head.bias"}


def test_head_only_needs_a_head():
    model = build("gpt", vocab_size=7, layers=1, heads=1, width=4, context=3, tied=True)
    with pytest.raises(ValueError, match=r"no parameter matches head\.\*"):
        head_only(model)
    assert model.trainable().keys() == model.parameters().keys()


def test_full_undoes_head_only():
    model = classifier()
    head_only(model)
    assert full(model) == list(model.parameters())
    assert model.trainable().keys() == model.parameters().keys()


def test_numbers_of_parameters():
    model = classifier()
    recurrent = 4 * 5 * (4 + 5 + 2)
    total = 7 * 4 + recurrent + 3 * 5 + 3
    assert num_parameters(model, trainable=True) == num_parameters(model) == total
    head_only(model)
    assert num_parameters(model, trainable=True) == 3 * 5 + 3 and num_parameters(model) == total
    full(model)
    apply_lora(model, 2, targets=("backbone.rnn",), train=("head.*",))
    adapters = 2 * (20 + 4) + 2 * (20 + 5)
    assert num_parameters(model, trainable=True) == adapters + 3 * 5 + 3
    assert num_parameters(model) == total + adapters
