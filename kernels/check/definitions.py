"""The expected results of a checked call: its float64 definition, and plain code in the call's own dtype beside it.

    f = definition("attention", arrays, options)        f(None): the value; f(dy): the gradients, in the arrays' dtype
    plain = naive_results("attention", arrays, options, dy)

The ops are `minilm.ops`; the kernels' own options (softmax's scale and lengths, one query in decode, the counter-based
dropout mask, lengths beyond the keys) are put in their terms here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minilm import ops
from minilm.gradcheck.structures import map_leaves
from minilm.kernels.cuda.philox import keep_mask
from minilm.selection import reference

SEED = 11  # of the generator that dropout draws its seed from


def floats_as(array: np.ndarray, dtype: Any) -> np.ndarray:
    """Floating arrays in `dtype`, others as they are; bfloat16 is of no floating kind for NumPy."""
    return array.astype(dtype) if array.dtype.kind == "f" or array.dtype.name == "bfloat16" else array


class Kept:
    """In place of a generator: the definition keeps the weights that the kernel keeps. mask (B, H, Tq, Tk) boolean."""

    def __init__(self, mask: np.ndarray):
        self.mask = mask

    def random(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return self.mask.astype(dtype)  # 1.0 is above the probability, 0.0 is not


def kept_weights(B: int, H: int, Tq: int, Tk: int, p: float) -> np.ndarray:
    """The weights that a launcher given numpy.random.default_rng(SEED) keeps, boolean (B, H, Tq, Tk)."""
    return keep_mask(int(np.random.default_rng(SEED).integers(2**63)), B, H, Tq, Tk, p)


def visible_pairs(
    shape: tuple[int, int, int, int],
    *,
    causal: bool = False,
    key_lengths: Any = None,
    mask: np.ndarray | None = None,
    bias: np.ndarray | None = None,
) -> np.ndarray:
    """Which key each query of attention sees, boolean of `shape` (B, H, Tq, Tk)."""
    seen = visible_columns(shape, causal=causal, key_lengths=key_lengths)
    if mask is not None:
        seen &= mask
    if bias is not None:
        seen &= bias.astype(np.float64) != -np.inf
    return seen


def visible_columns(
    shape: tuple[int, ...], *, causal: bool = False, key_lengths: np.ndarray | None = None
) -> np.ndarray:
    """Which columns each row of softmax sees, boolean of `shape` (..., Tq, Tk); lengths are those of the first axis."""
    columns, seen = np.arange(shape[-1]), np.ones(shape, bool)
    if causal:
        seen &= columns <= np.arange(shape[-2])[:, None] + shape[-1] - shape[-2]
    if key_lengths is not None:
        seen &= columns < np.reshape(key_lengths, (-1, *(1,) * (len(shape) - 1)))
    return seen


def as_attention(op: str, arrays: dict[str, Any], options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A call as one of `ops.attention`: lengths within the keys; for decode q (B, H, 1, D), the mask of four axes."""
    options = dict(options)
    if "key_lengths" in options:
        options["key_lengths"] = np.clip(options["key_lengths"], 0, arrays["k"].shape[2])
    if op == "attention_decode":
        arrays = arrays | {"q": arrays["q"][:, :, None]}
        if "mask" in options:
            options["mask"] = options["mask"][..., None, :]
    return arrays, options


