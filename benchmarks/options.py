"""Arguments that several commands of `python -m benchmarks` share: names of workloads, options of measuring."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from benchmarks.measure import PEERS, sizes_of
from benchmarks.workloads import WORKLOADS
from minilm.checks import unknown

PROGRAM = "python -m benchmarks"
COMMANDS = ("static", "report", "profile", "guard")
DTYPES = ("float32", "float64", "float16", "bfloat16")


def add_command(
    commands: argparse._SubParsersAction, name: str, about: str | None, run: Callable[..., int], epilog: str = ""
) -> argparse.ArgumentParser:
    """The parser of a command, to give its arguments to; run(arguments) gives the exit code."""
    parser = commands.add_parser(
        name, description=about, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(main=run)
    return parser


def add_measuring(parser: argparse.ArgumentParser, threads: str = "1") -> None:
    """Options of everything that measures."""
    about = f"peers, by commas, of {', '.join(PEERS)}; absent ones are named (default: torch)"
    parser.add_argument("--against", type=_peers, default=["torch"], metavar="PEERS", help=about)
    parser.add_argument(
        "--threads", type=_threads, default=threads, metavar="N", help="CPU threads, by commas (default: %(default)s)"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="precision (default: float32)")
    parser.add_argument(
        "--seconds", type=positive, default=3.0, help="time for each phase of a workload (default: 3, on a GPU 1)"
    )


def _threads(text: str) -> list[int]:
    counts = text.split(",")
    if not all(count.strip().isdecimal() and int(count) > 0 for count in counts):
        raise argparse.ArgumentTypeError(f"{text!r}: expected whole numbers of at least 1, by commas")
    return list(dict.fromkeys(map(int, counts)))


def _peers(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    strange = [name for name in names if name not in PEERS]
    if strange:
        raise argparse.ArgumentTypeError(unknown("peer", strange[0], PEERS))
    return list(dict.fromkeys(names))


def positive(text: str) -> float:
    """A number above 0, for argparse."""
    try:
        value = float(text)
        if not 0 < value < float("inf"):
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of seconds above 0") from None
    return value


def checked_names(given: list[str]) -> list[str]:
    """The workloads that are meant; ValueError for one that does not exist."""
    names = list(WORKLOADS) if "all" in given else list(dict.fromkeys(given))
    strange = [name for name in names if name not in WORKLOADS]
    if strange:
        more = f"; {strange[0]} is a command: put it first" if strange[0] in COMMANDS else ""
        raise ValueError(unknown("workload", strange[0], ("all", *WORKLOADS)) + more)
    return names


def checked_sizes(name: str, given: list[int] | None) -> list[int]:
    """The sizes to run a workload with, none for its own; ValueError for too many, or one below 1."""
    known = sizes_of(name)
    if given and (len(given) > len(known) or min(given) < 1):
        own = ", ".join(f"{size} ({value})" for size, value in known.items())
        raise ValueError(f"--sizes {' '.join(map(str, given))}: {name} takes at most, each at least 1: {own}")
    return given or []
