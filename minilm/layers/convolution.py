"""The 1-D convolution layer over time: owns weight (Cout, Cin, K) and bias (Cout,) of `ops.conv1d`."""

from __future__ import annotations

from typing import Any

import numpy as np

from minilm.backend import Array, array_namespace
from minilm.checks import one_of, whole
from minilm.layers.base import Gradients, Layer
from minilm.layers.initialization import uniform
from minilm.ops.conv1d import conv1d, conv1d_backward

PADDINGS = ("same", "valid", "causal")


class Conv1d(Layer):
    """y_t = b + Σ_k W[:, :, k] x_{t·stride + k·dilation − left}, x (B, T, Cin), y (B, T', Cout).

    padding "same" keeps the length, "valid" uses no padding, "causal" pads on the left only, so that y_t sees no x
    after t. W and b are drawn from U(−1/√(Cin·K), 1/√(Cin·K)), as PyTorch's `nn.Conv1d` does.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        padding: str = "same",
        stride: int = 1,
        dilation: int = 1,
        bias: bool = True,
        rng: np.random.Generator,
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        sizes = {"in_channels": in_channels, "out_channels": out_channels, "kernel_size": kernel_size}
        for name, size in (sizes | {"stride": stride, "dilation": dilation}).items():
            whole(f"Conv1d: {name}", size, 1)
        one_of("Conv1d: padding", padding, PADDINGS)
        self.padding, self.stride, self.dilation = padding, stride, dilation
        bound = (in_channels * kernel_size) ** -0.5
        self.params["weight"] = uniform(rng, (out_channels, in_channels, kernel_size), bound, dtype)
        if bias:
            self.params["bias"] = uniform(rng, (out_channels,), bound, dtype)

    def forward(self, x: Array, *, train: bool = True, cache: bool = True, rng: Any = None) -> tuple[Array, Any]:
        bias = self.params.get("bias")
        return conv1d(
            x, self.weight, bias, padding=self.padding, stride=self.stride, dilation=self.dilation, cache=cache
        )

    def backward(self, dy: Array, cache: Any, *, need_dx: bool = True) -> tuple[Array | None, Gradients]:
        dx, dweight, dbias = conv1d_backward(dy, cache, wrt=self.wanted(need_dx))
        return dx, self.grads(weight=dweight, bias=dbias)

    def extend(self, x: Array, state: Array | None = None) -> tuple[Array, Array]:
        """Inference that continues: x (B, T, Cin) follows `state`, the last (K−1)·dilation inputs.

        Returns what `forward` of the whole sequence gives at these positions, and the inputs to remember.
        Only a causal convolution with stride 1 can continue; others raise ValueError.
        """
        if self.padding != "causal" or self.stride != 1:
            raise ValueError(
                f"Conv1d: padding {self.padding!r} with stride {self.stride} can't be computed step by step, because "
                "an output needs later inputs; build it with padding='causal', stride=1"
            )
        xp = array_namespace(x)
        reach = (self.weight.shape[2] - 1) * self.dilation
        if state is None:
            state = xp.zeros((x.shape[0], reach, x.shape[2]), x.dtype)
        seen = xp.concatenate((state, x), axis=1)  # (B, reach+T, Cin)
        y, _ = conv1d(
            seen, self.weight, self.params.get("bias"), padding="valid", dilation=self.dilation, cache=False
        )  # (B, T, Cout)
        return y, seen[:, seen.shape[1] - reach :]
