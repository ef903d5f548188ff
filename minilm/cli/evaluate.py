"""minilm evaluate: how good a run is on given text."""

from __future__ import annotations

import argparse
import json

from minilm.cli import finetune, options
from minilm.cli.printing import print_scores
from minilm.train import recipes
from minilm.train.runs import CLASSIFICATION, open_run


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "evaluate",
        help="loss and perplexity of a language model; accuracy, precision, recall and F1 of a classifier",
        description="Evaluate the best checkpoint of a run. Without --data: on the end of its text that was held out "
        "(a language model), on the test texts of its data (a classifier).",
    )
    parser.add_argument("directory", metavar="RUN", help="directory of a run")
    parser.add_argument(
        "--data", nargs="+", metavar="SOURCE", help="text files or kjv; for a classifier labelled texts"
    )
    parser.add_argument("--batch-size", type=options.positive, default=64, help="sequences in one batch (default: 64)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    group = parser.add_argument_group("labelled texts")
    group.add_argument("--text-column", metavar="NAME", help="column with the text (default: found by its name)")
    group.add_argument("--label-column", metavar="NAME", help="column with the label (default: found by its name)")
    options.add_device(parser, seed=False)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    trained = open_run(arguments.directory, device=arguments.device)
    source = arguments.data
    if source and trained.config["task"] == CLASSIFICATION:
        source = finetune.one_source(source)
    scores = recipes.evaluate(
        trained,
        source,
        batch_size=arguments.batch_size,
        text_column=arguments.text_column,
        label_column=arguments.label_column,
    )
    if arguments.json:
        print(json.dumps(scores))
    else:
        print_scores(scores)
    return 0
