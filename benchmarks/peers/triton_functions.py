"""Variants from the kernels in benchmarks/triton_kernels, launched on PyTorch's tensors as Triton's users launch them.

A kernel has several choices of blocks, warps and stages. Triton times them at the first call with a shape, which here
is the comparison of results that precedes every timing, and keeps the fastest. Outputs are allocated by PyTorch at each
call. Launches go to PyTorch's stream, which is CuPy's: the default one.

In Triton's interpreter (`Setting.interpret`) nothing is timed: a choice is given, or the first one is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import triton

from benchmarks import triton_kernels
from benchmarks.variants import Setting, Variant, pair

HEAD_SIZES = (32, 64, 128)  # that the attention serves
LONGEST_ROW = 65536  # that a program of softmax and layer norm can hold: 128 numbers per thread of 16 warps


def _tiles(*choices: tuple[int, int, int, int]) -> list[triton.Config]:
    """From (queries, keys, warps, stages)."""
    return [
        triton.Config({"BLOCK_Q": queries, "BLOCK_K": keys}, num_warps=warps, num_stages=stages)
        for queries, keys, warps, stages in choices
    ]


def _blocks(*choices: tuple[int, int]) -> list[triton.Config]:
    """From (BLOCK, warps)."""
    return [triton.Config({"BLOCK": block}, num_warps=warps) for block, warps in choices]


WHOLE_ROWS = [triton.Config({}, num_warps=warps) for warps in (4, 2, 8, 16)]  # the block is the row
CHOICES = {
    **{f"{op}_{part}": WHOLE_ROWS for op in ("softmax", "layer_norm") for part in ("forward", "backward")},
    "layer_norm_sum_parts": [
        triton.Config({"BLOCK_P": 32, "BLOCK_N": 32}, num_warps=4),
        triton.Config({"BLOCK_P": 128, "BLOCK_N": 16}, num_warps=8),
    ],
    "cross_entropy_forward": _blocks((1024, 4), (2048, 8), (4096, 8), (8192, 16)),
    "cross_entropy_backward": _blocks((1024, 4), (2048, 8), (4096, 8), (8192, 16)),
    "attention_delta": _blocks((32, 4), (128, 4)),
    "attention_forward": _tiles(
        (128, 64, 4, 3), (128, 64, 8, 3), (128, 32, 4, 3), (64, 64, 4, 3), (64, 32, 4, 4), (128, 128, 8, 2)
    ),
    "attention_backward_dkdv": _tiles((32, 128, 4, 3), (64, 128, 8, 2), (64, 64, 4, 2), (32, 64, 4, 3)),
    "attention_backward_dq": _tiles((128, 32, 4, 3), (128, 64, 8, 2), (64, 64, 4, 2), (64, 32, 4, 3)),
}
# float32 is multiplied by the ordinary cores, which read their operands from registers: smaller tiles.
CHOICES_FLOAT32 = {
    **CHOICES,
    "attention_forward": _tiles((32, 32, 4, 2), (64, 32, 8, 2), (64, 16, 8, 2), (32, 16, 4, 2)),
    "attention_backward_dkdv": _tiles((16, 32, 4, 2), (32, 32, 8, 2), (16, 64, 8, 2), (16, 16, 4, 2)),
    "attention_backward_dq": _tiles((32, 16, 4, 2), (32, 32, 8, 2), (64, 16, 8, 2), (16, 16, 4, 2)),
}


def choices_of(name: str, dtype: str) -> list[triton.Config]:
    return (CHOICES_FLOAT32 if dtype == "float32" else CHOICES)[name]


@cache
def _tuned(name: str, dtype: str, key: tuple[str, ...], choice: int | None) -> Any:
    """The kernel, with the choice of that number, or with the fastest for each value of the arguments in `key`."""
    kernel, choices = getattr(triton_kernels, name), choices_of(name, dtype)
    if "EVEN" in kernel.arg_names:
        kernel = triton.heuristics({"EVEN": lambda a: a["T"] % a["BLOCK_Q"] == 0 == a["T"] % a["BLOCK_K"]})(kernel)
    return triton.autotune(choices if choice is None else [choices[choice]], key=list(key))(kernel)


def _launcher(setting: Setting, *key: str, choice: int | None = None) -> Any:
    """name -> kernel"""
    if choice is None and setting.interpret:
        choice = 0
    return lambda name: _tuned(name, setting.dtype, key, choice)


def softmax(setting: Setting, x: Any, dy: Any) -> Variant | None:
    """Over the rows of x (rows, columns); None where they are too long."""
    rows, columns = x.shape
    if columns > LONGEST_ROW:
        return None
    a, slope = setting.tensor(torch, x), setting.tensor(torch, dy)
    if a.numel() >= 2**31:
        raise ValueError(f"softmax in Triton: {rows} x {columns} numbers are beyond its 32-bit offsets; take fewer")
    block, kernel = triton.next_power_of_2(columns), _launcher(setting, "N")

    def forward() -> tuple[Any, Any]:
        y = torch.empty_like(a)
        kernel("softmax_forward")[(rows,)](a, y, columns, columns, BLOCK=block)
        return y, y

    def backward(slope: Any, y: Any) -> Any:
        dx = torch.empty_like(y)
        kernel("softmax_backward")[(rows,)](y, slope, dx, columns, columns, BLOCK=block)
        return dx

    return pair(forward, backward, slope)


def layer_norm(setting: Setting, x: Any, gain: Any, bias: Any, dy: Any, eps: float = 1e-5) -> Variant | None:
    """Over the rows of x (rows, columns); None where they are too long."""
    rows, columns = x.shape
    if columns > LONGEST_ROW:
        return None
    a, scale, shift, slope = (setting.tensor(torch, array) for array in (x, gain, bias, dy))
    block, kernel = triton.next_power_of_2(columns), _launcher(setting, "N")
    programs = min(rows, _programs(setting))

    def forward() -> tuple[Any, Any]:
        y = torch.empty_like(a)
        mean, rstd = torch.empty((2, rows), dtype=torch.float32, device=a.device)
        kernel("layer_norm_forward")[(rows,)](a, scale, shift, y, mean, rstd, columns, eps, BLOCK=block)
        return y, (mean, rstd)

    def backward(slope: Any, saved: Any) -> tuple[Any, Any, Any]:
        dx, dgain, dbias = torch.empty_like(a), torch.empty_like(scale), torch.empty_like(shift)
        parts = torch.empty((2, programs, columns), dtype=torch.float32, device=a.device)
        kernel("layer_norm_backward")[(programs,)](a, scale, slope, *saved, dx, *parts, rows, columns, BLOCK=block)
        kernel("layer_norm_sum_parts")[lambda meta: (triton.cdiv(columns, meta["BLOCK_N"]),)](
            *parts, dgain, dbias, programs, columns
        )
        return dx, dgain, dbias

    return pair(forward, backward, slope)


def _programs(setting: Setting) -> int:
    """How many programs share the rows of a sum over rows: a few for each multiprocessor."""
    if setting.interpret:
        return 40
    return 4 * torch.cuda.get_device_properties(setting.torch_device).multi_processor_count


def cross_entropy(setting: Setting, logits: Any, targets: Any, dloss: float = 1.0) -> Variant:
    """The mean over the rows of logits (rows, columns); targets (rows,). The mean itself is PyTorch's."""
    a, classes = setting.tensor(torch, logits), setting.tensor(torch, targets)
    rows, columns = a.shape
    kernel = _launcher(setting, "N")

    def forward() -> tuple[Any, Any]:
        losses, lse = torch.empty((2, rows), dtype=torch.float32, device=a.device)
        kernel("cross_entropy_forward")[(rows,)](a, classes, losses, lse, columns)
        return losses.mean().to(a.dtype), lse

    def backward(dloss: float, lse: Any) -> Any:
        dlogits = torch.empty_like(a)
        kernel("cross_entropy_backward")[lambda meta: (rows, triton.cdiv(columns, meta["BLOCK"]))](
            a, classes, lse, dlogits, dloss / rows, columns
        )
        return dlogits

    return pair(forward, backward, dloss)


