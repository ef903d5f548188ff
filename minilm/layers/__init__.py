"""Layers: they own parameters, call ops, and hold no activations.

y, cache = layer.forward(x, train=True, cache=True, rng=None)
dx, grads = layer.backward(dy, cache)            grads has the keys of layer.trainable()
y, state = layer.extend(x, state)                inference that continues
"""

from minilm.layers.activation import Activation
from minilm.layers.attention import MultiHeadAttention
from minilm.layers.base import Layer, bind, merge
from minilm.layers.chain import Chain, Composite, Stack
from minilm.layers.convolution import Conv1d
from minilm.layers.dropout import Dropout
from minilm.layers.embedding import Embedding
from minilm.layers.linear import Linear, TiedLinear
from minilm.layers.normalization import BatchNorm, LayerNorm, RMSNorm
from minilm.layers.padding import ZeroPadding
from minilm.layers.pooling import Pooling
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
from minilm.layers.residual import Residual
from minilm.layers.transformer import TransformerDecoderBlock, TransformerEncoderBlock

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "ALiBi",
    "Activation",
    "BatchNorm",
    "Chain",
    "Composite",
    "Conv1d",
    "Dropout",
    "Embedding",
    "Layer",
    "LayerNorm",
    "Learned",
    "Linear",
    "MultiHeadAttention",
    "NoPositions",
    "Pooling",
    "PositionalEncoding",
    "RMSNorm",
    "Residual",
    "Rotary",
    "Sinusoidal",
    "Stack",
    "TiedLinear",
    "TransformerDecoderBlock",
    "TransformerEncoderBlock",
    "ZeroPadding",
    "bind",
    "merge",
    "positional_encoding",
]
