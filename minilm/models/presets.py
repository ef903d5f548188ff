"""Named models: the sizes and settings of models from the literature, each changeable by options.

    model = build("gpt", vocab_size=65, layers=2, context=128)
    model.config                        JSON-able: build(**model.config) makes the same architecture again

`PRESETS[name].model` holds the default options of a preset, `OPTIONS` says what each option means, and
`PRESETS[name].training` how it is trained by default.

Why `attention-lstm-lm` attends causally: a language model predicts each word from those before it. Without the mask,
or with a recurrence in both directions, word t+1 would be among the inputs that predict word t+1. Training would teach
the model to copy it, at a loss near zero, and when it writes there is nothing to copy. So an unmasked or bidirectional
model can't be a left-to-right language model; LanguageModel refuses such a backbone.
"""

from __future__ import annotations

import difflib
from typing import Any, NamedTuple

import numpy as np

from minilm.backend import DTYPES, generator
from minilm.layers.base import Layer
from minilm.models.backbone import Backbone, positive
from minilm.models.bag_of_words import BagOfWords
from minilm.models.classifier import TextClassifier
from minilm.models.language_model import LanguageModel
from minilm.models.recurrent_backbone import RecurrentBackbone
from minilm.models.transformer_backbone import TransformerBackbone


class Preset(NamedTuple):
    """One named model."""

    name: str
    task: str  # "language-model" or "classification"
    summary: str
    source: str  # where the sizes come from
    model: dict[str, Any]  # every option with its default
    training: dict[str, Any]  # default options of training
    tokenizer: str  # "char", "word" or "bpe"


OPTIONS = {
    "activation": 'of the feed-forward layers: "relu", "gelu", "gelu-tanh" or "silu"',
    "bias": "whether linear maps and layer norms have biases",
    "bidirectional": "a second recurrence from right to left; hidden vectors are twice as wide",
    "causal": "convolution and attention see no later token; a classifier may look both ways",
    "cell": 'the recurrence: "rnn", "lstm" or "gru"',
    "context": "tokens of a training window; learned positions allow no longer text",
    "conv_kernel": "size of the convolution under the recurrence, None for no convolution",
    "dropout": "probability with which numbers are dropped while training",
    "embedding_bound": "embeddings start in U(-bound, bound); None: in N(0, embedding_std^2)",
    "embedding_size": "channels of the embedding",
    "embedding_std": "standard deviation of the embeddings at the start, where there is no embedding_bound",
    "heads": "attention heads, a divisor of the attention's width; 0 in a recurrent model: no attention",
    "hidden": "width of the feed-forward layers, None for four times the width",
    "initialization": 'of the recurrence: "pytorch" (uniform) or "orthogonal" (with forget bias 1)',
    "kv_heads": "key/value heads, a divisor of heads, shared by groups of heads; None for as many as heads",
    "layers": "number of blocks, or of recurrent layers",
    "norm": '"layer" or "rms"',
    "norm_first": "norms in front of the sub-layers (pre-norm) instead of behind the residual connections",
    "pooling": 'the text\'s vector is the "last" state, the "mean" or the "max" over its tokens',
    "positions": '"learned", "sinusoidal", "rotary", "alibi" or "none"',
    "tied": "the output layer is the embedding's matrix; a recurrent model needs embedding_size equal to width then",
    "weighting": 'a word counts once ("binary"), as often as it occurs ("count"), or as its share ("frequency")',
    "width": "channels of the hidden vectors; of a bidirectional model, in each direction",
}

_RECURRENT = {
    "embedding_size": 64,
    "width": 64,
    "layers": 1,
    "cell": "lstm",
    "heads": 0,
    "conv_kernel": None,
    "positions": "none",
    "dropout": 0.0,
    "initialization": "pytorch",
    "embedding_std": 1.0,
    "embedding_bound": None,
}
_RECURRENT_LM = _RECURRENT | {"context": 64, "tied": False}
_RECURRENT_CLASSIFIER = _RECURRENT | {
    "bidirectional": False,
    "causal": False,
    "pooling": "last",
    "dropout": 0.4,
    "initialization": "orthogonal",
    "embedding_bound": 0.05,
}
_LM_TRAINING = {
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "schedule": "constant",
    "warmup": 0,
    "clip": 1.0,
    "batch_size": 32,
    "epochs": 10,
    "min_frequency": 2,
}
_CLASSIFIER_TRAINING = {
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "schedule": "linear",
    "warmup": 0,
    "min_lr_ratio": 0.1,
    "clip": 1.0,
    "batch_size": 32,
    "epochs": 5,
    "vocab_size": 20000,
    "max_length": 200,
}

