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

from minilm.adapt.adaptation import apply_lora
from minilm.adapt.freezing import head_only
from minilm.backend import generator, resolve_device
from minilm.files import read_json, write_json
from minilm.layers.base import Layer
from minilm.models.classifier import TextClassifier
from minilm.models.presets import PRESETS, build
from minilm.text.tokenizers import Tokenizer, load_tokenizer
from minilm.train.checkpoint import load_checkpoint
from minilm.train.loop import BEST, LAST

CONFIG, TOKENIZER, TOKENS = "config.json", "tokenizer.json", "tokens.bin"
LANGUAGE_MODEL, CLASSIFICATION = "language-model", "classification"

_HEAD_STREAM, _LORA_STREAM = 0x48454144, 0x4C4F5241  # of generator(seed, stream)


class Run(NamedTuple):
    """An opened run."""

    directory: Path
    config: dict[str, Any]
    tokenizer: Tokenizer
    model: Layer


def build_model(config: dict[str, Any]) -> Layer:
    """The model that a run's config describes, on the host, drawn from its seeds, with its parameters frozen as said.

    config["model"] builds a preset; config["head"], where it is not None, puts a new classification head on the
    preset's backbone; config["method"] says what is trained, with config["lora"] for adapters.
    """
    model = build(**config["model"])
    seed = config["seed"]
    if config["head"] is not None:
        if "backbone" not in model.children:
            raise ValueError(f"{config['model']['preset']} has no backbone for another head; fine-tune another preset")
        rng = generator(seed, _HEAD_STREAM)
        model = TextClassifier(model.backbone, **config["head"], rng=rng, dtype=config["model"]["dtype"])
    if config["method"] == "head":
        head_only(model)
    elif config["method"] == "lora":
        apply_lora(model, **config["lora"], train=("head.*",), rng=generator(seed, _LORA_STREAM))
    return model


def start_run(directory: str | Path, config: dict[str, Any], tokenizer: Tokenizer) -> None:
    """Make the directory and write what is known before training. An existing run is never overwritten."""
    directory = Path(directory)
    refuse_existing(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(directory / TOKENIZER)
    write_json(directory / CONFIG, config)


def refuse_existing(directory: str | Path) -> None:
    """Raise ValueError where the directory holds a run already."""
    if (Path(directory) / CONFIG).exists():
        raise ValueError(f"{directory} holds a run already; continue it with --resume, or choose another --out")


def read_config(directory: str | Path) -> dict[str, Any]:
    """The config of a run. Raises ValueError where the directory holds none."""
    path = Path(directory) / CONFIG
    if not path.exists():
        raise ValueError(f"{directory} is not a run of minilm: it has no {CONFIG}; is the path right?")
    config = read_json(path)
    needed = {"task", "model", "head", "method", "lora", "data", "training", "seed"}
    if not isinstance(config, dict) or not config.keys() >= needed:
        raise ValueError(f"{path} is not the config of a minilm run; was it written by another program?")
    return config


def is_run(name: str | Path) -> bool:
    """Whether `name` is a run directory; False where it is a preset. Raises ValueError where it is neither."""
    if str(name) in PRESETS:
        return False
    if not Path(name).exists():
        raise ValueError(f"{name} is neither a run directory nor a preset; presets are {', '.join(PRESETS)}")
    return True


def open_run(directory: str | Path, *, device: str = "auto", task: str | None = None) -> Run:
    """Load a run's tokenizer, and its model on `device` with the weights of the best checkpoint (else the last).

    Raises ValueError for a directory, file or `task` ("language-model", "classification") that does not fit.
    """
    directory = Path(directory)
    config = read_config(directory)
    if task is not None and config["task"] != task:
        raise ValueError(f"{directory} is a {config['task']} run, but this needs a {task} run")
    xp = resolve_device(device)
    tokenizer = load_tokenizer(directory / TOKENIZER)
    checkpoint = next((directory / name for name in (BEST, LAST) if (directory / name).exists()), None)
    if checkpoint is None:
        raise ValueError(f"{directory} has no checkpoint yet; continue its training with --resume")
    model = build_model(config)
    load_checkpoint(checkpoint).restore(model)
    return Run(directory, config, tokenizer, model.to(xp))
