"""The workloads for a GPU, at sizes that fill a card of 80 GB; and everything at tiny sizes, to see that it runs.

    GPU_WORK    `python -m benchmarks all --device cuda`; NAME in place of all takes the entries of that name
    QUICK       `--quick`, on any device

Sizes follow what the literature measures, so that published figures stand beside them: rows of softmax from 1k to 32k,
cross-entropy over GPT-2's vocabulary, attention over 16 heads of 64 and 128, decoding against 32k keys. What is not
listed runs at the workload's own sizes.
"""

from __future__ import annotations

from typing import NamedTuple

HALVES = ("float16", "bfloat16")


class Work(NamedTuple):
    """A workload at some sizes, in a precision. No sizes: its own."""

    name: str
    sizes: list[int]
    dtype: str


def _attention(dtype: str) -> list[Work]:
    names, lengths, heads = ("attention", "attention-full"), (1024, 4096, 16384), (64, 128)
    return [Work(name, [4, 16, T, D], dtype) for T in lengths for D in heads for name in names]


def _rows(dtype: str) -> list[Work]:
    lengths = [Work("softmax", [4096, N], dtype) for N in (1024, 4096, 32768)]
    return [*lengths, Work("cross_entropy", [8192, 50257], dtype)]


def _decode(dtype: str) -> list[Work]:
    return [Work("decode", [B, 32, 8, 32768, 128], dtype) for B in (1, 8)]


# In the order of what it tells, since the time on a GPU may be short.
GPU_WORK: tuple[Work, ...] = (
    *_rows("float32"),
    *_attention("float16"),
    *_decode("float16"),
    *(Work(name, [4, 16, 2048, 64], "float32") for name in ("attention", "attention-full")),
    Work("layer_norm", [16384, 4096], "float32"),
    Work("gelu", [16384, 4096], "float32"),
    Work("gelu-tanh", [16384, 4096], "float32"),
    Work("adamw", [100_000_000], "float32"),
    *(Work(name, [], "float32") for name in ("gpt-step", "gpt-step-large", "classifier-step", "bert-encode")),
    *_rows("bfloat16"),
    *_attention("bfloat16"),
    *_decode("bfloat16"),
    *_rows("float16"),
    *(Work(name, [], "float32") for name in ("embedding", "conv1d", "rnn", "lstm", "gru", "generate", "word2vec")),
)

TINY: dict[str, list[int]] = {
    "softmax": [4, 64],
    "layer_norm": [4, 64],
    "gelu": [4, 64],
    "gelu-tanh": [4, 64],
    "cross_entropy": [4, 64],
    "embedding": [11, 4, 30],
    "attention": [1, 2, 20, 16],
    "attention-full": [1, 2, 20, 16],
    "decode": [1, 2, 1, 40, 16],
    "conv1d": [2, 7, 4, 3],
    "rnn": [2, 5, 3, 4],
    "lstm": [2, 5, 3, 4],
    "gru": [2, 5, 3, 4],
    "gpt-step": [2, 8, 6, 2],
    "gpt-step-large": [3, 12, 5, 3],
    "classifier-step": [2, 5],
    "bert-encode": [2, 8, 2, 7, 3],
    "generate": [2, 8, 5, 3, 11],
    "word2vec": [30, 6, 20, 7, 2],
    "adamw": [90],
}
SIXTEEN_BITS = ("softmax", "cross_entropy", "attention", "attention-full", "decode")  # that have kernels in them
QUICK: tuple[Work, ...] = (
    *(Work(name, sizes, "float32") for name, sizes in TINY.items()),
    *(Work(name, TINY[name], dtype) for dtype in HALVES for name in SIXTEEN_BITS),
)


def work_on(device: str, names: list[str], dtype: str | None, quick: bool) -> list[Work]:
    """The entries for these workloads; of one precision, if it is given. On the CPU a workload's own sizes.

    A workload that is listed in other precisions only is run in the given one at its own sizes.
    """
    listed = QUICK if quick else GPU_WORK if device == "cuda" else ()
    if quick and device == "cpu" and dtype is None:
        dtype = "float32"  # no kernel in 16 bits runs there
    found = []
    for name in names:
        own = [work for work in listed if work.name == name and dtype in (None, work.dtype)]
        found += own or [Work(name, TINY[name] if quick else [], dtype or "float32")]
    return found
