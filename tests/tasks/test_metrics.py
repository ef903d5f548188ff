"""Classification metrics against values worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from minilm.tasks.metrics import classification_scores, confusion_matrix

BINARY = np.array([[50, 10], [5, 35]])  # 50 true negatives, 10 false positives, 5 false negatives, 35 true positives
THREE = np.array([[2, 1, 0], [0, 0, 0], [1, 0, 4]])  # class 1 never occurs, and is predicted once


def test_confusion_matrix():
    targets, predictions = np.array([0, 0, 0, 2, 2, 2, 2, 2]), np.array([0, 0, 1, 0, 2, 2, 2, 2])
    np.testing.assert_array_equal(confusion_matrix(targets, predictions, 3), THREE)
    assert confusion_matrix(targets, predictions, 5).shape == (5, 5)
    assert confusion_matrix(np.array([], int), np.array([], int), 2).tolist() == [[0, 0], [0, 0]]


def test_two_classes():
    """Overall scores are those of the second class; all of it passes through JSON unchanged."""
    scores = classification_scores(BINARY, ["bad", "good"], 0.25)
    assert json.loads(json.dumps(scores)) == scores
    assert (scores["loss"], scores["examples"], scores["confusion_matrix"]) == (0.25, 100, BINARY.tolist())
    assert scores["accuracy"] == pytest.approx(85 / 100)
    assert scores["precision"] == pytest.approx(35 / 45)
    assert scores["recall"] == pytest.approx(35 / 40)
    assert scores["f1"] == pytest.approx(70 / 85)
    good = {name: scores[name] for name in ("precision", "recall", "f1")}
    assert scores["classes"]["good"] == good | {"examples": 40}
    assert scores["classes"]["bad"]["recall"] == pytest.approx(50 / 60)
    assert scores["classes"]["bad"]["examples"] == 60


def test_macro_and_per_class():
    scores = classification_scores(THREE, ["a", "b", "c"], 0.0)

    def of_classes(score: str) -> list[float]:
        return [values[score] for values in scores["classes"].values()]

    assert of_classes("precision") == pytest.approx([2 / 3, 0, 1])
    assert of_classes("recall") == pytest.approx([2 / 3, 0, 4 / 5])  # absent: 0, not a warning
    assert of_classes("f1") == pytest.approx([2 / 3, 0, 8 / 9])
    assert scores["precision"] == pytest.approx(5 / 9)
    assert scores["recall"] == pytest.approx((2 / 3 + 4 / 5) / 3)
    assert scores["f1"] == pytest.approx((2 / 3 + 8 / 9) / 3)


def test_nothing_predicted():
    scores = classification_scores(np.zeros((2, 2), int), ["bad", "good"], 0.0)
    assert scores["accuracy"] == scores["precision"] == scores["recall"] == scores["f1"] == 0.0


def test_wrong_input():
    with pytest.raises(ValueError, match="same shape"):
        confusion_matrix(np.zeros(3, int), np.zeros(4, int), 1)
    with pytest.raises(TypeError, match="float64"):
        confusion_matrix(np.zeros(3), np.zeros(3, int), 1)
    for bad in (-1, 2):
        with pytest.raises(ValueError, match=r"\[0, 2\)"):
            confusion_matrix(np.array([0, bad]), np.array([0, 1]), 2)
    with pytest.raises(ValueError, match="3 names for 2 classes"):
        classification_scores(BINARY, ["a", "b", "c"], 0.0)
