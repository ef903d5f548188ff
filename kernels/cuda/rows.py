"""The row kernels' launchers in common: which threads hold which part of a row, and the checks before a launch.

The numbers at the top are tuned by what compiles to (registers, instructions per number), not by time: nobody has run
them on a GPU yet.
"""

from __future__ import annotations

import numpy as np

from minilm.backend import Array

ELEMENT_DEFINES = {
    "float32": "ELEMENT_F32",
    "float16": "ELEMENT_F16",
    "bfloat16": "ELEMENT_BF16",
    "float64": "ELEMENT_F64",
}
ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8}
ACCESS_BYTES = 16  # the widest load of a GPU
WARP = 32
BLOCK = 128  # threads of a block whose warps are rows: four rows
MOST_LANES = 1024  # the most threads of a block
LONGEST_ROW = 2**30  # columns are 32-bit integers in the kernels, a group of accesses past the end included


def check_rows(op: str, name: str, array: Array) -> None:
    """TypeError for a dtype that isn't served, ValueError for an `array` (..., N) that a kernel can't index."""
    if array.dtype.name not in ELEMENT_DEFINES:
        raise TypeError(
            f"{op}: dtype {array.dtype.name} is not served by the kernel; expected one of "
            f"{', '.join(ELEMENT_DEFINES)}; convert with array.astype('float32')"
        )
    if array.ndim == 0 or array.shape[-1] == 0:
        raise ValueError(f"{op}: {name} has shape {array.shape}, expected (..., N) with N >= 1")
    if array.shape[-1] > LONGEST_ROW:
        raise ValueError(f"{op}: rows of {array.shape[-1]} numbers are too long; at most {LONGEST_ROW} are served")
    if not array.flags.c_contiguous:
        raise ValueError(
            f"{op}: {name} is not C-contiguous, and a kernel reads memory in order; "
            "pass numpy.ascontiguousarray(array), or cupy's"
        )


def address(array: Array) -> int:
    return array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr


def are_wide(N: int, *arrays: Array) -> bool:
    """Whether each row of each array starts on 16 bytes and ends there too, so that every access can be 128 bits."""
    return all(N * a.dtype.itemsize % ACCESS_BYTES == 0 and address(a) % ACCESS_BYTES == 0 for a in arrays)


def row_defines(dtype: str, N: int, wide: bool, per_lane: int) -> dict[str, int]:
    """How a row of N numbers is spread: LANES threads with HELD accesses each, at most `per_lane` numbers per thread.

    The fewest lanes that hold the row: each then has many numbers to hide the cost of the reductions behind, and many
    loads in flight. Rows for one warp come in few sizes, so that few instances are compiled; an access past the end of
    the row costs no memory traffic. HELD = 0 where the row doesn't fit into one block: it is read twice.
    """
    width = ACCESS_BYTES // ITEM_BYTES[dtype] if wide else 1
    lanes = WARP
    while lanes < MOST_LANES and lanes * per_lane < N:
        lanes *= 2
    held = max(per_lane // width, 1)
    if lanes * held * width < N:
        held = 0
    while lanes == WARP and held >= 4 and WARP * held // 4 * width >= N:
        held //= 4
    return {ELEMENT_DEFINES[dtype]: 1, "LANES": lanes, "HELD": held, "WIDE": int(wide)}


def geometry(rows: int, defines: dict[str, int]) -> tuple[tuple[int], tuple[int]]:
    """(grid, block) for so many rows."""
    lanes = defines["LANES"]
    if lanes > WARP:
        return (rows,), (lanes,)
    return (-(-rows // (BLOCK // WARP)),), (BLOCK,)


def real(dtype: np.dtype) -> type[np.floating]:
    """The type that a kernel calculates in: float32, or float64 for float64."""
    return np.float64 if dtype.name == "float64" else np.float32
