"""The command `minilm`: arguments in, printed lines out. What is done lives in `minilm.train` and below.

Exit codes: 0 done, 1 a gradient check failed, 2 wrong input (one line on stderr says what to do), 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext

from minilm import __version__, threads
from minilm.cli import demo, evaluate, finetune, generate, gradcheck, info, predict, train

COMMANDS = (demo, train, generate, finetune, evaluate, predict, info, gradcheck)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="minilm",
        description="A mini language-model stack from scratch: train, fine-tune, evaluate, generate, check gradients.",
    )
    parser.add_argument("--version", action="version", version=f"minilm {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show the Python traceback of an error")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = build_parser().parse_args(argv)
    try:
        number = getattr(arguments, "threads", None)
        with threads.limit(number) if number else nullcontext():
            return arguments.run(arguments) or 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (head, less) has gone: nothing is wrong here
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        if arguments.traceback:
            raise
        print(f"minilm {arguments.command}: error: {_one_line(error)}", file=sys.stderr)
        return 2


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())
