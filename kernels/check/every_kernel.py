"""One call of every kernel, forward and backward: head sizes 64 and 128, every dtype, beside the float64 definition.

The options are spread over the calls so that each entry point of `kernels/cuda` is launched: tests hold this list to
the sources. Sizes leave part tiles, and are larger than what the CPU run affords in every test; `quick` makes them
few and small.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from minilm.backend import to_numpy
from minilm.kernels.check import calls, toys
from minilm.kernels.check.calls import Result
from minilm.kernels.check.cases import Case, attention, cross_entropy, decode, softmax
from minilm.kernels.check.records import FAILED, PASSED, SKIPPED, Record
from minilm.kernels.cuda import ladder
from minilm.kernels.cuda.rows import ELEMENT_DEFINES

AMPERE = 80
HEAD_SIZES = (64, 128)
QUICK_DTYPES = ("float32", "float16")  # one for each kind of attention kernel
RUNGS = {"softmax": ("naive", "shared"), "attention": ("naive", "tiles")}


def every_case(quick: bool) -> list[Case]:
    """The calls of the launchers that are in use."""
    T, columns, keys = (97, 1000, 260) if quick else (290, 5000, 4100)
    found = []
    for dtype in QUICK_DTYPES if quick else ELEMENT_DEFINES:
        found += [
            Case("softmax", f"{columns} columns", dtype, softmax(33, columns), quick),
            Case("cross_entropy", f"{columns} classes", dtype, cross_entropy(33, columns), quick),
            Case("cross_entropy", "class weights", dtype, cross_entropy(33, columns, weighted=True), quick),
        ]
        for D in HEAD_SIZES:
            some = {"bias": (2, 1, T), "dropout": 0.2, "lengths": [T, T - 33]}
            options = some if D == 64 else {"mask": (2, 1, T, T)}
            found += [
                Case("attention", f"head size {D}", dtype, attention(2, 2, 1, T, T, D, causal=True), quick),
                Case("attention", f"options, head size {D}", dtype, attention(2, 2, 2, T, T, D, **options), quick),
                Case("attention_decode", f"head size {D}", dtype, decode(2, 8, 2, keys, D, lengths=[keys, 33]), quick),
            ]
    return found


def run(xp: ModuleType, args: argparse.Namespace) -> Iterator[Record]:
    """A record for each result of each call."""
    capability = int(xp.cuda.Device().compute_capability)
    cases = [case for case in every_case(args.quick) if args.only in ("", case.op)]
    for case in cases:
        if capability < AMPERE and (case.dtype == "bfloat16" or (case.op, case.dtype) == ("attention", "float16")):
            yield Record(args.part, str(case), SKIPPED, f"{case.dtype} needs compute capability 8.0")
            continue
        for result in calls.compare(case, xp):
            yield record(args.part, str(case), result)
    for op, rungs in RUNGS.items():
        for rung in rungs if args.only in ("", op) else ():
            yield record(args.part, f"ladder, {op}, {rung}", rung_result(op, rung, xp))


def record(part: str, call: str, result: Result) -> Record:
    """A comparison as a record."""
    name = f"{call}, {result.name}" if call else result.name
    figures = {"error": result.error, "allowed": result.allowed, "share": result.share, "naive": result.naive}
    return Record(part, name, PASSED if result.right else FAILED, str(result), figures)


def rung_result(op: str, rung: str, xp: ModuleType) -> Result:
    """A kernel of the ladder: its error is bounded as that of the kernel in use, which adds the same terms."""
    arrays = _rung_inputs(op)
    y = to_numpy(_launch_rung(op, rung, arrays, xp))
    (exact,), (allowed,) = calls.expected(op, arrays, {}, "float32", None)
    return calls.measure("y", y, exact, allowed)


def _rung_inputs(op: str) -> dict[str, np.ndarray]:
    make = softmax(7, 300) if op == "softmax" else attention(1, 2, 2, 70, 97, 64)
    return calls.inputs(Case(op, "ladder", "float32", make, True))[0]


def _launch_rung(op: str, rung: str, arrays: dict[str, np.ndarray], xp: ModuleType) -> Any:
    return getattr(ladder, op)(*map(xp.asarray, arrays.values()), rung=rung)


# ---- for the estimate: the same without a result


def launch_all(quick: bool) -> None:
    for case in every_case(quick):
        launch_case(case)
    for op, rungs in RUNGS.items():
        for rung in rungs:
            _launch_rung(op, rung, _rung_inputs(op), np)


def launch_case(case: Case) -> Any:
    arrays, options, dy = calls.inputs(case)
    if "key_lengths" in options and "k" in arrays:  # those on a host are refused beyond the keys
        options["key_lengths"] = options["key_lengths"].clip(0, arrays["k"].shape[2])
    return calls.run(case.op, arrays, options, dy, np)


def launch_toys() -> None:
    with np.errstate(all="ignore"):  # where nothing ran, arrays hold anything
        list(toys.run_all(np))
