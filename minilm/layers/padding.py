"""Padding set to zero, below layers that would carry it into its neighbours."""

from __future__ import annotations

from typing import Any

from minilm.backend import Array, array_namespace
from minilm.layers.base import Gradients, Layer


class ZeroPadding(Layer):
    """y_t = x_t where t < length, else 0. x (B, T, C), lengths (B,); without lengths there is no padding and y is x."""

    def forward(
        self, x: Array, *, lengths: Array | None = None, train: bool = True, cache: bool = True, rng: Any = None
    ) -> tuple[Array, Array | None]:
        if lengths is None:
            return x, None
        xp = array_namespace(x, lengths)
        valid = (xp.arange(x.shape[1]) < lengths[:, None])[:, :, None].astype(x.real.dtype)  # (B, T, 1)
        return x * valid, (valid if cache else None)

    def backward(self, dy: Array, cache: Array | None, *, need_dx: bool = True) -> tuple[Array | None, Gradients]:
        if not need_dx:
            return None, {}
        return (dy if cache is None else dy * cache), {}
