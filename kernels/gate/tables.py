"""The tables of the compile gate, in Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from minilm.kernels.gate.compile import Figures

Column = tuple[str, Callable[[Figures], object]]

PER_WORK: tuple[Column, ...] = (
    ("instr per 1000 FMA, loop", lambda f: _number(f.hot_per_kfma)),
    ("tile", lambda f: _number(f.tile_per_kfma)),
    ("instr per element", lambda f: _number(f.per_element)),
)
RESOURCES: tuple[Column, ...] = (
    ("registers", lambda f: f.registers),
    ("stack", lambda f: f.stack),
    ("spills", lambda f: f.spills),
    ("shared", lambda f: f.shared),
    ("warps/SM", lambda f: f"{f.blocks}x{-(-f.threads // 32)}={f.warps}"),
    ("limit", lambda f: f.limited_by),
    ("128-bit loads", lambda f: f.wide_loads),
    ("stores", lambda f: f.wide_stores),
    ("HMMA", lambda f: f.tensor),
    ("LDSM", lambda f: f.matrix_loads),
    ("LDSM.T", lambda f: f.transposed_loads),
    ("LDGSTS", lambda f: f.async_copies),
    ("zero-filled", lambda f: f.zero_filled_copies),
    *PER_WORK,
    ("instructions", lambda f: f.instructions),
)
COMPARED: tuple[Column, ...] = (
    ("registers", lambda f: f.registers),
    ("spills", lambda f: f.spills),
    ("warps/SM", lambda f: f.warps),
    ("hot loop", lambda f: _of_loop(f, "all")),
    ("HMMA", lambda f: _of_loop(f, "tensor")),
    ("LDSM", lambda f: _of_loop(f, "matrix load")),
    ("SHFL", lambda f: _of_loop(f, "shuffle")),
    ("integer and move", lambda f: _of_loop(f, "integer and move")),
    *PER_WORK,
)


def _number(value: float) -> str:
    return f"{value:.2f}" if value else ""


def _of_loop(figures: Figures, name: str) -> object:
    return figures.hot_mix.get(name, 0) if figures.hot_mix else ""


def markdown(rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table, its first row the head."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[c]) for row in cells) for c in range(len(cells[0]))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def resource_table(measured: Iterable[Figures]) -> str:
    """One line per instance and architecture: everything the gate looks at."""
    rows: list[list[object]] = [["kernel", "sm", *(head for head, _ in RESOURCES)]]
    for f in measured:
        name = f"{f.kernel} ({f.note})" if f.note else f.kernel
        cells = ["does not compile", *[""] * (len(RESOURCES) - 1)] if f.error else [show(f) for _, show in RESOURCES]
        rows.append([name, f.arch, *cells])
    return markdown(rows)


def comparison_table(measured: Sequence[Figures], compared: Iterable[Mapping[str, Any]]) -> str:
    """The figures of the rows of "compared" in budget.json, and Triton's under each, where known."""
    rows: list[list[object]] = [["kernel", "from", *(head for head, _ in COMPARED)]]
    for row in compared:
        for f in measured:
            if f.arch == row["arch"] and re.search(row["kernel"], f.kernel):
                rows.append([row["title"], "minilm", *(show(f) for _, show in COMPARED)])
        if row["triton"]:
            rows.append([row["title"], row["peer"], *row["triton"]])
    return markdown(rows)
