"""Variants that cheat, each in a way of its own: all are refused, by rules that know none of them; honest ones pass."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import honesty, measure, timing
from benchmarks.honesty import Limits, Refused, Watch, impossible
from benchmarks.inputs import Inputs
from benchmarks.measure import Job
from benchmarks.timing import Ceilings
from benchmarks.variants import Setting, Variant, Workload, pair
from benchmarks.workloads import WORKLOADS
from minilm.kernels.cuda import timing as device_timing
from minilm.kernels.cuda.timing import NotTimed
from tests.benchmarks.cheats import CHEATS, COLUMNS, ROWS, backward, forward
from tests.kernels.test_device_timer import Device


def timed_with(cheat, monkeypatch):
    """The outcome of a command that times an honest variant of y = tanh(x) beside what `cheat` makes of (x, dy)."""

    def workload(setting):
        x, dy = setting.draw(ROWS, COLUMNS), setting.draw(ROWS, COLUMNS, scale=0.5)
        variants = {"definition": pair(lambda: forward(x), backward, dy), "cheat": cheat(x, dy)}
        return Workload("toy", "30 x 70", variants, 1.0, 1.0, 1e-5, 1.0, 1.0)

    monkeypatch.setitem(WORKLOADS, "toy", workload)
    monkeypatch.setattr(timing, "ceilings", lambda *_: Ceilings(10.0, 100.0, "float32"))
    monkeypatch.setattr(timing, "SETTLE", 0.0)
    return measure.measure(Job([("toy", [])], "cpu", "float32", [], 0.001, False), np, 1)


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_is_refused(name, monkeypatch):
    make, rule = CHEATS[name]
    monkeypatch.setattr(time, "perf_counter", timing._now)
    run, failed = timed_with(make, monkeypatch)
    assert failed == ["toy"] and run.rows == []
    assert "Refused: toy" in run.notes[0] and "cheat" in run.notes[0]
    assert rule in run.notes[0]


def test_there_are_enough_of_them():
    assert len(CHEATS) >= 12


@pytest.mark.parametrize(
    "honest",
    [
        lambda x, dy: pair(lambda: forward(x), backward, dy),
        lambda x, dy: pair(lambda: (np.ascontiguousarray(np.tanh(x.T)).T, np.tanh(x)), backward, dy),  # another layout
        lambda x, dy: pair(lambda: (np.tanh(x.astype(np.float64)), np.tanh(x)), backward, dy),  # a longer type
    ],
)
def test_an_honest_variant_passes(honest, monkeypatch):
    run, failed = timed_with(honest, monkeypatch)
    assert failed == [] and run.notes == []
    assert {(row.variant, row.phase) for row in run.rows} == {
        (variant, phase) for variant in ("definition", "cheat") for phase in ("forward", "backward", "both")
    }


def test_a_buffer_that_is_used_again_is_honest(monkeypatch):
    def reusing(x, dy):
        buffer = np.empty_like(x)

        def run():
            np.tanh(x, out=buffer)
            return buffer, buffer

        return pair(run, backward, dy)

    assert timed_with(reusing, monkeypatch)[1] == []


def test_a_first_variant_that_replays_is_refused(monkeypatch):
    """It is what the others are compared with: its results must follow the inputs too."""
    setting = Setting(np, "float32", (), inputs=Inputs())
    x = setting.draw(ROWS, COLUMNS)
    kept = np.tanh(x)
    watch = Watch(Workload("toy", "", {"only": Variant(lambda: kept, None, lambda y: y)}, 0, 0, 1e-5), setting)
    watch.verify()
    watch.next_inputs()
    with pytest.raises(Refused, match="only gives the same results for other inputs"):
        watch.verify()


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_other_libraries_arrays_are_looked_at_alike(library):
    module = pytest.importorskip(library)
    setting = Setting(np, "float32", (library,), inputs=Inputs())
    x = setting.draw(4, 6)
    if library == "torch":
        own = setting.tensor(module, x)
        problems = {own: "memory of an input", own.half(): "is float16", own[:1].clone().expand(4, 6): "fewer numbers"}
        fine = own * 2
    else:
        own = module.numpy.asarray(x)
        problems, fine = {}, own * 2
        assert "is bfloat16" in honesty.problem_of(own.astype("bfloat16"), setting, [])
    for array, rule in problems.items():
        assert rule in honesty.problem_of(array, setting, setting.inputs.arrays())
    assert honesty.problem_of(fine, setting, setting.inputs.arrays()) is None


def test_a_promise_of_jax_is_no_result():
    class Promise(SimpleNamespace):
        pass

    Promise.__module__ = "jaxlib._jax"
    promise = Promise(is_ready=lambda: False, dtype=np.dtype("float32"), shape=(2,))
    assert "not there yet" in honesty.problem_of(promise, Setting(np, "float32", ()), [])


def test_a_result_on_the_host_is_none_of_a_device(xp):
    setting = Setting(xp.module, "float32", ())
    problem = honesty.problem_of(np.zeros(3, np.float32), setting, [])
    assert problem is None if xp.module is np else "lies on cpu, where the workload runs on cuda" in problem


# ---- on a device that is made up


@pytest.fixture
def device(monkeypatch):
    return Device(monkeypatch)


def doubt_of(device, run):
    """What the clock makes of a call, after it has timed it."""
    clock = timing.DeviceClock(device)
    seconds = clock.seconds(run)
    return seconds, clock.doubt(lambda: run, seconds)


def other_stream(device, seconds):
    """A call whose work no event on the stream sees: a second stream, which only the device as a whole waits for."""
    device.other = 0.0
    one = device.synchronize

    def synchronize():
        one()
        device.host = max(device.host, device.other)

    device.synchronize = synchronize
    device.cuda.Device = lambda: SimpleNamespace(attributes={"L2CacheSize": 1 << 20}, synchronize=synchronize)

    def run():
        device.host += 2e-5
        device.other = max(device.other, device.host) + seconds

    return run


def test_an_honest_call_is_believed(device):
    seconds, doubt = doubt_of(device, device.call([2e-3] * 3))
    assert seconds == pytest.approx(6e-3) and doubt is None


def test_a_call_that_python_takes_longer_for_than_the_device_is_believed(device):
    assert doubt_of(device, device.call([1e-6] * 20))[1] is None


def test_work_on_another_stream_is_not_believed(device):
    """It runs while the spin does, before the first event: the events tell next to nothing."""
    seconds, doubt = doubt_of(device, other_stream(device, 2e-3))
    assert seconds < 1e-4
    assert "another stream, or before or after" in doubt


def test_events_that_tell_less_are_not_believed(device):
    """Whatever the call does to the events: the host waits as long as the device works."""
    honest = device.cuda.get_elapsed_time
    device.cuda.get_elapsed_time = lambda start, stop: honest(start, stop) / (100 if device.lying else 1)
    device.lying = False
    clock = timing.DeviceClock(device)
    device.lying = True
    run = device.call([5e-3])
    assert "of which events" in clock.doubt(lambda: run, clock.seconds(run))


def test_an_event_put_in_the_place_of_cupy_s_changes_nothing(device):
    clock = timing.DeviceClock(device)
    device.cuda.Event, device.cuda.get_elapsed_time = None, lambda start, stop: 0.0
    assert clock.seconds(device.call([3e-3])) == pytest.approx(3e-3)


def test_a_cache_that_persists_is_refused(device):
    clock = timing.DeviceClock(device)

    def run():
        device.limit = 1 << 20

    with pytest.raises(NotTimed, match="persist"):
        clock.seconds(run)
    reasons = timing.not_timed({"keeping": lambda: run}, clock)
    assert "persist" in reasons["keeping"]


# ---- figures that no machine has

HALF = Workload("toy", "", {}, 1e9, 1e12, 1e-4, 2e9, 3e12)


@pytest.mark.parametrize(
    ("phase", "seconds", "unit"),
    [
        ("forward", 1e-4, "GB/s"),  # 10 TB/s of 4
        ("forward", 9e-4, "GFLOP/s"),  # 1.1 TB/s, but 1100 TFLOP/s of 1000
        ("both", 1e-4, "GB/s"),
        ("forward", 2e-3, None),
        ("backward", 1e-9, None),  # its least traffic is not stated
    ],
)
def test_more_than_the_machine_has_is_refused(phase, seconds, unit):
    found = impossible(HALF, phase, {"own": seconds}, Limits(4e12, 1e15, 50e6))
    assert (found is None) if unit is None else (f" {unit}, where this machine has" in found and "own" in found)


def test_what_stays_in_the_cache_and_what_is_not_known_is_not_judged():
    assert impossible(HALF, "forward", {"own": 1e-4}, Limits(4e12, None, 1e9)) is None
    assert impossible(HALF, "forward", {"own": 1e-4}, Limits(4e12, None, None)) is None
    assert impossible(HALF._replace(flops_forward=1e8), "forward", {"own": 1e-9}, Limits(None, 1e15, 1.0)) is None


def test_an_impossible_figure_is_a_failure_not_a_record(monkeypatch):
    step = Variant(lambda: np.ones(1), None, lambda y: y)
    workload = Workload("toy", "", {"definition": step, "fast": step}, 0.0, 1e15, 1e-3)
    monkeypatch.setitem(WORKLOADS, "toy", lambda setting: workload)
    monkeypatch.setattr(timing, "ceilings", lambda *_: Ceilings(10.0, 100.0, "float32"))
    run, failed = measure.measure(Job([("toy", [])], "cpu", "float32", [], 0.001, False), np, 1)
    assert failed == ["toy"] and run.rows == []
    assert "GFLOP/s, where this machine has 300 at most" in run.notes[0]


@pytest.mark.parametrize(
    ("name", "bandwidth", "tensor"),
    [
        ("NVIDIA H100 80GB HBM3", 3.352e12, 989.4e12),
        ("NVIDIA A100-SXM4-80GB", 2.039e12, 312e12),
        ("NVIDIA H200", 4.9e12, None),  # its arithmetic is not in the table
    ],
)
def test_the_peaks_of_a_card_are_a_limit(name, bandwidth, tensor, monkeypatch):
    """By the memory's clock and width, which the card tells, and by the table where it is listed."""
    clock = round(bandwidth / (2 * 5120 / 8) / 1e3)  # kHz
    attributes = {"L2CacheSize": 50 << 20, "MemoryClockRate": clock, "GlobalMemoryBusWidth": 5120}
    cupy = SimpleNamespace(
        cuda=SimpleNamespace(Device=lambda: SimpleNamespace(attributes=attributes)), zeros=lambda n: None
    )
    monkeypatch.setattr(honesty, "device_name", lambda _: name)
    far = Ceilings(1e5, 1e7, "float16")
    limits = honesty.limits_of(cupy, far, "bfloat16")
    assert limits.bandwidth == pytest.approx(bandwidth, rel=1e-3)
    assert limits.operations == pytest.approx(tensor or 1.1e16)
    near = Ceilings(1000.0, 100_000.0, "float16")
    assert honesty.limits_of(cupy, near, "bfloat16")[:2] == pytest.approx((1.1e12, 1.1e14))
    assert limits.cache == 50 << 20


def test_the_clocks_are_the_system_s_own():
    assert time.perf_counter is timing._now is device_timing._now
