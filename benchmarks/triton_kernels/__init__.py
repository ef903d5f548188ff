"""Kernels in Triton, written as its users write them: softmax, layer norm, cross-entropy and flash attention.

They serve two comparisons. benchmarks/peers/triton_functions.py launches them beside ours, on a GPU. And `KERNELS`
names those that do the jobs of kernels/cuda/softmax.cu (a row of 4096 float32 in registers) and of the forward in
attention_tensor_core.cu (head size 64, float16, no mask, no dropout): `compiled` turns them into machine code without a
GPU, for the comparison of compiled code (`python -m benchmarks static`).

What was checked: the results, in Triton's interpreter on the CPU against minilm.ops in float64 (attention in bfloat16
excepted: the interpreter multiplies bfloat16 matrices as integers); and that all compile for sm_80 and sm_90. None of
them has been timed, or run on a GPU.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton

from benchmarks.triton_kernels.attention import attention_forward as attention_forward
from benchmarks.triton_kernels.attention_backward import (
    attention_backward_dkdv as attention_backward_dkdv,
    attention_backward_dq as attention_backward_dq,
    attention_delta as attention_delta,
)
from benchmarks.triton_kernels.cross_entropy import (
    cross_entropy_backward as cross_entropy_backward,
    cross_entropy_forward as cross_entropy_forward,
)
from benchmarks.triton_kernels.layer_norm import (
    layer_norm_backward as layer_norm_backward,
    layer_norm_forward as layer_norm_forward,
    layer_norm_sum_parts as layer_norm_sum_parts,
)
from benchmarks.triton_kernels.softmax import softmax_backward as softmax_backward, softmax_forward as softmax_forward

COLUMNS = 4096
HEAD = 64


class Kernel(NamedTuple):
    """A kernel, and the choices that it is compiled with."""

    title: str  # of the row in the table that it stands under
    name: str
    signature: dict[str, str]
    constants: dict[str, Any]
    warps: int
    stages: int
    elements: int  # numbers of a row that a thread holds; 0 for attention


KERNELS = (
    Kernel(
        "softmax, N=4096, f32", "softmax_forward",
        {"x": "*fp32", "y": "*fp32", "rows_stride": "i32", "N": "i32", "BLOCK": "constexpr"},
        {"BLOCK": COLUMNS}, 4, 2, COLUMNS // (4 * 32),  # as many numbers per thread as ours
    ),
    Kernel(
        "attention forward, D=64, f16", "attention_forward",
        {**dict.fromkeys("qkvy", "*fp16"), "lse": "*fp32", "scale": "fp32", "T": "i32",
         **dict.fromkeys(("D", "BLOCK_Q", "BLOCK_K", "CAUSAL", "EVEN"), "constexpr")},
        {"D": HEAD, "BLOCK_Q": 128, "BLOCK_K": 64, "CAUSAL": False, "EVEN": True},
        4, 3, 0,  # smaller tiles take more instructions
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
