"""Layers: they own parameters, call ops, and hold no activations.

y, cache = layer.forward(x, train=True, cache=True, rng=None)
dx, grads = layer.backward(dy, cache)            grads has the keys of layer.trainable()
"""

from minilm.layers.activation import Activation
from minilm.layers.attention import MultiHeadAttention
from minilm.layers.base import Layer, bind, merge
from minilm.layers.convolution import Conv1d
from minilm.layers.dropout import Dropout
from minilm.layers.embedding import Embedding
from minilm.layers.linear import Linear
from minilm.layers.normalization import BatchNorm, LayerNorm, RMSNorm
from minilm.layers.positional import (
    ALiBi,
    Learned,
    NoPositions,
    PositionalEncoding,
    Rotary,
    Sinusoidal,
    positional_encoding,
)
from minilm.layers.recurrent import GRU, LSTM, RNN
from minilm.layers.transformer import TransformerDecoderBlock, TransformerEncoderBlock

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "ALiBi",
    "Activation",
    "BatchNorm",
    "Conv1d",
    "Dropout",
    "Embedding",
    "Layer",
    "LayerNorm",
    "Learned",
    "Linear",
    "MultiHeadAttention",
    "NoPositions",
    "PositionalEncoding",
    "RMSNorm",
    "Rotary",
    "Sinusoidal",
    "TransformerDecoderBlock",
    "TransformerEncoderBlock",
    "bind",
    "merge",
    "positional_encoding",
]
