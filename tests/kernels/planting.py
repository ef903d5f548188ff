"""Scenarios for the real kernels, and a way to plant a bug in their sources: what test_planted_bugs puts together.

A scenario calls launchers on inputs that are chosen to be nasty, and returns (result, float64 definition) pairs. It
imports no test tools, so that it also runs under a sanitizer: `run_sanitized` runs `SANITIZED`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from minilm import ops
from minilm.kernels.cuda import launch
from minilm.kernels.cuda.attention import attention, attention_backward
from minilm.kernels.cuda.cross_entropy import cross_entropy, cross_entropy_backward
from minilm.kernels.cuda.decode import attention_decode
from minilm.kernels.cuda.philox import keep_mask
from minilm.kernels.cuda.softmax import softmax
from minilm.selection import reference

Pairs = list[tuple[np.ndarray, np.ndarray]]

# Of the largest entry: far above the error of a right kernel, far below what a bug does.
TOLERANCE = {"float32": 1e-5, "float16": 2e-2}

SANITIZED = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.kernels import planting
with planting.planted(sys.argv[2], [sys.argv[i : i + 2] for i in range(4, len(sys.argv), 2)]):
    planting.SCENARIOS[sys.argv[3]]()
print("done")
"""


@contextmanager
def planted(file: str, replacements: Sequence[Sequence[str]]) -> Iterator[None]:
    """Within this block `file` is compiled with each (old, new) text replaced. Each old one must be there, once."""
    original = launch.source_of
    source = original(file)
    for old, new in replacements:
        found = source.count(old)
        if found != 1:
            raise LookupError(f"{file} holds {found} times, not once: {old!r}")
        source = source.replace(old, new)
    launch.source_of = lambda name: source if name == file else original(name)
    launch._host_kernel.cache_clear()
    try:
        yield
    finally:
        launch.source_of = original
        launch._host_kernel.cache_clear()


def assert_right(pairs: Pairs) -> None:
    """Each result is near its definition; infinities and the places of zeros are exact."""
    for number, (result, exact) in enumerate(pairs):
        finite = np.isfinite(exact)
        np.testing.assert_array_equal(result[~finite], exact[~finite], err_msg=f"result {number}")
        allowed = TOLERANCE[result.dtype.name] * np.abs(exact[finite]).max(initial=1e-3)
        error = np.abs(result[finite].astype(np.float64) - exact[finite])
        assert (error <= allowed).all(), f"result {number}: error {error.max()}, allowed {allowed}"


def _drawn(seed: int, dtype: str, *shapes: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal(shape).astype(dtype) for shape in shapes)


