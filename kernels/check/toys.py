"""The wrappers of ptx.cuh one by one: toys.cu on a few numbers, held to NumPy.

    for result in run_all(cupy): ...        name, error, what is allowed

The CPU suite runs the instructions' twins alone; here a GPU runs their text. What differs here makes every kernel that
uses the instruction wrong, so that nothing else is worth looking at before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from minilm.backend import to_numpy
from minilm.kernels.check.calls import Result, measure
from minilm.kernels.check.cases import element_type
from minilm.kernels.cuda import launch

SOURCE = Path(__file__).with_name("toys.cu")
ELEMENTS = {"float16": "ELEMENT_F16", "bfloat16": "ELEMENT_BF16"}
WARP = 32


def run_all(xp: ModuleType) -> Iterator[Result]:
    """Every wrapper in both element types, on the arrays of `xp`: numpy (the twins), or cupy (the instructions)."""
    return (run(name, dtype, xp) for dtype in ELEMENTS for name in TOYS)


def run(name: str, dtype: str, xp: ModuleType) -> Result:
    got, exact, allowed = TOYS[name](dtype, xp)
    return measure(f"{name}, {dtype}", got, exact.astype(np.float64), np.broadcast_to(allowed, exact.shape))


def _launch(entry: str, dtype: str, xp: ModuleType, *args: Any) -> list[np.ndarray]:
    """The arrays among `args` as the kernel leaves them."""
    given = [xp.asarray(a) if isinstance(a, np.ndarray) else a for a in args]
    launch.kernel(SOURCE, entry, {ELEMENTS[dtype]: 1}, given[0])((1,), (WARP,), tuple(given))
    return [to_numpy(a) for a in given if hasattr(a, "shape") and a.shape]


# ---- the toys: (what came out, what NumPy says, the allowed difference)

Toy = Callable[[str, ModuleType], tuple[np.ndarray, np.ndarray, Any]]


def load_matrix(dtype: str, xp: ModuleType) -> tuple[np.ndarray, np.ndarray, Any]:
    """ldmatrix moves bits: matrix by matrix as they lie, transposed, and the first two alone."""
    x = np.arange(WARP * 8, dtype=np.uint16).reshape(4, 8, 8)
    out = _launch("toy_load_matrix", dtype, xp, x, np.zeros((10, WARP), np.uint32))[1]
    got = out.view(np.uint16).reshape(10, 8, 8)  # matrix, lane // 4, 2 (lane % 4) + which half of the register
    return got, np.concatenate([x, x.swapaxes(1, 2), x[:2]]), 0.0


def mma(dtype: str, xp: ModuleType) -> tuple[np.ndarray, np.ndarray, Any]:
    """c + 2 a b. Allowed: 2^-23 of the terms for each addition, since sums may be cut off instead of rounded."""
    rng = np.random.default_rng(5)
    a, b = (rng.standard_normal(shape).astype(element_type(dtype)) for shape in ((16, 16), (16, 8)))
    c = rng.standard_normal((16, 8)).astype(np.float32)
    d = _launch("toy_mma", dtype, xp, a.view(np.uint16), b.view(np.uint16), c, np.zeros((16, 8), np.float32))[3]
    a, b, c = (x.astype(np.float64) for x in (a, b, c))
    return d, c + 2 * a @ b, 2 * 17 * 2.0**-23 * (np.abs(c) + 2 * np.abs(a) @ np.abs(b))


def copy_async(dtype: str, xp: ModuleType) -> tuple[np.ndarray, np.ndarray, Any]:
    """Three groups of copies: each is there after its wait, and zeros where nothing was to be read."""
    x, present = np.arange(1, 3 * 128 + 1, dtype=np.float32).reshape(3, WARP, 4), 20
    out = _launch("toy_copy_async", dtype, xp, x, np.full_like(x, np.nan), np.int32(present))[1]
    return out, np.where(np.arange(WARP)[:, None] < present, x, 0), 0.0


def exp2(dtype: str, xp: ModuleType) -> tuple[np.ndarray, np.ndarray, Any]:
    """2^x to a relative 2^-22 [PTX ISA, ex2.approx]; 0 from -inf, and for results below the normal numbers."""
    special = [-np.inf, -200, -130, -125, -1, -0.0, 0, 1, 127, 200, np.inf]
    x = np.concatenate([special, np.random.default_rng(6).uniform(-30, 30, 4096)]).astype(np.float32)
    y = _launch("toy_exp2", dtype, xp, x, np.full_like(x, np.nan), np.int32(x.size))[1]
    with np.errstate(over="ignore", under="ignore"):
        exact = np.exp2(x.astype(np.float64))
    exact = np.where(exact < 2.0**-126, 0, np.where(exact > np.finfo(np.float32).max, np.inf, exact))
    return y, exact, np.where(np.isfinite(exact), 2.0**-22 * exact, 0)


def pack(dtype: str, xp: ModuleType) -> tuple[np.ndarray, np.ndarray, Any]:
    """Rounded to nearest even, the first number in the lower half of the register; too large becomes infinite."""
    special = [0, -0.0, 1, 1 + 2.0**-11, 1 + 3 * 2.0**-11, 1 + 2.0**-8, 65504, 65519, 65520, -1e38, np.inf, np.nan]
    x = np.concatenate([special, np.random.default_rng(7).standard_normal(1012)]).astype(np.float32).reshape(-1, 2)
    blank = np.zeros_like(x), np.zeros(len(x), np.uint32)
    _, back, packed = _launch("toy_pack", dtype, xp, x, *blank, np.int32(len(x)))
    with np.errstate(over="ignore"):
        wanted = x.astype(element_type(dtype)).astype(np.float32)
    halves = packed.view(element_type(dtype)).reshape(-1, 2).astype(np.float32)
    return np.stack([back, halves]), np.stack([wanted, wanted]), 0.0


def finite(dtype: str, xp: ModuleType) -> tuple[np.ndarray, np.ndarray, Any]:
    """Finite numbers stay, infinities become the largest numbers, and NaN becomes one of them."""
    element = element_type(dtype)
    x = np.array([0, -0.0, 1, -2.5, 60000, -60000, np.inf, -np.inf, np.nan, 3], np.float32).astype(element)
    y = _launch("toy_finite", dtype, xp, x.view(np.uint32), np.zeros(x.size // 2, np.uint32), np.int32(x.size // 2))[1]
    got, given = y.view(element).astype(np.float64), x.astype(np.float64)
    wanted = np.nan_to_num(given, nan=np.inf)
    largest = 65504.0 if dtype == "float16" else 3.3895313892515355e38
    return np.where(np.isnan(given), np.abs(got), got), np.clip(wanted, -largest, largest), 0.0


TOYS: dict[str, Toy] = {
    "ldmatrix x4, x4.trans, x2": load_matrix,
    "mma.m16n8k16": mma,
    "cp.async, zero fill, groups": copy_async,
    "ex2.approx": exp2,
    "pack, unpack": pack,
    "finite": finite,
}
