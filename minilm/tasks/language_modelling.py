"""Language modelling: predict each token of a text from those before it.

The beginning of the text is trained on, in windows drawn anywhere in it; its end is held out. The text is encoded once,
into a token file in the run's directory, which may be larger than memory. Scores are natural logarithms (nats):

    perplexity = exp(loss)        bits per character = loss · tokens / (characters · ln 2)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minilm.layers.base import Layer
from minilm.memory import MemoryPool
from minilm.models.backbone import Backbone
from minilm.models.language_model import LanguageModel, LanguageModelOptions
from minilm.options import check_options, option
from minilm.tasks.base import Setting, Task
from minilm.text.batching import LanguageBatch, WindowSampler
from minilm.text.corpus import encode_corpus, encode_text, open_tokens, read_sources, split_tokens
from minilm.text.tokenizers import Tokenizer
from minilm.train.data import Metric, batch_like, stacked

TOKENS = "tokens.bin"
VALIDATION_TOKENS = 20_000  # of the held-out text, looked at during training; an evaluation takes all of it


@dataclass(frozen=True)
class LanguageModellingOptions:
    """What can be said about a text."""

    validation: float = option(0.1, "part of the text, at its end, that is held out", below=1.0)

    def __post_init__(self) -> None:
        check_options(self)
        if self.validation == 0:
            raise ValueError("validation is 0, expected a part of the text between 0 and 1")


class Corpus(NamedTuple):
    """Text files, or "kjv", read anew in pieces each time."""

    sources: tuple[str, ...]

    def texts(self) -> Iterable[str]:
        return read_sources(self.sources)


class LanguageModelling(Task):
    name = "language-modelling"
    summary = "predict each token of a text from those before it"
    options = LanguageModellingOptions
    head = LanguageModelOptions
    held_out = "the held-out end of the text"

    def read(self, sources: Sequence[str], options: LanguageModellingOptions, seed: int) -> Corpus:
        return Corpus(tuple(sources))

    def keep(self, examples: Corpus, tokenizer: Tokenizer, directory: Path) -> list[Path]:
        encode_corpus(examples.sources, tokenizer, directory / TOKENS)
        return [directory / TOKENS]

    def model(self, backbone: Backbone, head: LanguageModelOptions, *, rng: Any, dtype: str) -> LanguageModel:
        return LanguageModel(backbone, tied=head.tied, bias=backbone.bias, rng=rng, dtype=dtype)

    def data(self, setting: Setting) -> LanguageData:
        tokens, held_out = _parts(setting)
        batch_size, context = setting.training.batch_size, _context(setting)
        return LanguageData(
            tokens,
            held_out,
            context,
            batch_size,
            setting.seed,
            micro_batches=setting.training.micro_batches,
            validation_batches=max(1, VALIDATION_TOKENS // (batch_size * context)),
            vocab_size=setting.model.vocab_size,
        )

    def scores(
        self, setting: Setting, model: Layer, sources: Sequence[str] | None, options: dict[str, Any], batch_size: int
    ) -> dict[str, Any]:
        """Loss in nats per token, perplexity, tokens, bits per character: on the held-out end, or on given text."""
        if options:
            raise ValueError(f"{min(options)} says nothing about text to evaluate on; leave it out")
        tokenizer = setting.tokenizer
        tokens = _parts(setting)[1] if sources is None else encode_text(read_sources(sources), tokenizer)
        characters = None
        if tokenizer.kind != "word":  # words come back lower-cased and spaced anew: their characters don't count
            characters = len(tokenizer.decode(tokens[1:].tolist()))  # the first token is given, not predicted
        return evaluate_language_model(model, tokens, _context(setting), batch_size, characters=characters)


def _parts(setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    return split_tokens(open_tokens(setting.directory / TOKENS), setting.options.validation)


def _context(setting: Setting) -> int:
    if setting.model.context is None:
        raise ValueError("a language model is trained on windows of a text; set the context, their length in tokens")
    return setting.model.context


class LanguageData:
    """Windows of `context` tokens from `train_tokens` (N,); held out are `validation_tokens` (M,).

    Both may be mapped from files larger than memory. `validation_batches` limits a validation to a first part
    of the held-out tokens. With `vocab_size` ids beyond it are an error.
    """

    metric = Metric("val_loss", higher_is_better=False)
    eval_every = 250

    def __init__(
        self,
        train_tokens: np.ndarray,
        validation_tokens: np.ndarray,
        context: int,
        batch_size: int,
        seed: int = 0,
        *,
        micro_batches: int = 1,
        validation_batches: int | None = None,
        vocab_size: int | None = None,
    ) -> None:
        self.sampler = WindowSampler(train_tokens, context, batch_size, seed, vocab_size=vocab_size)
        if len(validation_tokens) < 2:
            raise ValueError("the held-out text has fewer than 2 tokens; give a longer text, or hold out more of it")
        self.validation_tokens, self.context, self.batch_size = validation_tokens, context, batch_size
        self.micro_batches, self.validation_batches = micro_batches, validation_batches

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.sampler.batches_per_epoch // self.micro_batches)  # rounded up

    def batch(self, step: int, micro: int = 0) -> LanguageBatch:
        return self.sampler.batch(step, micro)

    def validate(self, model: Layer) -> dict[str, float]:
        scores = evaluate_language_model(
            model, self.validation_tokens, self.context, self.batch_size, max_batches=self.validation_batches
        )
        return {"val_loss": scores["loss"]}


def evaluate_language_model(
    model: Layer,
    tokens: np.ndarray,
    context: int,
    batch_size: int,
    *,
    characters: int | None = None,
    max_batches: int | None = None,
) -> dict[str, Any]:
    """Loss of a language model on `tokens` (N,), cut into windows of `context` that do not overlap.

    Returns loss (nats per token), perplexity, tokens (those predicted), and, where the number of `characters` that the
    tokens stand for is given, bits_per_character. Every token counts once: a batch weighs by what is in it, and a text
    shorter than the context is one short window. `max_batches` looks at a first part only.
    """
    if len(tokens) < 2:
        raise ValueError(f"{len(tokens)} tokens leave nothing to predict; give a longer text")
    context = min(context, len(tokens) - 1)
    like = model.array
    counts, losses = [], []
    with MemoryPool():
        for batch in islice(WindowSampler(tokens, context, batch_size).sequential(batch_size), max_batches):
            loss, _ = model.loss(batch_like(batch, like), train=False, cache=False)
            losses.append(loss)
            counts.append(batch.terms)
    total = sum(counts)
    loss = float(np.dot(stacked(losses), np.array(counts, dtype=np.float64)) / total)
    scores: dict[str, Any] = {"loss": loss, "perplexity": math.exp(loss) if loss < 700 else math.inf, "tokens": total}
    if characters is not None:
        scores["bits_per_character"] = loss * total / (characters * math.log(2))
    return scores
