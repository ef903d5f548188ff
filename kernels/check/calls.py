"""One call of the check: run a launcher, forward and backward, and compare with the definition.

    for case in cases(quick=True):
        for result in compare(case, cupy):
            print(case, result)

Nothing is asserted here: `Result.right` says whether a result is.
"""

from __future__ import annotations

import contextlib
import zlib
from typing import Any, NamedTuple

import numpy as np

from minilm.kernels.check import bounds, row_bounds
from minilm.kernels.check.cases import Case, element_type
from minilm.kernels.check.definitions import SEED, definition, floats_as, naive_results
from minilm.kernels.cuda.attention import attention, attention_backward
from minilm.kernels.cuda.cross_entropy import cross_entropy, cross_entropy_backward
from minilm.kernels.cuda.decode import attention_decode
from minilm.kernels.cuda.softmax import softmax, softmax_backward

LAUNCHERS = {
    "softmax": (softmax, softmax_backward),
    "cross_entropy": (cross_entropy, cross_entropy_backward),
    "attention": (attention, attention_backward),
    "attention_decode": (attention_decode, None),
}
NAMES = {
    "softmax": ("y", "dx"),
    "cross_entropy": ("loss", "dlogits"),
    "attention": ("y", "dq", "dk", "dv", "dbias"),
    "attention_decode": ("y",),
}


class Result(NamedTuple):
    """How far a result is from its definition. `error` and `allowed` are those of the place where their ratio is worst.

    share > 1 is a wrong result. The naive computation's error is a second figure, for orientation: it comes from one
    draw through this host's BLAS.
    """

    name: str  # "y", "dq", ...
    error: float
    allowed: float
    place: tuple[int, ...]  # of that element
    largest: float  # error of any element
    naive: float | None  # largest error of plain code in the same dtype
    same: bool = True  # a second run gave the same bits
    problem: str = ""  # another dtype, shape or place of an infinity than expected

    @property
    def share(self) -> float:
        """The error as a share of what is allowed; where nothing is allowed, inf, or 0 for no error."""
        if self.error == 0:
            return 0.0
        return self.error / self.allowed if self.allowed > 0 and self.error < np.inf else np.inf

    @property
    def right(self) -> bool:
        return self.same and not self.problem and self.share <= 1

    def __str__(self) -> str:
        naive = "" if self.naive is None else f", largest error {self.largest:.3g}, naive {self.naive:.3g}"
        other = f"{'' if self.same else ', other bits in a second run'}{', ' * bool(self.problem)}{self.problem}"
        where = f"error {self.error:.3g} of {self.allowed:.3g} allowed at {list(self.place)}: {self.share:.3f}"
        return f"{self.name}: {where}{naive}{other}"


def measure(
    name: str,
    got: np.ndarray,
    exact: np.ndarray,
    allowed: np.ndarray,
    naive: np.ndarray | None = None,
    again: np.ndarray | None = None,
) -> Result:
    """`got` against the float64 `exact`, element by element. What isn't finite in `exact` must be there, the same."""
    same = again is None or got.tobytes() == again.tobytes()
    if got.shape != exact.shape or got.shape != allowed.shape:
        problem = f"shape {got.shape}, expected {exact.shape}, bounds {allowed.shape}"
        return Result(name, np.inf, 0.0, (), np.inf, None, same, problem)
    got = np.asarray(got, np.float64)
    finite = np.isfinite(exact)
    if not np.array_equal(got[~finite], exact[~finite], equal_nan=True):
        return Result(name, np.inf, 0.0, (), np.inf, None, same, "infinities or NaN at other places")
    off = _error(got, exact, finite)
    plain = None if naive is None else float(_error(np.asarray(naive, np.float64), exact, finite).max(initial=0.0))
    if off.size == 0:
        return Result(name, 0.0, 0.0, (), 0.0, plain, same)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(off == 0, 0.0, off / np.where(finite, allowed, 1.0))
    place = np.unravel_index(share.argmax(), share.shape)
    worst = float(off[place]), float(np.where(finite, allowed, 0.0)[place])
    return Result(name, *worst, tuple(int(i) for i in place), float(off.max()), plain, same)


