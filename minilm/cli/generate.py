"""minilm generate: continue a prompt, printed token by token."""

from __future__ import annotations

import argparse
import itertools

from minilm.backend import generator
from minilm.cli import options
from minilm.models import LanguageModel, generate
from minilm.runs import open_run


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "generate",
        help="continue a prompt with a trained language model",
        description="Continue a prompt with the language model of a run; the text appears as it is drawn.",
    )
    parser.add_argument("directory", metavar="RUN", help="directory of a run of `minilm train`")
    parser.add_argument("--prompt", default="\n", help="text to continue (default: a new line)")
    parser.add_argument("--tokens", type=options.positive, default=300, help="tokens to draw (default: 300)")
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.8,
        help="0 takes the likeliest token; 1 the model's own odds (default: 0.8)",
    )
    parser.add_argument("--top-k", type=int, help="draw from the K likeliest tokens only")
    parser.add_argument("--top-p", type=float, help="draw from the likeliest tokens that hold this much probability")
    options.add_device(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    trained = open_run(arguments.directory, device=arguments.device)
    if not isinstance(trained.model, LanguageModel):
        raise ValueError(f"{arguments.directory} is a {trained.config.task.name} run; a language model is needed")
    ids = trained.tokenizer.encode(arguments.prompt)
    drawn = generate(
        trained.model,
        ids,
        arguments.tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        rng=generator(arguments.seed),
    )
    for text in trained.tokenizer.decode_stream(itertools.chain(ids, drawn)):
        print(text, end="", flush=True)
    print()
    return 0
