"""minilm train: train a preset from scratch: a language model on text, a classifier on labelled texts."""

from __future__ import annotations

import argparse

from minilm import runs
from minilm.cli import options
from minilm.cli.printing import print_training


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "train",
        help="train a preset from scratch: pretrain a language model on text",
        description="Train a preset. A language model reads plain text files or kjv (the shipped King James Bible); "
        "a classifier preset reads labelled texts, as `minilm finetune` does.",
    )
    parser.add_argument("--preset", metavar="PRESET", help="what to train; `minilm info` lists the presets")
    parser.add_argument("--data", nargs="+", metavar="SOURCE", help="kjv, or text files; one after the other")
    parser.add_argument("--out", required=True, metavar="RUN", help="directory of the run; made if it is not there")
    options.add_tokenizer(parser)
    options.add_data(parser)
    options.add_model(parser)
    options.add_training(parser)
    options.add_device(parser, dtype=True)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    if arguments.resume:
        print_training(runs.resume(arguments.out, device=arguments.device, progress=not arguments.quiet))
        return 0
    if arguments.preset is None or arguments.data is None:
        raise ValueError("--preset and --data are needed to start a run (--resume continues the one in --out)")
    print_training(runs.pretrain(arguments.preset, arguments.data, arguments.out, **options.run_options(arguments)))
    return 0
