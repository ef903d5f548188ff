"""Attention in blocks of queries, which skip the keys that causality hides.

Differs from the definition in six ways.

    causal, 4 blocks: the products     ■ □ □ □      the keys k0..k1 that a block of queries sees first (the diagonal),
    and exponentials of the blocks     ■ ■ □ □      and all before them: a row of blocks is one product. In the
    above the diagonal are left out    ■ ■ ■ □      backward a column of blocks is one product for dk and one for dv:
                                       ■ ■ ■ ■      no partial sums are added up

    - Blocks stay in the cache, and are worked on in place, with several heads in one call.
    - There is no maximum pass: E = exp2(s · log₂e / √D) without a shift, the factor folded into a copy of q. Where the
      row sums show that this over- or underflowed, the heads at hand are done again with the shift.
    - [v 1] has a column of ones: E [v 1] is the unnormalised output and, in the last column, the row sum Σ. In the same
      way [dy/Σ, −δ/Σ] [v 1]ᵀ = (dP − δ)/Σ, with δ = dy · y, so that dS = E ∘ that: no pass for the sum or for δ.
    - E is kept, unnormalised: only y and dy, Tq·D numbers, are divided by Σ, never the Tq·Tk weights.
    - Keys that nobody sees, behind `key_lengths` or a mask, are zeros in k and in [v 1]: no pass over weights for them.
    - y is laid out (B, Tq, H, Dv) and the gradients side by side (B, T, H + 2·Hkv, D), as a layer's projections are.

Threads share the work out by sequence, or by head where there are more threads than sequences.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Container
from typing import Any, NamedTuple

import numpy as np

from minilm import threads
from minilm.kernels.cpu.blocks import buffer_of, row_dot, unlike
from minilm.memory import empty
from minilm.ops.attention import check_attention
from minilm.selection import Version, problem, register

MINIMUM_SIZE = 1 << 13  # scores; below, the calls cost more than the work
MINIMUM_QUERIES = 8  # below, as in decoding with a cache, copying v costs more than it saves
ROWS = 64  # queries in a block
CHUNK_BYTES = 1 << 19  # of the scores of one block of queries: as many heads at a time as fit
SPREAD_SIZE = 1 << 20  # scores; below, calling threads costs more than it saves
BUFFER = 512  # numbers that NumPy copies at a time where rows are no neighbours, as in all blocks here
MODERATE = (1e-18, 1e15)  # sums that need no shift: what underflows doesn't count, and dy/Σ keeps its digits

Chunk = tuple[slice, slice]  # some sequences, and some of their key/value heads, at a time


class BlockedAttentionCache(NamedTuple):
    """As the definition, it keeps the weights, of all pairs; the blocks that causality hides are never touched."""

    q: np.ndarray  # (B, Hkv, G, Tq, D)  times scale · log₂e
    k: np.ndarray  # (B, Hkv, 1, Tk, D)  borrowed, or a copy where hidden rows were zeroed
    v: np.ndarray  # (B, Hkv, 1, Tk, Dv+1)  with ones in the last column, zeros in hidden rows
    y: np.ndarray  # (B, Hkv, G, Tq, Dv)
    inverse: np.ndarray  # (B, Hkv, G, Tq, 1)  1/Σ, 0 for a query that sees nothing
    weights: np.ndarray  # (B, Hkv, G, Tq, Tk)  E
    hidden: np.ndarray | None  # (B, 1, Tk, 1)  keys that nobody sees
    causal: bool
    scale: float


class Block(NamedTuple):
    """Queries start..stop see keys 0..k1, of which k0..k1 are seen by no query before them."""

    rows: slice
    k0: int
    k1: int
    above: tuple[slice, np.ndarray, np.ndarray] | None  # columns on the diagonal: which, 1 where seen, True where not


# ---- forward


def blocked_attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    causal: bool = False,
    key_lengths: Any = None,
    mask: np.ndarray | None = None,
    bias: None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    rng: Any = None,
    cache: bool = True,
) -> tuple[np.ndarray, BlockedAttentionCache | None]:
    """y (B, H, Tq, Dv), a view of (B, Tq, H, Dv). q, k, v: any strides. What `refuses` let pass isn't checked again."""
    (B, H, Tq, D), (Hkv, Tk, Dv) = q.shape, v.shape[1:]
    G, dtype = H // Hkv, q.dtype
    scale = D**-0.5 if scale is None else float(scale)
    hidden = _hidden_keys(B, Tk, key_lengths, mask)
    if hidden is not None:
        given, k = k, empty(k.shape, dtype)
        np.copyto(k, given)
        np.copyto(k, 0, where=hidden)
    y = empty((B, Tq, H, Dv), dtype).transpose(0, 2, 1, 3)  # (B, H, Tq, Dv)
    made = BlockedAttentionCache(
        q=empty((B, Hkv, G, Tq, D), dtype),
        k=k[:, :, None],
        v=empty((B, Hkv, 1, Tk, Dv + 1), dtype),
        y=y.reshape(B, Hkv, G, Tq, Dv),
        inverse=empty((B, Hkv, G, Tq, 1), dtype),
        weights=empty((B, Hkv, G, Tq, Tk) if cache else (0,), dtype),
        hidden=hidden,
        causal=causal,
        scale=scale,
    )
    sums = empty((B, Hkv, G, Tq, Dv + 1), dtype)  # E [v 1]
    q, plan = q.reshape(B, Hkv, G, Tq, D), _blocks(Tq, Tk, causal, dtype, ROWS)

    def work(chunks: list[Chunk], scratch: np.ndarray | None) -> None:
        with buffer_of(BUFFER), np.errstate(over="ignore", invalid="ignore"):  # seen in the sums
            for chunk in chunks:
                np.multiply(q[chunk], scale * math.log2(math.e), out=made.q[chunk])
                made.v[chunk][..., Dv] = 1
                made.v[chunk][..., :Dv] = v[:, :, None][chunk]
                if hidden is not None:
                    np.copyto(made.v[chunk], 0, where=hidden[chunk[0], :, None])
                b, h = made.q[chunk].shape[:2]
                _attend(chunk, made, made.weights[chunk] if cache else scratch[:b, :h], sums[chunk], plan)

    _spread(work, (B, Hkv, G, Tq, Tk), dtype, with_scratch=not cache)
    return y, made if cache else None


