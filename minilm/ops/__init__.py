"""The mathematics: pure pairs `y, cache = op(...)`, `d... = op_backward(dy, cache)`, forward and backward side by side.

Each pair is the plain definition, and `op.backward` its second half. Where a tuned version serves a call, it runs
instead (`minilm.which` says which); `with minilm.reference():` runs the definitions. Every op takes `cache=False`: then
no cache is made.
"""

from minilm.ops.alibi_bias import alibi_bias
from minilm.ops.attention import attention, attention_backward, attention_weights
from minilm.ops.batch_norm import batch_norm, batch_norm_backward
from minilm.ops.binary_cross_entropy_with_logits import (
    binary_cross_entropy_with_logits,
    binary_cross_entropy_with_logits_backward,
)
from minilm.ops.conv1d import conv1d, conv1d_backward
from minilm.ops.cross_entropy import cross_entropy, cross_entropy_backward
from minilm.ops.dropout import dropout, dropout_backward
from minilm.ops.embedding import embedding, embedding_backward
from minilm.ops.gelu import gelu, gelu_backward
from minilm.ops.gru import gru, gru_backward
from minilm.ops.layer_norm import layer_norm, layer_norm_backward
from minilm.ops.linear import linear, linear_backward
from minilm.ops.log_softmax import log_softmax, log_softmax_backward
from minilm.ops.lstm import lstm, lstm_backward
from minilm.ops.pool import pool, pool_backward
from minilm.ops.relu import relu, relu_backward
from minilm.ops.rms_norm import rms_norm, rms_norm_backward
from minilm.ops.rnn import rnn, rnn_backward
from minilm.ops.rotary import rotary, rotary_backward
from minilm.ops.sigmoid import sigmoid, sigmoid_backward
from minilm.ops.silu import silu, silu_backward
from minilm.ops.sinusoidal_positions import sinusoidal_positions
from minilm.ops.softmax import softmax, softmax_backward
from minilm.ops.tanh import tanh, tanh_backward

__all__ = [
    "alibi_bias",
    "attention",
    "attention_backward",
    "attention_weights",
    "batch_norm",
    "batch_norm_backward",
    "binary_cross_entropy_with_logits",
    "binary_cross_entropy_with_logits_backward",
    "conv1d",
    "conv1d_backward",
    "cross_entropy",
    "cross_entropy_backward",
    "dropout",
    "dropout_backward",
    "embedding",
    "embedding_backward",
    "gelu",
    "gelu_backward",
    "gru",
    "gru_backward",
    "layer_norm",
    "layer_norm_backward",
    "linear",
    "linear_backward",
    "log_softmax",
    "log_softmax_backward",
    "lstm",
    "lstm_backward",
    "pool",
    "pool_backward",
    "relu",
    "relu_backward",
    "rms_norm",
    "rms_norm_backward",
    "rnn",
    "rnn_backward",
    "rotary",
    "rotary_backward",
    "sigmoid",
    "sigmoid_backward",
    "silu",
    "silu_backward",
    "sinusoidal_positions",
    "softmax",
    "softmax_backward",
    "tanh",
    "tanh_backward",
]
