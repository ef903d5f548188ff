"""Numeric derivatives of f(x) = Σ dy · forward(x) along a direction v, and what they are compared by.

Complex step       Im f(x + ihv) / h with h = 1e-30: no difference is taken, so nothing cancels and the error is that of
                   the forward itself, about 1e-15.   [Squire & Trapp 1998, SIAM Review 40(1)]
Central difference (f(x + tv) − f(x − tv)) / 2t for t = 2⁻⁵, 2⁻⁶, ... in a Richardson tableau; the entry that agrees
                   best with its neighbours is taken.   [Ridders 1982, Advances in Engineering Software 4(2)]
                   Steps go down to 2⁻²⁴ while the entries disagree, so that a kink nearby is stepped over.
Kinks              A smooth f has one-sided derivatives that meet as t → 0, in proportion to t; at a kink their distance
                   stays. Looked for only where analytic and numeric derivative disagree.

Directions are scaled to the argument (v ~ mean |x|), so that steps are relative and inputs of any size behave alike.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

COMPLEX_H = 1e-30
FIRST_LEVEL, FEWEST_LEVELS, LAST_LEVEL = 5, 4, 24  # steps are 2^-level
KINK_NEAR, KINK_FAR = 2.0**-20, 2.0**-17


class NoComplexStepError(ValueError):
    """The forward does not carry imaginary parts from this argument to its result."""


class Problem(NamedTuple):
    """f as the checker sees it: everything on the host."""

    values: dict[str, np.ndarray]  # the floating arguments by name
    evaluate: Callable[[str, np.ndarray], list[np.ndarray]]  # forward with one argument replaced: floating results
    base: list[np.ndarray]  # forward at `values`
    dy: list[np.ndarray]  # as many, as large
    eps: float  # of the arithmetic that `evaluate` runs in

    @property
    def natural(self) -> float:
        """Σ |dy · y|: how much f changes when something changes by a factor; rounding is a part in 1/eps of it."""
        return sum(float(np.sum(np.abs(d * y))) for d, y in zip(self.dy, self.base, strict=True))


class Estimate(NamedTuple):
    value: float  # the derivative along v
    terms: float  # Σ |dy · ẏ|, the size of what was summed
    error: float  # estimated


def typical(x: np.ndarray) -> float:
    """mean |x| over the finite elements; 1 where all are zero."""
    finite = np.abs(x[np.isfinite(x)]).astype(np.float64)
    return (float(finite.mean()) if finite.size else 0.0) or 1.0


def scale_of(problem: Problem, analytic: float, numeric: Estimate) -> float:
    """What an error is relative to.

    The derivative itself, but not less than a tenth of the terms that were summed to it, and not less than 1e-4 of
    what f would change by naturally: so a derivative that is zero by cancellation is compared with what cancelled, and
    rounding is never divided by rounding. A term that is wrong still counts a thousand times what is tolerated.
    """
    finite = [abs(a) for a in (analytic, numeric.value) if np.isfinite(a)]
    return max([*finite, 0.1 * numeric.terms, 1e-4 * problem.natural, float(np.finfo(np.float64).tiny)])


def complex_step(problem: Problem, name: str, v: np.ndarray) -> Estimate:
    """Raises NoComplexStepError where the forward refuses complex numbers, drops them or gives no finite number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # overflow and the like: seen in the result
        warnings.simplefilter("error", np.exceptions.ComplexWarning)
        try:
            results = problem.evaluate(name, problem.values[name] + 1j * (COMPLEX_H * v))
        except (TypeError, ValueError, AttributeError, np.exceptions.ComplexWarning) as error:
            raise NoComplexStepError(f"the forward takes no complex {name} ({error})") from error
    if not any(y.dtype.kind == "c" for y in results):
        raise NoComplexStepError(f"the forward drops the imaginary part of {name}")
    terms = [d * (np.imag(y) / COMPLEX_H) for d, y in zip(problem.dy, results, strict=True)]
    value = sum(float(np.sum(term)) for term in terms)
    if not np.isfinite(value):
        raise NoComplexStepError(f"the forward gives no finite number for complex {name}")
    return Estimate(value, sum(float(np.sum(np.abs(term))) for term in terms), problem.eps * problem.natural)


def central_difference(problem: Problem, name: str, v: np.ndarray, *, quick: bool = False) -> Estimate:
    """The derivative along v. `quick` takes two steps only: four evaluations, about 1e-9 for a mild function."""
    best, row = Estimate(np.nan, 0.0, np.inf), []
    levels = (9, 10) if quick else range(FIRST_LEVEL, LAST_LEVEL + 1)
    for count, level in enumerate(levels, 1):
        t = 2.0**-level
        terms = _difference(problem, name, v, t, -t)
        size = sum(float(np.sum(np.abs(term))) for term in terms)
        previous, row = row, [sum(float(np.sum(term)) for term in terms)]
        for order, coarser in enumerate(previous[:4], 1):
            factor = 4.0**order
            finer = row[-1]
            row.append((factor * finer - coarser) / (factor - 1))
            error = max(abs(row[-1] - finer), abs(row[-1] - coarser))
            if not quick:  # two neighbours may meet by chance: the entry of this order one step back must be near too
                error = max(error, abs(row[-1] - previous[order])) if order < len(previous) else np.inf
            if error <= best.error:  # never true of NaN
                best = Estimate(row[-1], size, error)
        good_enough = 1e5 * problem.eps * max(abs(best.value), 0.1 * best.terms, 1e-4 * problem.natural)
        if count >= FEWEST_LEVELS and best.error <= good_enough:
            break
    return best


class Sides(NamedTuple):
    """The one-sided derivatives at x along v."""

    left: float
    right: float
    kink: bool  # they differ, and do not meet


def one_sided(problem: Problem, name: str, v: np.ndarray) -> Sides:
    """Both derivatives at x itself, extrapolated from two small steps."""

    def slope(t: float) -> float:
        return sum(float(np.sum(term)) for term in _difference(problem, name, v, t, 0.0))

    ratio = KINK_FAR / KINK_NEAR
    right, left = slope(KINK_NEAR), slope(-KINK_NEAR)
    far_right, far_left = slope(KINK_FAR), slope(-KINK_FAR)
    jump, far_jump = abs(right - left), abs(far_right - far_left)
    noise = 20 * problem.eps * problem.natural / KINK_NEAR
    return Sides(
        (ratio * left - far_left) / (ratio - 1),
        (ratio * right - far_right) / (ratio - 1),
        jump > noise and jump > 0.5 * far_jump,  # a smooth function's jump shrinks with the step, by `ratio`
    )


def _difference(problem: Problem, name: str, v: np.ndarray, t: float, s: float) -> list[np.ndarray]:
    """dy · (y(x + tv) − y(x + sv)) / (t − s), not summed yet: differencing first keeps digits."""
    x = problem.values[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a step may leave the domain: its result is then not finite
        upper = problem.evaluate(name, x + t * v)
        lower = problem.evaluate(name, x + s * v) if s else problem.base
        return [d * (a - b) / (t - s) for d, a, b in zip(problem.dy, upper, lower, strict=True)]