_ALL = [
    Preset(
        "gpt",
        "language-model",
        "Transformer decoder with learned positions, pre-norm blocks and a tied head",
        "GPT-2 [Radford et al. 2019] at the sizes of nanoGPT's configuration for a CPU",
        {
            "layers": 4,
            "heads": 4,
            "kv_heads": None,
            "width": 128,
            "hidden": None,
            "context": 64,
            "positions": "learned",
            "dropout": 0.0,
            "activation": "gelu-tanh",
            "norm": "layer",
            "norm_first": True,
            "bias": False,
            "tied": True,
        },
        {
            "optimizer": "adamw",
            "learning_rate": 3e-3,
            "weight_decay": 0.1,
            "betas": [0.9, 0.99],
            "schedule": "cosine",
            "warmup": 100,
            "min_lr_ratio": 0.0,
            "clip": 1.0,
            "batch_size": 12,
            "steps": 2000,
        },
        "char",
    ),
    Preset(
        "lstm-lm",
        "language-model",
        "two LSTM layers over word embeddings",
        "LSTM language model with embedding 256, hidden 512, two layers, Adam 1e-3, ten epochs of batches of 32",
        _RECURRENT_LM | {"embedding_size": 256, "width": 512, "layers": 2},
        _LM_TRAINING,
        "word",
    ),
    Preset(
        "attention-lstm-lm",
        "language-model",
        "causal 8-head attention with sinusoidal positions under two LSTM layers",
        "Embedding 512 -> Dropout 0.1 -> 8-head attention -> Dropout -> LSTM 512 x 2 -> Dropout -> vocabulary",
        _RECURRENT_LM
        | {"embedding_size": 512, "width": 512, "layers": 2, "heads": 8, "positions": "sinusoidal", "dropout": 0.1},
        _LM_TRAINING,
        "word",
    ),
    Preset(
        "lstm-classifier",
        "classification",
        "embedding, one LSTM, logistic regression on its last state",
        "Embedding 64 -> LSTM 64 -> logistic output, on the last 200 tokens of a review",
        _RECURRENT_CLASSIFIER,
        _CLASSIFIER_TRAINING,
        "word",
    ),
    Preset(
        "bilstm-classifier",
        "classification",
        "embedding, an LSTM in both directions, logistic regression on both last states",
        "bidirectional recurrent networks [Schuster & Paliwal 1997] at the sizes of lstm-classifier",
        _RECURRENT_CLASSIFIER | {"bidirectional": True},
        _CLASSIFIER_TRAINING,
        "word",
    ),
    Preset(
        "conv-lstm-classifier",
        "classification",
        "embedding, a convolution over three words, one LSTM, logistic regression on its last state",
        "Embedding(10000, 64) -> Conv1D(64, 3, same) -> LSTM(64) -> Dense(1, sigmoid) on 100 tokens of a text",
        _RECURRENT_CLASSIFIER | {"conv_kernel": 3, "dropout": 0.2},
        _CLASSIFIER_TRAINING | {"vocab_size": 10000, "max_length": 100},
        "word",
    ),
    Preset(
        "bag-of-words",
        "classification",
        "logistic regression on which words occur: no order, no depth, the baseline for all others",
        "the first step of the ladder from bags of words to Transformers",
        {"weighting": "binary"},
        _CLASSIFIER_TRAINING | {"optimizer": "adamw", "learning_rate": 1e-2, "weight_decay": 0.1, "max_length": None},
        "word",
    ),
]
PRESETS: dict[str, Preset] = {preset.name: preset for preset in _ALL}


