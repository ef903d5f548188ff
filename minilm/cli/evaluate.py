"""minilm evaluate: how good a run is on given text."""

from __future__ import annotations

import argparse
import json

from minilm import runs
from minilm.cli import options
from minilm.cli.printing import print_scores
from minilm.tasks import TASKS


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "evaluate",
        help="loss and perplexity of a language model; accuracy, precision, recall and F1 of a classifier",
        description="Evaluate the best checkpoint of a run. Without --data: on what it never trained on, the held-out "
        "end of its text (a language model) or the test texts of its data (a classifier).",
    )
    parser.add_argument("directory", metavar="RUN", help="directory of a run")
    parser.add_argument(
        "--data", nargs="+", metavar="SOURCE", help="text files or kjv; for a classifier labelled texts"
    )
    parser.add_argument("--batch-size", type=options.positive, default=64, help="sequences in one batch (default: 64)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options.add_data(parser)
    options.add_device(parser, seed=False)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    opened = runs.open_run(arguments.directory, device=arguments.device)
    said = options.given(arguments, [task.options for task in TASKS.values()])
    scores = runs.evaluate(opened, arguments.data, batch_size=arguments.batch_size, **said)
    if arguments.json:
        print(json.dumps(scores))
    else:
        print_scores(scores)
    return 0
