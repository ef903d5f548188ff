"""A run: a directory with everything that is needed to use, evaluate or continue a trained model.

config.json          what was built, from which data, how it is trained
tokenizer.json       text to token ids and back
tokens.bin           the encoded corpus of a language model, memory-mapped
metrics.jsonl        one line a logged step
last.safetensors     weights and optimizer at the last checkpoint: what --resume continues from
best.safetensors     weights at the best validation: what is used afterwards
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from minilm.adapt.lora import apply_lora
from minilm.backend import generator, resolve_device
from minilm.layers.base import Layer
from minilm.models.classifier import TextClassifier
from minilm.models.presets import build
from minilm.text.tokenizers import Tokenizer, load_tokenizer
from minilm.train.checkpoint import load_checkpoint, read_json, write_json

CONFIG, TOKENIZER, TOKENS = "config.json", "tokenizer.json", "tokens.bin"
LAST, BEST = "last.safetensors", "best.safetensors"


class Run(NamedTuple):
    """An opened run."""

    directory: Path
    config: dict[str, Any]
    tokenizer: Tokenizer
    model: Layer

    @property
    def task(self) -> str:
        """ "language-model" or "classification"."""
        return "classification" if self.config["classifier"] else "language-model"


def build_model(config: dict[str, Any], device: str = "cpu") -> Layer:
    """The model that a run's config describes, freshly initialised from its seed, on `device`."""
    model = build(**config["model"])
    if config["classifier"]:
        classifier = config["classifier"]
        backbone = model.children["backbone"]
        model = TextClassifier(backbone, **classifier, rng=generator(config["seed"], 2), dtype=config["model"]["dtype"])
    if config["lora"]:
        apply_lora(model, **config["lora"], rng=generator(config["seed"], 3))
    return model.to(resolve_device(device))


def start_run(directory: str | Path, config: dict[str, Any], tokenizer: Tokenizer) -> Path:
    """Make the directory and write what is known before training. An existing run is never overwritten."""
    directory = Path(directory)
    if (directory / CONFIG).exists():
        raise ValueError(f"{directory} holds a run already; continue it with --resume, or choose another --out")
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(directory / TOKENIZER)
    write_json(directory / CONFIG, config)
    return directory


def read_config(directory: str | Path) -> dict[str, Any]:
    """The config of a run; ValueError where the directory holds none."""
    path = Path(directory) / CONFIG
    if not path.exists():
        raise ValueError(f"{directory} is not a run: it has no {CONFIG}; `minilm train --out {directory}` makes one")
    config = read_json(path)
    if not isinstance(config, dict) or config.keys() < {"model", "classifier", "lora", "data", "training", "seed"}:
        raise ValueError(f"{path} is not the config of a minilm run; was it written by another program?")
    return config


def open_run(directory: str | Path, *, device: str = "auto", task: str | None = None, which: str = BEST) -> Run:
    """Load a run's tokenizer, and its model with the weights of the best (or last) checkpoint."""
    directory = Path(directory)
    config = read_config(directory)
    run = Run(directory, config, load_tokenizer(directory / TOKENIZER), build_model(config, device))
    if task is not None and run.task != task:
        raise ValueError(f"{directory} is a {run.task} run, this command needs a {task} run")
    checkpoint = directory / which
    if not checkpoint.exists():
        checkpoint = directory / LAST
    if not checkpoint.exists():
        raise ValueError(f"{directory} has no checkpoint yet; continue its training with --resume")
    load_checkpoint(checkpoint).restore(run.model)
    return run
