"""Attention on tensor cores, float16 and bfloat16 from sm_80 on: the launcher of attention_tensor_core.cu.

    y, lse = forward(checked)                     checked: a call that `attention_options.check` has validated
    dq, dk, dv, dbias = backward(checked, do, cache, wrt)   from `tensor_core_backward`

A launch has the options of its call compiled in and no others: the loop without masks, bias and dropout stays free of
them. `tiles_of` chooses the tiles.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np

from minilm.backend import Array
from minilm.kernels.cuda import launch
from minilm.kernels.cuda.attention_options import LOG2_E, TENSOR_CORE_DTYPES, TENSOR_CORE_HEAD_SIZES, Checked
from minilm.kernels.cuda.instances import TENSOR_CORE_ARCHITECTURES, Instance
from minilm.kernels.cuda.tensor_core_backward import backward as backward

SOURCE = "attention_tensor_core.cu"
ENTRY = "attention_forward"


class ForwardTiles(NamedTuple):
    """How a block divides its work."""

    row_tiles: int  # 16-row tiles of queries that a warp holds
    warps: int
    columns: int  # keys of a tile

    @property
    def threads(self) -> int:
        return 32 * self.warps

    @property
    def queries(self) -> int:
        """Query rows of a block."""
        return 16 * self.row_tiles * self.warps

    def shared_memory(self, D: int) -> int:
        """Bytes: the query tile, and two stages each of a tile of keys and of values, rows padded to 16 elements."""
        return (self.queries + 4 * self.columns) * -(-D // 16) * 16 * 2


class CompiledOptions(NamedTuple):
    """The options that are compiled in."""

    causal: bool = False
    mask: bool = False
    bias: bool = False
    dropout: bool = False

    def __str__(self) -> str:
        return " ".join(name for name, chosen in zip(self._fields, self, strict=True) if chosen) or "plain"


def tiles_of(D: int, options: CompiledOptions) -> ForwardTiles:
    """The tiles for head size D: the fewest instructions for a product that spill on no architecture, in no dtype.

    32 rows per warp halve what is read from shared memory for a product, and want 2.5 D registers for sums and queries:
    at D = 72 they spill on sm_100. A mask, a bias and dropout want registers for themselves.
    """
    if D > 64:
        return ForwardTiles(row_tiles=1, warps=8, columns=64)
    if options.mask or options.bias or options.dropout:
        return ForwardTiles(row_tiles=1, warps=4, columns=64)
    return ForwardTiles(row_tiles=2, warps=4, columns=64)


def defines(D: int, dtype: str, options: CompiledOptions) -> dict[str, int]:
    """The #defines of one instance of the source."""
    tiles = tiles_of(D, options)
    return {
        "HEAD": D,
        "ROW_TILES": tiles.row_tiles,
        "WARPS": tiles.warps,
        "COLUMNS": tiles.columns,
        "ELEMENT_BF16" if dtype == "bfloat16" else "ELEMENT_F16": 1,
        "CAUSAL": int(options.causal),
        "HAS_MASK": int(options.mask),
        "HAS_BIAS": int(options.bias),
        "DROPOUT": int(options.dropout),
    }


def forward(checked: Checked) -> tuple[Array, Array]:
    """y (B, H, Tq, D) in the dtype of q, and lse (B, H, Tq) float32: base 2, +inf where a row sees nothing.

    Raises ValueError where the grid would be too large. That arrays begin at multiples of 16 bytes has been checked.
    """
    q, k, v, B, H, Hkv, Tq, Tk, D = checked[:9]
    xp = checked.xp
    y, lse = xp.empty_like(q), xp.empty((B, H, Tq), "float32")
    given, masked, biased = checked.options, checked.mask is not None, checked.bias is not None
    options = CompiledOptions(given.causal, masked, biased, given.dropout > 0)
    tiles = tiles_of(D, options)
    grid = launch.check_grid((-(-Tq // tiles.queries), B * H))
    if 0 in grid:
        return y, lse  # no rows: nothing to write

    # The kernel wants a factor above 0: the sign goes to the bits of q, and with scale 0 all of them are cleared.
    magnitude = abs(given.scale) or 1.0
    keep, flip = (0xFFFFFFFF if given.scale else 0), (0x80008000 if given.scale < 0 else 0)
    args = (
        *(q, k, v, y, lse, given.key_lengths),
        *(np.int32(n) for n in (H, Hkv, Tq, Tk)),
        *(np.float32(magnitude * LOG2_E), np.uint32(keep), np.uint32(flip)),
        *(checked.mask_arguments if options.mask else ()),
        *(checked.bias_arguments if options.bias else ()),
        *(checked.dropout_arguments if options.dropout else ()),
    )
    kernel = launch.kernel(SOURCE, ENTRY, defines(D, q.dtype.name, options), q)
    kernel(grid, (tiles.threads,), args, shared_mem=tiles.shared_memory(D))
    return y, lse


def _instances() -> tuple[Instance, ...]:
    """Every instance that `forward` may ask for."""
    found = []
    for D, dtype, chosen in product(TENSOR_CORE_HEAD_SIZES, TENSOR_CORE_DTYPES, product((False, True), repeat=4)):
        options = CompiledOptions(*chosen)
        tiles, text = tiles_of(D, options), f"D={D} {dtype} {options}"
        shape = tiles.threads, tiles.shared_memory(D)
        found.append(Instance(SOURCE, ENTRY, defines(D, dtype, options), TENSOR_CORE_ARCHITECTURES, *shape, text))
    return tuple(found)


INSTANCES = _instances()
