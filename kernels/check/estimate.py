"""How long each part of the check takes on a GPU, estimated before it begins.

What is measured: the seconds of one core that NVRTC needs for a module, by source and entry point; they stand in
compile_seconds.json. Which modules a part asks for is found by making its calls without compiling or running anything
(`door.requests_of`). The other figures, of starting processes and of tests that compile CuPy's own kernels, are guesses
from counts: nobody has timed them on a GPU yet.

    python -m minilm.kernels.check.estimate         measures anew (needs the extra kernels-ci, no GPU), some 5 minutes
"""

from __future__ import annotations

import functools
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from minilm.files import write_text
from minilm.kernels.check import every_kernel
from minilm.kernels.check.cases import cases
from minilm.kernels.check.door import Request, requests_of
from minilm.kernels.check.parts import Plan
from minilm.kernels.cuda import launch

RECORD = Path(__file__).with_name("compile_seconds.json")
BASIS = "compiling as measured per module, the rest guessed"
ARCHITECTURE = 90

IMPORT = 6.0  # seconds: Python, NumPy, CuPy and the device's context
IMPORT_PEERS = 15.0  # with PyTorch and Triton
DEFINITIONS = 15.0  # of the calls on the host, in float64, with their bounds
COLLECT = 12.0  # pytest's collection of the suite
SLOWER = 4.0  # times as long under compute-sanitizer, the start included
LIBRARY_TESTS = 350.0, 30.0  # seconds of one core: some 1,600 tests, and CuPy's kernels, 0.15 to 2 s each; when quick
WORKLOAD = 2.0  # seconds: a benchmark's inputs, its comparisons and three phases of 0.2 s, compiling included
WORKLOADS = 57, 30  # beside PyTorch; when quick
TRITON = 60.0  # for its configurations, of which each is compiled
STEP = 4.0  # of each model: weights, compiling what CuPy brings, three steps


@functools.cache
def _recorded() -> dict[str, float]:
    return json.loads(RECORD.read_text(encoding="utf-8"))["seconds"]


def compiling(requests: Iterable[Request]) -> float:
    """Seconds of one core for these modules."""
    known = _recorded()
    return sum(known[request.name] for request in requests)


@functools.cache
def table_requests(quick: bool) -> frozenset[Request]:
    """The requests of the tests' table of calls."""
    return frozenset().union(*(requests_of(lambda case=case: every_kernel.launch_case(case)) for case in cases(quick)))


# About as long as each part takes, compiling included, on one GPU.
SECONDS: dict[str, Callable[[Plan], float]] = {
    "device": lambda plan: IMPORT + 2,
    "ptx": lambda plan: IMPORT + compiling(requests_of(every_kernel.launch_toys)),
    "calls": lambda plan: IMPORT + compiling(requests_of(lambda: every_kernel.launch_all(plan.quick))) + DEFINITIONS,
    "sanitizer": lambda plan: 2 * SLOWER * IMPORT + 10,  # the modules are in CuPy's cache by then
    "kernel-tests": lambda plan: COLLECT + IMPORT + compiling(table_requests(plan.quick)) / plan.processes + 15,
    "library-tests": lambda plan: COLLECT + IMPORT + LIBRARY_TESTS[plan.quick] / plan.processes,
    "benchmarks": lambda plan: 2 * IMPORT_PEERS + WORKLOAD * WORKLOADS[plan.quick] + TRITON,
    "step": lambda plan: IMPORT_PEERS + STEP * (1 if plan.quick else 3),
}


def record() -> None:
    """Compile every module that the check asks for, and write the mean seconds by source and entry."""
    from minilm.kernels.gate import compile as compiling_path

    if problem := compiling_path.missing():
        raise SystemExit(f"error: {problem}")
    asked = set(table_requests(False)) | requests_of(lambda: every_kernel.launch_all(False))
    asked |= requests_of(every_kernel.launch_toys)
    seconds: dict[str, list[float]] = defaultdict(list)
    for number, request in enumerate(sorted(asked), 1):
        began = time.process_time()
        compiling_path.compile_source(launch.source_of(request.file), dict(request.defines), ARCHITECTURE)
        seconds[request.name].append(time.process_time() - began)
        if sys.stderr.isatty():
            print(f"\r{number} of {len(asked)} compiled", end="", file=sys.stderr)
    told = {
        "architecture": ARCHITECTURE,
        "compiler": compiling_path.compiler_version(),
        "modules": {name: len(own) for name, own in sorted(seconds.items())},
        "seconds": {name: round(statistics.mean(own), 3) for name, own in sorted(seconds.items())},
    }
    write_text(RECORD, json.dumps(told, indent=1) + "\n")
    total = sum(sum(own) for own in seconds.values())
    print(f"{len(asked)} modules, {total:.0f} s of one core")


if __name__ == "__main__":
    record()
