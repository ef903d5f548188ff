"""python -m benchmarks guard: no regression unseen. It measures anew and compares ratios with the recorded ones.

Times differ from machine to machine; ratios to a peer in the same run much less. So what is recorded in
benchmarks/results/ is held to, for our fastest variant of each workload and phase:

    at least = (recorded ratio, 20th percentile) × (1 − tolerance)

A median below is measured a second time, in a new process, where memory lies elsewhere; what is below again fails. The
ratio is that to the recorded peer; where the peer is absent here, that to the definition (the recorded median then, its
spread being unknown). Run by hand on a quiet machine; CI never times anything.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.measure import Job, peer_of, start
from benchmarks.options import add_command, add_measuring, checked_names
from benchmarks.report import (
    TimedRow,
    TimedRun,
    as_text,
    check_writable,
    print_run,
    read_json,
    thread_count,
    write_json,
)
from minilm import checks

RESULTS = Path(__file__).parent / "results"
EXAMPLES = """\
examples:
  python -m benchmarks guard                         all that is recorded, with 1 and 2 threads
  python -m benchmarks guard attention lstm --threads 2
  python -m benchmarks guard --record                measure everything and record it anew
  python -m benchmarks guard attention --record      record one workload, keep the others"""


class Verdict(NamedTuple):
    """One ratio, then and now."""

    workload: str
    phase: str
    variant: str
    against: str
    recorded: float
    now: float
    least: float

    @property
    def fell(self) -> bool:
        return self.now < self.least


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """The subcommand of `python -m benchmarks`."""
    parser = add_command(commands, "guard", __doc__, main, EXAMPLES)
    parser.add_argument("names", nargs="*", metavar="NAME", help="workloads (default: all that are recorded)")
    add_measuring(parser, threads="1,2")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="default: benchmarks/results")
    parser.add_argument("--record", action="store_true", help="record instead of comparing")
    about = "share that a ratio may lose (default: %(default)s)"
    parser.add_argument("--tolerance", type=float, default=0.1, help=about)


def file_of(folder: Path, dtype: str, threads: int) -> Path:
    """Where the results for a precision and number of threads are recorded."""
    return folder / f"cpu-{dtype}-{threads}t.json"


def main(arguments: argparse.Namespace) -> int:
    """`python -m benchmarks guard`: 0, or 1 where a ratio fell or a workload failed."""
    checks.number("--tolerance", arguments.tolerance, below=1)
    return (_record if arguments.record else _compare)(arguments)


def _run(arguments: argparse.Namespace, names: Iterable[str], threads: int, memory: bool) -> tuple[TimedRun, bool]:
    work = [(name, []) for name in names]
    return start(Job(work, "cpu", arguments.dtype, arguments.against, arguments.seconds, memory), threads)


def _record(arguments: argparse.Namespace) -> int:
    names = checked_names(arguments.names or ["all"])
    try:
        arguments.results.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise ValueError(f"--results {arguments.results}: the folder cannot be made: {problem.strerror}") from None
    well = True
    for threads in arguments.threads:
        path = file_of(arguments.results, arguments.dtype, threads)
        older = read_json(path) if path.exists() else []
        check_writable(path)
        run, good = _run(arguments, names, threads, memory=True)
        print_run(run)
        write_json(path, merged(older, run))
        print(f"\nrecorded in {path}\n")
        well = well and good
    return 0 if well else 1


def merged(older: Sequence[TimedRun], new: TimedRun) -> list[TimedRun]:
    """The older runs without the workloads that were measured anew, and the new run."""
    again = {row.workload for row in new.rows}
    others = [run._replace(rows=[row for row in run.rows if row.workload not in again]) for run in older]
    return [*(run for run in others if run.rows), new]


def _compare(arguments: argparse.Namespace) -> int:
    fell = failed = False
    for threads in arguments.threads:
        path = file_of(arguments.results, arguments.dtype, threads)
        if not path.exists():
            raise ValueError(f"nothing is recorded in {path}; record it with python -m benchmarks guard --record")
        recorded = [row for run in read_json(path) for row in run.rows]
        known = list(dict.fromkeys(row.workload for row in recorded))
        names = checked_names(arguments.names) if arguments.names else checked_names(known)
        missing = [name for name in names if name not in known]
        if missing:
            raise ValueError(f"{missing[0]} is not recorded in {path}; record it with guard {missing[0]} --record")
        run, good = _run(arguments, names, threads, memory=False)
        verdicts = compare(recorded, run.rows, arguments.tolerance)
        again = list(dict.fromkeys(verdict.workload for verdict in verdicts if verdict.fell))
        if again:
            print(f"measuring again: {', '.join(again)}", file=sys.stderr)
            second, _ = _run(arguments, again, threads, memory=False)
            verdicts = better(verdicts, compare(recorded, second.rows, arguments.tolerance))
        print(f"{arguments.dtype}, {thread_count(threads)}, recorded in {path.name}")
        for note in run.notes:
            print(note)
        head = ("workload", "phase", "variant", "against", "recorded", "now", "at least", "verdict")
        table = [(*v[:4], *(f"{ratio:.2f}" for ratio in v[4:]), "FELL" if v.fell else "kept") for v in verdicts]
        print(as_text([head, *table], left=4), end="\n\n")
        failed = failed or not good
        fell = fell or any(verdict.fell for verdict in verdicts)
    if fell:
        print("A ratio fell. Measure again on a quiet machine; if it stays, find the cause.", file=sys.stderr)
    return 1 if fell or failed else 0


def compare(recorded: Sequence[TimedRow], now: Sequence[TimedRow], tolerance: float) -> list[Verdict]:
    """The ratio of our fastest recorded variant in each workload and phase, then and now."""
    verdicts = []
    for key in dict.fromkeys((row.workload, row.size, row.phase) for row in recorded):
        then = {r.variant: r for r in recorded if (r.workload, r.size, r.phase) == key and not peer_of(r.variant)}
        fresh = {r.variant: r for r in now if (r.workload, r.size, r.phase) == key}
        best = min(then.values(), key=lambda row: row.p50_ms)
        if not fresh or best.variant == best.against:
            continue  # not asked for, or only the definition: there is nothing to hold it to
        own = fresh.get(best.variant)
        if own is None:  # a tuned version that no longer serves these arguments: what runs in its place?
            own = min((r for r in fresh.values() if not peer_of(r.variant)), key=lambda row: row.p50_ms)
        if own.against == best.against:
            old, least, new = best.ratio, best.ratio_p20, own.ratio
        elif best.ratio_to_definition is None or own.ratio_to_definition is None:
            continue
        else:
            old = least = best.ratio_to_definition
            new = own.ratio_to_definition
        against = own.against if own.against == best.against else "definition"
        verdicts.append(Verdict(key[0], key[2], own.variant, against, old, new, least * (1 - tolerance)))
    return verdicts


def better(first: Sequence[Verdict], second: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts of two measurements: of each, the higher ratio counts."""
    others = {verdict[:4]: verdict for verdict in second}
    return [max(verdict, others.get(verdict[:4], verdict), key=lambda each: each.now) for verdict in first]
