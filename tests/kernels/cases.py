"""The calls of the CUDA launchers on device arrays: one table for a GPU and for the stand-in.

`test_gpu_lane` makes every call on CuPy arrays, `test_cupy_path` those marked `quick` on the strict stand-in: what a
GPU does for the first time is the arithmetic alone. The sizes are those that break tiles: 1, 31, 33, 97, 130; more
queries than keys and fewer; rows and sequences that see nothing; NaN where nobody may look.

`check` holds a call to the float64 definition on the same rounded numbers: twice the error of the naive computation in
the dtype is allowed, three times for gradients.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from minilm import ops
from minilm.gradcheck.structures import map_leaves
from minilm.kernels import reference
from minilm.kernels.cuda.attention import attention as attention_launcher
from minilm.kernels.cuda.attention import attention_backward as attention_backward_launcher
from minilm.kernels.cuda.cross_entropy import cross_entropy as cross_entropy_launcher
from minilm.kernels.cuda.cross_entropy import cross_entropy_backward as cross_entropy_backward_launcher
from minilm.kernels.cuda.decode import attention_decode as decode_launcher
from minilm.kernels.cuda.philox import keep_mask
from minilm.kernels.cuda.softmax import softmax as softmax_launcher
from minilm.kernels.cuda.softmax import softmax_backward as softmax_backward_launcher
from tests import strict_cupy
from tests.conftest import Library
from tests.kernels.tolerances import assert_within

LAUNCHERS = {
    "softmax": (softmax_launcher, softmax_backward_launcher),
    "cross_entropy": (cross_entropy_launcher, cross_entropy_backward_launcher),
    "attention": (attention_launcher, attention_backward_launcher),
    "attention_decode": (decode_launcher, None),
}
DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32, "float64": np.float64}

SEED = 11  # of the generator that dropout draws its seed from


class Device(Library):
    """A library of device arrays: the stand-in's or CuPy's."""

    def quiet(self) -> contextlib.AbstractContextManager:
        """A block in which nothing may wait for the device. Only the stand-in can tell."""
        return strict_cupy.no_sync() if self.name == "strict" else contextlib.nullcontext()


class Case(NamedTuple):
    """One call: `make(rng)` gives its host arrays in float64, and options."""

    op: str
    label: str
    dtype: str
    make: Callable[[np.random.Generator], tuple[dict[str, Any], dict[str, Any]]]
    quick: bool

    def __str__(self) -> str:
        return f"{self.op}-{self.dtype}-{self.label}".replace(" ", "-")


# ---- the table


def softmax(*shape: int, hidden: bool = False, lengths: list[int] | None = None, **options: Any) -> Callable:
    def make(rng):
        x = 3.0 * rng.standard_normal(shape)
        if hidden:
            x[..., -1] = -np.inf
            x.reshape(-1, shape[-1])[0] = -np.inf  # a row that sees nothing
        return {"x": x}, options | ({} if lengths is None else {"key_lengths": np.array(lengths)})

    return make


def cross_entropy(*shape: int, ignored: bool = True, weighted: bool = False, **options: Any) -> Callable:
    def make(rng):
        targets = rng.integers(0, shape[-1], shape[:-1])
        if ignored:
            targets.reshape(-1)[0] = -100
        weights = {"class_weights": rng.uniform(0.5, 2.0, shape[-1])} if weighted else {}
        return {"logits": 3.0 * rng.standard_normal(shape), "targets": targets} | weights, options

    return make


def attention(
    *sizes: int,  # B, H, Hkv, Tq, Tk, D
    lengths: list[int] | None = None,
    mask: tuple[int, ...] | None = None,
    bias: tuple[int, ...] | None = None,
    padding: bool = False,
    **options: Any,
) -> Callable:
    B, H, Hkv, Tq, Tk, D = sizes

    def make(rng):
        arrays = {"q": rng.standard_normal((B, H, Tq, D))}
        arrays |= {letter: rng.standard_normal((B, Hkv, Tk, D)) for letter in "kv"}
        given = dict(options)
        if lengths is not None:
            given["key_lengths"] = np.array(lengths)
            for b, length in enumerate(lengths if padding else ()):
                arrays["k"][b, :, length:] = arrays["v"][b, :, length:] = np.nan
        if mask is not None:
            given["mask"] = rng.random(mask) < 0.6
            given["mask"][..., :1, :] = False  # a row that sees nothing
        if bias is not None:
            arrays["bias"] = rng.standard_normal(bias)
            arrays["bias"][..., -1] = -np.inf
        return arrays, given

    return make


def decode(B: int, H: int, Hkv: int, Tk: int, D: int, **options: Any) -> Callable:
    def make(rng):
        arrays, given = attention(B, H, Hkv, 1, Tk, D, **options)(rng)
        if "mask" in given:  # with one query, a row that sees nothing is a sequence
            given["mask"] = rng.random(given["mask"].shape) < 0.6
            given["mask"][:1] = False
        return arrays | {"q": arrays["q"][:, :, 0]}, given

    return make


ROWS, HALF, ALL = ("float32", "float16", "bfloat16", "float64"), ("float16", "bfloat16"), ("float32", "float64")
SINGLE = ("float32",)

# op, label, what makes it, dtypes, dtypes in which the stand-in runs it too
TABLE: list[tuple[str, str, Callable, tuple[str, ...], tuple[str, ...]]] = [
    ("softmax", "one column", softmax(3, 1), ROWS, ()),
    ("softmax", "ragged", softmax(2, 5, 33), ROWS, ("float32", "float16")),
    ("softmax", "wide", softmax(7, 128), ROWS, ("bfloat16", "float64")),
    ("softmax", "rows of 4096", softmax(3, 4096), ROWS, ()),
    ("softmax", "two passes", softmax(2, 70_001), ROWS, ()),
    ("softmax", "-inf", softmax(4, 97, hidden=True), ROWS, SINGLE),
    ("softmax", "scale, causal", softmax(2, 31, 33, scale=0.3, causal=True), ROWS, SINGLE),
    ("softmax", "more queries than keys", softmax(2, 40, 33, causal=True), ROWS, ()),
    ("softmax", "lengths", softmax(3, 5, 130, lengths=[130, 0, 31]), ROWS, SINGLE),
    ("cross_entropy", "mean", cross_entropy(3, 11, 97), ROWS, ("float32", "float16")),
    ("cross_entropy", "sum", cross_entropy(33, 128, reduction="sum"), ROWS, SINGLE),
    ("cross_entropy", "none", cross_entropy(31, 130, reduction="none"), ROWS, SINGLE),
    ("cross_entropy", "smoothing", cross_entropy(33, 130, label_smoothing=0.1), ROWS, SINGLE),
    ("cross_entropy", "class weights", cross_entropy(33, 130, weighted=True), ROWS, SINGLE),
    ("cross_entropy", "both", cross_entropy(33, 130, weighted=True, label_smoothing=0.1), ROWS, ()),
    ("cross_entropy", "one class", cross_entropy(5, 1), ROWS, ()),
    ("cross_entropy", "vocabulary", cross_entropy(9, 50_257), ROWS, ()),
    ("cross_entropy", "two passes", cross_entropy(3, 70_001), ROWS, ()),
    ("attention", "one key", attention(1, 2, 2, 1, 1, 16), ROWS, ()),
    ("attention", "full", attention(2, 2, 2, 33, 97, 40), ROWS, SINGLE),
    ("attention", "causal", attention(1, 2, 2, 130, 130, 64, causal=True), ROWS, ("float16",)),
    ("attention", "causal, few queries", attention(1, 2, 2, 31, 97, 64, causal=True), ROWS, ("bfloat16",)),
    ("attention", "causal, few keys", attention(1, 2, 2, 97, 33, 64, causal=True), ROWS, ("float64",)),
    ("attention", "lengths", attention(4, 2, 2, 33, 130, 80, lengths=[130, 97, 1, 0], padding=True), ROWS, SINGLE),
    ("attention", "mask", attention(2, 2, 2, 33, 97, 64, mask=(2, 1, 33, 97)), ROWS, ("float16",)),
    ("attention", "bias", attention(2, 2, 2, 33, 97, 64, bias=(2, 1, 97)), ROWS, ("float32", "float16")),
    ("attention", "grouped", attention(2, 6, 2, 33, 33, 64, causal=True), ROWS, ("float16",)),
    ("attention", "dropout", attention(2, 2, 2, 33, 97, 64, dropout=0.3), ROWS, ("float32", "float16")),
    ("attention", "scale", attention(1, 2, 2, 33, 33, 64, scale=-0.5), ROWS, ()),
    *(
        ("attention", f"head size {D}", attention(1, 2, 1, 97, 97, D, causal=True), ROWS, ())
        for D in (16, 24, 48, 56, 72, 80, 88, 96, 104, 112, 120, 128)
    ),
    ("attention", "head size 256", attention(1, 2, 1, 33, 97, 256, causal=True), ALL, ()),
    (
        "attention",
        "everything",
        attention(
            2, 4, 2, 97, 130, 64, causal=True, lengths=[130, 77], mask=(1, 97, 130), bias=(4, 97, 130), dropout=0.2
        ),
        ROWS,
        ("float32",),
    ),
    ("attention", "1024 tokens", attention(1, 2, 2, 1024, 1024, 64, causal=True), ROWS, ()),
    ("attention_decode", "ragged", decode(3, 4, 2, 97, 64, lengths=[97, 33, 0], padding=True), ROWS, HALF),
    ("attention_decode", "all keys", decode(2, 2, 2, 1030, 128), ROWS, SINGLE),
    ("attention_decode", "mask", decode(2, 8, 1, 130, 40, mask=(2, 1, 130)), ROWS, ()),
    ("attention_decode", "head size 256", decode(1, 2, 1, 130, 256), ROWS, ()),
]


def cases(quick: bool = False) -> list[Case]:
    """The table by dtype: everything, or what the stand-in runs."""
    found = []
    for op, label, make, dtypes, quick_dtypes in TABLE:
        found += [Case(op, label, dtype, make, dtype in quick_dtypes) for dtype in dtypes]
    return [case for case in found if case.quick or not quick]


# ---- the check


def check(case: Case, device: Device) -> None:
    """The launcher's results, forward and backward, are near the float64 definition, and the same bits twice."""
    rng = np.random.default_rng(zlib.crc32(str(case).encode()))
    arrays, options = case.make(rng)
    dtype = DTYPES[case.dtype]
    arrays = {name: a.astype(dtype) if a.dtype.kind == "f" else a for name, a in arrays.items()}
    if "class_weights" in arrays:
        arrays["class_weights"] = arrays["class_weights"].astype(np.float32)  # those of training are

    exact = definition(case.op, {name: _as(a, np.float64) for name, a in arrays.items()}, options)
    value = exact(None)
    dy = np.asarray(rng.standard_normal(value.shape)).astype(dtype)
    got, again = (_run(case, device, arrays, options, dy) for _ in range(2))
    wanted = [value, *exact(_as(dy, np.float64))]
    naive = naive_results(case.op, arrays, options, dy)
    assert len(got) == len(wanted) == len(naive)
    for number, (result, want, plain) in enumerate(zip(got, wanted, naive, strict=True)):
        assert (result is None) == (want is None)
        if result is not None:
            assert result.dtype == dtype
            assert result.tobytes() == again[number].tobytes()
            assert_within(result, want, plain, "gradient" if number else "value", case.dtype)


