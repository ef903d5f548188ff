"""python -m benchmarks.measure JOB: one process that verifies and times. `python -m benchmarks` starts it.

Thread counts are read when NumPy loads, so each count needs a process of its own. So does each workload: how fast a
library gets large arrays depends on what the process allocated before (PyTorch's cross-entropy takes 50 ms, or 27 after
other workloads). On a GPU there is one for all (`_processes`). Each variant's memory on the CPU is taken in another
(memory.py). JOB is a `Job` as JSON; a `report.TimedRun` as JSON is the answer on standard output.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benchmarks import honesty, memory, report, timing
from benchmarks.gpu_work import Work
from benchmarks.honesty import Refused, Watch
from benchmarks.inputs import Inputs
from benchmarks.variants import LeftOut, Setting, Workload, whole
from benchmarks.workloads import WORKLOADS
from minilm.kernels.check import records

# All that a library may read its number of threads from.
THREAD_VARIABLES = ("MINILM_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
SLOWING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # choose kernels for another processor than this one
PEERS = {  # the libraries that may stand beside ours, and where each can run
    "torch": ("cpu", "cuda"),
    "jax": ("cpu",),
    "triton": ("cuda",),
    "gensim": ("cpu",),
}


def peer_of(variant: str) -> str | None:
    """The library whose variant it is; None for one of ours."""
    return next((peer for peer in PEERS if variant.startswith(peer)), None)


class Job(NamedTuple):
    """The work of one process."""

    work: list[tuple]  # a workload's name, its sizes (none: its own), and a precision if it is not the job's
    device: str
    dtype: str
    peers: list[str]
    seconds: float = 3.0  # for each phase of a workload
    memory: bool = True
    autotune: bool = False
    variant: str | None = None  # only this variant's memory


# ---- in the process that the user started


def start(job: Job, threads: int) -> tuple[report.TimedRun, bool]:
    """Run a job with so many threads: what it measured, and whether all of it went well. SystemExit for wrong use."""
    environment = {name: value for name, value in os.environ.items() if name not in SLOWING}
    environment |= dict.fromkeys(THREAD_VARIABLES, str(threads))
    if threads == 1:  # XLA reads no number of threads, only this
        environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()
    runs, well = [], True
    for name, own in _processes(job).items():
        answer, code = _in_a_process(own, environment)
        if answer is not None:
            rows = [report.TimedRow(**row) for row in answer["rows"]]
            runs.append(report.TimedRun(answer["environment"], rows, answer["notes"]))
        elif code < 0:
            problem = f"FAILED: {name} was not timed: the measuring process was ended by signal {-code}"
            runs.append(report.TimedRun({}, [], [problem]))
        else:  # it told why on standard error
            raise SystemExit(code)
        well = well and code == 0
    return merged(runs, job.peers), well


def _processes(job: Job) -> dict[str, Job]:
    """The jobs of the processes, by what they measure: a workload each, or all of a GPU.

    There each start takes seconds, to load the libraries and make a context; memory comes from pools that are emptied.
    """
    if job.device == "cuda":
        return {"what was to run on cuda": job}
    names = dict.fromkeys(item[0] for item in job.work)
    return {name: job._replace(work=[item for item in job.work if item[0] == name]) for name in names}


def merged(runs: Sequence[report.TimedRun], peers: Sequence[str]) -> report.TimedRun:
    """The runs of several processes on one machine as one: the best of their ceilings counts for all.

    Raises ValueError where none of them measured anything.
    """
    environments = [run.environment for run in runs if run.environment]
    if not environments:
        raise ValueError("; ".join(note for run in runs for note in run.notes) or "nothing was measured")
    best: dict[str, timing.Ceilings] = {}
    for found in environments:
        for dtype, figures in found["ceilings"].items():
            own = timing.Ceilings(*figures)
            best[dtype] = own.or_better(best.get(dtype, own))
    rows = report.with_shares((row for run in runs for row in run.rows), best)
    notes = list(dict.fromkeys(note for run in runs for note in run.notes))
    for peer in peers:
        held = {row.workload for row in rows if row.variant.startswith(peer)}
        without = [name for name in dict.fromkeys(row.workload for row in rows) if name not in held]
        if without and peer in environments[0]:
            notes.append(f"peer {peer} has no version of {', '.join(without)}")
    return report.TimedRun(environments[0] | report.ceilings_out(best), rows, notes)


def _in_a_process(job: Job, environment: dict[str, str] | None = None) -> tuple[Any, int]:
    """The answer, None where the process failed (it told why on standard error), and the exit code."""
    command = [sys.executable, "-m", "benchmarks.measure", json.dumps(job)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    lines = done.stdout.splitlines()
    return (json.loads(lines[-1]) if lines else None), done.returncode or (0 if lines else 1)


def sizes_of(name: str) -> dict[str, int]:
    """The sizes that a workload takes, in order, with its own."""
    parameters = list(inspect.signature(WORKLOADS[name]).parameters.values())[1:]
    return {p.name: p.default for p in parameters if type(p.default) is int}


def scaled_sizes(name: str, given: Sequence[int] = ()) -> list[list[int]]:
    """A quarter, half, once and twice the length of a sequence or row, or of the first size: to see how time grows."""
    sizes = sizes_of(name)
    sizes |= dict(zip(sizes, given, strict=False))
    varied = next((size for size in ("T", "columns") if size in sizes), next(iter(sizes)))
    values = dict.fromkeys(max(1, sizes[varied] * factor // 4) for factor in (1, 2, 4, 8))
    return [[value if size == varied else own for size, own in sizes.items()] for value in values]


def unavailable(peer: str, device: str) -> str | None:
    """Why a peer takes no part, None if it can."""
    if importlib.util.find_spec(peer) is None:
        return f"peer {peer} is absent: it is not installed (pip install {peer})"
    if device not in PEERS[peer]:
        return f"peer {peer} cannot serve {device}: it runs on {' and '.join(PEERS[peer])} only"
    if device == "cuda" and peer in ("torch", "triton"):
        if importlib.util.find_spec("torch") is None:
            return "peer triton cannot serve cuda: it takes memory and stream from PyTorch, which is not installed"
        import torch

        if not torch.cuda.is_available():
            means = " (it takes memory and stream from PyTorch)" if peer == "triton" else ""
            return f"peer {peer} cannot serve cuda: this build of PyTorch sees no CUDA device{means}"
        if peer == "triton" and os.environ.get("TRITON_INTERPRET", "0") != "0":
            return "peer triton would be interpreted on the CPU: unset TRITON_INTERPRET"
    return None


# ---- in the measuring process


def main(argv: list[str]) -> int:
    """The exit code: 0, or 1 where a workload failed."""
    job = Job(*json.loads(argv[0]))
    answer, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints is no answer
    from minilm.backend import resolve_device
    from minilm.kernels.cuda.autotune import autotuning

    try:
        xp = resolve_device(job.device)
    except ValueError as problem:
        print(f"python -m benchmarks: error: {problem}", file=sys.stderr)
        return 2
    if job.variant:
        print(json.dumps(memory_of_one(job)), file=answer)
        return 0
    with autotuning() if job.autotune else nullcontext():
        run, failed = measure(job, xp, int(os.environ[THREAD_VARIABLES[0]]))
    print(json.dumps(run._asdict() | {"rows": [row._asdict() for row in run.rows]}), file=answer)
    return 0 if run.rows and not failed else 1


def measure(job: Job, xp: Any, threads: int) -> tuple[report.TimedRun, list[str]]:
    """Verify and time the workloads on the arrays of `xp`: what was measured, and the workloads that failed."""
    problems = {peer: unavailable(peer, job.device) for peer in job.peers}
    peers = tuple(peer for peer, problem in problems.items() if problem is None)
    notes = [problem for problem in problems.values() if problem]
    if "torch" in peers:
        import torch

        torch.set_num_threads(threads)
        if xp is not np:
            same_stream(xp, torch)
    clock = timing.HostClock() if xp is np else timing.DeviceClock(xp)
    work = [Work(*item) if len(item) > 2 else Work(*item, job.dtype) for item in job.work]
    _tell("measuring what this machine reaches at best")
    best = {dtype: timing.ceilings(xp, clock, dtype) for dtype in dict.fromkeys(item.dtype for item in work)}
    rows, failed = [], []
    for name, sizes, dtype in work:
        measured, status = [], records.PASSED
        try:
            _tell(f"{name}: making inputs, comparing results")
            setting = Setting(xp, dtype, peers, inputs=Inputs())
            measured, told = _measure_one(job, setting, name, sizes, clock, threads, best[dtype])
        except LeftOut as reason:
            status, told = records.SKIPPED, [str(reason)]
        except ModuleNotFoundError as missing:  # of a training step; operations need nothing but NumPy
            reason = f"{name} is left out: it needs the package {missing.name}, which is not installed"
            status, told = records.SKIPPED, [reason]
        except Exception as problem:  # a peer's errors are of its own kinds; the other workloads go on
            failed.append(name)
            status, told = records.FAILED, [f"FAILED: {name} was not timed: {type(problem).__name__}: {problem}"]
        rows += measured
        notes += told
        if path := os.environ.get(records.RESULTS_VARIABLE):  # of the kernels' check: a run cut short keeps these
            title = " ".join(map(str, (name, *sizes, dtype)))
            figures = {f"{row.variant}, {row.phase}": row._asdict() for row in measured}
            records.append(path, records.Record("benchmarks", title, status, "; ".join(told), figures))
        if xp is not np:  # one process has all: what ends it early takes no figure away that was there
            report.print_tables(report.with_shares(measured, best), sys.stderr)
            memory.free_pools(xp)
    best = {dtype: own.or_better(timing.ceilings(xp, clock, dtype)) for dtype, own in best.items()}
    _tell("")
    environment = report.environment(xp, threads, best, peers)
    return report.TimedRun(environment, report.with_shares(rows, best), list(dict.fromkeys(notes))), failed


def _measure_one(
    job: Job, setting: Setting, name: str, sizes: list[int], clock: Any, threads: int, best: timing.Ceilings
) -> tuple[list[report.TimedRow], list[str]]:
    """All rows of one workload, and notes. The first variant of a phase, to which the others are compared, is a peer
    if any."""
    workload, xp = WORKLOADS[name](setting, *sizes), setting.xp
    watch, notes = Watch(workload, setting), list(workload.notes)
    watch.verify()
    order = [v for peer in setting.peers for v in workload.variants if v.startswith(peer)]
    variants = {v: workload.variants[v] for v in dict.fromkeys([*order, *workload.variants])}
    peaks: dict[str, int | None] = {}
    for variant in variants if job.memory else ():
        _tell(f"{name}: memory of {variant}")
        if xp is np:
            own_peers = [peer for peer in (peer_of(variant),) if peer]
            single = job._replace(work=[(name, sizes)], dtype=setting.dtype, variant=variant, peers=own_peers)
            peaks[variant] = _in_a_process(single)[0]
        else:
            peaks[variant] = memory.pool_growth(xp, whole(variants[variant]))
    if workload.on_host and xp is not np:
        clock = timing.WholeClock(clock.timer)
        notes.append(f"{name} is timed on the host, from an idle device to an idle one: Python's time is in it")
    rows = []
    has_backward = any(variant.backward is not None for variant in variants.values())
    for phase in ("forward", "backward", "both") if has_backward else ("call",):
        _tell(f"{name}: {phase}")
        prepared = {n: p for n, v in variants.items() if (p := _prepare(v, phase)) is not None}
        for variant, reason in timing.not_timed(prepared, clock).items():
            del prepared[variant]
            notes.append(f"{name} {workload.size}, {phase}: no time for {variant}: {reason}")
        if prepared:
            measured = _believed(workload, phase, prepared, watch, clock, job.seconds)
            limits = honesty.limits_of(xp, best, setting.dtype)
            if problem := honesty.impossible(workload, phase, {n: m.spread.p50 for n, m in measured.items()}, limits):
                raise Refused(problem)
            rows += report.rows_of(workload, phase, measured, peaks, threads, setting.dtype)
    return rows, notes


def _believed(
    workload: Workload, phase: str, prepared: dict[str, Any], watch: Watch, clock: Any, seconds: float
) -> dict[str, timing.Measured]:
    """The times of one phase, with results that are right throughout, and clocks that agree. Else Refused is raised."""
    settle = timing.SETTLE if isinstance(clock, timing.HostClock) else 0.0

    def check() -> None:
        watch.check(prepared, phase, clock)

    measured = timing.interleave(prepared, clock, seconds, settle=settle, next_inputs=watch.next_inputs, check=check)
    for name, own in measured.items():
        if doubt := clock.doubt(prepared[name], own.spread.p50):
            raise Refused(f"{workload.name}, {phase}: the time of {name} is not believed: {doubt}")
    return measured


def same_stream(cupy: Any, torch: Any) -> None:
    """ValueError where PyTorch, and Triton with it, works on another stream than CuPy, whose events tell the time."""
    ours, theirs = cupy.cuda.get_current_stream().ptr, torch.cuda.current_stream().cuda_stream
    if ours != theirs:
        raise ValueError(
            f"CuPy works on stream {ours} and PyTorch on {theirs}: events on one see nothing of the other; unset "
            "CUPY_CUDA_PER_THREAD_DEFAULT_STREAM"
        )


def memory_of_one(job: Job) -> int | None:
    """Bytes that this process grows by in one run of the job's variant."""
    if "torch" in job.peers:
        import torch

        torch.set_num_threads(int(os.environ[THREAD_VARIABLES[0]]))
    name, sizes = job.work[0][:2]
    setting = Setting(np, job.dtype, tuple(job.peers))
    with suppress(ValueError, TypeError, KeyError, RuntimeError):  # a workload may not come that small
        tiny = [min(4, size) for size in sizes_of(name).values()]
        whole(WORKLOADS[name](setting, *tiny).variants[job.variant])()
    a = np.ones((512, 512), np.float32)
    a @ a  # BLAS sets up the memory that it keeps
    return memory.resident_growth(whole(WORKLOADS[name](setting, *sizes).variants[job.variant]))


def _prepare(variant: Any, phase: str) -> Any:
    """The argument of `timing.interleave` for one phase of a variant; None where it has no such phase."""
    forward, backward = variant.forward, variant.backward
    if phase in ("forward", "call"):
        return lambda: forward
    if backward is None:
        return None
    if phase == "both":
        return lambda: whole(variant)
    return lambda: partial(backward, forward())


def _tell(text: str) -> None:
    """Print what is going on, on one line that the next text replaces; only for somebody who is watching."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
