"""CUDA C++ kernels and their launchers: fused softmax, softmax-cross-entropy and attention.

Each launcher takes the arguments of its op and runs on the arrays it is given: CuPy arrays on the GPU, NumPy arrays on
the CPU from the very same source (`minilm.kernels.host`), slowly and exactly, for tests and for stepping through.
"""

from minilm.kernels.cuda.attention import attention, attention_backward
from minilm.kernels.cuda.cross_entropy import cross_entropy, cross_entropy_backward
from minilm.kernels.cuda.decode import attention_decode
from minilm.kernels.cuda.softmax import softmax, softmax_backward

__all__ = [
    "attention",
    "attention_backward",
    "attention_decode",
    "cross_entropy",
    "cross_entropy_backward",
    "softmax",
    "softmax_backward",
]
