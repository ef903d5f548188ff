"""Whole jobs, from text to a trained run: pretrain, fine-tune, resume, evaluate, predict.

The commands of `minilm` are thin wrappers of these functions. Each job writes a run directory (`train/runs.py`) whose
config.json holds all that is needed to do the same again, or to continue it bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from minilm import __version__
from minilm.adapt.freezing import trainable_report
from minilm.backend import asarray_like, resolve_device, to_numpy
from minilm.models.presets import build, find_preset
from minilm.text.batching import pad_sequences
from minilm.text.corpus import encode_corpus, encode_text, open_tokens, read_sources, split_tokens
from minilm.text.datasets import LabelledTexts, load_labelled
from minilm.text.tokenizers import load_tokenizer, train_tokenizer
from minilm.train import runs
from minilm.train.checkpoint import load_checkpoint
from minilm.train.evaluation import an_array_of, evaluate_classifier, evaluate_language_model
from minilm.train.loop import BEST, LAST, TrainingResult, train
from minilm.train.runs import CLASSIFICATION, LANGUAGE_MODEL, Run
from minilm.train.settings import (
    classification_data,
    language_data,
    sampler_of,
    shortest,
    training_options,
    training_settings,
    training_texts,
    vocabulary_limits,
)

METHODS = ("full", "head", "lora")


class Trained(NamedTuple):
    """What a job leaves behind."""

    run: Run  # with the weights of the best checkpoint
    result: TrainingResult
    scores: dict[str, Any]  # of those weights on the test texts, or on the held-out end of the text
    trained_parameters: int


def pretrain(
    preset: str,
    sources: Sequence[str | Path],
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
    that is held out. Raises ValueError or OSError, before anything is written, where an argument is wrong.
    """
    chosen = find_preset(preset)
    if chosen.task != LANGUAGE_MODEL:
        raise ValueError(f"{preset} is a classifier: it is trained on labelled texts, by finetune")
    if not 0 < validation < 1:
        raise ValueError(f"validation is {validation}, expected a part of the text between 0 and 1")
    runs.refuse_existing(out)
    resolve_device(device)
    settings = training_settings(chosen, training)
    sources = [str(source) if str(source) == "kjv" else str(Path(source).resolve()) for source in sources]
    kind = tokenizer or chosen.tokenizer
    limits = vocabulary_limits(chosen, kind, vocab_size, min_frequency)
    build(preset, vocab_size=256, dtype=dtype, **(model or {}))  # wrong options are told before the text is read
    vocabulary = train_tokenizer(kind, read_sources(sources), **limits)
    config = {
        "minilm": __version__,
        "task": LANGUAGE_MODEL,
        "model": build(preset, vocab_size=vocabulary.size, seed=seed, dtype=dtype, **(model or {})).config,
        "head": None,
        "method": "full",
        "lora": None,
        "data": {"sources": sources, "validation": validation},
        "training": settings,
        "seed": seed,
    }
    directory, is_new = Path(out), not Path(out).exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        encode_corpus(sources, vocabulary, directory / runs.TOKENS)
        language_data(directory, config)  # a text too short for the context is told now
        runs.start_run(directory, config, vocabulary)
    except BaseException:
        (directory / runs.TOKENS).unlink(missing_ok=True)
        if is_new and directory.exists():
            directory.rmdir()
        raise
    return resume(directory, device=device, progress=progress)


