"""Options that several commands share, and how their values are read.

Options of a task, a method, of training or of a model are declared once, as fields of a dataclass with a meaning and
limits; `add_fields` makes flags of them, and `given` collects what the user said.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterable
from typing import Any

from minilm.adapt import DEFAULT, METHODS
from minilm.tasks import TASKS
from minilm.train.options import TrainingOptions

MODEL_SHORTCUTS = ("context", "layers", "heads", "width", "dropout")
NOT_FLAGS = ("seed", "betas", "eps", "labels")  # --seed is of the whole run; the others are for Python


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


# ---- fields of dataclasses as flags


def add_fields(group: Any, kinds: Iterable[type], default: str = "") -> None:
    """A flag for each field of the dataclasses; one name in two of them is one flag. Unsaid, they are left out."""
    fields = {field.name: field for kind in kinds for field in dataclasses.fields(kind) if field.name not in NOT_FLAGS}
    for name, field in fields.items():
        annotation = str(field.type)
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": field.metadata["help"]}
        if default or field.default is None:
            options["help"] += default and f" (default: {default})"
        else:
            shown = " ".join(field.default) if isinstance(field.default, tuple) else field.default
            options["help"] += f" (default: {shown})"
        options["help"] = options["help"].replace("%", "%%")
        if annotation == "bool":
            options["action"] = argparse.BooleanOptionalAction
        elif field.metadata["choices"]:
            options["choices"] = field.metadata["choices"]
        else:
            options["type"] = int if annotation.startswith("int") else float if annotation.startswith("float") else str
            options["metavar"] = {int: "N", float: "X"}.get(options["type"], "TEXT")
        if annotation.startswith("tuple"):
            options |= {"nargs": "+", "metavar": "PATTERN"}
        group.add_argument(f"--{name.replace('_', '-')}", **options)


def given(arguments: argparse.Namespace, kinds: Iterable[type]) -> dict[str, Any]:
    """What the user said about fields of the dataclasses; nothing where nothing was said."""
    names = {field.name for kind in kinds for field in dataclasses.fields(kind)} - set(NOT_FLAGS)
    return {name: getattr(arguments, name) for name in names if hasattr(arguments, name)}


# ---- groups


def add_data(parser: argparse.ArgumentParser) -> None:
    """What the tasks want to know about their data: a group for each kind of it, which several tasks may share."""
    for kind in dict.fromkeys(task.options for task in TASKS.values()):
        names = [task.name for task in TASKS.values() if task.options is kind]
        add_fields(parser.add_argument_group(f"data of {', '.join(names)}"), [kind])


def add_methods(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is trained")
    listed = "; ".join(f"{method.name}: {method.summary}" for method in METHODS.values())
    group.add_argument("--method", choices=tuple(METHODS), default=DEFAULT, help=f"{listed} (default: {DEFAULT})")
    add_fields(group, [method.options for method in METHODS.values()])


def add_tokenizer(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("tokens (of a model that starts from scratch)")
    group.add_argument("--tokenizer", choices=("char", "word", "bpe"), help="what a token is (default: the preset's)")
    for name, meaning in (("vocab_size", "largest vocabulary"), ("min_frequency", "rarer words or pairs are left out")):
        flag = f"--{name.replace('_', '-')}"
        group.add_argument(flag, type=positive, metavar="N", default=argparse.SUPPRESS, help=meaning)


def add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model (defaults are the preset's; `minilm info PRESET` lists every option)")
    group.add_argument("--context", type=int, metavar="N", help="context length in tokens")
    group.add_argument("--layers", type=int, metavar="N", help="number of layers")
    group.add_argument("--heads", type=int, metavar="N", help="number of attention heads")
    group.add_argument("--width", type=int, metavar="N", help="hidden size")
    group.add_argument("--dropout", type=float, metavar="X", help="dropout probability")
    group.add_argument("--pooling", default=argparse.SUPPRESS, help="how a text's hidden vectors become one")
    group.add_argument(
        "--option",
        type=name_value,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other option of the preset; may be repeated",
    )


def add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training (defaults are the preset's, or those of fine-tuning)")
    add_fields(group, [TrainingOptions], default="the preset's")
    group.add_argument("--resume", action="store_true", help="continue the run in --out from its last checkpoint")
    group.add_argument("--quiet", action="store_true", help="no progress bar")


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
            "--dtype", choices=("float32", "float64"), help="precision of weights (default: float32, or the base's)"
        )


def run_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the user said to the commands that start a run, as `minilm.runs.train` takes it."""
    model = {name: getattr(arguments, name) for name in MODEL_SHORTCUTS if getattr(arguments, name) is not None}
    model |= {"pooling": arguments.pooling} if hasattr(arguments, "pooling") else {}
    return {
        "data": given(arguments, [task.options for task in TASKS.values()]),
        "model": model | dict(arguments.option),
        "training": given(arguments, [TrainingOptions]),
        "tokenizer": arguments.tokenizer,
        "vocabulary": {n: getattr(arguments, n) for n in ("vocab_size", "min_frequency") if hasattr(arguments, n)},
        "seed": arguments.seed,
        "dtype": arguments.dtype,
        "device": arguments.device,
        "progress": not arguments.quiet,
    }
