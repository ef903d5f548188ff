"""minilm info: what a run or a preset is."""

from __future__ import annotations

import argparse
import json
from typing import Any

from minilm.cli.printing import table
from minilm.models.presets import OPTIONS, PRESETS, find_preset
from minilm.models.summary import describe
from minilm.train.checkpoint import load_checkpoint
from minilm.train.runs import BEST, is_run, open_run


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "info",
        help="what a run or a preset is: sizes, parameters, options, best score",
        description="Describe a run, or a preset with all its options; without a name, list the presets.",
    )
    parser.add_argument("name", nargs="?", metavar="RUN|PRESET", help="a run directory, or the name of a preset")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    if arguments.name is None:
        presets = {preset.name: {"task": preset.task, "summary": preset.summary} for preset in PRESETS.values()}
        if arguments.json:
            print(json.dumps(presets))
        else:
            rows = [(name, preset["task"], preset["summary"].split(". ")[0]) for name, preset in presets.items()]
            print(table(("preset", "task", "what it is"), rows, left=3))
    elif is_run(arguments.name):
        _show_run(arguments.name, arguments.json)
    else:
        _show_preset(arguments.name, arguments.json)
    return 0


def _show_run(directory: str, as_json: bool) -> None:
    opened = open_run(directory, device="cpu")
    best = load_checkpoint(opened.directory / BEST).info.get("best") if (opened.directory / BEST).exists() else None
    shown: dict[str, Any] = {name: value for name, value in opened.config.items() if value is not None}
    shown["vocabulary"] = f"{opened.tokenizer.size:,} tokens ({opened.tokenizer.kind})"
    if best:
        shown["best"] = f"{best['name']} {best['value']:.4f} at step {best['step']:,}"
    if as_json:
        sizes = {name: list(array.shape) for name, array in opened.model.parameters().items()}
        print(json.dumps({**opened.config, "best": best, "vocabulary": opened.tokenizer.size, "parameters": sizes}))
        return
    _print_fields(shown)
    print(f"\n{describe(opened.model)}")


def _show_preset(name: str, as_json: bool) -> None:
    preset = find_preset(name)
    if as_json:
        print(json.dumps(preset._asdict()))
        return
    _print_fields({"preset": name, "task": preset.task, "what": preset.summary, "source": preset.source})
    rows = [(option, json.dumps(default), OPTIONS[option]) for option, default in preset.model.items()]
    print(f"\n{table(('model option', 'default', 'meaning'), rows, left=3)}\n")
    rows = [(option, json.dumps(value)) for option, value in preset.training.items()]
    print(table(("training option", "default"), [*rows, ("tokenizer", preset.tokenizer)], left=2))


def _print_fields(fields: dict[str, Any]) -> None:
    width = max(map(len, fields))
    for name, value in fields.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key}={item}" for key, item in value.items() if item is not None)
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        print(f"{name:<{width}}  {value}")
