"""Fused attention: the launchers of attention.cu (exact, float32 and float64), and the choice of tensor cores.

    y, cache = attention(q, k, v, causal=True)          the arguments of minilm.ops.attention
    dq, dk, dv, dbias = attention_backward(dy, cache)

    float32, float64     exact, on plain cores, on every GPU
    float16, bfloat16    tensor cores, from compute capability 8.0 (`tensor_core`)

The weights are never stored: memory grows with Tq + Tk, not with Tq·Tk; a bias gradient alone needs dS, once, in full.
Nothing is added atomically: the same call gives the same bits.

[Dao et al. 2022, "FlashAttention"; Dao 2023, "FlashAttention-2"]
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np

from minilm.backend import Array
from minilm.kernels.cuda import launch, tensor_core
from minilm.kernels.cuda.attention_options import (
    EXACT_DTYPES,
    EXACT_HEAD_SIZES,
    Checked,
    FusedAttentionCache,
    check,
    check_backward,
    sum_to_bias,
)
from minilm.kernels.cuda.instances import Instance

SOURCE = "attention.cu"
_DELTA_ROWS = 4  # rows per block of attention_delta


def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool = False,
    key_lengths: Array | Sequence[int] | None = None,
    mask: Array | None = None,
    bias: Array | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    rng: Any = None,
    cache: bool = True,
) -> tuple[Array, FusedAttentionCache | None]:
    """y = dropout(softmax(scale · q kᵀ + bias)) v over the visible keys; y (B, H, Tq, D).

    The arguments are those of `minilm.ops.attention`. The dropout mask is `philox.keep_mask(seed, ...)` with
    seed = int(rng.integers(2**63)), one draw from a NumPy generator.
    Raises TypeError or ValueError, before anything is launched, for what the kernels do not serve.
    """
    options = {"causal": causal, "key_lengths": key_lengths, "mask": mask, "bias": bias, "scale": scale}
    checked = check("attention", q, k, v, **options, dropout=dropout, rng=rng)
    y, lse = (_forward if checked.q.dtype.name in EXACT_DTYPES else _tensor_core(checked).forward)(checked)
    return y, (FusedAttentionCache(q, k, v, y, lse, checked.options) if cache else None)


def attention_backward(
    do: Array, cache: FusedAttentionCache, wrt: Container[str] = ("q", "k", "v", "bias")
) -> tuple[Array | None, Array | None, Array | None, Array | None]:
    """(dq, dk, dv, dbias), None for what `wrt` does not name and for a bias that was not given. do (B, H, Tq, D)."""
    checked = check_backward(do, cache)
    if checked.q.dtype.name not in EXACT_DTYPES:
        return _tensor_core(checked).backward(checked, do, cache, wrt)
    return _backward(checked, do, cache.y, cache.lse, wrt)


def _tensor_core(checked: Checked) -> Any:
    """The module, where the device can run it."""
    capability = getattr(getattr(checked.q, "device", None), "compute_capability", None)  # e.g. "75"; None on the host
    if capability is not None and int(capability) < 80:
        raise ValueError(
            f"attention: {checked.q.dtype} needs tensor cores of compute capability 8.0, this device has "
            f"{capability[:-1]}.{capability[-1]}; convert to float32, which the exact kernel serves on every GPU"
        )
    return tensor_core


# ---- the exact kernel


def tile_shapes(D: int, itemsize: int) -> Mapping[str, tuple[int, int, int]]:
    """Rows per tile, columns per tile, threads per block: `Forward` and `Backward` in the source."""
    row_bytes = D * itemsize
    for most, forward, backward in (
        (256, (16, 8, 8, 2), (16, 8, 4, 2)),
        (512, (16, 8, 4, 2), (16, 8, 4, 1)),
        (1024, (16, 8, 2, 1), (8, 16, 1, 1)),
        (2048, (8, 8, 1, 1), (8, 4, 1, 1)),
    ):
        if row_bytes <= most:
            shapes = {"forward": forward, "backward": backward}
            return {name: (TY * RM, TX * CN, TX * TY) for name, (TX, TY, RM, CN) in shapes.items()}
    raise ValueError(f"attention: head size {D} with {itemsize} bytes per number is not served")


def _defines(entry: str, D: int, dtype: str) -> dict[str, int]:
    only = f"ENTRY_{entry.removeprefix('attention_').upper()}"
    return {"HEAD": D, "ELEMENT_F64" if dtype == "float64" else "ELEMENT_F32": 1, only: 1}


def _option_arguments(checked: Checked) -> tuple:
    """OPTION_PARAMETERS of the source."""
    return (
        checked.options.key_lengths,
        *checked.mask_arguments,
        *checked.bias_arguments,
        np.int32(checked.Tq),
        np.int32(checked.Tk),
        np.int32(checked.options.causal),
        *checked.dropout_arguments,
    )


def _launch(checked: Checked, entry: str, grid: tuple[int, ...], threads: int, args: tuple) -> None:
    launch.check_grid(grid)
    if 0 in grid:
        return  # no rows: nothing to write
    kernel = launch.kernel(SOURCE, entry, _defines(entry, checked.D, checked.q.dtype.name), checked.q)
    kernel(grid, (threads,), args)


def _forward(checked: Checked) -> tuple[Array, Array]:
    """y (B, H, Tq, D) and lse (B, H, Tq)."""
    q, k, v, B, H, Hkv, Tq, _, D = checked[:9]
    BR, _, threads = tile_shapes(D, q.dtype.itemsize)["forward"]
    y, lse = checked.xp.empty_like(q), checked.xp.empty((B, H, Tq), q.dtype)
    c = q.dtype.type(checked.scale_log2)
    args = (q, k, v, y, lse, np.int32(H), np.int32(Hkv), c, *_option_arguments(checked))
    _launch(checked, "attention_forward", (-(-Tq // BR), H, B), threads, args)
    return y, lse


def _backward(checked: Checked, do: Array, y: Array, lse: Array, wrt: Container[str]) -> tuple[Array | None, ...]:
    q, k, v, B, H, Hkv, Tq, Tk, D = checked[:9]
    xp, real = checked.xp, q.dtype.type
    BR, _, threads = tile_shapes(D, q.dtype.itemsize)["backward"]
    dq, dk, dv = (xp.empty_like(x) if name in wrt else None for name, x in (("q", q), ("k", k), ("v", v)))
    wants_bias = checked.bias is not None and "bias" in wrt
    dscores = xp.zeros((B, H, Tq, Tk), q.dtype) if wants_bias else None  # zeros: not every tile is visited

    delta = xp.empty((B, H, Tq), q.dtype)
    rows = B * H * Tq
    _launch(checked, "attention_delta", (-(-rows // _DELTA_ROWS),), 128, (y, do, lse, delta, np.int64(rows)))
    inputs, tail = (q, k, v, do, lse, delta), (np.int32(H), np.int32(Hkv), real(checked.scale_log2))
    options = _option_arguments(checked)
    if dk is not None or dv is not None:
        _launch(checked, "attention_dkdv", (-(-Tk // BR), Hkv, B), threads, (*inputs, dk, dv, *tail, *options))
    if dq is not None or wants_bias:
        args = (*inputs, dq, dscores, real(checked.options.scale), *tail, *options)
        _launch(checked, "attention_dq", (-(-Tq // BR), H, B), threads, args)
    return dq, dk, dv, (sum_to_bias(dscores, checked) if wants_bias else None)


def _instances() -> tuple[Instance, ...]:
    found = []
    for dtype, itemsize in (("float32", 4), ("float64", 8)):
        for D in EXACT_HEAD_SIZES:
            shapes = tile_shapes(D, itemsize)
            for entry, threads in (
                ("attention_forward", shapes["forward"][2]),
                ("attention_delta", 128),
                ("attention_dkdv", shapes["backward"][2]),
                ("attention_dq", shapes["backward"][2]),
            ):
                note = f"D={D} {dtype}"
                found.append(Instance(SOURCE, entry, _defines(entry, D, dtype), threads=threads, note=note))
    return tuple(found)


INSTANCES = _instances()
