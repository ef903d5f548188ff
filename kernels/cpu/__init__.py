"""Tuned NumPy versions of ops: blocks that stay in cache, no temporaries. Each registers itself on import."""

from minilm.kernels.cpu import cross_entropy, embedding, gelu, layer_norm, linear, softmax

__all__ = ["cross_entropy", "embedding", "gelu", "layer_norm", "linear", "softmax"]
