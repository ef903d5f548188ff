"""The command `python -m minilm.kernels check`: the kernels on the GPU at hand, part by part.

    python -m minilm.kernels check                                   everything, within 8 minutes
    python -m minilm.kernels check --minutes 3 --only device,ptx,calls
    python -m minilm.kernels check --out results --quick             small sizes: to see that all parts run

The parts, in the order of what they tell:

{parts}

Each runs in a process of its own; one that fails or runs out of time does not stop the next. Each may take its share of
the time that is left, so that what one part saves the later ones have. Results are written as they come: DIR/check.log
(all output), check.jsonl (a line for each check); after each part check.json and check.xml (JUnit); and the benchmarks'
own JSON.

Exit codes: 0, all is right; 1, a check failed, or a part did not end in time; 2, there is no GPU, or wrong use; 130,
interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from minilm.backend import resolve_device
from minilm.checks import unknown
from minilm.files import write_text
from minilm.kernels.check import estimate, processes, records
from minilm.kernels.check.parts import NAMES, PARTS, Part, Plan, clone
from minilm.kernels.check.records import FAILED, PASSED, SKIPPED, Record
from minilm.kernels.gate.tables import markdown

OUT_OF_TIME = "out of time"
REFUSED = "Device not supported"  # compute-sanitizer, where the machine lets nobody watch the device


class Summary(NamedTuple):
    """The outcome of one part."""

    part: str
    status: str  # PASSED, FAILED, SKIPPED or OUT_OF_TIME
    seconds: float
    limit: float
    passed: int
    failed: int
    skipped: int
    detail: str  # what failed first, or why it was skipped


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """The subcommand of `python -m minilm.kernels`."""
    parts = "\n".join(f"    {part.name:<14} {part.about}" for part in PARTS)
    parser = commands.add_parser(
        "check",
        help="check and time the kernels on the GPU at hand",
        description=__doc__.format(parts=parts),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=_minutes, default=8.0, help="for all parts together (default: 8)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="the folder of the results (default: kernel-check-DATE-TIME)"
    )
    parser.add_argument(
        "--only", type=_parts, default=list(NAMES), metavar="PARTS", help=f"by commas, of {', '.join(NAMES)}"
    )
    parser.add_argument("--quick", action="store_true", help="few cases and small sizes: to see that all parts run")
    about = "of the tests (default: one per core)"
    parser.add_argument("--processes", type=_processes, default=os.cpu_count() or 1, metavar="N", help=about)
    parser.set_defaults(main=main)


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
        if not 0 < minutes < float("inf"):
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of minutes above 0") from None
    return minutes


def _processes(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least 1")
    return int(text)


def _parts(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    strange = [name for name in names if name not in NAMES]
    if strange or not names:
        raise argparse.ArgumentTypeError(unknown("part", (strange or [text])[0], NAMES))
    return names


def main(args: argparse.Namespace) -> int:
    """`python -m minilm.kernels check`"""
    try:
        resolve_device("cuda")
    except ValueError as problem:
        why = str(problem).removeprefix("device cuda: ").partition(";")[0]
        print(f"error: no GPU to check ({why}); `compile` and `pytest tests/kernels` need none", file=sys.stderr)
        return 2
    folder = args.out or Path(time.strftime("kernel-check-%Y%m%d-%H%M%S"))
    if (folder / "check.jsonl").exists():
        print(f"error: {folder} holds the results of a check already; give another folder with --out", file=sys.stderr)
        return 2
    try:
        folder.mkdir(parents=True, exist_ok=True)
        plan = Plan(args.quick, args.processes, folder.resolve(), clone())
        with open(plan.folder / "check.log", "w", encoding="utf-8") as log:
            return _run(plan, [part for part in PARTS if part.name in args.only], 60 * args.minutes, log)
    except OSError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2


def _run(plan: Plan, parts: Sequence[Part], budget: float, log: IO[str]) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the parts' processes are ended, too
    began, summaries = time.monotonic(), []
    needed = {part.name: estimate.SECONDS[part.name](plan) for part in parts}
    print(estimate_table(parts, needed, budget, plan.processes))
    try:
        for number, part in enumerate(parts):
            left = budget - (time.monotonic() - began)
            limit = limit_of(left, [needed[later.name] for later in parts[number:]])
            print(f"\n{part.name}: {part.about} (at most {limit:.0f} s)", flush=True)
            summaries.append(run_part(part, plan, limit, log))
            print(f"{part.name}: {describe(summaries[-1])}", flush=True)
            write(plan, summaries, budget)
    except KeyboardInterrupt:
        write(plan, summaries, budget)
        print(f"\ninterrupted; what was found is in {plan.folder}", file=sys.stderr)
        return 130
    print("\n" + table(summaries))
    print(f"\n{time.monotonic() - began:.0f} s; results are in {plan.folder}")
    return int(any(s.status in (FAILED, OUT_OF_TIME) for s in summaries))


def limit_of(left: float, needed: Sequence[float]) -> float:
    """Seconds that the first of the parts that are yet to run may take; `needed` is what each is expected to.

    Its share of the time that is left; and where it is slower than expected, up to twice that, as long as the parts
    behind it keep half of theirs.
    """
    share = max(left, 0.0) * needed[0] / sum(needed)
    return max(share, min(2 * needed[0], left - sum(needed[1:]) / 2))


def run_part(part: Part, plan: Plan, limit: float, log: IO[str]) -> Summary:
    """Run the commands of a part one after the other, within `limit` seconds in all, and count what they found."""
    commands = part.commands(plan)
    if isinstance(commands, str):
        return Summary(part.name, SKIPPED, 0.0, limit, 0, 0, 0, commands)
    results, began, left, late, refused = plan.folder / "check.jsonl", time.monotonic(), limit, False, None
    for command in commands:
        surroundings = environment(part.name, results, plan.clone) | command.environment
        ended = processes.run(command.argv, surroundings, left, log, plan.clone or plan.folder)
        left -= ended.seconds
        late = late or ended.code is None
        refused = refused or ended.says(REFUSED)
        told = any(r.status == FAILED for r in records.read(results) if r.part == part.name)
        if ended.code and not refused and not told:
            last = next((line for line in reversed(ended.output) if line.strip()), "it printed nothing")
            records.append(results, Record(part.name, command.label, FAILED, f"exit code {ended.code}: {last}"))
        if late or refused:
            break
    own = [record for record in records.read(results) if record.part == part.name]
    counts = {status: sum(r.status == status for r in own) for status in (PASSED, FAILED, SKIPPED)}
    first = next((f"{r.name}: {r.detail}" for r in own if r.status == FAILED), "")
    nothing = "" if own or late or refused else "its processes ended well and said nothing"
    status = FAILED if first or nothing else OUT_OF_TIME if late else SKIPPED if refused else PASSED
    detail = first or refused or nothing
    seconds, line = time.monotonic() - began, detail.partition("\n")[0][:300]
    return Summary(part.name, status, seconds, limit, *counts.values(), line)


def environment(part: str, results: Path, root: Path | None) -> dict[str, str]:
    """Of a part's processes: the clone is found, hypothesis draws the same cases each time, output comes at once."""
    found = dict(os.environ)
    if root is not None:
        found["PYTHONPATH"] = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    return found | {
        records.RESULTS_VARIABLE: str(results),
        records.PART_VARIABLE: part,
        "PYTHONUNBUFFERED": "1",
        "CI": "1",
    }


