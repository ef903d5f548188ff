"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import argparse
import json
from typing import Any

MODEL_SHORTCUTS = ("context", "layers", "heads", "width", "dropout")


def positive(text: str) -> int:
    """A whole number above 0."""
    return _whole(text, 1)


def not_negative(text: str) -> int:
    """A whole number, 0 or more."""
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return value


def name_value(text: str) -> tuple[str, Any]:
    """NAME=VALUE; the value is read as JSON where it is JSON (128, 0.1, true), else as text."""
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE")
    try:
        return name.strip(), json.loads(value)
    except json.JSONDecodeError:
        return name.strip(), value


def add_device(parser: argparse.ArgumentParser, *, seed: bool = True, dtype: bool = False) -> None:
    group = parser.add_argument_group("where and how it runs")
    group.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="array library: cuda needs CuPy and an NVIDIA GPU; auto takes it where both are there (default: auto)",
    )
    group.add_argument(
        "--threads",
        type=positive,
        metavar="N",
        help="CPU threads; another number rounds differently (default: $MINILM_NUM_THREADS, else the processors)",
    )
    if seed:
        group.add_argument("--seed", type=not_negative, default=0, help="seed of everything random (default: 0)")
    if dtype:
        group.add_argument(
            "--dtype", choices=("float32", "float64"), default="float32", help="precision of weights (default: float32)"
        )


def add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model (defaults are the preset's; `minilm info PRESET` lists every option)")
    group.add_argument("--context", type=int, help="context length in tokens")
    group.add_argument("--layers", type=int, help="number of layers")
    group.add_argument("--heads", type=int, help="number of attention heads")
    group.add_argument("--width", type=int, help="hidden size")
    group.add_argument("--dropout", type=float, help="dropout probability")
    group.add_argument(
        "--option",
        type=name_value,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other option of the preset; may be repeated",
    )


def model_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the user said about the model; nothing of it where nothing was said."""
    said = {name: getattr(arguments, name) for name in MODEL_SHORTCUTS if getattr(arguments, name) is not None}
    return said | dict(arguments.option)


def run_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the recipes that start a run have in common."""
    return {
        "model": model_options(arguments),
        "training": training_options(arguments),
        "seed": arguments.seed,
        "dtype": arguments.dtype,
        "device": arguments.device,
        "progress": not arguments.quiet,
    }


def add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training (defaults are the preset's)")
    group.add_argument("--steps", type=int, help="optimizer steps")
    group.add_argument("--epochs", type=float, help="passes over the training data, instead of --steps")
    group.add_argument("--batch-size", type=int, help="sequences in one batch")
    group.add_argument("--micro-batches", type=int, help="batches whose gradients are accumulated for one step")
    group.add_argument("--learning-rate", type=float, help="peak learning rate")
    group.add_argument("--optimizer", choices=("adamw", "adam", "sgd"), help="update rule")
    group.add_argument("--weight-decay", type=float, help="weight decay (AdamW: decoupled, matrices only)")
    group.add_argument("--schedule", choices=("cosine", "linear", "constant"), help="learning rate after the warm-up")
    group.add_argument("--warmup", type=int, help="steps of linear warm-up")
    group.add_argument("--clip", type=float, help="largest global norm of the gradient; 0 turns clipping off")
    group.add_argument("--eval-every", type=int, help="steps between two validations")
    group.add_argument("--checkpoint-every", type=int, help="steps between two checkpoints")
    group.add_argument("--resume", action="store_true", help="continue the run in --out from its last checkpoint")
    group.add_argument("--quiet", action="store_true", help="no progress bar")


TRAINING = (
    "steps",
    "epochs",
    "batch_size",
    "micro_batches",
    "learning_rate",
    "optimizer",
    "weight_decay",
    "schedule",
    "warmup",
    "clip",
    "eval_every",
    "checkpoint_every",
)


def training_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the user said about training; nothing of it where nothing was said."""
    return {name: getattr(arguments, name) for name in TRAINING if getattr(arguments, name) is not None}
