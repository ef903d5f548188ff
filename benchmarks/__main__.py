"""python -m benchmarks NAME... | all: verify, time, print.

Thread counts are set before NumPy loads, so each runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from typing import Any

THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
SLOWING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # choose kernels for another processor than this one
DTYPES = ("float32", "float64", "float16", "bfloat16")
NAMES = (
    "softmax", "layer_norm", "gelu", "gelu-tanh", "cross_entropy", "embedding", "attention", "decode", "conv1d", "rnn",
    "lstm", "gru", "gpt-step", "classifier-step",
)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", metavar="NAME", help=f"all, or some of {', '.join(NAMES)}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where it runs (default: cpu)")
    parser.add_argument("--against", default="torch", help="peers, by commas; absent ones are named (default: torch)")
    parser.add_argument("--threads", default="1", help="CPU threads, one or several by commas (default: 1)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="precision (default: float32)")
    parser.add_argument("--autotune", action="store_true", help="choose kernels' configurations by timing them (cuda)")
    parser.add_argument(
        "--sizes", type=int, nargs="+", metavar="N", help="sizes in place of a workload's own, in order"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each phase of a workload (default: 3)")
    parser.add_argument("--json", metavar="FILE", help="write all numbers as JSON")
    parser.add_argument("--csv", metavar="FILE", help="write all numbers as CSV")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    names = list(NAMES) if "all" in arguments.names else arguments.names
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        parser.error(f"workload {unknown[0]!r} is unknown; known are all, {', '.join(NAMES)}")
    if arguments.worker:
        print(json.dumps(_measure(names, arguments)))
        return 0
    try:
        threads = [int(count) for count in arguments.threads.split(",")]
        if min(threads) < 1:
            raise ValueError
    except ValueError:
        parser.error(f"--threads {arguments.threads!r}: expected whole numbers of at least 1, by commas")
    rows, environments = [], []
    from benchmarks.report import Row, print_rows, write_csv, write_json

    for count in threads:
        found = _in_a_process(argv if argv is not None else sys.argv[1:], count)
        if found is None:
            return 2
        new = [Row(**row) for row in found["rows"]]
        rows += new
        environments.append(found["environment"])
        print(", ".join(f"{name} {value}" for name, value in found["environment"].items()))
        for absent in found["absent"]:
            print(f"peer {absent} is absent: it is not installed")
        print_rows(new)
    if arguments.json:
        write_json(arguments.json, rows, environments)
    if arguments.csv:
        write_csv(arguments.csv, rows, environments)
    return 0


def _in_a_process(argv: list[str], threads: int) -> dict[str, Any] | None:
    """The measurements with `threads` threads; None where they failed, which the process has told."""
    environment = {name: value for name, value in os.environ.items() if name not in SLOWING}
    environment |= dict.fromkeys(THREAD_VARIABLES, str(threads))
    command = [sys.executable, "-m", "benchmarks", *argv, "--worker"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else None


def _measure(names: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    from minilm.backend import resolve_device
    from minilm.kernels.cuda.autotune import autotuning

    try:
        xp = resolve_device(arguments.device)
    except ValueError as problem:
        raise SystemExit(f"python -m benchmarks: error: {problem}") from None
    with autotuning() if arguments.autotune else nullcontext():
        return measure(names, arguments, xp, int(os.environ[THREAD_VARIABLES[0]]))


def measure(names: list[str], arguments: argparse.Namespace, xp: Any, threads: int) -> dict[str, Any]:
    """Verify and time the workloads on the arrays of `xp`: rows and environment, JSON-able."""
    import importlib.util

    import numpy as np

    from benchmarks import report, timing
    from benchmarks.workloads import WORKLOADS, Setting

    asked = tuple(name for name in arguments.against.split(",") if name)
    absent = [name for name in asked if importlib.util.find_spec(name) is None]
    peers = tuple(name for name in asked if name not in absent)
    if "torch" in peers:
        import torch

        torch.set_num_threads(threads)
    clock = timing.HostClock() if xp is np else timing.DeviceClock(xp)
    rows = []
    for name in names:
        setting = Setting(xp, arguments.dtype, peers if xp is np else ())
        try:
            workload = WORKLOADS[name](setting, *(arguments.sizes or ()))
        except TypeError:
            raise SystemExit(f"python -m benchmarks: error: --sizes: {name} does not take {arguments.sizes}") from None
        verify(workload)
        variants = workload.variants
        against = next((peer for peer in peers if peer in variants), next(iter(variants)))
        ordered = {against: variants[against], **variants}
        for phase in report.PHASES:
            prepared = {n: p for n, v in ordered.items() if (p := _prepare(v, phase)) is not None}
            if prepared:
                measured = timing.interleave(prepared, clock, arguments.seconds)
                rows += report.rows_of(workload, phase, measured, against, threads, arguments.dtype)
    found = report.environment(xp, threads, timing.ceilings(xp, clock))
    return {"rows": [row._asdict() for row in rows], "environment": found, "absent": absent}


def _prepare(variant: Any, phase: str) -> Any:
    """What `timing.interleave` needs for one phase of a variant; None where it has no such phase."""
    forward, backward = variant.forward, variant.backward
    if phase == "forward":
        return lambda: forward
    if backward is None:
        return None
    if phase == "both":
        return lambda: lambda: backward(forward())

    def prepared() -> Any:
        state = forward()
        return lambda: backward(state)

    return prepared


def verify(workload: Any) -> None:
    """Compare outputs and gradients of all variants with the first one's. Raises ValueError where they differ."""
    import numpy as np

    (first, expected), *others = ((name, variant.results()) for name, variant in workload.variants.items())
    for name, results in others:
        if len(results) != len(expected):
            raise ValueError(f"{workload.name}: {name} gives {len(results)} arrays, {first} {len(expected)}")
        for number, (got, want) in enumerate(zip(results, expected, strict=True)):
            scale = max(float(np.abs(want).max(initial=0.0)), 1e-30)
            error = float(np.abs(np.asarray(got, np.float64) - want).max(initial=0.0)) / scale
            if got.shape != want.shape or not error <= workload.tolerance:
                raise ValueError(
                    f"{workload.name}: result {number} of {name} differs from that of {first} by {error:.1e} of its "
                    f"largest number, tolerated are {workload.tolerance:.0e}; nothing was timed"
                )


if __name__ == "__main__":
    raise SystemExit(main())
