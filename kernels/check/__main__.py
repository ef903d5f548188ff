"""python -m minilm.kernels.check PART: one part of the check, in this process. The command starts it."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from types import ModuleType

from minilm.backend import resolve_device
from minilm.kernels.check import device, every_kernel, toys
from minilm.kernels.check.records import FAILED, Record, say

PARTS: dict[str, Callable[[ModuleType, argparse.Namespace], Iterator[Record]]] = {
    "device": lambda xp, args: device.describe(xp),
    "ptx": lambda xp, args: (every_kernel.record(args.part, "", result) for result in toys.run_all(xp)),
    "calls": every_kernel.run,
}


def main(argv: list[str]) -> int:
    """The exit code: 0; 1 where a check failed, or the part broke off; 2 without a GPU."""
    parser = argparse.ArgumentParser(prog="python -m minilm.kernels.check", description=__doc__)
    parser.add_argument("name", choices=PARTS)
    parser.add_argument("--quick", action="store_true", help="few cases and small sizes")
    parser.add_argument("--as", dest="part", metavar="PART", help="the part that the records are told to be of")
    parser.add_argument(
        "--plain-memory", action="store_true", help="memory by cudaMalloc for each array: its ends can be watched"
    )
    parser.add_argument("--only", default="", metavar="OP", help="of calls: those of one op")
    args = parser.parse_args(argv)
    args.part = args.part or args.name
    try:
        xp = resolve_device("cuda")
    except ValueError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    if args.plain_memory:
        xp.cuda.set_allocator(None)
    failed, began = False, time.monotonic()
    for record in PARTS[args.name](xp, args):
        now = time.monotonic()
        say(record._replace(part=args.part, seconds=now - began))
        failed, began = failed or record.status == FAILED, now
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
