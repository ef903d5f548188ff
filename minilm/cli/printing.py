"""How results look in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from minilm.train.recipes import Trained


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as their widest entry; the first to the left, the others to the right."""
    cells = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in cells)
    ]
    return "\n".join([lines[0].rstrip(), "  ".join("-" * width for width in widths), *(line.rstrip() for line in lines[1:])])


def print_scores(scores: dict[str, Any]) -> None:
    """One line a score; nested tables and lists are left to --json."""
    plain = {name: value for name, value in scores.items() if not isinstance(value, dict | list)}
    width = max(map(len, plain))
    for name, value in plain.items():
        print(f"{name.ljust(width)}  {value:.4f}" if isinstance(value, float) else f"{name.ljust(width)}  {value}")


def print_training(trained: Trained) -> None:
    result, run = trained.result, trained.run
    state = "interrupted: continue with --resume" if result.interrupted else "done"
    print(f"{state}: step {result.step:,}, {result.seconds:.0f} s, {result.tokens_per_second:,.0f} tokens/s -> {run.directory}")
    if trained.scores:
        print_scores(trained.scores)