def _attend(
    chunk: Chunk, made: BlockedAttentionCache, weights: np.ndarray, sums: np.ndarray, plan: list[Block]
) -> None:
    """The weights of a chunk of heads (b, h, G, Tq, Tk), its E [v 1] (b, h, G, Tq, Dv+1), 1/Σ and y."""
    q, k, v, y, inverse = (array[chunk] for array in made[:5])
    for block in plan:
        e = _scores(q, k, weights, block)
        np.exp2(e, out=e)
        if block.above:
            columns, seen, _ = block.above
            e[..., columns] *= seen
        np.matmul(e, v[..., : block.k1, :], out=sums[..., block.rows, :])
    total = sums[..., -1:]  # (..., Tq, 1)
    if total.min() > MODERATE[0] and total.max() < MODERATE[1]:  # NaN is neither
        np.divide(1, total, out=inverse)
    else:
        hidden = None if made.hidden is None else made.hidden[chunk[0], :, None, :, 0]  # (b, 1, 1, Tk)
        _attend_shifted(q, k, v, weights, sums, plan, hidden)
        np.divide(1, np.where(total == 0, np.inf, total), out=inverse)
    np.multiply(sums[..., :-1], inverse, out=y)


def _attend_shifted(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    weights: np.ndarray,
    sums: np.ndarray,
    plan: list[Block],
    hidden: np.ndarray | None,
) -> None:
    """The same weights, each row divided by exp of its maximum: what is always right. Zeroes queries that see nothing.

    q (b, h, G, Tq, D), the others likewise; hidden (b, 1, 1, Tk).
    """
    for block in plan:
        e = _scores(q, k, weights, block)
        if block.above:
            columns, _, unseen = block.above
            np.copyto(e[..., columns], -np.inf, where=unseen)
        if hidden is not None:
            np.copyto(e, -np.inf, where=hidden[..., None, : block.k1])
        top = e.max(axis=-1, keepdims=True, initial=-np.inf)  # (..., rows, 1)
        blind = top == -np.inf
        e -= np.where(blind, 0, top)
        np.exp2(e, out=e)
        np.copyto(q[..., block.rows, :], 0, where=blind)  # what they hold reaches no gradient
        np.matmul(e, v[..., : block.k1, :], out=sums[..., block.rows, :])


def _scores(q: np.ndarray, k: np.ndarray, weights: np.ndarray, block: Block) -> np.ndarray:
    """q kᵀ of a block, (..., rows, k1), written where its weights go."""
    e = weights[..., block.rows, : block.k1]
    return np.matmul(q[..., block.rows, :], k[..., : block.k1, :].swapaxes(-1, -2), out=e)


