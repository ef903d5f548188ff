"""Tuned NumPy versions of ops: blocks that stay in cache, no temporaries. Each registers itself on import."""

from minilm.kernels.cpu import (
    attention,
    conv1d,
    cross_entropy,
    decode,
    embedding,
    gelu,
    gru,
    layer_norm,
    linear,
    lstm,
    rnn,
    softmax,
)

__all__ = [
    "attention",
    "conv1d",
    "cross_entropy",
    "decode",
    "embedding",
    "gelu",
    "gru",
    "layer_norm",
    "linear",
    "lstm",
    "rnn",
    "softmax",
]
