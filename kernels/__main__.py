"""python -m minilm.kernels: are the kernels right on this GPU, what do they compile to, what does a card allow.

check       all kernels on the GPU at hand: checks, tests, benchmarks, within minutes
compile     all kernels for sm_75, 80, 90 and 100, without a GPU: the resource table, and the gate
roofline    the least time of each kernel on some cards, estimated
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from minilm.kernels import roofline
from minilm.kernels.check import command as check_command
from minilm.kernels.gate import command as gate_command


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0; 1 where a check failed or a budget is overrun; 2 for wrong use, as argparse has it."""
    parser = argparse.ArgumentParser(
        prog="python -m minilm.kernels", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    check_command.add_arguments(commands)
    gate_command.add_arguments(commands)
    roofline.add_arguments(commands)
    args = parser.parse_args(argv)
    return args.main(args)


if __name__ == "__main__":
    sys.exit(main())
