"""How good a classifier is: confusion matrix, accuracy, precision, recall, F1. Pure NumPy, on the host.

    M[i, j] = number of examples of class i that were taken for class j         (K, K)

    accuracy = Σ M[k, k] / Σ M      precision_k = M[k, k] / Σ_i M[i, k]      recall_k = M[k, k] / Σ_j M[k, j]
    F1_k = 2 precision_k recall_k / (precision_k + recall_k)                     [van Rijsbergen 1979, chapter 7]

A quotient with denominator 0 (a class never predicted, or absent) is 0.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def confusion_matrix(targets: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """(K, K) counts; rows are the true classes. targets, predictions (N,) integers in [0, K).

    ValueError for other shapes, or a class outside.
    """
    targets, predictions = np.asarray(targets), np.asarray(predictions)
    if targets.ndim != 1 or targets.shape != predictions.shape:
        raise ValueError(f"targets {targets.shape} and predictions {predictions.shape} must have the same shape (N,)")
    for name, labels in (("targets", targets), ("predictions", predictions)):
        if labels.size and labels.dtype.kind not in "iub":
            raise TypeError(f"{name} must be class numbers (integers), got {labels.dtype}")
    both = np.concatenate([targets, predictions]).astype(np.int64)  # (2N,)
    if both.size and not 0 <= both.min() <= both.max() < classes:
        raise ValueError(f"classes must be in [0, {classes}), got {both.min()} to {both.max()}")
    pairs = targets.astype(np.int64) * classes + predictions  # (N,)  the cell of each example, rows one after the other
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)  # (K, K)


def classification_scores(matrix: np.ndarray, names: Sequence[str], loss: float) -> dict[str, Any]:
    """All scores of a confusion matrix (K, K), in types that JSON knows, with the names of the classes.

    With two classes precision, recall and F1 are those of class 1, as is usual; else the macro averages, the plain
    means over all classes. `loss` is the mean cross-entropy in nats.
    """
    if len(names) != len(matrix):
        raise ValueError(f"{len(names)} names for {len(matrix)} classes: {', '.join(names)}")
    right, predicted, support = np.diag(matrix), matrix.sum(axis=0), matrix.sum(axis=1)  # (K,)
    per_class = {
        "precision": _ratio(right, predicted),
        "recall": _ratio(right, support),
        "f1": _ratio(2 * right, predicted + support),  # the same, and has one denominator
    }
    return {
        "loss": loss,
        "accuracy": float(_ratio(np.trace(matrix), matrix.sum())),
        **{score: float(values[1] if len(names) == 2 else values.mean()) for score, values in per_class.items()},
        "examples": int(matrix.sum()),
        "classes": {
            name: {score: float(values[k]) for score, values in per_class.items()} | {"examples": int(support[k])}
            for k, name in enumerate(names)
        },
        "confusion_matrix": matrix.tolist(),
    }


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, 0.0 where below is 0."""
    return np.where(below == 0, 0.0, above / np.maximum(below, 1))
