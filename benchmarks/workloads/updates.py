"""Updates of weights without a deep model: the optimizer's pass, and the embeddings of words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.peers import gensim_model, pytorch
from benchmarks.variants import LeftOut, Setting, Variant, Workload, definition, updating
from benchmarks.workloads import skip_gram
from minilm.layers import Linear
from minilm.layers.chain import Stack
from minilm.optim import AdamW

ADAMW = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}


def adamw(setting: Setting, parameters: int = 10_000_000) -> Workload:
    """One update of all parameters, ten matrices, whose gradients lie ready. Compared: the changes of three."""
    setting.require_long("adamw")
    rng, side = np.random.default_rng(0), max(1, round((parameters / 10) ** 0.5))

    def stack() -> Stack:
        layers = [Linear(side, side, bias=False, rng=np.random.default_rng(n), dtype=setting.dtype) for n in range(10)]
        return Stack(layers).to(setting.xp)

    values = [setting.share(value) for value in stack().parameters().values()]  # every run of three starts from them
    gradients = [setting.xp.asarray(rng.standard_normal((side, side)).astype(setting.dtype)) for _ in values]
    optimizer = AdamW(stack(), **ADAMW)
    optimizer.accumulate(dict(zip(optimizer.flat.slots, gradients, strict=True)))

    def step() -> None:
        optimizer.flat.filled = True  # the gradients stay as they are: an update and nothing else
        optimizer.step()

    def restart() -> None:
        optimizer.steps = 0
        for name in optimizer.moments:
            optimizer.state()[name][...] = 0

    own = [slot.value for slot in optimizer.flat.slots.values()]
    variants = {
        "definition": _plain_adamw(setting.xp, values, gradients),
        "minilm.optim": updating(step, own, values, 3, restart),
    }
    if torch := setting.torch():
        tensors = ([setting.tensor(torch, array) for array in arrays] for arrays in (values, gradients))
        variants["torch"] = pytorch.adamw(torch, *tensors, **ADAMW)
    size = 10 * side * side
    moved = 7 * size * setting.xp.dtype(setting.dtype).itemsize  # four arrays read, three written
    tolerance = 10 * setting.tolerance  # of a change that is the difference of two values a hundred times as large
    return Workload("adamw", f"{size} parameters", variants, moved, 14 * size, tolerance)


def _plain_adamw(xp: Any, start: list[Any], gradients: list[Any]) -> Variant:
    """AdamW as it is written down, one array at a time. [Loshchilov & Hutter 2019, algorithm 2]"""
    values, steps = [value.copy() for value in start], 0
    m, v = ([xp.zeros_like(value) for value in start] for _ in range(2))
    (beta1, beta2), lr = ADAMW["betas"], ADAMW["lr"]

    def restart() -> None:
        nonlocal steps
        steps = 0
        for moment in (*m, *v):
            moment[...] = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        for n, g in enumerate(gradients):
            m[n] = beta1 * m[n] + (1 - beta1) * g
            v[n] = beta2 * v[n] + (1 - beta2) * g * g
            mean, square = m[n] / (1 - beta1**steps), v[n] / (1 - beta2**steps)
            decayed = values[n] * (1 - lr * ADAMW["weight_decay"])
            values[n] = decayed - lr * mean / (xp.sqrt(square) + ADAMW["eps"])

    return updating(step, values, start, 3, restart)


def word2vec(
    setting: Setting, vocabulary: int = 10000, width: int = 100, texts: int = 800, T: int = 20, window: int = 5
) -> Workload:
    """An epoch of skip-gram with negative sampling over texts whose words follow Zipf's law; 5 negatives a pair.

    Definition, tuned version and PyTorch share 64 negatives in each batch of 16 texts, weighted as 5 a pair, and end
    with the same tables. gensim draws its negatives itself, 5 for each pair, and updates after each pair: another
    algorithm for the same model. There is no result to compare with it; only its time is.
    """
    if setting.xp is not np:
        raise LeftOut("word2vec runs on the CPU only: its rows are added up with NumPy's indexing")
    setting.require_long("word2vec")
    if T < 2:
        raise ValueError(f"word2vec: texts of T = {T} word have no pairs; expected at least 2")
    rng = np.random.default_rng(0)
    frequency = 1.0 / np.arange(1, vocabulary + 1)
    ids = rng.choice(vocabulary, (texts, T), p=frequency / frequency.sum())
    w_in = setting.share((rng.random((vocabulary, width)) - 0.5).astype(setting.dtype))
    w_out = setting.share((0.1 * rng.standard_normal((vocabulary, width))).astype(setting.dtype))
    options = skip_gram.Options(window=window, negatives=5, shared=64, lr=0.025 / 16)  # a batch is a sum of texts
    table = skip_gram.negative_table(ids, vocabulary)

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        drawing = np.random.default_rng(1)
        for start in range(0, texts, 16):
            yield ids[start : start + 16], table[drawing.integers(0, len(table), options.shared)]

    def variant(update: Any) -> Variant:
        tables = [w_in.copy(), w_out.copy()]

        def epoch() -> None:
            for batch, negatives in batches():
                update(*tables, batch, negatives, options)

        return updating(epoch, tables, [w_in, w_out])

    variants = {
        "definition": definition(variant(skip_gram.plain_update)),
        "by windows": variant(skip_gram.update),
    }
    if torch := setting.torch():

        def pairs() -> Iterator[Any]:
            for batch, negatives in batches():
                yield tuple(torch.from_numpy(a) for a in (*skip_gram.pairs(batch, window), negatives))

        weight = options.negatives / options.shared
        start = [setting.tensor(torch, table) for table in (w_in, w_out)]
        variants["torch"] = pytorch.skip_gram(torch, start, pairs, weight, options.lr)
    if gensim := setting.on_the_cpu("gensim"):
        variants["gensim"] = gensim_model.epoch(gensim, ids, vocabulary, width, window, options.negatives)
    count = texts * len(skip_gram.pairs(ids[:1], window)[0])
    size = f"{count} pairs, vocabulary {vocabulary}, width {width}, window {window}"
    return Workload("word2vec", size, variants, 0.0, 0.0, 10 * setting.tolerance)  # pairs a second count here
