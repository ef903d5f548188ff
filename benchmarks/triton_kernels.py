"""Two kernels in Triton, for the comparison of compiled code: fused softmax, and flash attention's forward.

They do the jobs of kernels/cuda/softmax.cu (a row of 4096 float32 in registers) and of the forward in
attention_tensor_core.cu (head size 64, float16, no mask, no dropout), written as Triton's users write them. `compiled`
turns them into machine code without a GPU: nothing here is run, or timed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

COLUMNS = 4096
HEAD = 64


@triton.jit
def softmax_forward(x, y, rows_stride, N, BLOCK: tl.constexpr):
    """One program a row: y = exp(x − max x) / Σ exp(x − max x)."""
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    inside = at < N
    values = tl.load(x + row * rows_stride + at, mask=inside, other=-float("inf"))  # (BLOCK,)
    e = tl.exp(values - tl.max(values, axis=0))
    tl.store(y + row * rows_stride + at, e / tl.sum(e, axis=0), mask=inside)


@triton.jit
def attention_forward(q, k, v, y, lse, scale, T, D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr):
    """One program a block of queries of one head; keys and values pass by in blocks, the softmax is kept up to date.

    q, k, v, y (B·H, T, D), contiguous; lse (B·H, T) float32. T is a multiple of both blocks. [Dao 2023, algorithm 1]
    """
    block, head = tl.program_id(0), tl.program_id(1)
    base = head.to(tl.int64) * T * D
    d = tl.arange(0, D)
    rows = block * BLOCK_Q + tl.arange(0, BLOCK_Q)
    keys = tl.arange(0, BLOCK_K)
    queries = tl.load(q + base + rows[:, None] * D + d[None, :])  # (BLOCK_Q, D)
    top = tl.full([BLOCK_Q], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    out = tl.zeros([BLOCK_Q, D], tl.float32)
    to_base_2 = scale * 1.4426950408889634  # log2 e: exp2 is the instruction that the machine has
    k_at = k + base + keys[None, :] * D + d[:, None]  # (D, BLOCK_K): transposed
    v_at = v + base + keys[:, None] * D + d[None, :]
    for _ in range(0, T, BLOCK_K):
        scores = tl.dot(queries, tl.load(k_at))  # (BLOCK_Q, BLOCK_K)
        new = tl.maximum(top, tl.max(scores, axis=1) * to_base_2)
        p = tl.exp2(scores * to_base_2 - new[:, None])
        shrink = tl.exp2(top - new)
        total = total * shrink + tl.sum(p, axis=1)
        out = tl.dot(p.to(tl.float16), tl.load(v_at), out * shrink[:, None])
        top = new
        k_at += BLOCK_K * D
        v_at += BLOCK_K * D
    tl.store(y + base + rows[:, None] * D + d[None, :], (out / total[:, None]).to(tl.float16))
    tl.store(lse + head * T + rows, (top + tl.log2(total)) / 1.4426950408889634)


class Kernel(NamedTuple):
    """A kernel, and the choices that it is compiled with."""

    title: str  # of the row in the table that it stands under
    name: str
    signature: dict[str, str]
    constants: dict[str, int]
    warps: int
    stages: int
    elements: int  # numbers of a row that a thread holds; 0 for attention


KERNELS = (
    Kernel(
        "softmax, N=4096, f32", "softmax_forward",
        {"x": "*fp32", "y": "*fp32", "rows_stride": "i32", "N": "i32", "BLOCK": "constexpr"},
        {"BLOCK": COLUMNS}, 4, 2, COLUMNS // (4 * 32),  # as many numbers a thread as ours
    ),
    Kernel(
        "attention forward, D=64, f16", "attention_forward",
        {**dict.fromkeys("qkvy", "*fp16"), "lse": "*fp32", "scale": "fp32", "T": "i32",
         "D": "constexpr", "BLOCK_Q": "constexpr", "BLOCK_K": "constexpr"},
        {"D": HEAD, "BLOCK_Q": 128, "BLOCK_K": 64}, 4, 3, 0,  # smaller tiles take more instructions
    ),
)  # fmt: skip


def compiled(kernel: Kernel, arch: int) -> Any:
    """Triton's result for sm_`arch`: `asm["cubin"]` is the machine code, `metadata.shared` the dynamic shared memory.

    Pointers and whole numbers are declared divisible by 16, which is what Triton finds out itself at a launch.
    """
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = globals()[kernel.name]
    divisible = {
        (place,): [["tt.divisibility", 16]]
        for place, (name, kind) in enumerate(kernel.signature.items())
        if kind.startswith("*") or kind == "i32"
    }
    source = ASTSource(fn=function, signature=kernel.signature, constexprs=kernel.constants, attrs=divisible)
    options = {"num_warps": kernel.warps, "num_stages": kernel.stages, "enable_fp_fusion": True}
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
