"""The mathematics: pure pairs `y, cache = op(...)`, `d... = op_backward(dy, cache)`, forward and backward side by side.

Each pair is the plain definition, and `op.backward` its second half. Where a tuned version serves a call, it runs
instead (`minilm.which` says which); `with minilm.reference():` runs the definitions. Every op takes `cache=False`: then
no cache is returned. `minilm.selection.registered()` lists them all.
"""

from minilm.ops.alibi_bias import alibi_bias as alibi_bias
from minilm.ops.attention import attention as attention, attention_backward as attention_backward
from minilm.ops.attention import attention_weights as attention_weights
from minilm.ops.batch_norm import batch_norm as batch_norm, batch_norm_backward as batch_norm_backward
from minilm.ops.binary_cross_entropy_with_logits import (
    binary_cross_entropy_with_logits as binary_cross_entropy_with_logits,
    binary_cross_entropy_with_logits_backward as binary_cross_entropy_with_logits_backward,
)
from minilm.ops.conv1d import conv1d as conv1d, conv1d_backward as conv1d_backward
from minilm.ops.cross_entropy import cross_entropy as cross_entropy, cross_entropy_backward as cross_entropy_backward
from minilm.ops.dropout import dropout as dropout, dropout_backward as dropout_backward
from minilm.ops.embedding import embedding as embedding, embedding_backward as embedding_backward
from minilm.ops.gelu import gelu as gelu, gelu_backward as gelu_backward
from minilm.ops.gru import gru as gru, gru_backward as gru_backward
from minilm.ops.layer_norm import layer_norm as layer_norm, layer_norm_backward as layer_norm_backward
from minilm.ops.linear import linear as linear, linear_backward as linear_backward
from minilm.ops.log_softmax import log_softmax as log_softmax, log_softmax_backward as log_softmax_backward
from minilm.ops.lstm import lstm as lstm, lstm_backward as lstm_backward
from minilm.ops.pool import pool as pool, pool_backward as pool_backward
from minilm.ops.relu import relu as relu, relu_backward as relu_backward
from minilm.ops.rms_norm import rms_norm as rms_norm, rms_norm_backward as rms_norm_backward
from minilm.ops.rnn import rnn as rnn, rnn_backward as rnn_backward
from minilm.ops.rotary import rotary as rotary, rotary_backward as rotary_backward
from minilm.ops.sigmoid import sigmoid as sigmoid, sigmoid_backward as sigmoid_backward
from minilm.ops.silu import silu as silu, silu_backward as silu_backward
from minilm.ops.sinusoidal_positions import sinusoidal_positions as sinusoidal_positions
from minilm.ops.softmax import softmax as softmax, softmax_backward as softmax_backward
from minilm.ops.tanh import tanh as tanh, tanh_backward as tanh_backward
