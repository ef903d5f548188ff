"""minilm train: pretrain a language model, or train a classifier from scratch."""

from __future__ import annotations

import argparse

from minilm.cli import finetune, options
from minilm.cli.printing import print_training
from minilm.models.presets import PRESETS
from minilm.train import recipes


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "train",
        help="pretrain a language model on text",
        description="Train a preset on text. A language model reads plain text files or kjv (the shipped King James "
        "Bible); a classifier preset reads labelled texts, as `minilm finetune` does.",
    )
    parser.add_argument("--preset", metavar="PRESET", help="what to train; `minilm info` lists the presets")
    parser.add_argument("--data", nargs="+", metavar="FILE", help="kjv, or text files; one after the other")
    parser.add_argument("--out", required=True, metavar="RUN", help="directory of the run; made if it is not there")
    parser.add_argument(
        "--tokenizer", choices=("char", "word", "bpe"), help="what a token is (default: the preset's choice)"
    )
    parser.add_argument("--vocab-size", type=int, help="largest vocabulary (word, bpe)")
    parser.add_argument("--min-frequency", type=int, help="words that occur less often become unknown (word)")
    parser.add_argument(
        "--validation", type=float, default=0.1, metavar="PART", help="held-out last part of the text (default: 0.1)"
    )
    finetune.add_label_options(parser)
    options.add_model(parser)
    options.add_training(parser)
    options.add_device(parser, dtype=True)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    if arguments.resume:
        print_training(recipes.resume(arguments.out, device=arguments.device, progress=not arguments.quiet))
        return 0
    if arguments.preset is None or arguments.data is None:
        raise ValueError("--preset and --data are needed to start a run (--resume continues the one in --out)")
    preset = PRESETS.get(arguments.preset)
    if preset is not None and preset.task == "classification":
        return finetune.start(arguments, base=arguments.preset, source=finetune.one_source(arguments.data))
    trained = recipes.pretrain(
        arguments.preset,
        arguments.data,
        arguments.out,
        tokenizer=arguments.tokenizer,
        vocab_size=arguments.vocab_size,
        min_frequency=arguments.min_frequency,
        validation=arguments.validation,
        **options.run_options(arguments),
    )
    print_training(trained)
    return 0
