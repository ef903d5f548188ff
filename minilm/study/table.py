"""The table of checks of all ops, layers, models and methods of adaptation, which `minilm gradcheck` prints.

Names are those of ops ("attention"), layers ("MultiHeadAttention"), presets ("gpt") and methods ("lora"). Each has
several cases, see `cases`; each case checks gradients and laws. What is registered and has no case is a failed row.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from minilm.checks import unknown
from minilm.study.cases import TABLES, Case, CaseTable


class TableRow(NamedTuple):
    """One line of the table: the worst of an argument in one case."""

    op: str
    argument: str
    method: str  # "complex-step" or "central-difference"; "law" where a law was broken
    max_rel_error: float | None  # None where no number could be compared
    passed: bool
    case: str = ""
    note: str = ""


def known_cases() -> dict[str, CaseTable]:
    """The names that can be checked, in the order of the table, each with the cases of its kind."""
    return {name: table for table in TABLES for name in table.names()}


def run_cases(names: Iterable[str] | None = None, *, seed: int = 0) -> list[TableRow]:
    """The rows of the named ops, layers, models and methods (None: of all).

    Raises ValueError, before anything is computed, for a name that is unknown; it lists those that are close.
    """
    tables = known_cases()
    chosen = list(tables if names is None else names)
    for name in chosen:
        if name not in tables:
            raise ValueError(unknown("op, layer, preset or method", name, tables))
    return [row for name in chosen for row in _rows(name, tables[name], seed)]


def format_table(rows: Iterable[TableRow]) -> str:
    """The rows as a table, and a last line that says how many passed."""
    rows = list(rows)
    cells = [("op", "case", "argument", "method", "max rel error", "verdict")]
    for row in rows:
        error = "-" if row.max_rel_error is None else f"{row.max_rel_error:.1e}"
        cells.append((row.op, row.case, row.argument, row.method, error, "ok" if row.passed else "FAILED"))
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    lines.insert(1, "  ".join("-" * width for width in widths))
    lines += [f"\n{row.op} ({row.case}), {row.argument}: {row.note}" for row in rows if not row.passed and row.note]
    return "\n".join([*lines, "", _summary(rows)])


def _summary(rows: list[TableRow]) -> str:
    failed = sum(not row.passed for row in rows)
    worst = {}
    for row in rows:
        if row.max_rel_error is not None:
            worst[row.method] = max(worst.get(row.method, 0.0), row.max_rel_error)
    errors = ", ".join(f"worst relative error by {method} {error:.1e}" for method, error in worst.items())
    return f"{len(rows) - failed} of {len(rows)} passed" + (f"; {errors}" if errors else "")


def _rows(name: str, table: CaseTable, seed: int) -> Iterator[TableRow]:
    if name in table.without_case():
        note = f"this {table.kind} is registered, but has no case in minilm/study/cases"
        yield TableRow(name, "(all)", "law", None, False, "none", note)
    for case in table.cases(name, seed):
        yield from _worst_rows(name, case)


def _worst_rows(name: str, case: Case) -> Iterator[TableRow]:
    worst: dict[str, TableRow] = {}
    for row in case.run().rows:
        error, note = (row.rel_error if math.isfinite(row.rel_error) else None), row.note
        if error is not None and not row.passed:
            note = f"analytic {row.analytic}, numeric {row.numeric}; {note}"
        new = TableRow(name, row.argument, row.method, error, row.passed, case.label, note)
        old = worst.get(row.argument)
        if old is None or (not new.passed, new.max_rel_error or 0.0) > (not old.passed, old.max_rel_error or 0.0):
            worst[row.argument] = new
    yield from worst.values()
