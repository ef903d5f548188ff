"""Attention backward on tensor cores, float16 and bfloat16: the launcher of attention_tensor_core_backward.cu.

    dq, dk, dv, dbias = backward(checked, do, cache)       checked: from `attention_options.check_backward`

    attention_backward_stats    D = rowsum(dO ∘ O) and LSE, padded for the other two
    attention_backward_dkdv     a block per tile of keys, all query heads of its group in turn
    attention_backward_dq       a block per tile of queries; writes dS too, in full, where a bias wants its gradient

A kernel whose results are not asked for is not launched. No weights are stored; nothing is added atomically.
"""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

import numpy as np

from minilm.backend import Array
from minilm.kernels.cuda import launch
from minilm.kernels.cuda.attention_options import TENSOR_CORE_HEAD_SIZES, Checked, FusedAttentionCache, sum_to_bias
from minilm.kernels.cuda.instances import TENSOR_CORE_ARCHITECTURES, Instance

SOURCE = "attention_tensor_core_backward.cu"
_STATS_THREADS = 128


class BackwardTiles(NamedTuple):
    """How a block divides its work: 16·MT·NW rows stay put, BC columns at a time pass through shared memory."""

    MT: int  # 16-row tiles per warp
    NW: int  # warps
    BC: int  # columns per tile
    HELD: int  # k-steps (16 of D) of the rows' first, then second operand in registers; the others are parked

    @property
    def rows(self) -> int:
        return 16 * self.MT * self.NW

    @property
    def threads(self) -> int:
        return 32 * self.NW

    def defines(self, prefix: str) -> dict[str, int]:
        return {f"{prefix}_{name}": value for name, value in zip(self._fields, self, strict=True)}

    def shared_memory(self, D: int, statistics: bool) -> int:
        """Bytes: two tiles in two stages, the columns' statistics (dK/dV only), and what is parked."""
        steps = _steps(D)
        stage = 2 * self.BC * (2 * steps + 1) * 16 + (self.BC * 16 if statistics else 0)
        return 2 * stage + (2 * steps - self.HELD) * self.MT * self.NW * 512


class KernelTiles(NamedTuple):
    """The tiles of both kernels."""

    dkdv: BackwardTiles
    dq: BackwardTiles


