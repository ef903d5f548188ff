"""Tuned NumPy versions of ops: blocks that stay in cache, no temporaries. Each registers itself on import.

What each gains over the definition is measured by `python -m benchmarks OP`; the figures stand in benchmarks/results.
"""

from minilm.kernels.cpu import attention, conv1d, cross_entropy, decode, embedding, gelu  # noqa: F401
from minilm.kernels.cpu import gru, layer_norm, linear, lstm, rnn, softmax  # noqa: F401
