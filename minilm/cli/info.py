"""minilm info: what a run or a preset is."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from minilm.cli.printing import table
from minilm.models import describe
from minilm.presets import PRESETS, find_preset
from minilm.runs import open_run
from minilm.runs.run import best_checkpoint, is_run


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
    best = best_checkpoint(directory).info.get("best")
    config = asdict(opened.config)
    shown: dict[str, Any] = config.pop("model")
    shown |= {"options": shown.pop("options"), "head": shown.pop("head"), **config}
    shown["vocabulary"] = f"{opened.tokenizer.size:,} tokens ({opened.tokenizer.kind})"
    if best:
        shown["best"] = f"{best['name']} {best['value']:.4f} at step {best['step']:,}"
    if as_json:
        sizes = {name: list(array.shape) for name, array in opened.model.parameters().items()}
        found = {"best": best, "vocabulary": opened.tokenizer.size, "parameters": sizes}
        print(json.dumps(asdict(opened.config) | found))
        return
    _print_fields(shown)
    print(f"\n{describe(opened.model)}")


def _show_preset(name: str, as_json: bool) -> None:
    preset = find_preset(name)
    if as_json:
        print(json.dumps(preset._asdict()))
        return
    _print_fields({"preset": name, "task": preset.task, "what": preset.summary, "source": preset.source})
    rows = [(option, json.dumps(default), meaning) for option, default, meaning in preset.options()]
    print(f"\n{table(('model option', 'default', 'meaning'), rows, left=3)}\n")
    others = preset.training | preset.data | {"tokenizer": preset.tokenizer} | preset.vocabulary
    rows = [(option, json.dumps(value)) for option, value in others.items()]
    print(table(("other option", "default"), rows, left=2))


def _print_fields(fields: dict[str, Any]) -> None:
    width = max(map(len, fields))
    for name, value in fields.items():
        if value is None:
            continue
        if isinstance(value, dict):
            value = ", ".join(f"{key}={item}" for key, item in value.items() if item is not None)
        elif isinstance(value, list | tuple):
            value = ", ".join(map(str, value))
        print(f"{name:<{width}}  {value}")
