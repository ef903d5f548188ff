"""Times that can be compared: all variants of a workload in one process, interleaved, in a new random order each round.

A machine's speed drifts; paired rounds drift together. So the ratio of two variants is the median of the ratios within
rounds, not the ratio of two medians. On the CPU a variant runs untimed for a moment before each time is taken, so that
caches, memory and threads are its own, as in a loop. Garbage collection is off while the clock runs. On a GPU a call's
launches are queued behind a kernel that waits, events tell the time between the first and the last, and a large buffer
is written before each run so that none finds its inputs in the L2 cache. The functions that tell the time are looked up
once, here: what a variant puts in their place changes no time.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minilm.kernels.cuda.timing import DeviceTimer, NotTimed, triad

SETTLE = 0.02  # seconds, on the CPU: so long do threads of OpenBLAS and OpenMP spin after another variant's last call
WITNESSED = 5  # calls that another clock sees too, at most
UNTOLD = {"cpu": 2e-2, "cuda": 2e-4}  # seconds by which clocks may differ
LEAST_ROUNDS, MOST_ROUNDS = 5, 100

_now = time.perf_counter
_witness = time.monotonic


class Spread(NamedTuple):
    """The 20th, 50th and 80th percentile over the rounds."""

    p20: float
    p50: float
    p80: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(*(float(x) for x in np.percentile(values, (20, 50, 80))))


class Measured(NamedTuple):
    """The seconds of one variant in each round."""

    seconds: list[float]

    @property
    def spread(self) -> Spread:
        return Spread.of(self.seconds)

    def ratio_to(self, first: Measured) -> Spread:
        """How much faster than `first` it was, over the rounds of one run: time of `first` / its own."""
        return Spread.of([a / b for a, b in zip(first.seconds, self.seconds, strict=True)])


def replaced_clock() -> bool:
    """Whether something stood in the place of time.perf_counter, which is put back."""
    replaced = time.perf_counter is not _now
    time.perf_counter = _now
    return replaced


class HostClock:
    """Wall-clock seconds of a call on the CPU."""

    def seconds(self, run: Callable[[], Any]) -> float:
        began = _now()
        run()
        return _now() - began

    def doubt(self, prepare: Callable[[], Callable[[], Any]], seconds: float) -> str | None:
        """Why a time of `seconds` is not believed; None where it is: another clock, which the system keeps, agrees.

        Once is enough: what else the machine does makes a call longer, and never shorter.
        """
        least = float("inf")
        for _ in range(WITNESSED):
            run = prepare()
            began = _witness()
            run()
            least = min(least, _witness() - began)
            if least <= 3 * seconds + UNTOLD["cpu"]:
                return None
        return f"another clock sees {1e3 * least:.2f} ms of a call that is said to take {1e3 * seconds:.2f}"


class DeviceClock:
    """Seconds of a call on a GPU, without Python's: `minilm.kernels.cuda.timing`."""

    def __init__(self, cupy: Any) -> None:
        self.timer = DeviceTimer(cupy)

    def seconds(self, run: Callable[[], Any]) -> float:
        return self.timer.seconds(run)

    def doubt(self, prepare: Callable[[], Callable[[], Any]], seconds: float) -> str | None:
        """Why a time of `seconds` is not believed: the device works longer on the call than the events tell.

        From an idle device to an idle one a call takes what it takes to queue, or what it takes on the device, or a
        little of both. Work on another stream, before the first event or after the last, is in that time alone.
        """
        least = told = float("inf")
        for _ in range(WITNESSED):
            self.timer.seconds(prepare())
            told, whole = seconds + self.timer.queueing, self.timer.whole(prepare())
            least = min(least, whole - 1.5 * told)
            if least <= UNTOLD["cuda"]:
                return None
        return (
            f"the device is busy for {1e3 * (least + 1.5 * told):.2f} ms, of which events and queueing tell "
            f"{1e3 * told:.2f}: part of the work is on another stream, or before or after the time"
        )


class WholeClock:
    """Seconds on the host's clock from an idle device to an idle one: what a user waits for, Python included."""

    def __init__(self, timer: DeviceTimer) -> None:
        self.timer = timer

    def seconds(self, run: Callable[[], Any]) -> float:
        return self.timer.whole(run)

    def doubt(self, prepare: Callable[[], Callable[[], Any]], seconds: float) -> str | None:
        """As on the host: waiting for the device is part of the call."""

        def waited() -> Callable[[], None]:
            run = prepare()
            self.timer.device.synchronize()
            return lambda: self.timer.whole(run)

        return HostClock().doubt(waited, seconds)