# ---- backward


def blocked_attention_backward(
    dy: np.ndarray, cache: BlockedAttentionCache, wrt: Container[str] = ("q", "k", "v", "bias")
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None, None]:
    """(dq, dk, dv, None), None for what `wrt` does not name. With E the unnormalised weights and Σ their row sums

    dS = E ∘ [dy/Σ, −δ/Σ] [v 1]ᵀ        dq = scale · dS k        dk = scale · dSᵀ q        dv = Eᵀ dy/Σ
    """
    weights, hidden = cache.weights, cache.hidden
    Tq, Tk = weights.shape[3:]
    gradients = _gradients(cache, wrt)
    dy = dy.reshape(cache.y.shape)
    plan = _blocks(Tq, Tk, cache.causal, weights.dtype, ROWS)

    def work(chunks: list[Chunk], scratch: np.ndarray) -> None:
        with buffer_of(BUFFER):
            for chunk in chunks:
                _differentiate(chunk, dy[chunk], cache, gradients, plan, scratch)

    _spread(work, weights.shape, weights.dtype, with_scratch=True)
    if hidden is not None and "v" in gradients:
        np.copyto(gradients["v"], 0, where=hidden)
    dq, dk, dv = map(gradients.get, "qkv")
    return dq, dk, dv, None


def _differentiate(
    chunk: Chunk,
    dy: np.ndarray,
    cache: BlockedAttentionCache,
    gradients: dict[str, np.ndarray],
    plan: list[Block],
    scratch: np.ndarray,
) -> None:
    """The gradients of a chunk of heads. dy (b, h, G, Tq, Dv), scratch at least (b, h, G, Tq, Tk)."""
    q, k, v, y, inverse, weights = (array[chunk] for array in cache[:6])
    b, h, G, Tq, Dv = dy.shape
    dk, dv = (gradients[name][chunk] if name in gradients else None for name in "kv")
    scaled = np.empty((b, h, G, Tq, Dv + 1), weights.dtype)  # [dy/Σ, −δ/Σ]
    np.multiply(dy, inverse, out=scaled[..., :Dv])
    np.negative(row_dot(scaled[..., :Dv], y), out=scaled[..., Dv])
    dscores = scratch[:b, :h]
    if "q" in gradients or dk is not None:
        dq = gradients["q"].reshape(*cache.q.shape)[chunk] if "q" in gradients else None
        for block in plan:
            ds = dscores[..., block.rows, : block.k1]
            np.matmul(scaled[..., block.rows, :], v[..., : block.k1, :].swapaxes(-1, -2), out=ds)
            ds *= weights[..., block.rows, : block.k1]
            if dq is not None:
                np.matmul(ds, k[..., : block.k1, :], out=dq[..., block.rows, :])
        if dq is not None:
            dq *= cache.scale
    for block in plan:
        below, columns = slice(block.rows.start, None), slice(block.k0, block.k1)
        if dk is not None:
            _sum_products(dscores[..., below, columns], q[..., below, :], dk[..., columns, :])
        if dv is not None:
            _sum_products(weights[..., below, columns], scaled[..., below, :Dv], dv[..., columns, :])
    if dk is not None:
        dk *= math.log(2)  # q has the factor log₂e