def finetune(
    base: str | Path,
    source: str | Path,
    out: str | Path,
    *,
    method: str = "full",
    lora: dict[str, Any] | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    max_length: int | None = None,
    max_examples: int | None = None,
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

    base      a run, whose backbone and tokenizer are taken, or a preset, whose weights are drawn and words counted anew
    source    as in `text.datasets.load_labelled`; a tenth of its training texts is held out to choose the checkpoint
    method    "full": everything is trained; "head": the output layer alone; "lora": that, and low-rank updates of every
              linear map that lora["targets"] names (lora: rank, alpha, targets)
    max_length, max_examples    tokens read of each text; training texts read, all by default

    Raises ValueError or OSError, before anything is written, where an argument is wrong.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown; choose {', '.join(METHODS)}")
    runs.refuse_existing(out)
    resolve_device(device)
    data = {
        "source": str(source),
        "text_column": text_column,
        "label_column": label_column,
        "max_examples": max_examples,
    }
    if Path(source).exists():
        data["source"] = str(Path(source).resolve())
    from_run = runs.is_run(base)
    chosen = find_preset(runs.read_config(base)["model"]["preset"] if from_run else str(base))
    settings = training_settings(chosen, training, method if from_run or chosen.task == LANGUAGE_MODEL else None)
    texts, _ = training_texts(data, seed)
    classes = len(texts.label_names)
    head = {"classes": classes, "pooling": pooling or chosen.model.get("pooling", "mean")}
    if from_run:
        if model or vocab_size or min_frequency:
            raise ValueError(
                f"{base} is trained already: its model and vocabulary can't be changed; leave those options out"
            )
        vocabulary, built = load_tokenizer(Path(base) / runs.TOKENIZER), runs.read_config(base)["model"]
    else:
        limits = vocabulary_limits(chosen, chosen.tokenizer, vocab_size, min_frequency)
        if chosen.tokenizer == "char":
            limits["unknown"] = True  # a character may occur in later texts only
        vocabulary = train_tokenizer(chosen.tokenizer, texts.texts, **limits)
        if chosen.task == CLASSIFICATION:
            head, model = None, {**({"pooling": pooling} if pooling else {}), **(model or {})}
        options = {"vocab_size": vocabulary.size, "classes": classes, "seed": seed, "dtype": dtype, **(model or {})}
        built = build(chosen.name, **options).config
    config = {
        "minilm": __version__,
        "task": CLASSIFICATION,
        "model": built,
        "head": head,
        "method": method,
        "lora": {"rank": 8, "alpha": 16.0, "targets": ["*"], **(lora or {})} if method == "lora" else None,
        "base": str(Path(base).resolve()) if from_run else None,
        "labels": list(texts.label_names),
        "data": data,
        "max_length": shortest(max_length or chosen.training.get("max_length"), built.get("context")),
        "training": settings,
        "seed": seed,
    }
    runs.build_model(config)  # an impossible rank or pooling is told now
    classification_data(config, vocabulary)  # and a text that the vocabulary can't hold
    runs.start_run(out, config, vocabulary)
    return resume(out, device=device, progress=progress)


def resume(directory: str | Path, *, device: str = "auto", progress: bool = True) -> Trained:
    """Start or continue the training of a run, from its last checkpoint if it has one, and score its best weights."""
    directory = Path(directory)
    config = runs.read_config(directory)
    xp = resolve_device(device)
    tokenizer = load_tokenizer(directory / runs.TOKENIZER)
    model = runs.build_model(config)
    if config["task"] == LANGUAGE_MODEL:
        data = language_data(directory, config)
    else:
        data = classification_data(config, tokenizer)
        if config["base"] and not (directory / LAST).exists():
            _load_backbone(model, config["base"])
    trained_parameters, _ = trainable_report(model)
    options = training_options(config, data.steps_per_epoch)
    result = train(model.to(xp), data, options, directory, resume=True, progress=progress)
    run = runs.open_run(directory, device=device)
    scores = {} if result.interrupted else evaluate(run)
    return Trained(run, result, scores, trained_parameters)


# ---- using a run


def evaluate(
    run: Run,
    source: str | Path | Sequence[str | Path] | None = None,
    *,
    batch_size: int = 64,
    text_column: str | None = None,
    label_column: str | None = None,
) -> dict[str, Any]:
    """Scores of a run on given texts: JSON-able.

    A language model: loss in nats per token, perplexity, bits per character; without a source on the end of its text
    that was held out. A classifier: loss, accuracy, precision, recall, F1 (of the second label where there are two,
    else macro averages), confusion matrix; without a source, or on the one that it was trained on, on the test texts.
    """
    if run.config["task"] == LANGUAGE_MODEL:
        return _evaluate_language_model(run, source, batch_size)
    texts = _test_texts(run.config, source, text_column, label_column)
    sampler = sampler_of(run.config, run.tokenizer, texts, batch_size)
    batches = (batch for batch, _ in sampler.sequential())
    return evaluate_classifier(run.model, batches, names=run.config["labels"]).to_dict()


def predict(run: Run, texts: Sequence[str], *, batch_size: int = 64) -> list[dict[str, float]]:
    """The probability of every label for each text, by the labels' names."""
    like, labels, predictions = an_array_of(run.model), run.config["labels"], []
    sequences = run.tokenizer.encode_batch(texts)
    for first in range(0, len(sequences), batch_size):
        part = [sequence[-run.config["max_length"] :] if run.config["max_length"] else sequence
                for sequence in sequences[first : first + batch_size]]  # fmt: skip
        ids, lengths = pad_sequences(part, run.tokenizer.pad_id or 0)
        rows = to_numpy(run.model.probabilities(asarray_like(ids, like), asarray_like(lengths, like)))  # (B, K)
        predictions += [dict(zip(labels, map(float, row), strict=True)) for row in rows]
    return predictions


def _evaluate_language_model(run: Run, source: Any, batch_size: int) -> dict[str, Any]:
    context = run.config["model"]["context"]
    if source is None:
        _, tokens = split_tokens(open_tokens(run.directory / runs.TOKENS), run.config["data"]["validation"])
    else:
        tokens = encode_text(read_sources(source), run.tokenizer)
    characters = None
    if (
        run.tokenizer.kind != "word"
    ):  # words come back lower-cased, spaced anew, or not at all: their characters don't count
        characters = len(run.tokenizer.decode(tokens[1:].tolist()))  # the first token is given, not predicted
    return evaluate_language_model(run.model, tokens, context, batch_size, characters=characters)


def _test_texts(
    config: dict[str, Any], source: Any, text_column: str | None, label_column: str | None
) -> LabelledTexts:
    own = config["data"]
    if source is None or str(source) == own["source"] or str(Path(source).resolve()) == own["source"]:
        columns = {
            "text_column": text_column or own["text_column"],
            "label_column": label_column or own["label_column"],
        }
        return load_labelled(own["source"], split="test", **columns)
    whole_file = Path(source).is_file()  # other sources say themselves which of their texts are for testing
    columns = {"text_column": text_column, "label_column": label_column}
    texts = load_labelled(source, split=None if whole_file else "test", **columns)
    if list(texts.label_names) != config["labels"]:
        raise ValueError(
            f"{source} has the labels {', '.join(texts.label_names)}; the run knows {', '.join(config['labels'])}"
        )
    return texts


def _load_backbone(model: Any, base: str) -> None:
    """The backbone's weights of the run `base`; the head keeps its own, drawn for the new labels."""
    path = next((Path(base) / name for name in (BEST, LAST) if (Path(base) / name).exists()), None)
    if path is None:
        raise ValueError(f"{base} has no checkpoint to start from; continue its training with --resume first")
    tensors = load_checkpoint(path).model_tensors()
    # an adapter stands in front of the layer that it wraps: backbone.x.base.weight is the run's backbone.x.weight
    own = {name: name.replace(".base.", ".") for name in model.state() if name.startswith("backbone.")}
    model.load_state(model.state() | {name: tensors[plain] for name, plain in own.items() if plain in tensors})
