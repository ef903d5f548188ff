"""Classification metrics against values worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from minilm.tasks.metrics import (
    ClassificationReport,
    accuracy,
    confusion_matrix,
    f1,
    f1_per_class,
    precision,
    precision_per_class,
    recall,
    recall_per_class,
)

BINARY = np.array([[50, 10], [5, 35]])  # 50 true negatives, 10 false positives, 5 false negatives, 35 true positives
THREE = np.array([[2, 1, 0], [0, 0, 0], [1, 0, 4]])  # class 1 never occurs, and is predicted once


def test_confusion_matrix():
    targets, predictions = np.array([0, 0, 0, 2, 2, 2, 2, 2]), np.array([0, 0, 1, 0, 2, 2, 2, 2])
    np.testing.assert_array_equal(confusion_matrix(targets, predictions), THREE)
    assert confusion_matrix(targets, predictions, 5).shape == (5, 5)
    assert confusion_matrix(np.array([], int), np.array([], int), 2).tolist() == [[0, 0], [0, 0]]


def test_binary():
    assert accuracy(BINARY) == pytest.approx(85 / 100)
    assert precision(BINARY, positive=1) == pytest.approx(35 / 45)
    assert recall(BINARY, positive=1) == pytest.approx(35 / 40)
    assert f1(BINARY, positive=1) == pytest.approx(70 / 85)
    assert recall(BINARY, positive=0) == pytest.approx(50 / 60)


def test_macro_and_per_class():
    assert precision_per_class(THREE) == pytest.approx([2 / 3, 0, 1])
    assert recall_per_class(THREE) == pytest.approx([2 / 3, 0, 4 / 5])  # absent: 0, not a warning
    assert f1_per_class(THREE) == pytest.approx([2 / 3, 0, 8 / 9])
    assert precision(THREE) == pytest.approx(5 / 9)
    assert recall(THREE) == pytest.approx((2 / 3 + 4 / 5) / 3)
    assert f1(THREE) == pytest.approx((2 / 3 + 8 / 9) / 3)


def test_nothing_predicted():
    nothing = np.zeros((2, 2), int)
    assert accuracy(nothing) == precision(nothing, 1) == recall(nothing) == f1(nothing, 0) == 0.0


def test_wrong_input():
    with pytest.raises(ValueError, match="same shape"):
        confusion_matrix(np.zeros(3, int), np.zeros(4, int))
    with pytest.raises(TypeError, match="float64"):
        confusion_matrix(np.zeros(3), np.zeros(3, int))
    for bad in (-1, 2):
        with pytest.raises(ValueError, match=r"\[0, 2\)"):
            confusion_matrix(np.array([0, bad]), np.array([0, 1]), 2)
    with pytest.raises(ValueError, match="positive"):
        precision(BINARY, positive=2)
    with pytest.raises(ValueError, match="3 names for 2 classes"):
        ClassificationReport.of(np.array([0, 1]), np.array([0, 1]), 2, names=["a", "b", "c"])


def test_report():
    targets, predictions = np.repeat([0, 0, 1, 1], [50, 10, 5, 35]), np.repeat([0, 1, 0, 1], [50, 10, 5, 35])
    report = ClassificationReport.of(targets, predictions, names=["bad", "good"], loss=0.25)
    np.testing.assert_array_equal(report.matrix, BINARY)
    as_dict = json.loads(json.dumps(report.to_dict()))
    assert as_dict["precision"] == precision(BINARY, 1) == as_dict["classes"]["good"]["precision"]
    assert as_dict["classes"]["bad"]["examples"] == 60
    assert (as_dict["loss"], as_dict["examples"], as_dict["confusion_matrix"]) == (0.25, 100, BINARY.tolist())
    table = report.table().splitlines()
    assert len({len(line) for line in table[:-1]}) == 1  # aligned
    assert table[2].split() == ["good", "0.7778", "0.8750", "0.8235", "40"]
    assert table[-1] == "accuracy 0.8500   loss 0.2500 nats"


def test_report_of_three_classes():
    report = ClassificationReport.of(np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2]))
    assert report.positive is None
    assert report.precision == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert report.names == ("0", "1", "2")
    assert "loss" not in report.to_dict()
