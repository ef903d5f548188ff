"""The command `python -m minilm.kernels compile`: choose instances, compile, print, judge.

    python -m minilm.kernels compile                                the table of all instances, and the gate
    python -m minilm.kernels compile --arch 80 --kernel softmax     some of them
    python -m minilm.kernels compile --all                          every combination of options: much longer
    python -m minilm.kernels compile --table                        some figures beside Triton's

Without --all or --kernel, the combinations are thinned out until every pair of choices (head size, type, option, tile,
architecture) is still compiled together at least once, and everything that the budget names with its architecture.

Exit codes: 0, all within the budget; 1, violations (a kernel that doesn't compile is one); 2, wrong use, or the extra
is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minilm.checks import unknown
from minilm.kernels.cuda.instances import ARCHITECTURES, Instance, all_instances
from minilm.kernels.gate import compile as compiling, rules, tables


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """The subcommand of `python -m minilm.kernels`."""
    parser = commands.add_parser(
        "compile",
        help="compile all kernels without a GPU, print their resources, hold them to the budget",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    every = ",".join(map(str, ARCHITECTURES))
    parser.add_argument("--arch", type=_archs, default=ARCHITECTURES, help=f"compute capabilities, default {every}")
    parser.add_argument("--kernel", metavar="PATTERN", help="only instances whose name this regular expression finds")
    parser.add_argument("--all", action="store_true", help="every combination of choices, not every pair of two")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures to FILE")
    parser.add_argument("--table", action="store_true", help="print the short table beside Triton's, and no other")
    parser.add_argument("--update-budget", action="store_true", help="rewrite the record in budget.json, no limit")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes, default one a core")
    parser.set_defaults(main=main)


def _archs(text: str) -> tuple[int, ...]:
    try:
        archs = tuple(int(part.removeprefix("sm_")) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of compute capabilities such as 80,90") from None
    strange = [arch for arch in archs if arch not in ARCHITECTURES]
    if strange:
        raise argparse.ArgumentTypeError(unknown("compute capability", strange[0], map(str, ARCHITECTURES)))
    return archs


def main(args: argparse.Namespace) -> int:
    """`python -m minilm.kernels compile`"""
    started = time.monotonic()
    try:
        budget = rules.read_budget()
        chosen = _choose(args.kernel, budget["compared"] if args.table else None)
        if args.jobs < 1:
            raise ValueError(f"--jobs {args.jobs}: give 1 or more")
    except ValueError as error:
        return _wrong_use(str(error))
    if problem := compiling.missing():
        return _wrong_use(problem)

    work = compiling.units(chosen, args.arch)
    if not (args.all or args.kernel or args.table):
        covered = compiling.covering(work)
        work = covered + [unit for unit in work if rules.is_named(unit, budget) and unit not in covered]
    measured = []
    for done, figures in enumerate(compiling.measure_all(work, args.jobs), 1):
        measured += figures
        if sys.stderr.isatty() or done % 50 == 0:
            print(f"{done} of {len(work)} compiled", end="\r" if sys.stderr.isatty() else "\n", file=sys.stderr)
    measured.sort(key=lambda f: (f.kernel, f.arch))
    everything = not args.kernel and not args.table and set(args.arch) == set(ARCHITECTURES)

    if args.table:
        print(tables.comparison_table(measured, budget["compared"]))
    else:
        print(tables.resource_table(measured))
    if args.json:
        args.json.write_text(json.dumps([f._asdict() for f in measured], indent=1) + "\n")
    problems = rules.violations(measured, budget["limits"])
    if everything:
        problems += rules.idle_limits(measured, budget["limits"])
        sources = (path.relative_to(compiling.SOURCES).as_posix() for path in compiling.SOURCES.rglob("*.cu"))
        problems += rules.sources_left_out(sources, (instance.file for instance in chosen))
    for line in rules.changes(measured, budget):
        print(f"changed: {line}")
    if args.update_budget:
        rules.write_budget(rules.updated(budget, measured, everything))
    for line in problems:
        print(f"VIOLATION: {line}")
    seconds = time.monotonic() - started
    verdict = f"{len(problems)} violations" if problems else "within the budget"
    amount = f"{len(measured)} kernels in {len(work)} compilations, {seconds:.0f} s"
    print(f"\n{amount}, {compiling.compiler_version()}, nothing was run: {verdict}")
    return 1 if problems else 0


def _choose(pattern: str | None, compared: Sequence[Mapping[str, Any]] | None) -> Sequence[Instance]:
    """The instances that a command names, only those of `compared` if given; ValueError where it names none."""
    instances = all_instances()
    if pattern is not None:
        try:
            instances = tuple(i for i in instances if re.search(pattern, i.name))
        except re.error as error:
            raise ValueError(f"--kernel {pattern!r} is no regular expression: {error}") from None
        if not instances:
            raise ValueError(f"--kernel {pattern!r} finds no instance; leave it out to see all names")
    if compared is not None:
        instances = tuple(i for i in instances if any(re.search(row["kernel"], i.name) for row in compared))
    return instances


def _wrong_use(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2