def definition(op: str, arrays: dict[str, np.ndarray], options: dict[str, Any], kept_as: Any = None) -> Callable:
    """f(None) is the value of the definition in the dtype of the arrays, f(dy) its gradients.

    kept_as   the dtype that what it keeps for backward is rounded to
    """
    after: list[Callable] = [lambda gradient: gradient] * 4
    if op == "softmax":
        number, options = arrays["x"].dtype.type, dict(options)
        scale, x = number(options.pop("scale", 1.0)), arrays["x"]
        forward, backward = ops.softmax, ops.softmax_backward
        given = {"x": np.where(visible_columns(x.shape, **options), x * scale, -np.inf)}
        after = [lambda dx: dx * scale]
    elif op == "cross_entropy":
        forward, backward, given = ops.cross_entropy, ops.cross_entropy_backward, arrays | options
    else:
        arrays, options = as_attention(op, arrays, options)
        if options.get("dropout"):
            shape = *arrays["q"].shape[:3], arrays["k"].shape[2]
            options["rng"] = Kept(kept_weights(*shape, options["dropout"]))
        forward, backward, given = ops.attention, ops.attention_backward, arrays | options

    with reference():
        y, cache = forward(**given)
    if kept_as is not None:
        cache = map_leaves(lambda a: a.astype(kept_as).astype(a.dtype) if a.dtype.kind == "f" else a, cache)

    def f(dy):
        if dy is None:
            return np.asarray(y[:, :, 0] if op == "attention_decode" else y)
        if op == "attention_decode":
            return []
        gradients = backward(dy, cache)
        gradients = gradients if isinstance(gradients, tuple) else (gradients,)
        return [None if g is None else finish(g) for finish, g in zip(after, gradients, strict=False)]

    return f


def naive_results(
    op: str, arrays: dict[str, np.ndarray], options: dict[str, Any], dy: np.ndarray
) -> list[np.ndarray | None]:
    """y and gradients as plain code in the dtype gives them: products in float32, what is kept rounded to the dtype."""
    dtype = dy.dtype
    if dtype in (np.float32, np.float64):
        naive = definition(op, arrays, options)
        return [naive(None), *naive(dy)]
    single = {name: floats_as(array, np.float32) for name, array in arrays.items()}
    if op in ("attention", "attention_decode"):
        return _naive_attention(op, single, options, dy)
    naive = definition(op, single, options, kept_as=dtype)
    value = naive(None).astype(dtype)
    return [value, *(g.astype(dtype) for g in naive(dy.astype(np.float32)))]


def _naive_attention(op: str, arrays: dict, options: dict, dy: np.ndarray) -> list[np.ndarray | None]:
    """P and dS are rounded: they are arrays in memory. For 16-bit dtypes, in float32."""
    dtype, dy = dy.dtype, dy.astype(np.float32)

    def rounded(x):
        return x.astype(dtype).astype(np.float32)

    arrays, options = as_attention(op, arrays, options)
    q, k, v = arrays["q"], *(np.nan_to_num(arrays[letter]) for letter in "kv")
    p = options.pop("dropout", 0.0)
    factors = kept_weights(*q.shape[:3], k.shape[2], p) / np.float32(1.0 - p)  # (B, H, Tq, Tk)
    bias = arrays.get("bias")
    weights = rounded(ops.attention_weights(q, k, bias=bias, **options))
    groups = q.shape[1] // k.shape[1]
    keys, values = k.repeat(groups, axis=1), v.repeat(groups, axis=1)
    y = rounded((weights * factors) @ values)
    if op == "attention_decode":
        return [y[:, :, 0].astype(dtype)]
    scale = np.float32(options.get("scale", q.shape[3] ** -0.5))
    dweights = (dy @ values.swapaxes(-1, -2)) * factors
    dscores = rounded(weights * (dweights - (dy * y).sum(axis=-1, keepdims=True)))
    dq = dscores @ keys * scale
    dk, dv = dscores.swapaxes(-1, -2) @ q * scale, (weights * factors).swapaxes(-1, -2) @ dy
    dk, dv = (x.reshape(*k.shape[:2], groups, *k.shape[2:]).sum(axis=2) for x in (dk, dv))
    dbias = None if bias is None else sum_to(dscores, bias.shape)
    return [None if x is None else x.astype(dtype) for x in (y, dq, dk, dv, dbias)]


def sum_to(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """x (B, H, Tq, Tk) summed over the axes along which an array of `shape` was broadcast to it."""
    four = (1,) * (4 - len(shape)) + shape
    axes = tuple(axis for axis in range(4) if four[axis] == 1 and x.shape[axis] != 1)
    return x.sum(axis=axes, keepdims=True).reshape(shape)
