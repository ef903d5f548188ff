"""The demo's pictures, drawn where matplotlib is installed: loss curve, attention map, confusion matrices."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, ACCENT = "#4c72b0", "#dd8452"


def available() -> bool:
    """Whether matplotlib, the extra `plot`, is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150)
    FigureCanvasAgg(figure)  # draws to files only: no window, no global state
    return figure


def _save(figure: Figure, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, bbox_inches="tight")
    return path


def loss_curve(history: Sequence[dict], path: Path) -> Path:
    """Training loss of every logged step, and the validation loss where it was measured. In nats per token."""
    figure = _figure(6.4, 3.8)
    axes = figure.add_subplot()
    train = [(row["step"], row["loss"]) for row in history if "loss" in row]
    validation = [(row["step"], row["val_loss"]) for row in history if "val_loss" in row]
    axes.plot(*zip(*train, strict=True), color=INK, linewidth=1, alpha=0.8, label="training")
    if validation:
        axes.plot(*zip(*validation, strict=True), color=ACCENT, marker="o", markersize=3, label="held-out")
    axes.set(xlabel="step", ylabel="loss (nats per token)", title="Pretraining on the King James text")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return _save(figure, path)


def attention_map(weights: np.ndarray, tokens: Sequence[str], path: Path) -> Path:
    """weights (H, T, T) of one layer: which earlier token each token looks at, a panel a head."""
    heads = len(weights)
    figure = _figure(3.4 * heads, 4.2)
    for head, axes in enumerate(np.atleast_1d(figure.subplots(1, heads, sharey=True))):
        axes.imshow(weights[head], cmap="viridis", vmin=0, vmax=1)
        axes.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=7)
        axes.set_yticks(range(len(tokens)), tokens, fontsize=7)
        axes.set_title(f"head {head + 1}", fontsize=9)
    figure.suptitle("Attention of the last layer: each row looks at earlier columns", fontsize=11)
    return _save(figure, path)


def confusion_matrices(matrices: dict[str, np.ndarray], labels: Sequence[str], path: Path) -> Path:
    """matrices (K, K) of counts by method: rows are true labels, columns predicted ones."""
    figure = _figure(2.6 * len(matrices), 3.2)
    panels = np.atleast_1d(figure.subplots(1, len(matrices), sharey=True))
    for axes, (name, matrix) in zip(panels, matrices.items(), strict=True):
        share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(matrix):
            ink = "white" if share[row, column] > 0.5 else "black"
            axes.text(
                column, row, f"{count:,}\n{share[row, column]:.0%}", ha="center", va="center", color=ink, fontsize=8
            )
        axes.set_xticks(range(len(labels)), labels, fontsize=8)
        axes.set_yticks(range(len(labels)), labels, fontsize=8)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("predicted", fontsize=8)
    panels[0].set_ylabel("true", fontsize=8)
    return _save(figure, path)
