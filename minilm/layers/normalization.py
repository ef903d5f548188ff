"""The normalization layers: they own gain ("weight") and bias, named as PyTorch names them.

LayerNorm and RMSNorm look at one position at a time; BatchNorm at all positions of a batch, with running statistics
for inference.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minilm.backend import Array, array_namespace
from minilm.checks import whole
from minilm.layers.base import Gradients, Layer
from minilm.ops.batch_norm import batch_norm, batch_norm_backward
from minilm.ops.layer_norm import layer_norm, layer_norm_backward
from minilm.ops.rms_norm import rms_norm, rms_norm_backward


class LayerNorm(Layer):
    """y = gain · (x − μ)/√(var + ε) + bias over the last axis. x (..., C); weight and bias (C,). [Ba et al. 2016]"""

    def __init__(self, width: int, eps: float = 1e-5, *, bias: bool = True, dtype: str = "float32"):
        super().__init__()
        whole("LayerNorm: width", width, 1)
        self.eps = eps
        self.params["weight"] = np.ones(width, dtype)
        if bias:
            self.params["bias"] = np.zeros(width, dtype)

    def forward(self, x: Array, *, train: bool = True, cache: bool = True, rng: Any = None) -> tuple[Array, Any]:
        bias = self.params.get("bias")
        if bias is None:
            bias = array_namespace(self.weight).zeros_like(self.weight)
        return layer_norm(x, self.weight, bias, self.eps, cache=cache)

    def backward(self, dy: Array, cache: Any, *, need_dx: bool = True) -> tuple[Array | None, Gradients]:
        dx, dgain, dbias = layer_norm_backward(dy, cache, wrt=self.wanted(need_dx, weight="gain"))
        return dx, self.grads(weight=dgain, bias=dbias)


class RMSNorm(Layer):
    """y = gain · x/√(⟨x²⟩ + ε) over the last axis. x (..., C); weight (C,). [Zhang & Sennrich 2019]"""

    def __init__(self, width: int, eps: float = 1e-6, *, dtype: str = "float32"):
        super().__init__()
        whole("RMSNorm: width", width, 1)
        self.eps = eps
        self.params["weight"] = np.ones(width, dtype)

    def forward(self, x: Array, *, train: bool = True, cache: bool = True, rng: Any = None) -> tuple[Array, Any]:
        return rms_norm(x, self.weight, self.eps, cache=cache)

    def backward(self, dy: Array, cache: Any, *, need_dx: bool = True) -> tuple[Array | None, Gradients]:
        dx, dgain = rms_norm_backward(dy, cache, wrt=self.wanted(need_dx, weight="gain"))
        return dx, self.grads(weight=dgain)


class BatchNorm(Layer):
    """y = gain · (x − μ)/√(var + ε) + bias, μ and var over all axes but the last. x (..., C); weight and bias (C,).

    Training uses the batch's own statistics and moves the buffers running_mean and running_var towards them by
    `momentum`; inference uses the buffers. [Ioffe & Szegedy 2015]
    """

    mixes_rows = True

    def __init__(self, width: int, momentum: float = 0.1, eps: float = 1e-5, *, dtype: str = "float32") -> None:
        super().__init__()
        whole("BatchNorm: width", width, 1)
        self.momentum, self.eps = momentum, eps
        self.params["weight"] = np.ones(width, dtype)
        self.params["bias"] = np.zeros(width, dtype)
        self.buffers["running_mean"] = np.zeros(width, dtype)
        self.buffers["running_var"] = np.ones(width, dtype)

    def forward(self, x: Array, *, train: bool = True, cache: bool = True, rng: Any = None) -> tuple[Array, Any]:
        statistics = (self.running_mean, self.running_var)
        y, kept = batch_norm(
            x, self.weight, self.bias, *statistics, train, self.momentum, self.eps, cache=train or cache
        )
        if train:  # statistics are real, also where a gradient check sends complex numbers through
            self.buffers["running_mean"] = kept.running_mean.real
            self.buffers["running_var"] = kept.running_var.real
        return y, (kept if cache else None)

    def backward(self, dy: Array, cache: Any, *, need_dx: bool = True) -> tuple[Array | None, Gradients]:
        dx, dgain, dbias = batch_norm_backward(dy, cache, wrt=self.wanted(need_dx, weight="gain"))
        return dx, self.grads(weight=dgain, bias=dbias)
