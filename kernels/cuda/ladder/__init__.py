"""Simpler kernels to study: the rungs below the fused ones."""

from minilm.kernels.cuda.ladder.attention import attention as attention
from minilm.kernels.cuda.ladder.softmax import softmax as softmax