def attention(
    setting: Setting, q: Any, k: Any, v: Any, dy: Any, causal: bool = True, choice: int | None = None
) -> Variant | None:
    """q, k, v, dy (B, H, T, D); None where D is none of HEAD_SIZES. choice: the number of one, None: the fastest."""
    B, H, T, D = q.shape
    if D not in HEAD_SIZES:
        return None
    a, b, c, slope = (setting.tensor(torch, x) for x in (q, k, v, dy))
    kernel = _launcher(setting, "T", "D", "CAUSAL", choice=choice)
    known = {"D": D, "CAUSAL": causal}
    scale = D**-0.5

    def programs(block: str) -> Callable[[dict[str, Any]], tuple[int, int]]:
        return lambda meta: (triton.cdiv(T, meta[block]), B * H)

    def forward() -> tuple[Any, Any]:
        y, lse = torch.empty_like(a), torch.empty((B, H, T), dtype=torch.float32, device=a.device)
        kernel("attention_forward")[programs("BLOCK_Q")](a, b, c, y, lse, scale, T, **known)
        return y, (y, lse)

    def backward(slope: Any, saved: Any) -> tuple[Any, Any, Any]:
        y, lse = saved
        dq, dk, dv, delta = torch.empty_like(a), torch.empty_like(b), torch.empty_like(c), torch.empty_like(lse)
        delta_kernel = _launcher(setting, "D")("attention_delta")
        delta_kernel[lambda meta: (triton.cdiv(B * H * T, meta["BLOCK"]),)](y, slope, delta, B * H * T, D=D)
        inputs = (a, b, c, slope, lse, delta)
        kernel("attention_backward_dkdv")[programs("BLOCK_K")](*inputs, dk, dv, scale, T, **known)
        kernel("attention_backward_dq")[programs("BLOCK_Q")](*inputs, dq, scale, T, **known)
        return dq, dk, dv

    return pair(forward, backward, slope)


OPS = {"softmax": softmax, "layer_norm": layer_norm, "cross_entropy": cross_entropy, "attention": attention}
