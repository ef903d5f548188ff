"""The CPU versions' common ground: blocks that stay in cache, threads that share them out, and what they serve.

A block is a run of rows of about `BLOCK_BYTES`, worked on by several passes with `out=` before the next is touched: the
passes run in the L2 cache, and no temporary as large as the array is made. What has the array's size, results and
caches, is memory of the pool (see `minilm.memory`), so that no page is mapped anew at each call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import numpy as np

from minilm import threads

Result = TypeVar("Result")

BLOCK_BYTES = 1 << 19
SHARED_BLOCKS = 4  # times as large are blocks where threads share them out
SPREAD_SIZE = 1 << 19  # numbers for two threads: half a millisecond of work, five times what the second costs to call

LONG_ROW = 384  # numbers
UNBUFFERED = 256  # numbers, fewer than those of a long row

# Row dot products without a temporary; NumPy 1 has no such function.
row_dot = getattr(np, "vecdot", lambda a, b: (a * b).sum(axis=-1))


def spread_blocks(
    work: Callable[[list[slice]], Result], rows: np.ndarray, block_bytes: int = BLOCK_BYTES
) -> list[Result]:
    """[work(blocks) for each thread], blocks being slices of about `block_bytes`: of whole rows, or of a flat array.

    A small array is left to the calling thread. With several, blocks are larger, and leave the L2 cache: the shorter a
    call of NumPy, the more often two threads wait for each other's lock on the interpreter, and NumPy keeps that lock
    in row sums (`row_dot`, a product with a vector) of less than 500 rows.
    """
    shared = rows.size >= SPREAD_SIZE and threads.count() > 1
    width = rows.itemsize * (rows.shape[-1] if rows.ndim > 1 else 1)
    size = max(1, (SHARED_BLOCKS if shared else 1) * block_bytes // max(1, width))

    def part(start: int, stop: int) -> Result:
        with whole_rows(rows.shape[-1]):
            return work([slice(i, min(i + size, stop)) for i in range(start, stop, size)])

    return threads.spread(part, len(rows), most=2 * rows.size // SPREAD_SIZE if shared else 1)


@contextmanager
def buffer_of(numbers: int) -> Iterator[None]:
    """Within this block, NumPy's buffer is so long, and not 8,192 numbers.

    An operand that is broadcast, or whose rows are not neighbours, is copied into the buffer, to go over several rows
    in one inner loop: with fewer numbers the copy stays in the first-level cache, and longer rows are not copied.
    """
    before = np.setbufsize(numbers)
    try:
        yield
    finally:
        np.setbufsize(before)


def whole_rows(length: int) -> AbstractContextManager:
    """Within this block, NumPy copies no operand that has a number for each row of `length`, or one row for all.

    A number for each row, in place: 128 x 1024 float32 take 18 µs with the copy and 8.4 without, 256 x 512 take 16.5
    and 12.4; below LONG_ROW the copy pays for itself.

        python -m timeit -s "import numpy as np; x, c = np.ones((128, 1024), 'f'), np.ones((128, 1), 'f')" \\
            -s "np.setbufsize(256)" "np.multiply(x, c, out=x)"
    """
    return buffer_of(UNBUFFERED) if length >= LONG_ROW else nullcontext()


def unlike(*arrays: Any) -> str | None:
    """Why these, None where one was not given, are not all host arrays of one served dtype; None if they are."""
    given = [array for array in arrays if array is not None]
    if not all(isinstance(array, np.ndarray) for array in given):
        return "serves NumPy arrays"
    if given[0].dtype in (np.float32, np.float64) and all(array.dtype == given[0].dtype for array in given):
        return None
    return "serves float32 and float64, the same for all arrays"


def unserved(x: Any, minimum_size: int, dtypes: tuple[type, ...] = (np.float32, np.float64)) -> str | None:
    """Why x is no array for a blocked version; None if it is one: host, floating, contiguous, large enough."""
    if not isinstance(x, np.ndarray):
        return "serves NumPy arrays"
    if x.dtype not in dtypes:
        return f"serves {' and '.join(dtype.__name__ for dtype in dtypes)}, not {x.dtype}"
    if x.size < minimum_size:
        return f"{x.size} elements are fewer than {minimum_size}"
    return None if x.flags.c_contiguous else "the array is not contiguous"


# Sums without a shift: no overflow in float32, and what underflows, below 1e-38, doesn't count.
MODERATE = (1e-18, 1e30)


def exp_sums(x: np.ndarray, ones: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Σ_c exp(x_c) of each row, exp(x) in `out`. An overflow without a shift is seen by the caller, in the sum."""
    with np.errstate(over="ignore"):
        return np.exp(x, out=out) @ ones  # (n,)


def moderate(sums: np.ndarray) -> bool:
    """Whether sums of unshifted exponentials can be trusted. NaN can't."""
    return bool(sums.min() > MODERATE[0] and sums.max() < MODERATE[1])
