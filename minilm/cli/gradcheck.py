"""minilm gradcheck: check the hand-written gradients of every op, layer, model and method of adaptation."""

from __future__ import annotations

import argparse
import json

from minilm.cli import options


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "gradcheck",
        help="check every hand-written gradient",
        description="Compare hand-written gradients with numeric ones in float64 (complex step where the op is smooth, "
        "Richardson central differences elsewhere). Exits 1 if one fails.",
    )
    parser.add_argument("names", nargs="*", metavar="OP", help="ops, layers, presets or methods (default: all)")
    parser.add_argument("--json", action="store_true", help="print a JSON list of rows")
    parser.add_argument("--seed", type=options.not_negative, default=0, help="seed of the inputs (default: 0)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from minilm.study.table import format_table, run_cases  # every op, layer and model: for this command alone

    rows = run_cases(arguments.names or None, seed=arguments.seed)
    print(json.dumps([row._asdict() for row in rows]) if arguments.json else format_table(rows))
    return 0 if all(row.passed for row in rows) else 1
