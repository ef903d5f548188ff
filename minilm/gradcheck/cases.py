"""The table of all ops, layers and models that `minilm gradcheck` prints: sizes are tiny, options are many.

Names are those of ops ("attention"), of layers ("MultiHeadAttention") and of models ("gpt"). Each has several cases;
each case checks gradients and laws. What a name needs is imported only when its turn comes.
"""

from __future__ import annotations

import difflib
import importlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from minilm.gradcheck.report import Report

TABLES = ("op_cases", "sequence_cases", "layer_cases", "model_cases")  # modules, in the order of printing


class Case(NamedTuple):
    """One set of options of an op, layer or model."""

    label: str
    run: Callable[[int], Report]  # of a seed; a broken law is a failed row of the report


class Row(NamedTuple):
    """One line of the table: the worst of an argument in one case."""

    op: str
    argument: str
    method: str  # "complex-step" or "central-difference"; "law" where a law was broken
    max_rel_error: float | None  # None where no number could be compared
    passed: bool
    case: str = ""
    note: str = ""


def known_cases() -> tuple[str, ...]:
    """The names that can be checked, in the order of the table."""
    return tuple(_builders())


def iter_cases(names: Iterable[str] | None = None, *, seed: int = 0) -> Iterator[Row]:
    """The rows of the named ops, layers and models (None: of all), as they are computed.

    Raises ValueError, before anything is computed, for a name that is unknown; it lists those that are close.
    """
    builders = _builders()
    chosen = list(builders if names is None else names)
    for name in chosen:
        if name not in builders:
            raise ValueError(_unknown(name, list(builders)))
    return (row for name in chosen for case in builders[name](seed) for row in _rows(name, case, seed))


def run_cases(names: Iterable[str] | None = None, *, seed: int = 0) -> list[Row]:
    """All rows of `iter_cases`."""
    return list(iter_cases(names, seed=seed))


def format_table(rows: Iterable[Row]) -> str:
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


def _summary(rows: list[Row]) -> str:
    failed = sum(not row.passed for row in rows)
    worst = {}
    for row in rows:
        if row.max_rel_error is not None:
            worst[row.method] = max(worst.get(row.method, 0.0), row.max_rel_error)
    errors = ", ".join(f"worst relative error by {method} {error:.1e}" for method, error in worst.items())
    return f"{len(rows) - failed} of {len(rows)} passed" + (f"; {errors}" if errors else "")


def _builders() -> dict[str, Callable[[int], Iterable[Case]]]:
    """Name -> the function that makes its cases from a seed. The tables import the ops and layers inside of those."""
    tables = (importlib.import_module(f"minilm.gradcheck.{table}").CASES for table in TABLES)
    return {name: build for table in tables for name, build in table.items()}


def _rows(name: str, case: Case, seed: int) -> Iterator[Row]:
    report = case.run(seed)
    worst: dict[str, Row] = {}
    for row in report.rows:
        error = row.rel_error if math.isfinite(row.rel_error) else None
        note = (
            row.note if row.passed or error is None else f"analytic {row.analytic}, numeric {row.numeric}; {row.note}"
        )
        new = Row(name, row.argument, row.method, error, row.passed, case.label, note)
        old = worst.get(row.argument)
        if old is None or (not new.passed, new.max_rel_error or 0.0) > (not old.passed, old.max_rel_error or 0.0):
            worst[row.argument] = new
    yield from worst.values()


def _unknown(name: str, known: list[str]) -> str:
    lower = {other.lower(): other for other in reversed(known)}
    close = [lower[match] for match in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)]
    meant = f"did you mean {' or '.join(close)}? " if close else ""
    return f"nothing named {name!r} to check; {meant}known are {', '.join(known)}"
