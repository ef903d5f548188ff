"""Flash attention's forward. y = softmax(scale · q kᵀ) v, and lse = log Σ exp(scale · q kᵀ) for the backward.

q, k, v, y (B·H, T, D), contiguous; lse (B·H, T) float32. [Dao 2023, "FlashAttention-2", algorithm 1]

CAUSAL: query i sees the keys j ≤ i. EVEN: T is a multiple of both blocks, so that no edge is masked. Products of
float32 are float32 ("ieee"); for the tensor cores' types the word means nothing.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)  # exp2 is the instruction that the machine has


@triton.jit
def load(at, inside, EDGE: tl.constexpr):
    """Zeros where it is not inside; only at an EDGE does that matter."""
    return tl.load(at, mask=inside, other=0.0) if EDGE else tl.load(at)


@triton.jit
def store(at, value, inside, EDGE: tl.constexpr):
    if EDGE:
        tl.store(at, value, mask=inside)
    else:
        tl.store(at, value)


@triton.jit
def ends(block, T, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, CAUSAL: tl.constexpr, EVEN: tl.constexpr):
    """For a block of queries: where the keys end that all of them see, and those that any of them sees."""
    stop = T
    whole = stop
    if CAUSAL:
        tl.static_assert(BLOCK_Q % BLOCK_K == 0)
        stop = tl.minimum(T, (block + 1) * BLOCK_Q)
        whole = block * BLOCK_Q
    elif not EVEN:
        whole = T // BLOCK_K * BLOCK_K
    return whole, stop


@triton.jit
def attend(
    top, total, out, queries, k_at, v_at, rows, start, stop, T, to_base_2,
    D: tl.constexpr, BLOCK_K: tl.constexpr, CAUSAL: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    """The keys start..stop pass by in blocks; the softmax is kept up to date. CAUSAL and EDGE say what to mask."""
    for first in range(start, stop, BLOCK_K):
        keys = first + tl.arange(0, BLOCK_K)
        scores = tl.dot(queries, load(k_at, (keys < T)[None, :], EDGE), input_precision="ieee")  # (BLOCK_Q, BLOCK_K)
        if CAUSAL:
            scores = tl.where(rows[:, None] >= keys[None, :], scores, -float("inf"))
        if EDGE:
            scores = tl.where((keys < T)[None, :], scores, -float("inf"))
        new = tl.maximum(top, tl.max(scores, axis=1) * to_base_2)
        p = tl.exp2(scores * to_base_2 - new[:, None])
        shrink = tl.exp2(top - new)
        total = total * shrink + tl.sum(p, axis=1)
        p = p.to(queries.dtype)
        values = load(v_at, (keys < T)[:, None], EDGE)
        out = tl.dot(p, values, out * shrink[:, None], input_precision="ieee")
        top = new
        k_at += BLOCK_K * D
        v_at += BLOCK_K * D
    return top, total, out, k_at, v_at


@triton.jit
def attention_forward(
    q, k, v, y, lse, scale, T,
    D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    CAUSAL: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """One program a block of queries of one head: first the keys that all of them see, then those to be masked.

    The first block holds a visible key of every query, so that the maximum is finite from then on.
    """
    block, head = tl.program_id(0), tl.program_id(1)
    base = head.to(tl.int64) * T * D
    d = tl.arange(0, D)
    rows = block * BLOCK_Q + tl.arange(0, BLOCK_Q)
    keys = tl.arange(0, BLOCK_K)
    q_at = q + base + rows[:, None] * D + d[None, :]
    queries = load(q_at, (rows < T)[:, None], not EVEN)  # (BLOCK_Q, D)
    top = tl.full([BLOCK_Q], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    out = tl.zeros([BLOCK_Q, D], tl.float32)
    to_base_2 = scale * LOG2_E
    k_at = k + base + keys[None, :] * D + d[:, None]  # (D, BLOCK_K): transposed
    v_at = v + base + keys[:, None] * D + d[None, :]
    whole, stop = ends(block, T, BLOCK_Q, BLOCK_K, CAUSAL, EVEN)
    top, total, out, k_at, v_at = attend(
        top, total, out, queries, k_at, v_at, rows, 0, whole, T, to_base_2, D, BLOCK_K, False, False
    )
    if CAUSAL or not EVEN:
        top, total, out, k_at, v_at = attend(
            top, total, out, queries, k_at, v_at, rows, whole, stop, T, to_base_2, D, BLOCK_K, CAUSAL, not EVEN,
        )  # fmt: skip
    y_at = y + base + rows[:, None] * D + d[None, :]
    lse_at = lse + head * T + rows
    out = (out / total[:, None]).to(y.dtype.element_ty)
    store(y_at, out, (rows < T)[:, None], not EVEN)
    store(lse_at, (top + tl.log2(total)) / LOG2_E, rows < T, not EVEN)