def _steps(D: int) -> int:
    return -(-D // 16)


def tiles_of(D: int, extras: int) -> KernelTiles:
    """The tiles for head size D: the largest that spill on no architecture (sm_80, 90, 100), whatever the options.

    extras: how many of mask, bias and dropout are on; they need registers of their own.
    """
    both = 2 * _steps(D)
    if extras:
        held = both if D <= 64 else both * 3 // 4 if D <= 96 else both // 4
        crowded = D == 128 and extras > 1
        dkdv = BackwardTiles(1, 2, 32, held) if crowded else BackwardTiles(1, 4, 64, held)
        return KernelTiles(dkdv, BackwardTiles(1, 4, 64, both))
    # 48 < D <= 64: dK/dV with everything held would need a few registers more than there are.
    dkdv = BackwardTiles(2, 4, 64, both if D <= 48 else 6) if D <= 64 else BackwardTiles(1, 4, 64, both)
    return KernelTiles(dkdv, BackwardTiles(2 if D <= 80 else 1, 4, 64, both))


def backward(
    checked: Checked, do: Array, cache: FusedAttentionCache, wrt: Container[str]
) -> tuple[Array | None, Array | None, Array | None, Array | None]:
    """(dq, dk, dv, dbias), None for what `wrt` does not name and for a bias that was not given. do (B, H, Tq, D).

    Raises ValueError, before anything is launched, for sizes that the kernels do not serve.
    """
    _check_sizes(checked)
    q, k, v, B, H, _, Tq, Tk, _ = checked[:9]
    xp = checked.xp
    wants_keys, wants_bias = "k" in wrt or "v" in wrt, checked.bias is not None and "bias" in wrt
    new = xp.empty_like if B and Tq and Tk else xp.zeros_like  # without a query or a key there is nothing to launch
    dq = new(q) if "q" in wrt or wants_bias else None
    dk, dv = (new(k), new(v)) if wants_keys else (None, None)
    # dS in full, zeros where no tile goes: the one array whose size grows with Tq·Tk.
    dscores = xp.zeros((B, H, Tq, Tk), "float32") if wants_bias else None
    if B and Tq and Tk and (wants_keys or dq is not None):
        launches = _Launches(checked, wants_bias)
        stats = launches.stats(cache.y, do, cache.lse)
        if wants_keys:
            launches.dkdv(do, stats, dk, dv)
        if dq is not None:
            launches.dq(do, stats, dq, dscores)
    return (
        dq if "q" in wrt else None,
        dk if "k" in wrt else None,
        dv if "v" in wrt else None,
        sum_to_bias(dscores, checked) if wants_bias else None,
    )


class _Launches:
    """The three launches of one call."""

    def __init__(self, checked: Checked, wants_bias: bool):
        self.checked = checked
        self.options = _option_defines(checked)
        self.bias_gradient = {"BIAS_GRADIENT": 1} if wants_bias else {}
        self.tiles = tiles_of(checked.D, _extras(self.options))
        self.padded = -(-checked.Tq // self.tiles.dkdv.BC) * self.tiles.dkdv.BC
        scale, c = np.float32(checked.options.scale), np.float32(checked.scale_log2)
        self.sizes = (np.int32(checked.Tq), np.int32(checked.Tk), np.int32(self.padded), scale, c)
        self.option_arguments = (
            np.int32(checked.H),
            np.int32(checked.H // checked.Hkv),
            checked.options.key_lengths,
            *checked.mask_arguments,
            *checked.bias_arguments,
            *checked.dropout_arguments,
        )

    def _kernel(self, entry: str, defines: dict[str, int]) -> launch.Kernel:
        defines = _element_defines(self.checked.D, self.checked.q.dtype.name) | defines
        return launch.kernel(SOURCE, entry, defines, self.checked.q)

    def stats(self, y: Array, do: Array, lse: Array) -> Array:
        """-D and LSE of all queries, two queries to a record, (B·H, padded / 2, 8)."""
        B, H, D = self.checked.B, self.checked.H, self.checked.D
        stats = self.checked.xp.empty((B * H, self.padded // 2, 8), "float32")
        grid = (-(-self.padded * _copying_threads(D) // _STATS_THREADS), B * H)
        kernel = self._kernel("attention_backward_stats", {})
        kernel(grid, (_STATS_THREADS,), (y, do, lse, stats, self.sizes[0], self.sizes[2]))
        return stats

    def dkdv(self, do: Array, stats: Array, dk: Array, dv: Array) -> None:
        checked, tiles = self.checked, self.tiles.dkdv
        kernel = self._kernel("attention_backward_dkdv", self.options | tiles.defines("KV"))
        grid = (-(-checked.Tk // tiles.rows), checked.B * checked.Hkv)
        args = (checked.q, checked.k, checked.v, do, stats, dk, dv, *self.sizes, *self.option_arguments)
        kernel(grid, (tiles.threads,), args, shared_mem=tiles.shared_memory(checked.D, statistics=True))

    def dq(self, do: Array, stats: Array, dq: Array, dscores: Array | None) -> None:
        checked, tiles = self.checked, self.tiles.dq
        kernel = self._kernel("attention_backward_dq", self.options | self.bias_gradient | tiles.defines("DQ"))
        grid = (-(-checked.Tq // tiles.rows), checked.B * checked.H)
        args = (checked.q, checked.k, checked.v, do, stats, dq, dscores, *self.sizes, *self.option_arguments)
        kernel(grid, (tiles.threads,), args, shared_mem=tiles.shared_memory(checked.D, statistics=False))


def _copying_threads(D: int) -> int:
    """Threads that copy a row of D numbers, 16 bytes each: a power of two. `Head<D>::LANES` in the source."""
    return 1 << (D // 8 - 1).bit_length()


def _element_defines(D: int, dtype: str) -> dict[str, int]:
    return {"HEAD": D, "ELEMENT_BF16" if dtype == "bfloat16" else "ELEMENT_F16": 1}


def _option_defines(checked: Checked) -> dict[str, int]:
    chosen = {
        "CAUSAL": checked.options.causal,
        "GROUPED": checked.Hkv != checked.H,
        "HAS_LENGTHS": checked.options.key_lengths is not None,
        "HAS_MASK": checked.mask is not None,
        "HAS_BIAS": checked.bias is not None,
        "DROPOUT": checked.options.dropout > 0.0,
    }
    return {name: 1 for name, on in chosen.items() if on}


def _extras(options: dict[str, int]) -> int:
    return sum(name in options for name in ("HAS_MASK", "HAS_BIAS", "DROPOUT"))


def _check_sizes(checked: Checked) -> None:
    name = "attention_backward"
    group = checked.H // checked.Hkv
    if group * checked.Tq * checked.D >= 2**31:
        raise ValueError(
            f"{name}: {group} query heads of {checked.Tq} rows share a key/value head; the kernel indexes fewer than "
            "2^31 numbers in such a group: split the queries, or use fewer heads a group"
        )
    if (checked.mask is not None or checked.bias is not None) and checked.Tk >= 2**24:
        raise ValueError(f"{name}: {checked.Tk} keys; with a mask or bias fewer than 2^24 are served: use key_lengths")
    launch.check_grid((1, checked.B * checked.H))


# ---- what the compile gate compiles


def _instances() -> tuple[Instance, ...]:
    found = []

    def add(D: int, dtype: str, note: str, **options: int) -> None:
        element, chosen = _element_defines(D, dtype), tiles_of(D, _extras(options))
        shared = {name: value for name, value in options.items() if name != "BIAS_GRADIENT"}
        for entry, prefix, tiles, defines in (
            ("attention_backward_dkdv", "KV", chosen.dkdv, shared),
            ("attention_backward_dq", "DQ", chosen.dq, options),
        ):
            shape = tiles.threads, tiles.shared_memory(D, statistics=prefix == "KV")
            text = f"D={D} {'bf16' if dtype == 'bfloat16' else 'f16'} {note}"
            every = element | defines | tiles.defines(prefix)
            found.append(Instance(SOURCE, entry, every, TENSOR_CORE_ARCHITECTURES, *shape, text))

    everything = {"GROUPED": 1, "HAS_LENGTHS": 1, "HAS_MASK": 1, "HAS_BIAS": 1, "DROPOUT": 1, "BIAS_GRADIENT": 1}
    for D in TENSOR_CORE_HEAD_SIZES:
        add(D, "float16", "full")
        add(D, "float16", "causal", CAUSAL=1)
        add(D, "float16", "causal, all options", CAUSAL=1, **everything)
    for D in (64, 128):
        add(D, "bfloat16", "full")
        add(D, "bfloat16", "causal", CAUSAL=1)
        add(D, "float16", "grouped", GROUPED=1)
        add(D, "float16", "causal, grouped, lengths", CAUSAL=1, GROUPED=1, HAS_LENGTHS=1)
        add(D, "float16", "mask", HAS_MASK=1)
        add(D, "float16", "bias and its gradient", HAS_BIAS=1, BIAS_GRADIENT=1)
        add(D, "float16", "causal, dropout", CAUSAL=1, DROPOUT=1)
        element = _element_defines(D, "float16")
        found.append(
            Instance(SOURCE, "attention_backward_stats", element, TENSOR_CORE_ARCHITECTURES, note=f"D={D} f16")
        )
    return tuple(found)


INSTANCES = _instances()