def _run(case: Case, device: Device, arrays: dict, options: dict, dy: np.ndarray) -> list[np.ndarray | None]:
    """y and the gradients, as host arrays."""
    forward, backward = LAUNCHERS[case.op]
    with device.quiet():
        given = {name: device.asarray(value) for name, value in (arrays | options).items()}
        if "dropout" in given:
            given["rng"] = np.random.default_rng(SEED)
        if backward is None:
            results = (forward(**given),)
        else:
            y, cache = forward(**given)
            gradients = backward(device.asarray(dy), cache)
            results = (y, *(gradients if isinstance(gradients, tuple) else (gradients,)))
    return [None if array is None else device.to_numpy(array) for array in results]


def _as(array: np.ndarray, dtype: Any) -> np.ndarray:
    """Floating arrays in `dtype`; bfloat16 is of no floating kind for NumPy."""
    return array.astype(dtype) if array.dtype.kind == "f" or array.dtype.name == "bfloat16" else array


class Kept:
    """In place of a generator: the definition keeps the weights that the kernel keeps."""

    def __init__(self, mask: np.ndarray):
        self.mask = mask

    def random(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return self.mask.astype(dtype)  # 1.0 is above the probability, 0.0 is not


def definition(op: str, arrays: dict[str, np.ndarray], options: dict[str, Any], kept_as: Any = None) -> Callable:
    """f(None) is the value of the definition in the dtype of the arrays, f(dy) its gradients.

    kept_as   the dtype that what it keeps for backward is rounded to
    """
    options = dict(options)
    if op == "softmax":
        x, scale = arrays["x"], options.pop("scale", 1.0)
        seen = _seen_columns(x, **options)
        result = ops.softmax, ops.softmax_backward, {"x": np.where(seen, x * x.dtype.type(scale), -np.inf)}
        after = [lambda dx: dx * x.dtype.type(scale)]
    elif op == "cross_entropy":
        result, after = (ops.cross_entropy, ops.cross_entropy_backward, arrays | options), [lambda dx: dx]
    else:
        q = arrays["q"]
        if op == "attention_decode":
            arrays, options = arrays | {"q": q[:, :, None]}, dict(options)  # one query
            if "mask" in options:
                options["mask"] = options["mask"][..., None, :]
        if "dropout" in options:
            options["rng"] = Kept(_kept(q, arrays["k"], options["dropout"]))
        result, after = (ops.attention, ops.attention_backward, arrays | options), [lambda dx: dx] * 4

    forward, backward, given = result
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
        return [None if g is None else finish(g) for finish, g in zip(after, gradients, strict=True)]

    return f


def naive_results(op: str, arrays: dict, options: dict, dy: np.ndarray) -> list[np.ndarray | None]:
    """y and gradients as plain code in the dtype gives them: products in float32, what is kept rounded to the dtype."""
    dtype = dy.dtype
    if dtype in (np.float32, np.float64):
        naive = definition(op, arrays, options)
        return [naive(None), *naive(dy)]
    single = {name: _as(array, np.float32) for name, array in arrays.items()}
    if op in ("attention", "attention_decode"):
        return _naive_attention(op, single, options, dy)
    naive = definition(op, single, options, kept_as=dtype)
    value = naive(None).astype(dtype)
    return [value, *(g.astype(dtype) for g in naive(dy.astype(np.float32)))]


def _naive_attention(op: str, arrays: dict, options: dict, dy: np.ndarray) -> list[np.ndarray | None]:
    """P and dS are rounded: they are arrays in memory. For 16-bit dtypes, in float32."""
    dtype = dy.dtype

    def rounded(x):
        return x.astype(dtype).astype(np.float32)

    q, k, v = arrays["q"], *(np.nan_to_num(arrays[letter]) for letter in "kv")
    options, dy = dict(options), dy.astype(np.float32)
    if op == "attention_decode":
        q, dy = q[:, :, None], dy[:, :, None]
        if "mask" in options:
            options["mask"] = options["mask"][..., None, :]
    p = options.pop("dropout", 0.0)
    kept = _kept(q, k, p) / np.float32(1.0 - p)  # (B, H, Tq, Tk)
    bias = arrays.get("bias")
    weights = rounded(ops.attention_weights(q, k, bias=bias, **options))
    groups = q.shape[1] // k.shape[1]
    keys, values = k.repeat(groups, axis=1), v.repeat(groups, axis=1)
    y = rounded((weights * kept) @ values)
    if op == "attention_decode":
        return [y[:, :, 0].astype(dtype)]
    scale = np.float32(options.get("scale", q.shape[3] ** -0.5))
    dweights = (dy @ values.swapaxes(-1, -2)) * kept
    dscores = rounded(weights * (dweights - (dy * y).sum(axis=-1, keepdims=True)))
    dq = dscores @ keys * scale
    dk, dv = dscores.swapaxes(-1, -2) @ q * scale, (weights * kept).swapaxes(-1, -2) @ dy
    dk, dv = (x.reshape(*k.shape[:2], groups, *k.shape[2:]).sum(axis=2) for x in (dk, dv))
    dbias = None
    if bias is not None:
        shape = (1,) * (4 - bias.ndim) + bias.shape
        axes = tuple(axis for axis in range(4) if shape[axis] == 1)
        dbias = dscores.sum(axis=axes, keepdims=True).reshape(bias.shape)
    return [None if x is None else x.astype(dtype) for x in (y, dq, dk, dv, dbias)]


def _kept(q: np.ndarray, k: np.ndarray, p: float) -> np.ndarray:
    seed = int(np.random.default_rng(SEED).integers(2**63))  # as the launcher draws it
    return keep_mask(seed, *q.shape[:2], q.shape[2], k.shape[2], p)


def _seen_columns(x: np.ndarray, causal: bool = False, key_lengths: np.ndarray | None = None) -> np.ndarray:
    """Which columns of (..., Tq, Tk) a row sees; lengths are those of the first axis."""
    columns, seen = np.arange(x.shape[-1]), np.ones(x.shape, bool)
    if causal:
        rows = np.arange(x.shape[-2])[:, None]
        seen &= columns <= rows + x.shape[-1] - x.shape[-2]
    if key_lengths is not None:
        seen &= columns < key_lengths.reshape(-1, *(1,) * (x.ndim - 1))
    return seen
