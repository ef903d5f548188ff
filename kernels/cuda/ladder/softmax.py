"""The first two rungs of the softmax ladder, to run and to compare; softmax.cu, the third, is the one in use."""

from __future__ import annotations

import numpy as np

from minilm.backend import Array, array_namespace
from minilm.checks import one_of
from minilm.kernels.cuda import launch
from minilm.kernels.cuda.instances import Instance
from minilm.kernels.cuda.rows import check_rows

RUNGS = {
    "naive": Instance("ladder/softmax_naive.cu", "softmax_naive", threads=128, note="a thread per row, three passes"),
    "shared": Instance("ladder/softmax_shared.cu", "softmax_shared", threads=256, note="a block per row, three passes"),
}
INSTANCES = tuple(RUNGS.values())


def softmax(x: Array, *, rung: str) -> Array:
    """softmax(x) along the last axis by the kernel of that rung: "naive" or "shared". x, y (..., N), float32."""
    xp = array_namespace(x)
    one_of("ladder.softmax: rung", rung, RUNGS)
    if x.dtype != np.float32:
        raise TypeError(f"ladder.softmax: dtype {x.dtype.name} is not served, only float32")
    check_rows("ladder.softmax", "x", x)
    N = x.shape[-1]
    rows = x.size // N
    if rows > 2**31 - 1:
        raise ValueError(f"ladder.softmax: {rows} rows are more than the kernel can index: 2^31 - 1")
    y = xp.empty_like(x)
    if rows:
        instance = RUNGS[rung]
        blocks = rows if rung == "shared" else -(-rows // instance.threads)
        run = launch.kernel(instance.file, instance.entry, instance.defines, x)
        run((blocks,), (instance.threads,), (x, y, np.int32(rows), np.int32(N)))
    return y
