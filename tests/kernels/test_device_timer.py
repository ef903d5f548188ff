"""The timer of a GPU's calls: launches queued in time, waits seen, caches cold; on a device that is made up."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from minilm.kernels.cuda import timing
from minilm.kernels.cuda.timing import LEAST_SPIN, MOST_SPIN, DeviceTimer, NotTimed, triad
from minilm.kernels.host.builder import find_compiler
from tests import strict_cupy
from tests.strict_cupy.device_kernels import device_kernels

NEEDS_COMPILER = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler")
RATE = 1e9  # cycles a second


class Device:
    """One stream with a clock of its own beside the host's: what is queued starts when the stream is free.

    `host` and `free` are seconds: now on the host, and when everything queued will be done.
    """

    def __init__(self, monkeypatch, l2=50 << 20):
        self.host, self.free, self.log, self.limit = 0.0, 0.0, [], 0
        device = self

        class Event:
            def record(self):
                self.at = device.queue(0.0)

            @property
            def done(self):
                return device.host >= self.at

            def synchronize(self):
                device.host = max(device.host, self.at)

        def set_limit(number, value):
            assert number == 6
            self.limit = value

        self.cuda = SimpleNamespace(
            Device=lambda: SimpleNamespace(attributes={"L2CacheSize": l2}, synchronize=self.synchronize),
            Event=Event,
            get_elapsed_time=lambda start, stop: 1e3 * (stop.at - start.at),
            runtime=SimpleNamespace(
                CUDARuntimeError=KeyError, deviceGetLimit=lambda number: self.limit, deviceSetLimit=set_limit
            ),
        )
        monkeypatch.setattr(timing, "kernel", lambda *_, **__: self.spin)
        monkeypatch.setattr(timing, "_now", lambda: self.host)

    def queue(self, seconds):
        """Work of so many seconds; returns when it will be done."""
        self.free = max(self.free, self.host) + seconds
        return self.free

    def synchronize(self):
        self.host = max(self.host, self.free)

    def empty(self, size, dtype):
        self.flush_bytes = size * np.dtype(dtype).itemsize
        device = self

        class Buffer:
            def fill(self, value):
                device.log.append("flush")
                device.queue(1e-4)

            def __getitem__(self, part):
                return self

        return Buffer()

    def spin(self, grid, block, args):
        self.log.append("spin")
        self.host += 5e-6
        self.queue(int(args[0]) / RATE)

    def call(self, kernels, python=50e-6):
        """A call that launches kernels of so many seconds, each after some time in Python."""

        def run():
            self.log.append("run")
            for seconds in kernels:
                self.host += python
                self.queue(seconds)

        return run


def test_python_s_time_does_not_show(monkeypatch):
    """Four kernels of 3 µs that Python needs 200 µs to launch take 12 µs, and the same with 20 ms of Python."""
    device = Device(monkeypatch)
    timer = DeviceTimer(device)
    assert timer.rate == pytest.approx(RATE)
    assert timer.seconds(device.call([3e-6] * 4)) == pytest.approx(12e-6)
    assert timer.spin_seconds == LEAST_SPIN
    assert timer.seconds(device.call([3e-6] * 4, python=5e-3)) == pytest.approx(12e-6)
    assert timer.spin_seconds == pytest.approx(40e-3)  # twice what queueing took


def test_a_spin_that_was_too_short_is_seen_and_the_call_repeated(monkeypatch):
    device = Device(monkeypatch)
    timer = DeviceTimer(device)
    device.log.clear()
    timer.seconds(device.call([3e-6], python=5e-3))
    assert device.log == ["flush", "spin", "run", "spin", "flush", "spin", "run"]  # the second spin is timed


def test_every_run_starts_with_a_cold_cache(monkeypatch):
    device = Device(monkeypatch, l2=100 << 20)
    timer = DeviceTimer(device)
    assert device.flush_bytes >= 400 << 20
    device.log.clear()
    for _ in range(3):
        timer.seconds(device.call([1e-6]))
    assert device.log == ["flush", "spin", "run"] * 3


def test_a_call_that_waits_for_the_device_has_no_time(monkeypatch):
    device = Device(monkeypatch)
    timer = DeviceTimer(device)

    def waiting():
        device.queue(1e-5)
        device.synchronize()

    with pytest.raises(NotTimed, match="waits for the device"):
        timer.seconds(waiting)
    assert timer.seconds(device.call([3e-6])) == pytest.approx(3e-6)  # the next call is timed again


def test_the_spin_ends(monkeypatch):
    """No call makes it longer than MOST_SPIN."""
    device = Device(monkeypatch)
    timer, lengths = DeviceTimer(device), []
    spin = device.spin
    monkeypatch.setattr(
        device, "spin", lambda grid, block, args: (lengths.append(args[0] / RATE), spin(grid, block, args))
    )
    with pytest.raises(NotTimed):
        timer.seconds(device.call([1e-6], python=2 * MOST_SPIN))
    assert max(lengths) <= MOST_SPIN


def test_a_cache_that_keeps_lines_through_the_flush_is_refused(monkeypatch):
    device = Device(monkeypatch)
    device.limit = 1 << 20
    timer = DeviceTimer(device)
    assert device.limit == 0
    run = device.call([1e-6])

    def keeping():
        device.limit = 30 << 20
        run()

    with pytest.raises(NotTimed, match="set 31457280 bytes of the L2 cache aside"):
        timer.seconds(keeping)
    assert device.limit == 0


def test_a_device_without_persisting_lines(monkeypatch):
    device = Device(monkeypatch)

    def unsupported(number):
        raise KeyError("cudaErrorUnsupportedLimit")

    device.cuda.runtime.deviceGetLimit = unsupported
    assert DeviceTimer(device).seconds(device.call([1e-6])) == pytest.approx(1e-6)


def test_the_whole_is_all_that_the_host_waits_for(monkeypatch):
    device = Device(monkeypatch)
    device.queue(1.0)
    assert DeviceTimer(device).whole(device.call([1e-3] * 2)) == pytest.approx(2e-3 + 50e-6)


@NEEDS_COMPILER
@pytest.mark.parametrize("capability", [75, 90])
def test_the_way_on_a_gpu(capability, monkeypatch):
    """The spin is compiled and run; a call that reads a result back has no time."""
    xp = strict_cupy.strict
    monkeypatch.setitem(sys.modules, "cupy", xp)
    monkeypatch.setattr(timing, "FLUSH_BYTES", 1 << 12)
    with device_kernels(capability):
        timer, x = DeviceTimer(xp), xp.ones(1 << 16, dtype="float32")
        assert 0 < timer.seconds(lambda: x + x) < 1.0
        assert 0 < timer.rate < 1.1e9  # clock64() counts nanoseconds there
        with pytest.raises(NotTimed, match="waits for the device"):
            timer.seconds(lambda: float((x + x).sum()))


@NEEDS_COMPILER
@pytest.mark.parametrize("size", [1, timing.TRIAD_NUMBERS, 2 * timing.TRIAD_NUMBERS + 5])
def test_the_triad(size, rng):
    b, c = (rng.standard_normal(size).astype(np.float32) for _ in range(2))
    a = np.zeros_like(b)
    triad(a, b, c, 0.5)
    np.testing.assert_allclose(a, b + np.float32(0.5) * c, rtol=1e-6)