def _sum_products(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """out = Σ_G aᵀ b. a (b, h, G, rows, keys), b (b, h, G, rows, D), out (b, h, keys, D)."""
    if a.shape[2] == 1:
        np.matmul(a[:, :, 0].swapaxes(-1, -2), b[:, :, 0], out=out)
    else:
        np.sum(a.swapaxes(-1, -2) @ b, axis=2, out=out)


def _gradients(cache: BlockedAttentionCache, wrt: Container[str]) -> dict[str, np.ndarray]:
    """Where dq, dk and dv go, (B, H, T, D) each: neighbours of equal T and D lie in one array (B, T, ΣH, D)."""
    (B, Hkv, G, Tq, D), Tk, Dv = cache.q.shape, cache.v.shape[3], cache.v.shape[4] - 1
    kinds = {"q": (Tq, D, Hkv * G), "k": (Tk, D, Hkv), "v": (Tk, Dv, Hkv)}
    gradients = {}
    for (T, size), group in itertools.groupby((name for name in kinds if name in wrt), lambda name: kinds[name][:2]):
        names = list(group)
        ends = list(itertools.accumulate((kinds[name][2] for name in names), initial=0))
        packed = empty((B, T, ends[-1], size), cache.q.dtype)
        for name, start, stop in zip(names, ends[:-1], ends[1:], strict=True):
            gradients[name] = packed[:, :, start:stop].transpose(0, 2, 1, 3)
    return gradients


# ---- blocks and chunks


@functools.lru_cache(maxsize=16)
def _blocks(Tq: int, Tk: int, causal: bool, dtype: np.dtype, rows: int) -> list[Block]:
    """The blocks of queries from first to last. Causality is aligned at the end: query i sees keys 0..i + Tk − Tq."""
    offset, blocks, k0 = Tk - Tq, [], 0
    for start in range(0, Tq, rows):
        stop = min(start + rows, Tq)
        k1, above = Tk, None
        if causal:
            k1, first = max(0, stop + offset), max(0, start + offset)
            seen = np.tri(stop - start, k1 - first, start + offset - first, dtype=dtype)
            above = (slice(first, k1), seen, seen == 0)
        blocks.append(Block(slice(start, stop), k0, k1, above))
        k0 = k1
    return blocks


def _spread(
    work: Callable[[list[Chunk], np.ndarray | None], None], shape: tuple[int, ...], dtype: np.dtype, with_scratch: bool
) -> None:
    """work(chunks, scratch) in each thread; scratch (b, h, G, Tq, Tk) is as large as the largest chunk's weights."""
    B, Hkv, G, Tq, Tk = shape
    number = threads.count() if math.prod(shape) >= SPREAD_SIZE else 1
    by_head = number > B and Hkv > B
    pieces = threads.parts(Hkv if by_head else B, number)
    fit = max(1, CHUNK_BYTES // (ROWS * G * Tk * dtype.itemsize))  # heads
    b, h = min(B, max(1, fit // Hkv)), min(fit, Hkv)

    def chunks_of(start: int, stop: int) -> list[Chunk]:
        (b0, b1), (h0, h1) = ((0, B), (start, stop)) if by_head else ((start, stop), (0, Hkv))
        sequences = [slice(i, min(i + b, b1)) for i in range(b0, b1, b)]
        heads = [slice(i, min(i + h, h1)) for i in range(h0, h1, h)]
        return list(itertools.product(sequences, heads))

    # The memory for all is asked for before they start: a pool serves one thread.
    prepared = [(chunks_of(*piece), empty((b, h, G, Tq, Tk), dtype) if with_scratch else None) for piece in pieces]
    threads.spread(lambda number, _: work(*prepared[number]), len(prepared))


def _hidden_keys(B: int, Tk: int, key_lengths: Any, mask: np.ndarray | None) -> np.ndarray | None:
    """Keys that no query of a sequence may see, (B, 1, Tk, 1); None where there is no such mask."""
    hidden = np.zeros((B, 1, Tk, 1), bool)
    if key_lengths is not None:
        hidden |= (np.arange(Tk) >= np.asarray(key_lengths)[:, None])[:, None, :, None]
    if mask is not None:
        hidden |= ~mask.reshape((1,) * (4 - mask.ndim) + mask.shape).swapaxes(-1, -2)  # (B|1, 1, Tk|1, 1)
    return None if key_lengths is None and mask is None else hidden


# ---- what is served


def refuses(
    q: Any, k: Any, v: Any, *, mask: Any = None, bias: Any = None, dropout: float = 0.0, **options: Any
) -> str | None:
    """Why a call is left to the definition, wrong input included; None if it is served."""
    masks = options.get("key_lengths"), mask, bias
    if wrong := unlike(q, k, v) or problem(check_attention, "attention", q, k, v, *masks, dropout, options.get("rng")):
        return wrong
    (B, H, Tq, _), Tk = q.shape, k.shape[2]
    if B * H * Tq * Tk < MINIMUM_SIZE:
        return f"{B * H * Tq * Tk} scores are fewer than {MINIMUM_SIZE}"
    if Tq < MINIMUM_QUERIES:
        return f"{Tq} queries are fewer than {MINIMUM_QUERIES}"
    if bias is not None or dropout != 0:
        return "serves attention without bias and dropout"
    if mask is not None and any(n != 1 for n in mask.shape[-3:-1]):
        return f"serves masks (B, 1, 1, Tk), the same for all heads and queries; this one is {mask.shape}"
    return None


register(
    "attention",
    Version("cpu.blocked", blocked_attention, blocked_attention_backward, BlockedAttentionCache, refuses),
)
