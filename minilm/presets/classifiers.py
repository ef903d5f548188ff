"""Classifiers of texts, from logistic regression on a bag of words to recurrences in both directions."""

from minilm.presets.preset import Preset

_RECURRENT = {
    "causal": False,
    "pooling": "last",
    "dropout": 0.4,
    "initialization": "orthogonal",
    "embedding_bound": 0.05,
}
_TRAINING = {
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "schedule": "linear",
    "warmup": 0,
    "min_lr_ratio": 0.1,
    "clip": 1.0,
    "batch_size": 32,
    "epochs": 5,
}

PRESETS = (
    Preset(
        "lstm-classifier",
        "classification",
        "recurrent",
        "embedding, one LSTM, logistic regression on its last state",
        "Embedding 64 -> LSTM 64 -> logistic output, on the last 200 tokens of a review",
        _RECURRENT,
        _TRAINING,
        "word",
        {"vocab_size": 20000},
        {"max_length": 200},
    ),
    Preset(
        "bilstm-classifier",
        "classification",
        "recurrent",
        "embedding, an LSTM in both directions, logistic regression on both last states",
        "bidirectional recurrent networks [Schuster & Paliwal 1997] at the sizes of lstm-classifier",
        _RECURRENT | {"bidirectional": True},
        _TRAINING,
        "word",
        {"vocab_size": 20000},
        {"max_length": 200},
    ),
    Preset(
        "conv-lstm-classifier",
        "classification",
        "recurrent",
        "embedding, a convolution over three words, one LSTM, logistic regression on its last state",
        "Embedding(10000, 64) -> Conv1D(64, 3, same) -> LSTM(64) -> Dense(1, sigmoid) on 100 tokens of a text",
        _RECURRENT | {"conv_kernel": 3, "dropout": 0.2},
        _TRAINING,
        "word",
        {"vocab_size": 10000},
        {"max_length": 100},
    ),
    Preset(
        "bag-of-words",
        "classification",
        "bag-of-words",
        "logistic regression on which words occur: no order, no depth, the baseline for all others",
        "the first step of the ladder from bags of words to Transformers",
        {"weighting": "binary"},
        _TRAINING | {"optimizer": "adamw", "learning_rate": 1e-2, "weight_decay": 0.1},
        "word",
        {"vocab_size": 20000},
    ),
)
