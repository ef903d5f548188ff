"""minilm demo: the whole way on one page. Pretrain on the King James text, write, fine-tune three ways, compare."""

from __future__ import annotations

import argparse
import sys
import textwrap
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minilm import runs
from minilm.adapt import SPECTRUM
from minilm.backend import asarray_like, generator, to_numpy
from minilm.cli import options, plots
from minilm.cli.printing import table
from minilm.models import generate
from minilm.runs import Run, Trained

PROMPTS = ("In the beginning", "And Jesus said unto them", "The LORD is")
VERSE = "In the beginning God created the heaven and the earth."


class Scale(NamedTuple):
    """How much of everything: the whole demo, or the quick one."""

    model: dict[str, Any]
    pretraining: dict[str, Any]
    examples: int  # verses to fine-tune on
    epochs: int
    samples: int  # tokens of each sample


FULL = Scale(
    {"layers": 4, "heads": 4, "width": 128, "context": 64},
    {"steps": 600, "batch_size": 32, "learning_rate": 3e-3, "eval_every": 100},
    examples=6000,
    epochs=2,
    samples=60,
)
QUICK = Scale(
    {"layers": 2, "heads": 2, "width": 64, "context": 48},
    {"steps": 400, "batch_size": 16, "learning_rate": 6e-3, "eval_every": 100},
    examples=4000,
    epochs=4,
    samples=30,
)


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "demo",
        help="the whole way in some two minutes: pretrain, write, fine-tune, compare",
        description="Pretrain a small GPT on the shipped King James text, show what it writes, and fine-tune it to "
        "tell verses of the Old Testament from those of the New, from the head alone to all parameters; against "
        "logistic regression on a bag of words. Needs this package alone; plots are written where matplotlib is there.",
    )
    parser.add_argument("--quick", action="store_true", help="a smaller model and fewer steps: about a minute")
    parser.add_argument(
        "--out", metavar="DIR", help="directory for runs and plots (default: minilm-demo, then -2, -3 …)"
    )
    options.add_device(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    began = time.perf_counter()
    scale = QUICK if arguments.quick else FULL
    out = Path(arguments.out) if arguments.out else _free_directory(Path("minilm-demo"))
    common = {"seed": arguments.seed, "device": arguments.device, "progress": sys.stderr.isatty()}

    layers, steps = scale.model["layers"], scale.pretraining["steps"]
    print(f"1. Pretraining a GPT of {layers} layers on the King James Bible, {steps} steps")
    pretrained = runs.pretrain(
        "gpt", ["kjv"], out / "pretrained", tokenizer="bpe", vocabulary={"vocab_size": 2048},
        model=scale.model, training=scale.pretraining, **common,
    )  # fmt: skip
    scores, result = pretrained.scores, pretrained.result
    speed = f"{result.seconds:.0f} s, {result.tokens_per_second:,.0f} tokens/s"
    bits = f"{scores['bits_per_character']:.2f} bits per character"
    print(f"   {pretrained.trained_parameters:,} parameters, {speed}")
    print(f"   held-out text: perplexity {scores['perplexity']:.1f} per token, {bits}")

    print("\n2. What it writes")
    for prompt in PROMPTS:
        print(f"   {_sample(pretrained.run, prompt, scale.samples, arguments.seed)}")

    print(f"\n3. Old or New Testament? {scale.examples:,} verses with their real labels, scores on others")
    data = {"max_examples": scale.examples}
    baseline = runs.finetune("bag-of-words", "kjv-testament", out / "bag-of-words", data=data, **common)
    tuned = {"bag of words": baseline}
    for method in SPECTRUM:
        tuned[method.name] = runs.finetune(
            out / "pretrained", "kjv-testament", out / method.name,
            method=method.name, data=data, training={"epochs": scale.epochs}, **common,
        )  # fmt: skip
    _print_comparison(tuned)
    _draw(out, pretrained, tuned)
    print(f"\n{time.perf_counter() - began:.0f} s in all. Try next")
    print(f"   minilm generate {out / 'pretrained'} --prompt 'And God said'")
    print(f"   minilm predict {out / SPECTRUM[-1].name} 'Blessed are the meek: for they shall inherit the earth.'")
    return 0


def _free_directory(wanted: Path) -> Path:
    path, number = wanted, 1
    while path.exists():
        number += 1
        path = wanted.with_name(f"{wanted.name}-{number}")
    return path


def _sample(run: Run, prompt: str, tokens: int, seed: int) -> str:
    ids = run.tokenizer.encode(prompt)
    drawn = generate(run.model, ids, tokens, temperature=0.7, top_p=0.95, rng=generator(seed))
    return run.tokenizer.decode([*ids, *drawn]).replace("\n", " / ")


def _print_comparison(tuned: dict[str, Trained]) -> None:
    rows = []
    for name, trained in tuned.items():
        classes = trained.scores["classes"].values()
        means = (sum(each[score] for each in classes) / len(classes) for score in ("precision", "recall", "f1"))
        scores = [f"{score:.3f}" for score in (trained.scores["accuracy"], *means)]
        rows.append((name, *scores, f"{trained.trained_parameters:,}", f"{trained.result.seconds:.0f}"))
    columns = ("method", "accuracy", "precision", "recall", "F1", "trained parameters", "seconds")
    print(textwrap.indent(table(columns, rows), "   "))
    counts = {name: scores["examples"] for name, scores in next(iter(tuned.values())).scores["classes"].items()}
    largest = max(counts, key=counts.__getitem__)
    share, tested = counts[largest] / sum(counts.values()), sum(counts.values())
    print("   precision, recall, F1: means over both testaments")
    print(f"   always saying {largest!r} is right for {share:.3f} of the {tested:,} test verses")


def _draw(out: Path, pretrained: Trained, tuned: dict[str, Trained]) -> None:
    if not plots.available():
        print("\n   no plots: matplotlib is not installed (pip install 'minilm[plot]')")
        return
    run = pretrained.run
    ids = run.tokenizer.encode(VERSE)
    weights = run.model.backbone.attention_weights(asarray_like(np.array([ids]), run.model.array))[-1]  # (1, H, T, T)
    labels = next(iter(tuned.values())).run.config.model.head.labels
    tokens = [run.tokenizer.decode([i]).strip() for i in ids]
    confusions = {name: np.array(trained.scores["confusion_matrix"]) for name, trained in tuned.items()}
    written = [
        plots.loss_curve(pretrained.result.history, out / "loss.png"),
        plots.attention_map(to_numpy(weights)[0], tokens, out / "attention.png"),
        plots.confusion_matrices(confusions, labels, out / "confusion.png"),
    ]
    print(f"\n   plots: {', '.join(map(str, written))}")