def find_preset(name: str) -> Preset:
    """The preset `name`. Raises ValueError, listing all and naming the closest, where there is none."""
    if name not in PRESETS:
        raise ValueError(_unknown("preset", name, list(PRESETS)))
    return PRESETS[name]


def build(
    preset: str, *, vocab_size: int, classes: int = 2, seed: int = 0, dtype: str = "float32", **options: Any
) -> Layer:
    """A new model with weights drawn from `seed`, on the host: a LanguageModel or a TextClassifier.

    `options` replace the preset's defaults; `classes` is the number of labels of a classifier, and unused otherwise.
    Raises ValueError for a preset or an option that is unknown, or a value that makes no sense.
    """
    chosen = find_preset(preset)
    for name in options:
        if name not in chosen.model:
            raise ValueError(_unknown(f"option of {preset}", name, sorted(chosen.model)))
    settings = chosen.model | options
    _check(chosen, settings, vocab_size, classes, seed, dtype)
    rng = generator(seed)
    model: Layer
    if preset == "bag-of-words":
        model = BagOfWords(vocab_size, classes, **settings, dtype=dtype)
    elif chosen.task == "language-model":
        backbone = _backbone(chosen, settings, vocab_size, rng, dtype)
        model = LanguageModel(backbone, tied=settings["tied"], bias=settings.get("bias", True), rng=rng, dtype=dtype)
    else:
        backbone = _backbone(chosen, settings, vocab_size, rng, dtype)
        model = TextClassifier(backbone, classes, settings["pooling"], rng=rng, dtype=dtype)
    model.config = {
        "preset": preset, "vocab_size": vocab_size, "classes": classes, "seed": seed, "dtype": dtype, **settings
    }  # fmt: skip
    return model


def _backbone(
    preset: Preset, settings: dict[str, Any], vocab_size: int, rng: np.random.Generator, dtype: str
) -> Backbone:
    drawn = {"rng": rng, "dtype": dtype}
    if "embedding_size" not in settings:
        named = {name: value for name, value in settings.items() if name != "tied"}
        return TransformerBackbone(vocab_size, **named, **drawn)
    elsewhere = ("embedding_size", "width", "tied", "pooling")
    named = {name: value for name, value in settings.items() if name not in elsewhere}
    return RecurrentBackbone(vocab_size, settings["embedding_size"], settings["width"], **named, **drawn)


def _check(preset: Preset, settings: dict[str, Any], vocab_size: int, classes: int, seed: int, dtype: str) -> None:
    """What the layers don't check themselves: types, as options come from a command line or a file."""
    sizes = ("width", "embedding_size", "layers", "hidden", "context", "conv_kernel", "kv_heads")
    optional = {name for name, value in preset.model.items() if value is None}
    positive(vocab_size=vocab_size, **{name: settings[name] for name in sizes if name in settings})
    for name, value in settings.items():
        default = preset.model[name]
        if value is None and name not in optional:
            raise ValueError(f"{name} is None, expected a value like {default!r}")
        if isinstance(default, bool) and not isinstance(value, bool):
            raise ValueError(f"{name} is {value!r}, expected true or false")
        if isinstance(default, str) and not isinstance(value, str):
            raise ValueError(f"{name} is {value!r}, expected a text like {default!r}")
    heads, least = settings.get("heads", 1), 0 if "embedding_size" in settings else 1
    if isinstance(heads, bool) or not isinstance(heads, int) or heads < least:
        raise ValueError(f"heads is {heads!r}, expected an integer of at least {least}")
    for name in ("dropout", "embedding_std", "embedding_bound"):
        value, below = settings.get(name), 1.0 if name == "dropout" else float("inf")
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < below
        ):
            raise ValueError(f"{name} is {value!r}, expected a number of at least 0 and below {below:g}")
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 2:
        raise ValueError(f"classes is {classes!r}, expected an integer of at least 2")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed is {seed!r}, expected an integer of at least 0")
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is unknown; choose one of {', '.join(DTYPES)}")


def _unknown(what: str, name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(str(name), known, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"{what} {name!r} is unknown; {meant}known are {', '.join(known)}"
