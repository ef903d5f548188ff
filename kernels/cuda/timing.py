"""Seconds of a call on a GPU, without Python's: the one timer of the benchmarks and of the choice of configurations.

    timer = DeviceTimer(cupy)
    seconds = timer.seconds(run)

    stream  ... flush | spin ................... | start | kernels of run | end
    host    flush, spin, start, run, end queued ^ here the spin must still be running

Python needs longer to launch a kernel than many a kernel takes. So a kernel that only waits is put before the start
event: while it spins, all launches of the call are queued behind it, and then they follow each other without a gap. The
spin lasts twice what queueing took in the call before, 1 ms at least; that it was long enough is seen, not assumed: the
start event must not have happened when the last launch was queued. Else the spin is made longer and the call repeated.
A call that waits for the device never gets ahead of any spin, nor does one of more launches than the driver's queue
holds (about a thousand): its time on the device cannot be told from the host's, and `NotTimed` says so.

Before each call a buffer of several times the L2 cache is written, so that inputs come from memory and outputs push out
lines that have to be written back; no part of the cache is set aside for lines that persist (`forbid_persisting`).
Events, flush, spin and call are on the current stream, which is the legacy default stream unless someone changed it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from minilm.kernels.cuda.instances import Instance
from minilm.kernels.cuda.launch import kernel

FLUSH_BYTES = 256 << 20  # at least
LEAST_SPIN = 1e-3  # seconds
MOST_SPIN = 0.5
TRIES = 8  # the spin is doubled at least in each
CYCLES = 1 << 20  # of the spin that is timed to know the clock's rate
TRIAD_THREADS = 256
TRIAD_NUMBERS = 16 * TRIAD_THREADS  # of one block
PERSISTING_L2 = 6  # cudaLimitPersistingL2CacheSize, which CuPy 14 has no name for

SOURCE = "timing.cu"
INSTANCES = (
    Instance(SOURCE, "spin", threads=1),
    Instance(SOURCE, "triad", {"TRIAD_THREADS": TRIAD_THREADS}, threads=TRIAD_THREADS),
)

_now = time.perf_counter  # this very function, whatever someone puts in its place later


class NotTimed(RuntimeError):
    """A time that would not be that of the call on the device."""


class DeviceTimer:
    """Times calls on the current device and stream.

    What belongs to CuPy is looked up once, here: a call that replaces it changes nothing of its own time.
    """

    def __init__(self, cupy: ModuleType) -> None:
        self.cupy, self.device = cupy, cupy.cuda.Device()
        self.event, self.elapsed = cupy.cuda.Event, cupy.cuda.get_elapsed_time
        self.flush_buffer = cupy.empty(max(4 * self.device.attributes["L2CacheSize"], FLUSH_BYTES), dtype="uint8")
        self.like = self.flush_buffer[:1]
        self.spin_seconds, self.queueing = LEAST_SPIN, 0.0  # of the next spin; what queueing the last call took
        forbid_persisting(cupy)
        self._spin_cycles(CYCLES)  # compiles
        self.rate = self._clock_rate()

    def seconds(self, run: Callable[[], Any]) -> float:
        """Seconds between the first and the last kernel of run(). Raises NotTimed where they can't be told."""
        for _ in range(TRIES):
            start, end = self.event(), self.event()
            self.flush_buffer.fill(0)
            self._spin_cycles(int(self.spin_seconds * self.rate))
            start.record()
            began = _now()
            run()
            end.record()
            ahead = not start.done
            self.queueing = _now() - began
            end.synchronize()
            if ahead:
                self.spin_seconds = max(LEAST_SPIN, min(2 * self.queueing, MOST_SPIN))
                self._check_persisting()
                return self.elapsed(start, end) / 1e3
            if self.spin_seconds >= MOST_SPIN:
                break
            self.spin_seconds = min(2 * max(self.spin_seconds, self.queueing), MOST_SPIN)
            self.rate = self._clock_rate()  # an idle device's clock is slow, and rises under work
        self.spin_seconds = LEAST_SPIN
        raise NotTimed(
            "the call waits for the device, or launches more than its queue holds: its time on the device cannot be "
            "told from the host's; time it as a whole, on the host"
        )

    def whole(self, run: Callable[[], Any]) -> float:
        """Seconds on the host's clock from an idle device to an idle device: everything, on every stream."""
        self.device.synchronize()
        began = _now()
        run()
        self.device.synchronize()
        return _now() - began

    def _clock_rate(self) -> float:
        """Cycles a second of a multiprocessor, now."""
        start, end = self.event(), self.event()
        start.record()
        self._spin_cycles(CYCLES)
        end.record()
        end.synchronize()
        return 1e3 * CYCLES / self.elapsed(start, end)

    def _spin_cycles(self, cycles: int) -> None:
        kernel(SOURCE, "spin", {}, like=self.like)((1,), (1,), (np.int64(cycles),))

    def _check_persisting(self) -> None:
        held = persisting(self.cupy)
        if held:
            forbid_persisting(self.cupy)
            raise NotTimed(
                f"the call set {held} bytes of the L2 cache aside for lines that persist: what it reads would stay "
                "there through every flush; leave the limit at 0"
            )


def triad(a: Any, b: Any, c: Any, s: float) -> None:
    """a = b + s·c for float32 arrays of one size: 12 bytes per number cross the memory bus."""
    launch = kernel(SOURCE, "triad", {"TRIAD_THREADS": TRIAD_THREADS}, like=a)
    launch((-(-a.size // TRIAD_NUMBERS),), (TRIAD_THREADS,), (a, b, c, np.float32(s), np.int64(a.size)))


def persisting(cupy: ModuleType) -> int:
    """Bytes of the L2 cache that are set aside for persisting lines; 0 where the device has no such thing."""
    runtime = cupy.cuda.runtime
    try:
        return runtime.deviceGetLimit(PERSISTING_L2)
    except runtime.CUDARuntimeError:  # before compute capability 8.0
        return 0


def forbid_persisting(cupy: ModuleType) -> None:
    """Set nothing of the L2 cache aside."""
    runtime = cupy.cuda.runtime
    if persisting(cupy):
        runtime.deviceSetLimit(PERSISTING_L2, 0)
