"""python -m benchmarks profile NAME: where the time of our fastest variant goes, function by function.

A function's share is the time spent in itself and in NumPy's calls from it, not in other functions of Python that it
calls. The profiler sees the calling thread only, and adds about a microsecond to each call of a Python function.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
from pathlib import Path

import numpy as np

from benchmarks.measure import peer_of
from benchmarks.options import DTYPES, add_command, checked_names, checked_sizes, positive
from benchmarks.report import as_text, milliseconds, thread_count
from benchmarks.timing import HostClock, interleave
from benchmarks.variants import Setting, Workload, whole
from benchmarks.workloads import WORKLOADS
from minilm import checks, threads

ROOT = Path(__file__).parents[1]
LEAST = 0.005  # share of a function that is shown


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """The subcommand of `python -m benchmarks`."""
    parser = add_command(commands, "profile", __doc__, main)
    parser.add_argument("names", nargs="+", metavar="NAME", help="workloads, or all")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads (default: 1)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="precision (default: float32)")
    parser.add_argument("--sizes", type=int, nargs="+", metavar="N", help="sizes in place of the workload's own")
    parser.add_argument("--seconds", type=positive, default=2.0, help="time for each workload (default: 2)")
    parser.add_argument("--top", type=int, default=12, metavar="N", help="functions to show (default: 12)")


def main(arguments: argparse.Namespace) -> int:
    """`python -m benchmarks profile`"""
    checks.whole("--threads", arguments.threads, at_least=1)
    checks.whole("--top", arguments.top, at_least=1)
    work = [(name, checked_sizes(name, arguments.sizes)) for name in checked_names(arguments.names)]
    with threads.limit(arguments.threads):
        for name, sizes in work:
            workload = WORKLOADS[name](Setting(np, arguments.dtype, ()), *sizes)
            variant, seconds, rows = profiled(workload, arguments.seconds)
            print(f"{name}  {workload.size}  {arguments.dtype}, {thread_count(arguments.threads)}")
            print(f"{variant}: {milliseconds(1e3 * seconds)} ms without the profiler\n")
            print(as_text([("share", "ms", "calls", "function"), *rows[: arguments.top]], left=0) + "\n")
    return 0


def profiled(workload: Workload, seconds: float) -> tuple[str, float, list[tuple[str, ...]]]:
    """The fastest of our variants, its median seconds per call, and cells for each function, the costliest first."""
    runs = {name: whole(variant) for name, variant in workload.variants.items() if not peer_of(name)}
    measured = interleave({name: lambda run=run: run for name, run in runs.items()}, HostClock(), seconds / 2)
    times = {name: own.spread.p50 for name, own in measured.items()}
    name = min(times, key=times.__getitem__)
    run, calls = runs[name], max(3, int(seconds / 2 / max(times[name], 1e-6)))
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(calls):
        run()
    profiler.disable()
    found = pstats.Stats(profiler).stats  # (file, line, function): (primitive calls, calls, own seconds, ...)
    total = sum(entry[2] for entry in found.values())
    ordered = sorted(found.items(), key=lambda item: -item[1][2])
    rows = [
        (f"{own / total:.0%}", milliseconds(1e3 * own / calls), f"{count / calls:.0f}", _title(*where))
        for where, (_, count, own, *_) in ordered
        if count >= calls and own >= LEAST * total
    ]
    return name, times[name], rows


def _title(file: str, line: int, function: str) -> str:
    """kernels/cpu/lstm.py:78 _steps, or a built-in function's own name."""
    path = Path(file)
    if path.is_relative_to(ROOT):
        return f"{path.relative_to(ROOT)}:{line} {function}"
    return function if file == "~" else f"{path.name}:{line} {function}"