def not_timed(prepared: Mapping[str, Callable[[], Callable[[], Any]]], clock: Any) -> dict[str, str]:
    """Warm the variants up; those whose time this clock can't tell, and why."""
    reasons = {}
    for name, prepare in prepared.items():
        prepare()()  # compile, allocate, fault pages in
        try:
            clock.seconds(prepare())
        except NotTimed as problem:
            reasons[name] = str(problem)
    return reasons


def interleave(
    prepared: Mapping[str, Callable[[], Callable[[], Any]]],
    clock: Any,
    budget: float,
    settle: float = 0.0,
    next_inputs: Callable[[], None] = lambda: None,
    check: Callable[[], None] = lambda: None,
) -> dict[str, Measured]:
    """Time variants for about `budget` seconds in all, at least 5 rounds and at most 100.

    `prepared[name]()` does what must not be timed (a forward before a backward) and returns the call to time. Before
    each time is taken the variant runs untimed for `settle` seconds. `next_inputs` is called before each round, `check`
    before the first, after the last, and somewhere between: it raises for a variant whose results are not right.
    """
    names = list(prepared)
    for name in names:
        prepared[name]()()  # warm up: compile, allocate, fault pages in
    check()
    once = sum(clock.seconds(prepared[name]()) for name in names)
    rounds = int(min(MOST_ROUNDS, max(LEAST_ROUNDS, budget / max(once + settle * len(names), 1e-9))))
    rng, seconds = np.random.default_rng(0), {name: [] for name in names}
    between = np.random.default_rng().integers(1, rounds)  # nobody knows when
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            if number == between:
                check()
            next_inputs()
            for index in rng.permutation(len(names)):
                prepare, until = prepared[names[index]], _now() + settle
                while _now() < until:
                    prepare()()
                seconds[names[index]].append(clock.seconds(prepare()))
    finally:
        gc.enable()
    check()
    return {name: Measured(own) for name, own in seconds.items()}


class Ceilings(NamedTuple):
    """The best rates of this machine: the measure of GB/s and GFLOP/s."""

    copy_gigabytes: float  # bytes read and written per second, / 1e9: of a copy on the CPU, of the triad on a GPU
    product_gigaflops: float  # of a square matrix product
    product_dtype: str

    def or_better(self, other: Ceilings) -> Ceilings:
        """The best of two measurements: a machine is never faster than at its best."""
        return Ceilings(*(max(pair) for pair in zip(self[:2], other[:2], strict=True)), self.product_dtype)


COPIED = {"cpu": 1 << 25, "cuda": 1 << 28}  # numbers in each array: 128 MB, and 1 GB
PRODUCT = {"cpu": 2048, "cuda": 8192}  # rows and columns of the matrices


def ceilings(xp: Any, clock: Any, dtype: str = "float32") -> Ceilings:
    """Measure both, a few times each; the best counts.

    Numbers are drawn, not all alike: a GPU's clock falls with the bits that change. The product's precision is that of
    the arrays, but for 16 bits on the CPU, which no BLAS multiplies: float32 there. Both 16-bit types run on a GPU's
    tensor cores at the rate of float16.
    """
    device = "cpu" if xp is np else "cuda"
    numbers, size = COPIED[device], PRODUCT[device]
    if dtype in ("float16", "bfloat16"):
        dtype = "float32" if xp is np else "float16"
    rng = xp.random.default_rng(0)
    source = rng.random(numbers, dtype=np.float32)
    target = xp.empty_like(source)
    a, b = (rng.standard_normal((size, size), dtype=np.float32).astype(dtype) for _ in range(2))
    if xp is np:
        arrays, copy = 2, lambda: np.copyto(target, source)
    else:
        other = source[::-1].copy()
        arrays, copy = 3, lambda: triad(target, source, other, 0.5)
    copy(), a @ b
    copy_seconds = min(clock.seconds(copy) for _ in range(5))
    product_seconds = min(clock.seconds(lambda: a @ b) for _ in range(5))
    moved, operations = arrays * source.nbytes, 2 * size * size * size
    return Ceilings(moved / copy_seconds / 1e9, operations / product_seconds / 1e9, dtype)


def cache_bytes(xp: Any) -> float | None:
    """The last level's cache: of a GPU, or of all of this computer; None where the system does not tell."""
    if xp is not np:
        return float(xp.cuda.Device().attributes["L2CacheSize"])
    found = {}
    try:
        for folder in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cache/index3"):
            text = (folder / "size").read_text().strip()
            found[(folder / "shared_cpu_list").read_text()] = float(text.removesuffix("K")) * 1024
    except (OSError, ValueError):
        return None
    return sum(found.values()) or None
