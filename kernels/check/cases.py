"""The calls that the check makes of the CUDA launchers, and how their inputs are drawn: one table for every device.

The sizes are those that break tiles: 1, 31, 33, 97, 130; more queries than keys and fewer; rows and sequences that see
nothing; NaN where nobody may look. A call marked `quick` is one that a run of the sources on the CPU affords in every
run of the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Inputs = tuple[dict[str, Any], dict[str, Any]]


class Case(NamedTuple):
    """One call: `make(rng)` gives its host arrays in float64, and options."""

    op: str
    label: str
    dtype: str
    make: Callable[[np.random.Generator], Inputs]
    quick: bool

    def __str__(self) -> str:
        return f"{self.op}-{self.dtype}-{self.label}".replace(" ", "-")


def element_type(dtype: str) -> np.dtype:
    """The NumPy dtype of that name. Raises ImportError for bfloat16 without the package that has it."""
    if dtype != "bfloat16":
        return np.dtype(dtype)
    try:
        import ml_dtypes
    except ImportError:
        raise ImportError(
            "NumPy knows bfloat16 through the package ml_dtypes only: pip install ml-dtypes, or leave bfloat16 out"
        ) from None
    return np.dtype(ml_dtypes.bfloat16)


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
                arrays["k"][b, :, max(length, 0) :] = arrays["v"][b, :, max(length, 0) :] = np.nan
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
SINGLE, BOTH = ("float32",), ("float32", "float16")  # BOTH: one for each kind of attention kernel
BEYOND = [1000, 97, -3]  # a device's lengths are not looked at by the launchers: the kernels clamp them to 0..97

# op, label, what makes it, dtypes, dtypes in which it is quick
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
    ("attention", "lengths beyond", attention(3, 2, 2, 33, 97, 64, lengths=BEYOND, padding=True), ROWS, BOTH),
    ("attention", "mask", attention(2, 2, 2, 33, 97, 64, mask=(2, 1, 33, 97)), ROWS, ("float16",)),
    ("attention", "bias", attention(2, 2, 2, 33, 97, 64, bias=(2, 1, 97)), ROWS, BOTH),
    ("attention", "grouped", attention(2, 6, 2, 33, 33, 64, causal=True), ROWS, ("float16",)),
    ("attention", "dropout", attention(2, 2, 2, 33, 97, 64, dropout=0.3), ROWS, BOTH),
    ("attention", "scale", attention(1, 2, 2, 33, 33, 64, scale=-0.5), ROWS, ()),
    *(
        ("attention", f"head size {D}", attention(1, 2, 1, 97, 97, D, causal=True), ROWS, ())
        for D in (16, 24, 48, 56, 72, 80, 88, 96, 104, 112, 120)
    ),
    # More than 48 KB of dynamic shared memory on tensor cores, forward and backward.
    ("attention", "head size 128", attention(1, 2, 1, 97, 97, 128, causal=True), ROWS, ("float16",)),
    ("attention", "head size 256", attention(1, 2, 1, 33, 97, 256, causal=True), ALL, ()),
    (
        "attention",
        "everything",
        attention(
            2, 4, 2, 97, 130, 64, causal=True, lengths=[130, 77], mask=(1, 97, 130), bias=(4, 97, 130), dropout=0.2
        ),
        ROWS,
        SINGLE,
    ),
    ("attention", "1024 tokens", attention(1, 2, 2, 1024, 1024, 64, causal=True), ROWS, ()),
    ("attention_decode", "ragged", decode(3, 4, 2, 97, 64, lengths=[97, 33, 0], padding=True), ROWS, HALF),
    ("attention_decode", "lengths beyond", decode(3, 4, 2, 97, 64, lengths=BEYOND, padding=True), ROWS, ("float16",)),
    ("attention_decode", "all keys", decode(2, 2, 2, 1030, 128), ROWS, SINGLE),
    ("attention_decode", "mask", decode(2, 8, 1, 130, 40, mask=(2, 1, 130)), ROWS, ()),
    ("attention_decode", "head size 256", decode(1, 2, 1, 130, 256), ROWS, ()),
]


def cases(quick: bool = False) -> list[Case]:
    """The table by dtype: everything, or what is quick."""
    found = []
    for op, label, make, dtypes, quick_dtypes in TABLE:
        found += [Case(op, label, dtype, make, dtype in quick_dtypes) for dtype in dtypes]
    return [case for case in found if case.quick or not quick]
