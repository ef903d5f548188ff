"""The GPT written with ops alone is minilm's GPT to the last bit, and learns."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest

from minilm import reference
from minilm.presets import build
from minilm.text.batching import LanguageBatch
from tests.examples import load

gpt = load("gpt_from_ops")


@pytest.mark.parametrize("versions", [reference, nullcontext], ids=["definitions", "tuned versions"])
@pytest.mark.parametrize("time", [64, 17], ids=["a whole window", "a part of one"])
def test_loss_and_every_gradient_equal_the_models(versions, time):
    model = build("gpt", vocab_size=65, dtype="float64")
    rng = np.random.default_rng(0)
    ids, targets = rng.integers(0, 65, (2, 3, time))
    with versions():
        loss, cache = model.loss(LanguageBatch(ids, targets))
        expected = model.loss_backward(1.0, cache)
        found_loss, found = gpt.loss_and_gradients(model.parameters(), ids, targets, layers=4, H=4)
    assert found_loss == loss
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert np.array_equal(found[name], gradient), name


def test_a_drawn_parameter_has_the_models_shape_and_scale():
    model = build("gpt", vocab_size=63, layers=2, width=64, context=32)
    drawn = gpt.draw_parameters(np.random.default_rng(0), V=63, T=32, C=64, layers=2)
    expected = model.parameters()
    assert drawn.keys() == expected.keys()
    for name, array in drawn.items():
        assert array.shape == expected[name].shape and array.dtype == np.float32, name
        np.testing.assert_allclose(array.std(), expected[name].std(), rtol=0.1, err_msg=name)


def test_it_learns_and_writes(capsys):
    losses = gpt.main(steps=60)
    assert losses[0] == pytest.approx(np.log(63), abs=0.1)  # at first it knows nothing: all 63 characters are alike
    assert losses[-1] < 2.9  # the frequencies of characters alone leave 3.02 nats
    text = capsys.readouterr().out.partition("And God said")[2]
    assert len(text.strip("\n")) > 250
