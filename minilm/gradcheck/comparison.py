"""One gradient against numeric derivatives: the choice of the method, directions, elements, kinks."""

from __future__ import annotations

import math

import numpy as np

from minilm.gradcheck.numeric import (
    NoComplexStepError,
    Problem,
    central_difference,
    complex_step,
    one_sided,
    scale_of,
    typical,
)
from minilm.gradcheck.report import ReportRow, joined
from minilm.gradcheck.structures import signed_uniform

COMPLEX_STEP, DIFFERENCES = "complex-step", "central-difference"
SEARCHED = 4096  # elements that are searched for the culprit, or for kinks, after a direction failed
AGREEMENT = 1e-7  # of the complex step with differences
SUBGRADIENT_TOLERANCE = 1e-6  # one-sided derivatives are good to about 1e-9


class Comparison:
    """Compares gradients of one problem. `tolerance` is relative, by method; `atol` is added to what it allows."""

    def __init__(
        self, problem: Problem, op: str, method: str, mode: str, tolerance: dict[str, float], atol: float = 0.0
    ) -> None:
        self.problem, self.op, self.method, self.mode = problem, op, method, mode
        self.tolerance, self.atol = tolerance, atol

    def rows(self, name: str, gradient: np.ndarray, rng: np.random.Generator) -> list[ReportRow]:
        """Compare the gradient of the argument `name`, along one direction or element by element."""
        x, gradient = self.problem.values[name], gradient.astype(np.float64)
        if not x.size:
            method = COMPLEX_STEP if self.method == "auto" else self.method
            return [ReportRow(self.op, name, method, None, 0.0, 0.0, 0.0, True, "empty: nothing to compare")]
        if not np.isfinite(gradient).all():
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(gradient))[0])
            return [ReportRow.broken(self.op, name, f"the gradient is {gradient[index]} at {list(index)}")]
        # Signs of the gradient: what is summed along the direction then never cancels, and one wrong element shows.
        v = signed_uniform(rng, x.shape)
        v = np.where(gradient != 0, np.abs(v) * np.sign(gradient), v)
        v = np.where(np.isfinite(x), v, 0.0) * typical(x)
        method, note = self._choose(name, v)
        if not np.isfinite(x).all():
            note = joined(note, "elements that are not finite are left out")
        if self.mode == "full":
            return self._elements(name, gradient, method, note)
        row = self._compare(name, gradient, v, method, note)
        if row.passed:
            return [row]
        return self._after_failure(name, gradient, v, method, row)

    # ---- the method

    def _choose(self, name: str, v: np.ndarray) -> tuple[str, str]:
        """The method for one argument, and why, where "auto" could not take the complex step."""
        if self.method != "auto":
            return self.method, ""
        try:
            exact = complex_step(self.problem, name, v)
        except NoComplexStepError as reason:
            return DIFFERENCES, str(reason)
        # A forward may drop the imaginary part of one term and keep another's: only differences can tell.
        for quick in (True, False):
            plain = central_difference(self.problem, name, v, quick=quick)
            scale = scale_of(self.problem, exact.value, plain)
            doubt = 0.0 if quick else 10 * plain.error
            if abs(exact.value - plain.value) <= AGREEMENT * scale + doubt:
                return COMPLEX_STEP, ""
        return DIFFERENCES, "complex step and differences disagree: an imaginary part is dropped, or a kink is here"

    # ---- one direction

    def _compare(
        self, name: str, gradient: np.ndarray, v: np.ndarray, method: str, note: str = "",
        index: tuple[int, ...] | None = None, floor: float = 0.0,
    ) -> ReportRow:  # fmt: skip
        """Along v; as derivatives per element where an index is given (v is then one element's)."""
        estimate = complex_step if method == COMPLEX_STEP else central_difference
        analytic, numeric = float(np.sum(gradient * v)), estimate(self.problem, name, v)
        unit = 1.0 if index is None else float(v[index])
        scale = max(scale_of(self.problem, analytic, numeric), floor * abs(unit))
        error = abs(analytic - numeric.value)
        passed = bool(error <= self.tolerance[method] * scale + self.atol * abs(unit))  # False for NaN
        relative = error / scale if math.isfinite(error) else math.inf
        if not math.isfinite(numeric.value):
            note = "the forward is not finite near here"
        return ReportRow(self.op, name, method, index, analytic / unit, numeric.value / unit, relative, passed, note)

    def _element(
        self, name: str, gradient: np.ndarray, index: tuple[int, ...], method: str, note: str = ""
    ) -> ReportRow:
        """One element; at a kink its gradient must lie between the one-sided derivatives."""
        v = np.zeros(gradient.shape)
        v[index] = unit = typical(self.problem.values[name])
        # An element far below the largest carries the largest's rounding: relative to a tenth of that one at least.
        row = self._compare(name, gradient, v, method, note, index, floor=0.1 * float(np.abs(gradient).max()))
        if row.passed or method == COMPLEX_STEP:
            return row
        sides = one_sided(self.problem, name, v)
        if not sides.kink:
            return row
        analytic, low, high = float(gradient[index]) * unit, min(sides[:2]), max(sides[:2])
        outside = max(low - analytic, analytic - high, 0.0)
        scale = max(abs(low), abs(high), abs(analytic), 1e-4 * self.problem.natural)
        between = f"between the one-sided derivatives {low / unit:.6g} and {high / unit:.6g}"
        if outside <= SUBGRADIENT_TOLERANCE * scale:
            return row._replace(rel_error=0.0, passed=True, note=f"at a kink: {between}")
        return row._replace(rel_error=outside / scale, note=f"at a kink, but not {between}")

    def _elements(self, name: str, gradient: np.ndarray, method: str, note: str) -> list[ReportRow]:
        finite = np.isfinite(self.problem.values[name])
        rows = [self._element(name, gradient, index, method) for index in np.ndindex(gradient.shape) if finite[index]]
        if note and rows:
            rows[0] = rows[0]._replace(note=joined(rows[0].note, note))
        return rows

    # ---- after a direction failed: is it a kink, and which element is it?

    def _after_failure(
        self, name: str, gradient: np.ndarray, v: np.ndarray, method: str, row: ReportRow
    ) -> list[ReportRow]:
        """The failed row with the worst element; or, where only kinks were in the way, rows that pass beside them."""
        if gradient.size > SEARCHED:
            return [row._replace(note=joined(row.note, "mode='full' names the element"))]
        rows = self._elements(name, gradient, method, "")
        at_kink = [element for element in rows if element.note.startswith("at a kink")]
        worst = max(rows, key=lambda element: (not element.passed, element.rel_error))
        if worst.passed and not at_kink and one_sided(self.problem, name, v).kink:
            return [worst._replace(index=None, note="the direction is at a kink, no element is: each one was compared")]
        if not worst.passed or not at_kink:
            values = f"analytic {worst.analytic:.15g}, numeric {worst.numeric:.15g}"
            found = f"worst element {list(worst.index or ())}: {values}"
            return [row._replace(note=joined(row.note, found)), *([] if worst.passed else [worst])]
        # Every kink is accounted for by its element: all else must agree along the same direction as strictly as ever.
        rest = v.copy()
        for element in at_kink:
            rest[element.index] = 0.0
        note = joined(row.note, f"{len(at_kink)} elements at a kink, each between its one-sided derivatives")
        if not rest.any():
            worst = max(at_kink, key=lambda element: element.rel_error)
            return [worst._replace(index=None, note=note)]
        return [self._compare(name, gradient, rest, method, note)]
