"""The rungs below the fused attention kernel, to study and to time: float32, forward, full or causal.

    y = attention(q, k, v, causal=True, rung="naive")

    naive     a thread per score, S in global memory                     attention_naive.cu
    tiles     the products by tiles in shared memory, S still in global  attention_tiles.cu
    online    S never leaves the multiprocessor: the kernel in use       ../attention.cu

The header of ../attention.cu compares them: idea, traffic, place in the roofline.
"""

from __future__ import annotations

import numpy as np

from minilm.backend import Array
from minilm.checks import one_of
from minilm.kernels.cuda import launch
from minilm.kernels.cuda.attention_options import check
from minilm.kernels.cuda.instances import Instance

RUNGS = ("naive", "tiles", "online")

# Block, and the rows and columns of its results, for attention_scores, attention_softmax and attention_output
_GEOMETRY = {
    "naive": (((32, 8), (8, 32)), ((128,), (128, 1)), ((32, 8), (8, 32))),
    "tiles": (((32, 8), (32, 32)), ((32, 8), (8, 1)), ((32, 8), (32, 32))),
}
_ENTRIES = ("attention_scores", "attention_softmax", "attention_output")


def attention(q: Array, k: Array, v: Array, *, causal: bool = False, rung: str = "tiles") -> Array:
    """softmax(q kᵀ / √D) v. q (B, H, Tq, D), k and v (B, H, Tk, D), float32; y (B, H, Tq, D).

    Raises ValueError for an unknown rung, grouped heads and what the launchers of `minilm.kernels.cuda` refuse.
    """
    one_of("rung", rung, RUNGS)
    checked = check("attention", q, k, v, causal=causal, dtypes=("float32",))
    if rung == "online":
        from minilm.kernels.cuda.attention import attention as fused

        return fused(q, k, v, causal=causal, cache=False)[0]
    _, _, _, B, H, Hkv, Tq, Tk, D = checked[:9]
    if Hkv != H:
        raise ValueError(f"attention: {H} query heads over {Hkv} key/value heads; this rung serves equal numbers")
    y, scores = checked.xp.empty_like(q), checked.xp.empty((B, H, Tq, Tk), q.dtype)
    sizes = np.int32(Tq), np.int32(Tk)
    columns = (Tk, 1, D)
    arguments = (
        (q, k, scores, *sizes, np.int32(D), np.int32(causal), np.float32(checked.options.scale)),
        (scores, *sizes),
        (scores, v, y, *sizes, np.int32(D)),
    )
    for entry, (block, (rows_each, columns_each)), width, args in zip(
        _ENTRIES, _GEOMETRY[rung], columns, arguments, strict=True
    ):
        tiles = -(-Tq // rows_each)
        grid = (tiles, 1, B * H) if width == 1 else (-(-width // columns_each), tiles, B * H)
        if 0 not in grid:
            launch.kernel(f"ladder/attention_{rung}.cu", entry, {}, q)(grid, block, args)
    return y


INSTANCES = tuple(
    Instance(f"ladder/attention_{rung}.cu", entry, threads=int(np.prod(block)), note="float32")
    for rung, geometry in _GEOMETRY.items()
    for entry, (block, _) in zip(_ENTRIES, geometry, strict=True)
)
