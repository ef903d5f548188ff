"""Times that can be compared: all variants of a workload in one process, interleaved, in a new random order each round.

A machine's speed drifts; paired rounds drift together. So the ratio of two variants is the median of the ratios within
rounds, not the ratio of two medians. On the CPU a variant runs untimed for a moment before each time is taken, so that
caches, memory and threads are its own, as in a loop. Garbage collection is off while the clock runs. On a GPU events on
the stream are read, and a large buffer is written before each run so that none finds its inputs in the L2 cache.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

SETTLE = 0.02  # seconds, on the CPU: so long do threads of OpenBLAS and OpenMP spin after another variant's last call
L2_FLUSH_BYTES = 256 << 20  # larger than the L2 cache of any current GPU


class Spread(NamedTuple):
    """The 20th, 50th and 80th percentile over the rounds."""

    p20: float
    p50: float
    p80: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(*(float(x) for x in np.percentile(values, (20, 50, 80))))


class Measured(NamedTuple):
    """What one variant took: its seconds in each round."""

    seconds: list[float]

    @property
    def spread(self) -> Spread:
        return Spread.of(self.seconds)

    def ratio_to(self, first: Measured) -> Spread:
        """How much faster than `first` it was, over the rounds of one run: time of `first` / its own."""
        return Spread.of([a / b for a, b in zip(first.seconds, self.seconds, strict=True)])


class HostClock:
    """Wall-clock seconds of a call on the CPU."""

    def seconds(self, run: Callable[[], Any]) -> float:
        began = time.perf_counter()
        run()
        return time.perf_counter() - began


class DeviceClock:
    """Seconds between two CUDA events around a call, after the L2 cache was flushed."""

    def __init__(self, cupy: Any) -> None:
        self.cupy = cupy
        self.flush = cupy.empty(L2_FLUSH_BYTES // 4, dtype="float32")

    def seconds(self, run: Callable[[], Any]) -> float:
        start, end = self.cupy.cuda.Event(), self.cupy.cuda.Event()
        self.flush.fill(0)
        start.record()
        run()
        end.record()
        end.synchronize()
        return self.cupy.cuda.get_elapsed_time(start, end) / 1e3


def interleave(
    prepared: Mapping[str, Callable[[], Callable[[], Any]]],
    clock: Any,
    budget: float,
    seed: int = 0,
    settle: float = 0.0,
) -> dict[str, Measured]:
    """Time variants for about `budget` seconds in all, at least 5 rounds and at most 100.

    `prepared[name]()` does what must not be timed (a forward before a backward) and returns the call to time. Before
    each time is taken the variant runs untimed for `settle` seconds.
    """
    names = list(prepared)
    for name in names:
        prepared[name]()()  # warm up: compile, allocate, fault pages in
    once = sum(clock.seconds(prepared[name]()) for name in names)
    rounds = int(min(100, max(5, budget / max(once + settle * len(names), 1e-9))))
    rng, seconds = np.random.default_rng(seed), {name: [] for name in names}
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for index in rng.permutation(len(names)):
                prepare, until = prepared[names[index]], time.perf_counter() + settle
                while time.perf_counter() < until:
                    prepare()()
                seconds[names[index]].append(clock.seconds(prepare()))
    finally:
        gc.enable()
    return {name: Measured(own) for name, own in seconds.items()}


class Ceilings(NamedTuple):
    """What this machine does at best: the measure of GB/s and GFLOP/s."""

    copy_gigabytes: float  # bytes read and written per second by a copy larger than any cache, / 1e9
    product_gigaflops: float  # of a square matrix product
    product_dtype: str

    def or_better(self, other: Ceilings) -> Ceilings:
        """The best of two measurements: a machine is never faster than at its best."""
        return Ceilings(*(max(pair) for pair in zip(self[:2], other[:2], strict=True)), self.product_dtype)


def ceilings(xp: Any, clock: Any, dtype: str = "float32", numbers: int = 1 << 25, size: int = 2048) -> Ceilings:
    """Measure both, a few times each; the best counts. `numbers` are copied (128 MB), `size` is the matrices'.

    The product's precision is that of the arrays, but for 16 bits on the CPU, which no BLAS multiplies: float32 there.
    Both 16-bit types run on a GPU's tensor cores at the rate of float16.
    """
    if dtype in ("float16", "bfloat16"):
        dtype = "float32" if xp is np else "float16"
    source = xp.ones(numbers, dtype="float32")
    target = xp.empty_like(source)
    a, b = xp.ones((size, size), dtype=dtype), xp.ones((size, size), dtype=dtype)

    def copy() -> None:
        target[...] = source

    copy_seconds = min(clock.seconds(copy) for _ in range(5))
    product_seconds = min(clock.seconds(lambda: a @ b) for _ in range(5))
    return Ceilings(2 * source.nbytes / copy_seconds / 1e9, 2 * size * size * size / product_seconds / 1e9, dtype)
