"""python -m benchmarks: the one command line of the benchmarks."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from benchmarks import guard, page, plots, profile, report, static
from benchmarks.gpu_work import Work, work_on
from benchmarks.measure import Job, scaled_sizes, start
from benchmarks.options import COMMANDS, PROGRAM, add_command, add_measuring, checked_names, checked_sizes
from benchmarks.workloads import WORKLOADS

USAGE = f"""
  {PROGRAM} NAME... | all [options]     time workloads
  {PROGRAM} static [options]            what the CUDA kernels compile to, beside Triton's
  {PROGRAM} report [options]            one HTML page from results
  {PROGRAM} profile NAME... [options]   where the time of our fastest variant goes
  {PROGRAM} guard [NAME...] [options]   compare ratios with the recorded ones"""
SECONDS = {"cpu": 3.0, "cuda": 1.0}  # for each phase of a workload, unless given; on a GPU there are many more
ABOUT = f"""\
Every workload is computed by the definition in minilm/ops, by the tuned version where there is one, and by the peers
that are installed. All get the same inputs; outputs and gradients are compared before, between and
after the rounds in which all are timed, interleaved. Operations need nothing but NumPy.

workloads: {", ".join(WORKLOADS)}"""
EXAMPLES = f"""\
examples:
  {PROGRAM} attention                              a table in less than a minute
  {PROGRAM} all --threads 1,2 --json results.json --plots pictures
  {PROGRAM} softmax --sizes 512 50000              other sizes, in the order that the workload takes them
  {PROGRAM} attention --scaling --plots pictures   how time grows with the size
  {PROGRAM} all --device cuda --json gpu.json      at sizes that fill a card (gpu_work.py)
  {PROGRAM} report --from results.json --out page.html
  {PROGRAM} COMMAND --help                         the options of static, report, profile and guard"""


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0; 1 for a variant that is refused, or a ratio that fell; 2 for wrong use."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] not in COMMANDS:
        argv.insert(0, "measure")
    parser = argparse.ArgumentParser(prog=PROGRAM)
    commands = parser.add_subparsers(required=True)
    _add_measure(commands)
    for command in (static, page, profile, guard):
        command.add_arguments(commands)
    arguments = parser.parse_args(argv, argparse.Namespace(argv=argv if argv[0] in COMMANDS else argv[1:]))
    try:
        return arguments.main(arguments)
    except ValueError as problem:
        print(f"{PROGRAM}: error: {problem}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print(f"\n{PROGRAM}: interrupted", file=sys.stderr)
        return 130


def _add_measure(commands: argparse._SubParsersAction) -> None:
    parser = add_command(commands, "measure", ABOUT, _measure, EXAMPLES)
    parser.prog, parser.usage = PROGRAM, USAGE
    parser.add_argument("names", nargs="+", metavar="NAME", help="workloads, or all")
    add_measuring(parser)
    parser.set_defaults(dtype=None, seconds=None)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where it runs (default: cpu)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: to see that everything runs")
    parser.add_argument(
        "--sizes", type=int, nargs="+", metavar="N", help="sizes in place of a workload's own, in order"
    )
    parser.add_argument("--scaling", action="store_true", help="several sizes of each workload")
    parser.add_argument("--autotune", action="store_true", help="choose kernels' configurations by timing them (cuda)")
    about = "peak memory, in a process per variant (default: on the CPU only)"
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, help=about)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all numbers as JSON")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="write all numbers as CSV")
    parser.add_argument(
        "--plots", metavar="FOLDER", type=Path, help="draw bars, scaling and roofline, PNG and SVG (needs matplotlib)"
    )


def _measure(arguments: argparse.Namespace) -> int:
    names = checked_names(arguments.names)
    device, dtype = arguments.device, arguments.dtype
    if arguments.sizes or arguments.scaling:
        work = [Work(n, sizes, dtype or "float32") for n in names for sizes in _sizes(n, arguments)]
    else:
        work = work_on(device, names, dtype, arguments.quick)
    for path in filter(None, (arguments.json, arguments.csv)):
        report.check_writable(path)
    if arguments.plots:
        plots.check(arguments.plots)
    memory = device == "cpu" if arguments.memory is None else arguments.memory
    seconds = arguments.seconds or SECONDS[device]
    job = Job(work, device, dtype or "float32", arguments.against, seconds, memory, arguments.autotune)
    command = shlex.join(["python", "-m", "benchmarks", *arguments.argv])
    runs, well = [], True
    for threads in arguments.threads:
        run, good = start(job, threads)
        run = run._replace(environment=run.environment | {"command": command})
        report.print_run(run)
        runs.append(run)
        well = well and good
    if arguments.json:
        report.write_json(arguments.json, runs)
    if arguments.csv:
        report.write_csv(arguments.csv, runs)
    if arguments.plots:
        for path in plots.write_all(runs, arguments.plots):
            print(f"wrote {path}")
    return 0 if well else 1


def _sizes(name: str, arguments: argparse.Namespace) -> list[list[int]]:
    """The sizes to run a workload with; none: its own."""
    if arguments.quick:
        raise ValueError("--quick has sizes of its own: leave --sizes and --scaling out")
    sizes = checked_sizes(name, arguments.sizes)
    return scaled_sizes(name, sizes) if arguments.scaling else [sizes]


if __name__ == "__main__":
    raise SystemExit(main())
