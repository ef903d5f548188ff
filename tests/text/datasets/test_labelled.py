"""Splits of labelled texts: stratified, drawn by a seed, independent of each other."""

from __future__ import annotations

import numpy as np
import pytest

from minilm.text.datasets import LabelledTexts, train_test_split, train_validation_split


@pytest.mark.parametrize("split", [train_validation_split, train_test_split])
@pytest.mark.parametrize("counts", [(90, 10), (33, 33, 33), (7, 1, 92)])
def test_splits_are_stratified(split, counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    labelled = LabelledTexts([str(i) for i in range(len(labels))], labels, tuple("abc"[: len(counts)]))
    train, held = split(labelled, 0.2, seed=3)
    assert len(held) == round(0.2 * len(labels))
    assert sorted(train.texts + held.texts, key=int) == labelled.texts
    assert all(labels[int(text)] == label for text, label in zip(held.texts, held.labels, strict=True))
    for label, count in enumerate(counts):
        assert abs((held.labels == label).sum() - 0.2 * count) < 1
    assert split(labelled, 0.2, seed=3)[1].texts == held.texts != split(labelled, 0.2, seed=4)[1].texts


def test_the_two_splits_are_independent():
    labelled = LabelledTexts([str(i) for i in range(100)], np.arange(100) % 2, ("a", "b"))
    assert train_test_split(labelled, 0.2, 0)[1].texts != train_validation_split(labelled, 0.2, 0)[1].texts


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, 0.01])
def test_impossible_splits_are_refused(fraction):
    labelled = LabelledTexts(["x", "y", "z"], np.array([0, 1, 1]), ("a", "b"))
    with pytest.raises(ValueError, match="of 3 texts can't be held out"):
        train_validation_split(labelled, fraction)
