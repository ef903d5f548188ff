"""Tiny models of every kind, for the tests of models."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minilm.layers.base import Layer
from minilm.presets import ModelConfig, find_preset

V = 11


class Batch(NamedTuple):
    """What both kinds of batches hold: models read the attributes that they need."""

    ids: object  # (B, T)
    targets: object  # (B, T)
    lengths: object  # (B,)
    labels: object  # (B,)


def batch(xp=None, B=3, T=6, classes=2, seed=0):
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, V, (B, T))
    targets[0, :2] = -100
    lengths = np.array([T, 3, 1, *rng.integers(1, T + 1, B)])[:B]
    made = Batch(rng.integers(0, V, (B, T)), targets, lengths, rng.integers(0, classes, B))
    return made if xp is None else Batch(*xp.asarrays(made))


_GPT = {"layers": 2, "heads": 2, "width": 8, "context": 6}
_RECURRENT = {"embedding_size": 8, "width": 6, "layers": 2, "context": 6, "dropout": 0.0}
_CLASSIFIER = {"embedding_size": 6, "width": 5, "dropout": 0.0}

LANGUAGE_MODELS = {
    "gpt": ("gpt", _GPT),
    "gpt rotary grouped rms": (
        "gpt",
        _GPT | {"positions": "rotary", "kv_heads": 1, "norm": "rms", "tied": False, "bias": True, "activation": "silu"},
    ),
    "gpt alibi post-norm": ("gpt", _GPT | {"positions": "alibi", "norm_first": False, "activation": "gelu"}),
    "gpt sinusoidal": ("gpt", _GPT | {"positions": "sinusoidal", "bias": True}),
    "gpt without positions": ("gpt", _GPT | {"positions": "none"}),
    "lstm-lm": ("lstm-lm", _RECURRENT),
    "lstm-lm tied gru": ("lstm-lm", _RECURRENT | {"width": 8, "tied": True, "cell": "gru"}),
    "lstm-lm rnn convolution learned": (
        "lstm-lm",
        _RECURRENT | {"cell": "rnn", "conv_kernel": 3, "positions": "learned"},
    ),
    "attention-lstm-lm": ("attention-lstm-lm", _RECURRENT | {"heads": 2}),
    "attention-lstm-lm convolution rotary": (
        "attention-lstm-lm",
        _RECURRENT | {"heads": 2, "positions": "rotary", "conv_kernel": 2},
    ),
    "attention-lstm-lm alibi": ("attention-lstm-lm", _RECURRENT | {"heads": 2, "positions": "alibi"}),
}
CLASSIFIERS = {
    "lstm-classifier": ("lstm-classifier", _CLASSIFIER),
    "lstm-classifier mean": ("lstm-classifier", _CLASSIFIER | {"pooling": "mean", "layers": 2}),
    "bilstm-classifier": ("bilstm-classifier", _CLASSIFIER),
    "bilstm-classifier max deep": ("bilstm-classifier", _CLASSIFIER | {"pooling": "max", "layers": 2, "cell": "gru"}),
    "conv-lstm-classifier": ("conv-lstm-classifier", _CLASSIFIER),
    "everything at once": (
        "bilstm-classifier",
        _CLASSIFIER | {"conv_kernel": 3, "heads": 2, "positions": "sinusoidal"},
    ),
}
MODELS = LANGUAGE_MODELS | CLASSIFIERS


def configure(name, dtype="float64", classes=2, seed=0, **options) -> ModelConfig:
    preset, settings = MODELS[name]
    given = {"vocab_size": V, "classes": classes, "seed": seed, "dtype": dtype}
    return find_preset(preset).configure(**given, **(settings | options))


def make(*given, **options) -> Layer:
    return configure(*given, **options).build()
