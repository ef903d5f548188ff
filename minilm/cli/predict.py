"""minilm predict: the label of each text."""

from __future__ import annotations

import argparse
import json
import sys

from minilm import runs
from minilm.cli import options


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "predict",
        help="label texts with a trained classifier",
        description="Label each TEXT, or each line of standard input, with the classifier of a run. "
        "Prints label, probability and text.",
    )
    parser.add_argument("directory", metavar="RUN", help="directory of a run of `minilm finetune`")
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="texts to label; none: lines of standard input")
    parser.add_argument("--json", action="store_true", help="one JSON object a text, with every label's probability")
    options.add_device(parser, seed=False)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    opened = runs.open_run(arguments.directory, device=arguments.device)
    task = opened.config.task
    if not task.predicts:
        runs.predict(opened, [])  # says what to do instead, before standard input is waited for
    texts = arguments.texts or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if not texts:
        raise ValueError("no text was given; pass TEXT arguments or lines on standard input")
    for text, prediction in zip(texts, runs.predict(opened, texts), strict=True):
        fields, short = task.shown(prediction)
        print(json.dumps({"text": text, **fields}, ensure_ascii=False) if arguments.json else f"{short}\t{text}")
    return 0
