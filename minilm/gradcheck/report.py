"""What a gradient check found: one row per argument (or element), and a text that holds all it takes to repeat it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from minilm.gradcheck.structures import has_state


class ReportRow(NamedTuple):
    """One comparison of an analytic with a numeric derivative."""

    op: str
    argument: str  # which argument (or parameter) of the forward
    method: str  # "complex-step", "central-difference", or "law" where no number is compared
    index: tuple[int, ...] | None  # the element; None for a random direction through the whole argument
    analytic: float
    numeric: float
    rel_error: float  # |analytic - numeric| / scale, see numeric.py; infinite where there is no gradient to compare
    passed: bool
    note: str = ""

    @classmethod
    def broken(cls, op: str, argument: str, note: str) -> ReportRow:
        """A failed row for what no number can show."""
        return cls(op, argument, "law", None, math.nan, math.nan, math.inf, False, note)


class Report(NamedTuple):
    """The rows, and the call that produced them. True where every row passed; `print(report)` shows all."""

    rows: tuple[ReportRow, ...]
    call: str  # the Python expression that repeats this check
    seed: int
    arguments: str  # names, dtypes and shapes of what was passed

    @property
    def passed(self) -> bool:
        return all(row.passed for row in self.rows)

    @property
    def max_rel_error(self) -> float:
        """The worst relative error of all rows; 0.0 where there was nothing to compare (empty arrays)."""
        errors = [row.rel_error for row in self.rows]
        return math.inf if any(math.isnan(error) for error in errors) else max(errors, default=0.0)

    @property
    def failures(self) -> tuple[ReportRow, ...]:
        return tuple(row for row in self.rows if not row.passed)

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        # In full mode thousands of rows may pass: the worst of each argument stands for them. Failures are all shown.
        shown, hidden = _worst_of_each(self.rows)
        lines = [f"gradcheck {'passed' if self.passed else 'FAILED'}: worst relative error {self.max_rel_error:.2e}"]
        lines += [_line(row) for row in shown]
        if hidden:
            lines.append(f"  ({hidden} more rows passed)")
        lines += [f"  arguments: {self.arguments}", f"  seed: {self.seed}", f"  repeat with: {self.call}"]
        return "\n".join(lines)

    __repr__ = __str__


def call_text(function: str, *arguments: str, **options: Any) -> str:
    """The expression that calls `function` again. Options that are None are left out; arrays stand by their names."""
    given = {name: value for name, value in options.items() if value is not None}
    named = [f"{name}={name if has_state(value) else repr(value)}" for name, value in given.items()]
    return f"{function}({', '.join([*arguments, *named])})"


def joined(*notes: str) -> str:
    """The notes in one, without the empty ones."""
    return "; ".join(filter(None, notes))


def _worst_of_each(rows: tuple[ReportRow, ...], limit: int = 20) -> tuple[list[ReportRow], int]:
    failed = [row for row in rows if not row.passed][:limit]
    worst: dict[str, ReportRow] = {}  # by argument
    for row in rows:
        if row.passed and (row.argument not in worst or row.rel_error > worst[row.argument].rel_error):
            worst[row.argument] = row
    noted = [row for row in rows if row.passed and row.note and row is not worst[row.argument]][:limit]
    chosen = {id(row) for row in (*failed, *worst.values(), *noted)}
    shown = [row for row in rows if id(row) in chosen]
    return shown, len(rows) - len(shown)


def _line(row: ReportRow) -> str:
    where = row.argument if row.index is None else f"{row.argument}[{', '.join(map(str, row.index))}]"
    text = (
        f"  {'ok  ' if row.passed else 'FAIL'} {row.op} {where}: analytic {row.analytic:.15g}, "
        f"numeric {row.numeric:.15g}, relative error {row.rel_error:.2e} ({row.method})"
    )
    return f"{text}; {row.note}" if row.note else text
