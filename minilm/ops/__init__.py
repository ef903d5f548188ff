"""The mathematics: pure pairs `y, cache = op(...)`, `d... = op_backward(dy, cache)`, forward and backward side by side.

Each pair is the plain definition. Where a tuned version serves a call, it runs instead (`minilm.kernels.explain` says
which); `with minilm.reference():` runs the definitions. Every op takes `cache=False`: then no cache is made.
"""

import minilm.kernels.cpu  # tuned versions announce themselves on import
import minilm.kernels.cuda.register  # noqa: F401
from minilm.ops.activation import (
    gelu,
    gelu_backward,
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    silu,
    silu_backward,
    tanh,
    tanh_backward,
)
from minilm.ops.attention import attention, attention_backward, attention_weights
from minilm.ops.batch_normalization import batch_norm, batch_norm_backward
from minilm.ops.convolution import conv1d, conv1d_backward
from minilm.ops.dropout import dropout, dropout_backward
from minilm.ops.embedding import embedding, embedding_backward
from minilm.ops.gru import gru, gru_backward
from minilm.ops.linear import linear, linear_backward
from minilm.ops.loss import (
    binary_cross_entropy_with_logits,
    binary_cross_entropy_with_logits_backward,
    cross_entropy,
    cross_entropy_backward,
)
from minilm.ops.lstm import lstm, lstm_backward
from minilm.ops.normalization import layer_norm, layer_norm_backward, rms_norm, rms_norm_backward
from minilm.ops.positional import alibi_bias, rotary, rotary_backward, sinusoidal_positions
from minilm.ops.rnn import rnn, rnn_backward
from minilm.ops.softmax import log_softmax, log_softmax_backward, softmax, softmax_backward

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
