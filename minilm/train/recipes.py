"""Whole jobs, from text to a trained run: pretrain, fine-tune, resume, evaluate, predict.

The commands of `minilm` are thin wrappers of these functions. Each writes a run directory (`minilm.train.runs`) whose
config.json holds all that is needed to do the same again, or to continue it bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minilm import __version__
from minilm.backend import to_numpy
from minilm.models.presets import PRESETS, build, find_preset
from minilm.text.batching import BucketSampler, WindowSampler
from minilm.text.corpus import encode_corpus, open_tokens, read_sources, split_tokens
from minilm.text.datasets import LabelledTexts, load_labelled, train_validation_split
from minilm.text.tokenizers import Tokenizer, train_tokenizer
from minilm.train import runs
from minilm.train.data import ClassificationData, LanguageData
from minilm.train.evaluation import evaluate_classifier, evaluate_language_model
from minilm.train.loop import TrainingOptions, TrainingResult, train
from minilm.train.runs import Run

METHODS = ("full", "head", "lora")


class Trained(NamedTuple):
    """What a job leaves behind."""

    run: Run  # with the weights of the best checkpoint
    result: TrainingResult
    scores: dict[str, Any]  # on the test texts where there are any, else on the held-out ones


def pretrain(
    preset: str,
    sources: Sequence[str],
    out: str | Path,
    *,
    tokenizer: str | None = None,
    vocab_size: int | None = None,
    min_frequency: int | None = None,
    validation: float = 0.1,
    model: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    seed: int = 0,
    dtype: str = "float32",
    device: str = "auto",
    progress: bool = True,
) -> Trained:
    """Train a language model preset on text files (or "kjv") and write the run to `out`.

    `model` and `training` override the preset's defaults by name; `validation` is the part of the text, at its end,
    that is held out. Raises ValueError where an argument is wrong, before anything is written.
    """
    chosen = find_preset(preset)
    if chosen.task != "language-model":
        raise ValueError(f"preset {preset} is a classifier; train it with finetune({preset!r}, labelled texts)")
    if not 0 < validation < 1:
        raise ValueError(f"validation must lie between 0 and 1, {validation} was given")
    defaults = chosen.training | (training or {})
    sources = [str(Path(s).resolve()) if s != "kjv" else s for s in sources]
    limits = {"vocab_size": vocab_size, "min_frequency": min_frequency}
    vocabulary = train_tokenizer(tokenizer or chosen.tokenizer, read_sources(sources), **_given(limits))
    config = {
        "minilm": __version__,
        "model": build(preset, vocab_size=vocabulary.size, seed=seed, dtype=dtype, **(model or {})).config,
        "classifier": None,
        "lora": None,
        "data": {"sources": sources, "validation": validation},
        "training": defaults,
        "seed": seed,
    }
    runs.start_run(out, config, vocabulary)
    return resume(out, device=device, progress=progress)


def finetune(
    base: str | Path,
    source: str,
    out: str | Path,
    *,
    method: str = "full",
    lora: dict[str, Any] | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    max_length: int | None = None,
    pooling: str | None = None,
    vocab_size: int | None = None,
    min_frequency: int | None = None,
    model: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    seed: int = 0,
    dtype: str = "float32",
    device: str = "auto",
    progress: bool = True,
) -> Trained:
    """Train a classifier on labelled texts and write the run to `out`.

    `base` is a run (its backbone and tokenizer are taken) or a preset (its backbone is drawn anew, its words are
    counted in the training texts). `method` says what is trained: "full" everything, "head" the output layer alone,
    "lora" low-rank updates of the linear maps and the output layer.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown; choose {', '.join(METHODS)}")
    columns = {"text_column": text_column, "label_column": label_column}
    texts = load_labelled(source, split="train", **columns)
    from_run = str(base) not in PRESETS and Path(base).exists()
    if from_run:
        pretrained = runs.open_run(base, device="cpu")
        if model:
            raise ValueError(f"the model of {base} is already built; {', '.join(model)} can't be changed now")
        vocabulary, model_config = pretrained.tokenizer, pretrained.config["model"]
        chosen = find_preset(model_config["preset"])
    else:
        chosen = find_preset(str(base))
        limits = {"vocab_size": vocab_size, "min_frequency": min_frequency}
        limits = {name: chosen.training.get(name) for name in limits} | _given(limits)
        kept = train_validation_split(texts, _HELD_OUT, seed)[0]
        vocabulary = train_tokenizer(chosen.tokenizer, kept.texts, **_given(limits))
        model_config = build(chosen.name, vocab_size=vocabulary.size, seed=seed, dtype=dtype, **(model or {})).config
    config = {
        "minilm": __version__,
        "model": model_config,
        "classifier": {"classes": len(texts.label_names), "pooling": pooling or chosen.training.get("pooling", "last")},
        "lora": {"rank": 8, "alpha": 16.0, "targets": ["*"], **(lora or {})} if method == "lora" else None,
        "method": method,
        "base": str(Path(base).resolve()) if from_run else str(base),
        "labels": list(texts.label_names),
        "data": {"source": source if not Path(source).exists() else str(Path(source).resolve()), **columns},
        "max_length": max_length or chosen.training.get("max_length") or model_config.get("context"),
        "training": _classifier_training(chosen) | (training or {}),
        "seed": seed,
    }
    runs.build_model(config)  # an impossible rank or pooling is told before anything is written
    runs.start_run(out, config, vocabulary)
    return resume(out, device=device, progress=progress)


_HELD_OUT = 0.1  # of the training texts, to choose the best checkpoint
