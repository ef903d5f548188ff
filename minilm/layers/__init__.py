"""Layers: they own parameters, call ops, and hold no activations.

y, cache = layer.forward(x, train=True, cache=True, rng=None)
dx, grads = layer.backward(dy, cache)            grads has the keys of layer.trainable()
y, state = layer.extend(x, state)                inference that continues
"""

from minilm.layers.activation import Activation as Activation
from minilm.layers.attention import MultiHeadAttention as MultiHeadAttention
from minilm.layers.base import Layer as Layer, bind as bind, merge as merge
from minilm.layers.chain import Chain as Chain, Composite as Composite, Stack as Stack
from minilm.layers.convolution import Conv1d as Conv1d
from minilm.layers.dropout import Dropout as Dropout
from minilm.layers.embedding import Embedding as Embedding
from minilm.layers.linear import Linear as Linear, TiedLinear as TiedLinear
from minilm.layers.normalization import BatchNorm as BatchNorm, LayerNorm as LayerNorm, RMSNorm as RMSNorm
from minilm.layers.padding import ZeroPadding as ZeroPadding
from minilm.layers.pooling import Pooling as Pooling
from minilm.layers.positional import (
    ALiBi as ALiBi,
    Learned as Learned,
    NoPositions as NoPositions,
    PositionalEncoding as PositionalEncoding,
    Rotary as Rotary,
    Sinusoidal as Sinusoidal,
    positional_encoding as positional_encoding,
)
from minilm.layers.recurrent import GRU as GRU, LSTM as LSTM, RNN as RNN
from minilm.layers.residual import Residual as Residual
from minilm.layers.transformer import (
    TransformerDecoderBlock as TransformerDecoderBlock,
    TransformerEncoderBlock as TransformerEncoderBlock,
)
