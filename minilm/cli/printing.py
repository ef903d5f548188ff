"""How results look in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from minilm.runs import Trained


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Columns as wide as their widest entry; the first `left` of them to the left, the others to the right."""
    cells = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = []
    for row in cells:
        first, *others = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join([first, *others]).rstrip())
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def print_scores(scores: dict[str, Any]) -> None:
    """One line a score; nested tables are for --json."""
    plain = {name: value for name, value in scores.items() if not isinstance(value, dict | list)}
    width = max(map(len, plain))
    for name, value in plain.items():
        print(f"{name:<{width}}  {value:.4f}" if isinstance(value, float) else f"{name:<{width}}  {value:,}")


def print_training(trained: Trained) -> None:
    """What a training leaves behind: where, how long, how good."""
    result, directory = trained.result, trained.run.directory
    state = "interrupted, continue with --resume" if result.interrupted else "trained"
    speed = f", {result.seconds:.0f} s, {result.tokens_per_second:,.0f} tokens/s" if result.tokens_per_second else ""
    print(f"{directory}: {state}; step {result.step:,}{speed}")
    if trained.scores:
        print(f"scores on {trained.run.config.task.held_out}:")
        print_scores(trained.scores)
