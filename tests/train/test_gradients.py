"""A batch on several threads: the same loss and gradients as on one, and the same bits at every run."""

from __future__ import annotations

import numpy as np
import pytest

from minilm import threads
from minilm.presets import build
from minilm.text.batching import ClassificationBatch, LanguageBatch
from minilm.train import TrainingOptions, gradients, train
from minilm.train.gradients import BatchGradients
from tests.train.toy import FakeData, Toy, toy_data


def language_batch(rng, B=5, T=60, V=20):
    ids = rng.integers(0, V, (B, T + 1))
    return LanguageBatch(ids[:, :-1], ids[:, 1:])


def labelled_batch(rng, B=5, T=60):
    lengths = rng.integers(1, T + 1, B)
    return ClassificationBatch(rng.integers(1, 20, (B, T)), lengths, rng.integers(0, 2, B))


MODELS = {
    "gpt": ({"layers": 2, "heads": 2, "width": 16, "context": 64}, language_batch),
    "lstm-lm": ({"embedding_size": 8, "width": 12, "dropout": 0.0}, language_batch),
    "bilstm-classifier": ({"dropout": 0.0}, labelled_batch),
    "conv-lstm-classifier": ({"dropout": 0.0}, labelled_batch),
    "bag-of-words": ({}, labelled_batch),
}


def total(parts):
    return {name: sum(part[name] for part in parts) for name in parts[0]}


@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("preset", MODELS)
def test_the_sum_over_threads_is_the_gradient(preset, number, rng, monkeypatch):
    options, draw = MODELS[preset]
    model = build(preset, vocab_size=20, dtype="float64", **options)
    batch = draw(rng)
    monkeypatch.setattr(gradients, "MINIMUM_STATE", 1)
    monkeypatch.setattr(gradients, "MINIMUM_NUMBERS", 1)
    with threads.limit(1):
        loss, (grads,) = BatchGradients(model)(batch, 0.5)
    with threads.limit(number):
        split_loss, parts = BatchGradients(model)(batch, 0.5)
    assert len(parts) == number
    np.testing.assert_allclose(split_loss, loss, rtol=1e-12)
    for name, gradient in total(parts).items():
        np.testing.assert_allclose(gradient, grads[name], rtol=0, atol=1e-12 * max(1e-3, np.abs(grads[name]).max()))


def test_rows_that_share_statistics_stay_together(rng, monkeypatch):
    monkeypatch.setattr(gradients, "MINIMUM_NUMBERS", 1)
    with threads.limit(2):
        _, parts = BatchGradients(Toy(norm=True))(language_batch(rng, V=7))
        assert len(parts) == 1
        _, parts = BatchGradients(Toy(norm=False))(language_batch(rng, V=7))
        assert len(parts) == 2


def test_what_is_too_small_for_all_threads_is_one_part(rng):
    def number_of_parts(model, batch):
        return len(BatchGradients(model)(batch)[1])

    wide = build("gpt", vocab_size=20, layers=1, heads=1, width=1024, context=400)
    narrow = build("lstm-lm", vocab_size=20, embedding_size=512, width=12)
    with threads.limit(2):
        assert number_of_parts(wide, language_batch(rng, B=2, T=400)) == 2
        assert number_of_parts(wide, language_batch(rng, B=1, T=400)) == 1
        assert number_of_parts(wide, language_batch(rng, B=4, T=8)) == 1
        assert number_of_parts(narrow, language_batch(rng, B=20, T=60)) == 1
    with threads.limit(16):  # more threads than rows
        assert number_of_parts(wide, language_batch(rng, B=2, T=400)) == 1


def test_the_same_number_of_threads_trains_to_the_same_bits(monkeypatch):
    """Dropout included: each part draws from a generator of its own."""

    monkeypatch.setattr(gradients, "MINIMUM_NUMBERS", 1)

    def run(number):
        model = build("gpt", vocab_size=20, layers=1, heads=1, width=8, context=64, dropout=0.2)
        with threads.limit(number):
            train(model, LongData(), TrainingOptions(steps=5), progress=False)
        return np.concatenate([array.reshape(-1) for array in model.parameters().values()])

    assert np.array_equal(run(2), run(2))
    assert not np.array_equal(run(1), run(2))


class LongData(FakeData):
    steps_per_epoch = 10

    def batch(self, step, micro):
        return language_batch(np.random.default_rng((step, micro)), B=10)


def test_nan_in_one_part_is_told(monkeypatch):
    monkeypatch.setattr(gradients, "MINIMUM_NUMBERS", 1)
    model = Toy(norm=False)
    model.head.params["weight"][:] = np.nan
    with threads.limit(2), pytest.raises(ValueError, match="step 1"):
        train(model, toy_data(batch_size=45), TrainingOptions(steps=2), progress=False)
