"""`gradcheck`: a hand-written backward against numeric derivatives of its forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minilm.backend import array_namespace, to_numpy
from minilm.checks import one_of
from minilm.gradcheck.arguments import Arguments, Selection, name_of
from minilm.gradcheck.comparison import COMPLEX_STEP, DIFFERENCES, Comparison
from minilm.gradcheck.numeric import Problem
from minilm.gradcheck.report import Report, ReportRow, call_text
from minilm.gradcheck.structures import draw_like, fresh, host_copies, is_array, is_variable

METHODS = ("auto", COMPLEX_STEP, DIFFERENCES)
MODES = ("fast", "full")
TOLERANCES = {COMPLEX_STEP: 1e-11, DIFFERENCES: 1e-7}
FLOAT32_TOLERANCE, NATIVE_FLOAT32_TOLERANCE = 1e-4, 3e-3  # numeric derivative in float64, or in float32 itself


def gradcheck(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    args: Sequence[Any],
    *,
    wrt: Selection = None,
    method: str = "auto",
    mode: str = "fast",
    seed: int = 0,
    rtol: float | None = None,
    atol: float | None = None,
    allow_float32: bool = False,
    gradients: Sequence[str] | None = None,
) -> Report:
    """Compare `backward(dy, cache)` with numeric derivatives of `forward(*args) -> (y, cache)`, for a random dy.

    args       arrays of NumPy or CuPy in float64, and whatever else the forward takes. A random generator among them is
               handed over in the same state at each call, so that dropout draws the same.
    wrt        names or positions of the arguments to check; None: every floating array
    gradients  names of what backward returns, in order, where that does not follow from the signature (see
               `Arguments.align`)
    method     "complex-step", "central-difference", or "auto": the complex step where the forward carries imaginary
               parts *and* the result agrees with central differences, which an imaginary part lost on the way
               (abs, .real, a cast) does not; central differences elsewhere
    mode       "fast": along one random direction per argument, its signs those of the gradient so that nothing
               cancels; "full": each element
    rtol       tolerated error relative to `numeric.scale_of`; default 1e-11 (complex step), 1e-7 (differences)
    atol       tolerated absolute error on top; default 0
    allow_float32   float32 is refused unless this is set: then the gradient in float32 is compared, to 1e-4, with the
               numeric derivative of the forward in float64 (in float32, to 3e-3, where the forward refuses float64)

    An element at a kink passes if its gradient lies between the one-sided derivatives; its row says so. Returns a
    Report, true if all passed. Raises ValueError or TypeError where the call itself makes no sense.
    """
    one_of("method", method, METHODS)
    one_of("mode", mode, MODES)
    arguments = Arguments(forward, args, wrt)
    precision = _precision(arguments, allow_float32)

    y, cache = call_forward(forward, [fresh(value) for value in arguments.values])
    dy = draw_like(y, np.random.default_rng([seed, len(arguments.names)]))
    weights = [weight.astype(np.float64) for weight in host_copies(dy)]
    result = backward(dy, cache)
    found = arguments.align(result, backward, gradients)

    problem, native = _problem(forward, arguments, weights, precision)
    tolerance = TOLERANCES
    if precision != np.float64:
        tolerance = dict.fromkeys(TOLERANCES, NATIVE_FLOAT32_TOLERANCE if native else FLOAT32_TOLERANCE)
    if rtol is not None:
        tolerance = dict.fromkeys(TOLERANCES, rtol)
    op = name_of(forward)
    comparison = Comparison(problem, op, DIFFERENCES if native else method, mode, tolerance, atol or 0.0)
    rows: list[ReportRow] = []
    for name, gradient in found.items():
        if name in arguments.selected:
            wrong = wrong_kind(gradient, arguments[name])
            rng = np.random.default_rng([seed, arguments.names.index(name), 1])
            rows += [ReportRow.broken(op, name, wrong)] if wrong else comparison.rows(name, to_numpy(gradient), rng)
        elif gradient is not None and name in arguments.absent:
            rows.append(ReportRow.broken(op, name, "a gradient came back for an argument that was not given"))
    rows += [ReportRow.broken(op, n, "no gradient came back for it") for n in arguments.selected if n not in found]
    call = call_text(
        "gradcheck", op, name_of(backward, "backward"), "args", wrt=wrt, method=method, mode=mode, seed=seed,
        gradients=gradients, rtol=rtol, atol=atol, allow_float32=allow_float32 or None,
    )  # fmt: skip
    return Report(tuple(rows), call, seed, str(arguments))


def _precision(arguments: Arguments, allow_float32: bool) -> np.dtype:
    dtypes = {arguments[name].dtype for name in arguments.floating}
    if any(dtype.kind == "c" for dtype in dtypes):
        raise TypeError(
            f"gradcheck takes real arguments, got {arguments}; it makes them complex itself where that helps"
        )
    if dtypes == {np.dtype(np.float64)}:
        return np.dtype(np.float64)
    if len(dtypes) > 1:
        raise TypeError(f"gradcheck takes arguments of one precision, got {arguments}")
    if not allow_float32:
        raise TypeError(
            f"gradcheck needs float64, got {arguments}: rounding hides small mistakes. Convert with "
            "array.astype('float64'), or pass allow_float32=True to check roughly"
        )
    return dtypes.pop()


def call_forward(forward: Callable[..., Any], values: Sequence[Any]) -> tuple[Any, Any]:
    """y and cache. Raises TypeError where the forward returns anything else."""
    result = forward(*values)
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(f"{name_of(forward)} must return (y, cache), got {type(result).__name__}")
    return result


def _problem(
    forward: Callable[..., Any], arguments: Arguments, weights: list[np.ndarray], precision: np.dtype
) -> tuple[Problem, bool]:
    """The function to differentiate, in float64 if it takes it, and whether it does not."""

    def at_precision(dtype: np.dtype) -> Problem:
        def evaluate(name: str | None, host: np.ndarray | None) -> list[np.ndarray]:
            def convert(value: Any) -> Any:
                copied = fresh(value)
                return copied.astype(dtype) if is_variable(value) and value.dtype != dtype else copied

            if name is not None and host is not None:
                xp = array_namespace(arguments[name])
                host = xp.asarray(host if host.dtype.kind == "c" else host.astype(dtype))
            results = host_copies(call_forward(forward, arguments.replaced(name, host, convert))[0])
            return [y if y.dtype.kind == "c" else y.astype(np.float64) for y in results]

        values = {name: to_numpy(arguments[name]).astype(np.float64) for name in arguments.floating}
        return Problem(values, evaluate, evaluate(None, None), weights, float(np.finfo(dtype).eps))

    if precision == np.float64:
        return at_precision(precision), False
    try:
        return at_precision(np.dtype(np.float64)), False
    except (TypeError, ValueError):
        return at_precision(precision), True


def wrong_kind(gradient: Any, argument: Any) -> str | None:
    """What is wrong with a gradient before any number is looked at."""
    if gradient is None:
        return "the gradient is None, though the argument was given"
    if not is_array(gradient):
        return f"the gradient is no array but {type(gradient).__name__}"
    if tuple(gradient.shape) != tuple(argument.shape):
        return f"the gradient has shape {tuple(gradient.shape)}, expected {tuple(argument.shape)}"
    if array_namespace(gradient) is not array_namespace(argument):
        return f"the gradient is an array of {array_namespace(gradient).__name__}, expected that of the argument"
    if gradient.dtype.kind != "f":
        return f"the gradient has dtype {gradient.dtype}, expected {argument.dtype}"
    return None