def _wide(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(a.astype(np.float64) for a in arrays)


def softmax_rows() -> Pairs:
    """A row is a block of several warps."""
    (x,) = _drawn(1, "float32", (3, 8000))
    return [(softmax(x)[0], ops.softmax(*_wide(x))[0])]


def loss_in_place() -> Pairs:
    """The gradient overwrites the logits; a row is a warp."""
    (logits,) = _drawn(2, "float32", (6, 256))
    targets = np.arange(6) * 40
    with reference():
        exact_loss, exact_cache = ops.cross_entropy(*_wide(logits), targets)
        exact = ops.cross_entropy_backward(1.0, exact_cache)
    loss, cache = cross_entropy(logits, targets, inplace=True)
    return [(np.asarray(loss), np.asarray(exact_loss)), (cross_entropy_backward(1.0, cache), exact)]


def _attention(
    dtype: str,
    Tq: int,
    Tk: int,
    D: int = 64,
    H: int = 2,
    wrt: Sequence[str] = (),
    low: bool = False,
    diagonal: bool = False,
    **options,
) -> Pairs:
    """y, and the gradients named in `wrt`."""
    q, k, v, do = _drawn(3, dtype, (1, H, Tq, D), (1, H, Tk, D), (1, H, Tk, D), (1, H, Tq, D))
    if low:  # all scores far below 0: what isn't hidden past the last key outweighs them
        q, k = np.abs(q) + q.dtype.type(1), -np.abs(k) - q.dtype.type(1)
    if diagonal:  # the last key that a query sees outweighs the others: a loop that ends too soon leaves it out
        k[:, :, Tk - Tq :] = q
    y, cache = attention(q, k, v, **options)
    with reference():
        exact_y, exact_cache = ops.attention(*_wide(q, k, v), **options)
        pairs = [(y, exact_y)]
        if wrt:
            gradients = attention_backward(do, cache, wrt), ops.attention_backward(*_wide(do), exact_cache, wrt)
            pairs += [pair for pair in zip(*gradients, strict=True) if pair[0] is not None]
    return pairs


def dropped(dtype: str) -> Pairs:
    """The mask is the one that the host draws."""
    q, k, v = _drawn(4, dtype, (1, 2, 40, 64), (1, 2, 97, 64), (1, 2, 97, 64))
    y, _ = attention(q, k, v, dropout=0.5, rng=np.random.default_rng(5))
    seed = int(np.random.default_rng(5).integers(2**63))
    weights = ops.attention_weights(*_wide(q, k))
    return [(y, (2 * weights * keep_mask(seed, 1, 2, 40, 97, 0.5)) @ v.astype(np.float64))]


def blind_rows(dtype: str) -> Pairs:
    """More queries than keys, causal: the first see nothing, y = 0 and LSE = +inf."""
    q, k, v = _drawn(6, dtype, (1, 1, 40, 64), (1, 1, 9, 64), (1, 1, 9, 64))
    y, cache = attention(q, k, v, causal=True)
    scores = q.astype(np.float64) @ k.astype(np.float64).swapaxes(-1, -2) / 8  # 1/√64
    scores = np.where(np.arange(9) <= np.arange(40)[:, None] - 31, scores, -np.inf)
    with np.errstate(divide="ignore"):
        lse = np.log2(np.exp(scores).sum(axis=-1))
    exact_y, _ = ops.attention(*_wide(q, k, v), causal=True)
    return [(y, exact_y), (cache.lse, np.where(np.isneginf(lse), np.inf, lse))]


def decoded(Tk: int, length: int) -> Pairs:
    """NaN behind each length and under the mask; keys split in three."""
    q, k, v = _drawn(7, "float32", (2, 4, 40), (2, 2, Tk, 40), (2, 2, Tk, 40))
    lengths, mask = np.array([Tk, length], np.int32), np.arange(Tk) % 5 != 2
    exact_y, _ = ops.attention(*_wide(q[:, :, None], k, v), key_lengths=lengths, mask=mask)
    k[:, :, ~mask] = v[:, :, ~mask] = np.nan
    k[1, :, length:] = v[1, :, length:] = np.nan
    y = attention_decode(q, k, v, key_lengths=lengths, mask=mask, splits=3)
    return [(y, exact_y[:, :, 0])]


ALL = ("q", "k", "v")

SCENARIOS: dict[str, Callable[[], Pairs]] = {
    "softmax": softmax_rows,
    "cross-entropy in place": loss_in_place,
    "exact": functools.partial(_attention, "float32", 33, 70, D=40),
    "exact, backward": functools.partial(_attention, "float32", 33, 70, D=40, wrt=ALL, causal=True),
    "tensor cores": functools.partial(_attention, "float16", 33, 150),
    "tensor cores, backward": functools.partial(_attention, "float16", 33, 70, wrt=ALL, causal=True),
    "tensor cores, low scores": functools.partial(_attention, "float16", 33, 70, wrt=ALL, low=True),
    "dropout on tensor cores": functools.partial(dropped, "float16"),
    "blind rows": functools.partial(blind_rows, "float16"),
    "decode": functools.partial(decoded, 97, 33),
    # Three tiles at least, of rows and of columns, so that each stage of shared memory is used a second time. Causal
    # with one key more than queries: the last row of a block alone sees the first key of a tile.
    "exact, tiles": functools.partial(_attention, "float32", 140, 150, D=40, H=1),
    "exact, tiles, backward": functools.partial(_attention, "float32", 140, 150, D=40, H=1, wrt=ALL),
    "exact, tiles, causal": functools.partial(
        _attention, "float32", 140, 141, D=40, H=1, wrt=ALL, causal=True, diagonal=True
    ),
    "tensor cores, tiles": functools.partial(_attention, "float16", 270, 290, H=1),
    "tensor cores, tiles, dkdv": functools.partial(_attention, "float16", 270, 290, H=1, wrt=("k", "v")),
    "tensor cores, tiles, dq": functools.partial(_attention, "float16", 270, 290, H=1, wrt=("q",)),
    "tensor cores, tiles, causal": functools.partial(
        _attention, "float16", 270, 271, H=1, wrt=ALL, causal=True, diagonal=True
    ),
    "tensor cores, D = 128": functools.partial(_attention, "float16", 270, 200, D=128, H=1, wrt=ALL),
    "decode, tiles": functools.partial(decoded, 400, 333),
}
