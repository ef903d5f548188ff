"""minilm finetune: train for a task, from a pretrained run or from a preset."""

from __future__ import annotations

import argparse

from minilm import runs
from minilm.adapt import METHODS
from minilm.cli import options
from minilm.cli.printing import print_training
from minilm.tasks import TASKS


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "finetune",
        help="train a text classifier on a pretrained run, by any method of adaptation",
        description="Train a text classifier on labelled texts, or for another task, from a run of `minilm train` or "
        "from a preset. A tenth of the training texts is held out to choose the best checkpoint; test texts never are.",
    )
    parser.add_argument("base", nargs="?", metavar="RUN|PRESET", help="a run directory, or the name of a preset")
    parser.add_argument("--task", choices=tuple(TASKS), default="classification", help="(default: classification)")
    parser.add_argument(
        "--data",
        nargs="+",
        metavar="SOURCE",
        help="imdb, kjv-testament, an aclImdb folder, or a CSV, TSV or JSONL file with a text and a label column",
    )
    parser.add_argument("--out", required=True, metavar="RUN2", help="directory of the new run")
    options.add_methods(parser)
    options.add_data(parser)
    options.add_tokenizer(parser)
    options.add_model(parser)
    options.add_training(parser)
    options.add_device(parser, dtype=True)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    if arguments.resume:
        print_training(runs.resume(arguments.out, device=arguments.device, progress=not arguments.quiet))
        return 0
    if arguments.base is None or arguments.data is None:
        raise ValueError("RUN|PRESET and --data are needed to start a run (--resume continues the one in --out)")
    trained = runs.finetune(
        arguments.base,
        arguments.data,
        arguments.out,
        task=arguments.task,
        method=arguments.method,
        adaptation=options.given(arguments, [method.options for method in METHODS.values()]),
        **options.run_options(arguments),
    )
    print_training(trained)
    return 0
