"""What the config of a run means: its data, its training options, the limits of its vocabulary.

A function of the config alone, so that a run that continues gets the very same as the run that started.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from minilm.models.presets import Preset
from minilm.text.batching import BucketSampler
from minilm.text.corpus import open_tokens, split_tokens
from minilm.text.datasets import LabelledTexts, load_labelled, train_validation_split
from minilm.text.tokenizers import Tokenizer
from minilm.train.data import ClassificationData, LanguageData
from minilm.train.options import TrainingOptions
from minilm.train.runs import CLASSIFICATION, TOKENS

VALIDATION_TOKENS = 20_000  # of the held-out text, looked at during training; an evaluation takes all of it
HELD_OUT = 0.1  # of the training texts of a classifier, to choose the best checkpoint

_OPTION_NAMES = {option.name for option in dataclasses.fields(TrainingOptions)}
_DATA_NAMES = {"batch_size", "epochs"}

FINETUNING = {
    "optimizer": "adamw",
    "weight_decay": 0.01,
    "schedule": "linear",
    "warmup": 50,
    "min_lr_ratio": 0.0,
    "clip": 1.0,
    "batch_size": 32,
    "epochs": 3,
}
LEARNING_RATES = {"full": 1e-3, "head": 2e-2, "lora": 2e-3}  # the fewer parameters, the larger steps they bear


def language_data(directory: Path, config: dict[str, Any]) -> LanguageData:
    """Windows of the run's encoded corpus: drawn from its beginning, held out from its end."""
    settings, built = config["training"], config["model"]
    tokens, held_out = split_tokens(open_tokens(directory / TOKENS), config["data"]["validation"])
    batch_size, context = settings["batch_size"], built["context"]
    return LanguageData(
        tokens,
        held_out,
        context,
        batch_size,
        config["seed"],
        micro_batches=settings.get("micro_batches", 1),
        validation_batches=max(1, VALIDATION_TOKENS // (batch_size * context)),
        vocab_size=built["vocab_size"],
    )


def classification_data(config: dict[str, Any], tokenizer: Tokenizer) -> ClassificationData:
    """Batches of the run's training texts, and those that choose its best checkpoint."""
    settings = config["training"]
    kept, held_out = training_texts(config["data"], config["seed"])
    micro_batches = settings.get("micro_batches", 1)
    sampler = sampler_of(config, tokenizer, kept, settings["batch_size"], micro_batches=micro_batches)
    return ClassificationData(sampler, sampler_of(config, tokenizer, held_out, settings["batch_size"]))


def sampler_of(
    config: dict[str, Any], tokenizer: Tokenizer, texts: LabelledTexts, batch_size: int, **options: Any
) -> BucketSampler:
    """Labelled texts as ids in batches, each cut to the run's max_length."""
    return BucketSampler(
        tokenizer.encode_batch(texts.texts),
        texts.labels,
        batch_size,
        config["seed"],
        config["max_length"],
        pad_id=tokenizer.pad_id,
        vocab_size=config["model"]["vocab_size"],
        **options,
    )


def training_texts(data: dict[str, Any], seed: int) -> tuple[LabelledTexts, LabelledTexts]:
    """What a classifier is trained on, and what chooses its best checkpoint. Test texts are not among them."""
    columns = {"text_column": data["text_column"], "label_column": data["label_column"]}
    texts = load_labelled(data["source"], split="train", **columns)
    if data["max_examples"] is not None and data["max_examples"] < len(texts):
        texts = train_validation_split(texts, data["max_examples"] / len(texts), seed)[1]
    return train_validation_split(texts, HELD_OUT, seed)


def training_settings(preset: Preset, given: dict[str, Any] | None, method: str | None = None) -> dict[str, Any]:
    """The preset's training options, or those of fine-tuning by `method`, with what was `given` in their place."""
    given = dict(given or {})
    unknown = given.keys() - _OPTION_NAMES - _DATA_NAMES
    if unknown:
        raise ValueError(
            f"training option {min(unknown)} is unknown; known are {', '.join(sorted(_OPTION_NAMES | _DATA_NAMES))}"
        )
    defaults = FINETUNING | ({"learning_rate": LEARNING_RATES[method]} if method else {}) if method else preset.training
    if "steps" in given:
        defaults = {name: value for name, value in defaults.items() if name != "epochs"}
    elif "epochs" in given:
        defaults = {name: value for name, value in defaults.items() if name != "steps"}
    settings = {k: v for k, v in (defaults | given).items() if k in _OPTION_NAMES | _DATA_NAMES}
    batch_size, epochs = settings.get("batch_size"), settings.get("epochs", 1)
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected 1 or more")
    if epochs <= 0:
        raise ValueError(f"epochs is {epochs}, expected a number above 0")
    TrainingOptions(**{name: value for name, value in settings.items() if name in _OPTION_NAMES})  # checks the rest
    return settings


def training_options(config: dict[str, Any], steps_per_epoch: int) -> TrainingOptions:
    """The options of the loop; epochs become steps."""
    settings = {name: value for name, value in config["training"].items() if name in _OPTION_NAMES}
    if "steps" not in settings:
        settings["steps"] = max(1, math.ceil(config["training"]["epochs"] * steps_per_epoch))
    settings.setdefault("warmup", 0)
    settings["warmup"] = min(settings["warmup"], settings["steps"] // 10)  # a short run still trains at full rate
    if config["task"] == CLASSIFICATION:
        settings = {"eval_every": steps_per_epoch, "best": "val_accuracy"} | settings
    return TrainingOptions(seed=config["seed"], **settings)


def vocabulary_limits(preset: Preset, kind: str, vocab_size: int | None, min_frequency: int | None) -> dict[str, Any]:
    """Options of `train_tokenizer`: what the user said, else what the preset says for its own kind of tokens."""
    said = {"vocab_size": vocab_size, "min_frequency": min_frequency}
    if kind == preset.tokenizer:
        said = {name: preset.training.get(name) if value is None else value for name, value in said.items()}
    return {name: value for name, value in said.items() if value is not None}


def shortest(*lengths: int | None) -> int | None:
    """The least of the lengths that are given, None where none is."""
    return min((length for length in lengths if length), default=None)
