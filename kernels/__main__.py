"""python -m minilm.kernels: what the kernels compile to, and what a card allows at best.

compile     all kernels for sm_75, 80, 90 and 100, without a GPU: the resource table, and the gate
roofline    the least time of each kernel on some cards, estimated
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from minilm.kernels import gate_command, roofline


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0, 1 for violations of the budget, 2 for wrong use (argparse exits with 2, too)."""
    parser = argparse.ArgumentParser(
        prog="python -m minilm.kernels", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    gate_command.add_arguments(commands)
    roofline.add_arguments(commands)
    args = parser.parse_args(argv)
    return args.main(args)


if __name__ == "__main__":
    sys.exit(main())
