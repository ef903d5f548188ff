"""minilm finetune: train a classifier on labelled texts, from a pretrained run or from a preset."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from minilm.cli import options
from minilm.cli.printing import print_training
from minilm.train import recipes


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "finetune",
        help="train a text classifier: all parameters, the head only, or LoRA",
        description="Train a text classifier on labelled texts, from a run of `minilm train` or from a preset. "
        "A tenth of the training texts is held out to choose the best checkpoint; test texts never are.",
    )
    parser.add_argument("base", nargs="?", metavar="RUN|PRESET", help="a run directory, or the name of a preset")
    parser.add_argument(
        "--data",
        metavar="SOURCE",
        help="imdb, kjv-testament, an aclImdb folder, or a CSV, TSV or JSONL file with a text and a label column",
    )
    parser.add_argument("--out", required=True, metavar="RUN2", help="directory of the new run")
    parser.add_argument(
        "--method",
        choices=recipes.METHODS,
        default="full",
        help="what is trained: everything, the new output layer alone, or low-rank updates (default: full)",
    )
    parser.add_argument("--rank", type=int, default=8, help="rank of the LoRA updates (default: 8)")
    parser.add_argument("--alpha", type=float, default=16.0, help="LoRA scale: updates count alpha/rank (default: 16)")
    parser.add_argument(
        "--targets",
        nargs="+",
        default=["*"],
        metavar="PATTERN",
        help="layers that get LoRA, by name pattern (default: every linear map)",
    )
    parser.add_argument("--vocab-size", type=int, help="largest vocabulary, where a preset starts from scratch")
    parser.add_argument("--min-frequency", type=int, help="rarer words become unknown, likewise")
    add_label_options(parser)
    options.add_model(parser)
    options.add_training(parser)
    options.add_device(parser, dtype=True)
    parser.set_defaults(run=run)


def add_label_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("labelled texts")
    group.add_argument("--text-column", metavar="NAME", help="column with the text (default: found by its name)")
    group.add_argument("--label-column", metavar="NAME", help="column with the label (default: found by its name)")
    group.add_argument("--max-length", type=int, help="tokens read of each text (default: the preset's)")
    group.add_argument(
        "--pooling", choices=("last", "mean", "max"), help="how hidden states become one vector (default: the preset's)"
    )


def one_source(data: Sequence[str]) -> str:
    if len(data) != 1:
        raise ValueError(f"a classifier takes one source of labelled texts, {len(data)} were given: {', '.join(data)}")
    return data[0]


def run(arguments: argparse.Namespace) -> int:
    if arguments.resume:
        print_training(recipes.resume(arguments.out, device=arguments.device, progress=not arguments.quiet))
        return 0
    if arguments.base is None or arguments.data is None:
        raise ValueError("RUN|PRESET and --data are needed to start a run (--resume continues the one in --out)")
    return start(arguments, base=arguments.base, source=arguments.data)


def start(arguments: argparse.Namespace, *, base: str, source: str) -> int:
    method = getattr(arguments, "method", "full")
    lora = (
        {"rank": arguments.rank, "alpha": arguments.alpha, "targets": arguments.targets} if method == "lora" else None
    )
    trained = recipes.finetune(
        base,
        source,
        arguments.out,
        method=method,
        lora=lora,
        text_column=arguments.text_column,
        label_column=arguments.label_column,
        max_length=arguments.max_length,
        pooling=arguments.pooling,
        vocab_size=arguments.vocab_size,
        min_frequency=arguments.min_frequency,
        **options.run_options(arguments),
    )
    print_training(trained)
    return 0