def _error(got: np.ndarray, exact: np.ndarray, finite: np.ndarray) -> np.ndarray:
    """|got − exact|, inf for NaN, 0 where there is nothing to measure."""
    with np.errstate(invalid="ignore"):
        error = np.abs(np.where(finite, got, 0.0) - np.where(finite, exact, 0.0))
    return np.where(np.isnan(error), np.inf, error)


def expected(
    op: str, arrays: dict[str, np.ndarray], options: dict[str, Any], dtype: str, dy: np.ndarray | None
) -> tuple[list[np.ndarray | None], list[np.ndarray | None]]:
    """y and the gradients (without dy: y alone) in float64, and what each element may be off by in `dtype`."""
    wide = {name: floats_as(array, np.float64) for name, array in arrays.items()}
    dy = None if dy is None else floats_as(np.asarray(dy), np.float64)
    exact = definition(op, wide, options)
    wanted = [exact(None), *(exact(dy) if dy is not None else [])]
    module = bounds if op in ("attention", "attention_decode") else row_bounds
    return wanted, module.call_bounds(op, wide, options, dtype, dy)[: len(wanted)]


def inputs(case: Case) -> tuple[dict[str, np.ndarray], dict[str, Any], np.ndarray]:
    """The case's host arrays in its dtype, options, and dy: the same in every run."""
    rng = np.random.default_rng(zlib.crc32(str(case).encode()))
    arrays, options = case.make(rng)
    dtype = element_type(case.dtype)
    arrays = {name: floats_as(a, dtype) for name, a in arrays.items()}
    if "class_weights" in arrays:
        arrays["class_weights"] = arrays["class_weights"].astype(np.float32)  # those of training are
    if case.op == "cross_entropy":
        shape = arrays["targets"].shape if options.get("reduction") == "none" else ()
    else:
        shape = arrays["x" if case.op == "softmax" else "q"].shape
    return arrays, options, np.asarray(rng.standard_normal(shape)).astype(dtype)


def compare(case: Case, library: Any) -> list[Result]:
    """Each result of the call, made twice, beside the definition.

    library   the module of the device's arrays (numpy and cupy are), or an object with its `asarray`; if it has
              `to_numpy` and `quiet`, they bring results to the host, and hold the calls
    """
    arrays, options, dy = inputs(case)
    got, again = (run(case.op, arrays, options, dy, library) for _ in range(2))
    wanted, allowed = expected(case.op, arrays, options, case.dtype, dy)
    naive = naive_results(case.op, arrays, options, dy)
    results = []
    for name, *four in zip(NAMES[case.op], got, again, wanted, allowed, naive, strict=True):
        result, second, exact, bound, plain = four
        if (result is None) != (exact is None):
            problem = "no result" if result is None else "a result where none is defined"
            results.append(Result(name, np.inf, 0.0, (), np.inf, None, problem=problem))
        elif result is not None:
            measured = measure(name, result, exact, bound, plain, second)
            if result.dtype != dy.dtype:
                measured = measured._replace(problem=f"dtype {result.dtype}, expected {dy.dtype}")
            results.append(measured)
    return results


def run(op: str, arrays: dict, options: dict, dy: np.ndarray, library: Any) -> list[np.ndarray | None]:
    """y and the gradients of one call on the library's arrays, as host arrays."""
    forward, backward = LAUNCHERS[op]
    to_host = getattr(library, "to_numpy", lambda array: array.get() if hasattr(array, "get") else array)
    with getattr(library, "quiet", contextlib.nullcontext)():
        given = {
            name: library.asarray(value) if isinstance(value, np.ndarray) else value
            for name, value in (arrays | options).items()
        }
        if "dropout" in given:
            given["rng"] = np.random.default_rng(SEED)
        if backward is None:
            results = (forward(**given),)
        else:
            y, cache = forward(**given)
            gradients = backward(library.asarray(dy), cache)
            results = (y, *(gradients if isinstance(gradients, tuple) else (gradients,)))
    results += (None,) * (len(NAMES[op]) - len(results))
    return [None if array is None else to_host(array) for array in results]
