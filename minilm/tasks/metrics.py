"""How good a classifier is: confusion matrix, accuracy, precision, recall, F1. Pure NumPy, on the host.

    M[i, j] = number of examples of class i that were taken for class j         (K, K)

    accuracy = Σ M[k, k] / Σ M      precision_k = M[k, k] / Σ_i M[i, k]      recall_k = M[k, k] / Σ_j M[k, j]
    F1_k = 2 precision_k recall_k / (precision_k + recall_k)                     [van Rijsbergen 1979, chapter 7]

A quotient with denominator 0 (a class never predicted, or absent) is 0.0. With `positive` a score is that of this one
class, as is usual for two classes; without, it is the macro average: the plain mean over all K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


def confusion_matrix(targets: np.ndarray, predictions: np.ndarray, classes: int | None = None) -> np.ndarray:
    """(K, K) counts; rows are the true classes. targets, predictions (N,) integers in [0, K).

    K is `classes`, or else one above the largest number that occurs. ValueError for other shapes, or a class outside.
    """
    targets, predictions = np.asarray(targets), np.asarray(predictions)
    if targets.ndim != 1 or targets.shape != predictions.shape:
        raise ValueError(f"targets {targets.shape} and predictions {predictions.shape} must have the same shape (N,)")
    for name, labels in (("targets", targets), ("predictions", predictions)):
        if labels.size and labels.dtype.kind not in "iub":
            raise TypeError(f"{name} must be class numbers (integers), got {labels.dtype}")
    both = np.concatenate([targets, predictions]).astype(np.int64)  # (2N,)
    classes = int(both.max(initial=-1)) + 1 if classes is None else classes
    if both.size and not 0 <= both.min() <= both.max() < classes:
        raise ValueError(f"classes must be in [0, {classes}), got {both.min()} to {both.max()}")
    pairs = targets.astype(np.int64) * classes + predictions  # (N,)  the cell of each example, rows one after the other
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)  # (K, K)


def accuracy(matrix: np.ndarray) -> float:
    """The part of the examples that is right. matrix (K, K)."""
    return float(_ratio(np.trace(matrix), matrix.sum()))


def precision(matrix: np.ndarray, positive: int | None = None) -> float:
    """Of those predicted as a class, the part that belongs to it: of the class `positive`, or the macro average."""
    return _reduce(precision_per_class(matrix), positive)


def recall(matrix: np.ndarray, positive: int | None = None) -> float:
    """Of those that belong to a class, the part that was found: of the class `positive`, or the macro average."""
    return _reduce(recall_per_class(matrix), positive)


def f1(matrix: np.ndarray, positive: int | None = None) -> float:
    """The harmonic mean of precision and recall: of the class `positive`, or the mean of the classes' F1."""
    return _reduce(f1_per_class(matrix), positive)


def precision_per_class(matrix: np.ndarray) -> np.ndarray:
    """(K,)"""
    return _ratio(np.diag(matrix), matrix.sum(axis=0))


def recall_per_class(matrix: np.ndarray) -> np.ndarray:
    """(K,)"""
    return _ratio(np.diag(matrix), matrix.sum(axis=1))


def f1_per_class(matrix: np.ndarray) -> np.ndarray:
    """(K,)  written as 2 M[k, k] / (Σ_i M[i, k] + Σ_j M[k, j]), which is the same and has one denominator."""
    return _ratio(2 * np.diag(matrix), matrix.sum(axis=0) + matrix.sum(axis=1))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, 0.0 where below is 0."""
    return np.where(below == 0, 0.0, above / np.maximum(below, 1))


def _reduce(per_class: np.ndarray, positive: int | None) -> float:
    if positive is not None and not 0 <= positive < per_class.size:
        raise ValueError(f"the positive class {positive} is not in [0, {per_class.size})")
    if positive is None:
        return float(per_class.mean()) if per_class.size else 0.0
    return float(per_class[positive])


@dataclass(frozen=True)
class ClassificationReport:
    """All scores of one classifier on one set of examples.

    With two classes precision, recall and F1 are those of class 1, else the macro averages.
    """

    matrix: np.ndarray  # (K, K)
    names: tuple[str, ...]  # of the classes
    loss: float | None = None  # mean cross-entropy in nats, where it is known

    @classmethod
    def of(
        cls,
        targets: np.ndarray,
        predictions: np.ndarray,
        classes: int | None = None,
        names: Sequence[str] | None = None,
        loss: float | None = None,
    ) -> ClassificationReport:
        """From class numbers (N,), true and predicted. K is `classes`, or else the number of names."""
        matrix = confusion_matrix(targets, predictions, len(names) if classes is None and names else classes)
        names = tuple(str(k) for k in range(len(matrix))) if names is None else tuple(names)
        if len(names) != len(matrix):
            raise ValueError(f"{len(names)} names for {len(matrix)} classes: {', '.join(names)}")
        return cls(matrix, names, loss)

    @property
    def positive(self) -> int | None:
        return 1 if len(self.matrix) == 2 else None

    @property
    def examples(self) -> int:
        return int(self.matrix.sum())

    @property
    def accuracy(self) -> float:
        return accuracy(self.matrix)

    @property
    def precision(self) -> float:
        return precision(self.matrix, self.positive)

    @property
    def recall(self) -> float:
        return recall(self.matrix, self.positive)

    @property
    def f1(self) -> float:
        return f1(self.matrix, self.positive)

    def to_dict(self) -> dict[str, Any]:
        """Everything, in types that JSON knows."""
        columns = (precision_per_class(self.matrix), recall_per_class(self.matrix), f1_per_class(self.matrix))
        support = self.matrix.sum(axis=1)
        return {
            **({} if self.loss is None else {"loss": self.loss}),
            "accuracy": self.accuracy,
            "precision": self.precision,
            "recall": self.recall,
            "f1": self.f1,
            "examples": self.examples,
            "classes": {
                name: {
                    "precision": float(columns[0][k]),
                    "recall": float(columns[1][k]),
                    "f1": float(columns[2][k]),
                    "examples": int(support[k]),
                }
                for k, name in enumerate(self.names)
            },
            "confusion_matrix": self.matrix.tolist(),
        }

    def table(self) -> str:
        """The scores of each class and of all, as text."""
        overall = "all" if self.positive is None else f"all (P, R, F1 of {self.names[1]})"
        width = max(len(name) for name in (*self.names, overall))
        lines = [f"{'class':<{width}}  precision  recall      F1  examples"]
        for name, row in self.to_dict()["classes"].items():
            lines.append(_row(name, width, row))
        whole = {"precision": self.precision, "recall": self.recall, "f1": self.f1, "examples": self.examples}
        lines.append(_row(overall, width, whole))
        lines.append(f"accuracy {self.accuracy:.4f}" + ("" if self.loss is None else f"   loss {self.loss:.4f} nats"))
        return "\n".join(lines)


def _row(name: str, width: int, row: dict[str, Any]) -> str:
    scores = f"{row['precision']:>9.4f}  {row['recall']:>6.4f}  {row['f1']:.4f}"
    return f"{name:<{width}}  {scores}  {row['examples']:>8}"