# ---- what is told


def estimate_table(parts: Sequence[Part], needed: Mapping[str, float], budget: float, cores: int) -> str:
    """The expected time of each part, and how it fits the budget."""
    rows = [["part", "estimated s"], *([part.name, f"{needed[part.name]:.0f}"] for part in parts)]
    total = sum(needed.values())
    fits = "fits" if total <= budget else "does not fit: the parts get less in proportion"
    return (
        f"{markdown(rows)}\n\nabout {total:.0f} s on {cores} cores, estimated ({estimate.BASIS}); "
        f"the budget of {budget:.0f} s {fits}"
    )


def describe(summary: Summary) -> str:
    counted = f"{summary.passed} passed, {summary.failed} failed, {summary.skipped} skipped"
    told = f"{summary.status}, {summary.seconds:.0f} s, {counted}"
    return f"{told}: {summary.detail}" if summary.detail else told


def table(summaries: Sequence[Summary]) -> str:
    """One line for each part."""
    rows: list[list[object]] = [["part", "status", "s", "limit s", "passed", "failed", "skipped", "what"]]
    for s in summaries:
        rows.append([s.part, s.status, f"{s.seconds:.0f}", f"{s.limit:.0f}", s.passed, s.failed, s.skipped, s.detail])
    return markdown(rows)


def write(plan: Plan, summaries: Sequence[Summary], budget: float) -> None:
    """check.json and check.xml, whole: what all parts found until now."""
    found = records.read(plan.folder / "check.jsonl")
    told: dict[str, Any] = {
        "command": sys.argv[1:],
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "budget_seconds": budget,
        "parts": [summary._asdict() for summary in summaries],
        "records": [record._asdict() for record in found],
    }
    write_text(plan.folder / "check.json", json.dumps(told, indent=1) + "\n")
    records.write_junit(plan.folder / "check.xml", found)
