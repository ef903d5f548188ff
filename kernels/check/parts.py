"""The parts of the check, in the order of what they tell: what each runs.

A part is one or several commands. Those that need the tests or the benchmarks say so where there is no clone.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

# Where the tests run on whatever library they are given; what is left out never meets a device.
HOST_ONLY = ("tests/kernels", "tests/parity", "tests/text", "tests/cli", "tests/benchmarks")
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # each: there is a process per core
QUICK_LANE = ("-k", "test_launcher and float16 and (ragged or causal) or test_op_runs_the_kernel")
QUICK_TESTS = ("tests/ops/test_softmax.py", "tests/optim/test_flat.py", "tests/layers/test_dropout.py")


class Plan(NamedTuple):
    """The options of the command, and its place."""

    quick: bool  # few cases and small sizes: to see that all parts run
    processes: int  # of the tests
    folder: Path  # of the results
    clone: Path | None  # the repository's root, with tests/ and benchmarks/ in it


class Command(NamedTuple):
    """One process of a part."""

    label: str
    argv: list[str]
    environment: Mapping[str, str] = {}  # besides what all parts have


Commands = Sequence[Command] | str  # or why there are none


class Part(NamedTuple):
    """One part."""

    name: str
    about: str
    commands: Callable[[Plan], Commands]


def clone() -> Path | None:
    """The root of the repository, if these kernels lie in one."""
    root = Path(__file__).parents[2]
    return root if all((root / name / "__init__.py").is_file() for name in ("tests", "benchmarks")) else None


def _own(name: str) -> Callable[[Plan], Commands]:
    return lambda plan: [Command(name, _argv(plan, name))]


def _argv(plan: Plan, name: str, *options: str) -> list[str]:
    return [sys.executable, "-m", "minilm.kernels.check", name, *(["--quick"] if plan.quick else []), *options]


# ---- compute-sanitizer


def sanitizer_tool() -> str | None:
    """The path of compute-sanitizer."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    places = os.pathsep.join(str(Path(home) / "bin") for home in homes if home)
    return shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=places)


def _sanitizer(plan: Plan) -> Commands:
    tool = sanitizer_tool()
    if tool is None:
        return "compute-sanitizer is not on the PATH, nor in CUDA's folder"
    small, own = plan._replace(quick=True), ("--as", "sanitizer", "--plain-memory")
    found = []
    for check, options in (("memcheck", ()), ("racecheck", ("--only", "attention"))):
        watched = _argv(small, "calls", *own, *options)
        found.append(Command(check, [tool, "--tool", check, "--error-exitcode", "9", *watched]))
    return found


# ---- the tests


def _pytest(*selection: str, quick: Sequence[str]) -> Callable[[Plan], Commands]:
    def commands(plan: Plan) -> Commands:
        if plan.clone is None:
            return "the tests are not installed; run this from a clone of the repository"
        missing = [name for name in ("pytest", "hypothesis", "ml_dtypes") if importlib.util.find_spec(name) is None]
        if missing:
            return f"the tests need {', '.join(missing)}: pip install pytest hypothesis pytest-xdist ml-dtypes"
        spread = ["-n", str(plan.processes)] if importlib.util.find_spec("xdist") else []
        plugins = ["-p", "minilm.kernels.check.pytest_records", "-p", "no:cacheprovider"]
        chosen = quick if plan.quick else selection
        argv = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", *plugins, *spread, *chosen]
        return [Command("pytest", argv, ONE_THREAD)]

    return commands


# ---- the benchmarks


WITHOUT_CLONE = "the benchmarks are not installed; run this from a clone of the repository"
TRITON_SERVES = ("softmax", "layer_norm", "cross_entropy", "attention")


def _benchmark(plan: Plan, module: str, *options: str) -> list[str]:
    return [sys.executable, "-m", module, *options, *(["--quick"] if plan.quick else [])]


def _steps(plan: Plan) -> Commands:
    return WITHOUT_CLONE if plan.clone is None else [Command("steps", _benchmark(plan, "benchmarks.step"))]


def _timed(plan: Plan) -> Commands:
    """Beside PyTorch first: Triton compiles many configurations of each kernel before it is timed."""
    if plan.clone is None:
        return WITHOUT_CLONE
    found = []
    for peers, names in (("torch", ["all"]), ("torch,triton", list(TRITON_SERVES))):
        file = plan.folder / f"benchmarks-{peers.rpartition(',')[2]}.json"
        options = ["--device", "cuda", "--against", peers, "--seconds", "0.2", "--json", str(file)]
        found.append(Command(f"beside {peers}", _benchmark(plan, "benchmarks", *names, *options)))
    return found


PARTS = (
    Part("device", "versions and device", _own("device")),
    Part("ptx", "the instructions of ptx.cuh, one by one", _own("ptx")),
    Part("calls", "one call of every kernel, head sizes 64 and 128", _own("calls")),
    Part("sanitizer", "the same under compute-sanitizer: memcheck, racecheck", _sanitizer),
    Part(
        "kernel-tests",
        "the tests of the kernels on the device",
        _pytest("tests/kernels", quick=("tests/kernels", *QUICK_LANE)),
    ),
    Part(
        "library-tests",
        "the tests of ops, layers, models and training on CuPy arrays",
        _pytest("tests", *(f"--ignore={folder}" for folder in HOST_ONLY), quick=QUICK_TESTS),
    ),
    Part("benchmarks", "the benchmarks, beside PyTorch and Triton", _timed),
    Part("step", "whole training steps, their kernels by time", _steps),
)
NAMES = tuple(part.name for part in PARTS)
