"""CUDA C++ kernels and their launchers: fused softmax, softmax-cross-entropy and attention.

Each launcher takes the arguments of its op and runs on the arrays it is given: CuPy arrays on the GPU, NumPy arrays on
the CPU from the very same source (`minilm.kernels.host`), slowly and exactly, for tests and for stepping through.
What a kernel doesn't serve is an error there; `minilm.ops` chooses (`register`), and leaves it to the definition.
"""

from minilm.kernels.cuda.attention import attention as attention, attention_backward as attention_backward
from minilm.kernels.cuda.cross_entropy import cross_entropy as cross_entropy
from minilm.kernels.cuda.cross_entropy import cross_entropy_backward as cross_entropy_backward
from minilm.kernels.cuda.decode import attention_decode as attention_decode
from minilm.kernels.cuda.softmax import softmax as softmax, softmax_backward as softmax_backward
