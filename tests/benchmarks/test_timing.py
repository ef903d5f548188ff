"""Times: rounds are paired, preparation is not timed."""

from __future__ import annotations

import numpy as np

from benchmarks import timing
from benchmarks.timing import interleave


class Script:
    """A clock that does not look at the time: a variant takes as long as it says."""

    def seconds(self, run):
        return run()


class Drifting:
    """The same on a machine that gets slower from round to round."""

    calls = 0

    def seconds(self, run):
        self.calls += 1
        return run() * (1 + (self.calls - 1) // 2)  # two variants: two calls per round


def test_the_ratio_is_that_of_paired_rounds():
    measured = interleave({"slow": lambda: lambda: 2.0, "fast": lambda: lambda: 1.0}, Drifting(), budget=30.0)
    slow, fast = measured["slow"], measured["fast"]
    assert slow.ratio_to(slow) == (1.0, 1.0, 1.0)
    assert fast.ratio_to(slow) == (2.0, 2.0, 2.0)
    assert fast.spread.p20 < fast.spread.p50 < fast.spread.p80


def test_preparation_is_not_timed():
    calls = []

    def prepare():
        calls.append("prepare")
        return lambda: calls.append("run") or 1.0

    interleave({"one": prepare}, Script(), budget=5.0)
    assert calls[:2] == ["prepare", "run"]
    assert calls.count("prepare") == calls.count("run")


def test_ceilings_count_bytes_read_and_written_and_two_operations_a_product(monkeypatch):
    class Second:
        def seconds(self, run):
            run()
            return 1.0

    monkeypatch.setitem(timing.COPIED, "cpu", 1000)
    monkeypatch.setitem(timing.PRODUCT, "cpu", 10)
    found = timing.ceilings(np, Second(), "float16")
    assert found.copy_gigabytes == 2 * 4000 / 1e9
    assert found.product_gigaflops == 2 * 10**3 / 1e9
    assert found.product_dtype == "float32"  # no BLAS multiplies float16
    assert timing.ceilings(np, Second(), "float64").product_dtype == "float64"


def test_the_better_of_two_ceilings_counts():
    found = timing.Ceilings(10.0, 300.0, "float32").or_better(timing.Ceilings(12.0, 200.0, "float32"))
    assert found == (12.0, 300.0, "float32")


def test_inputs_change_before_each_round_and_results_are_checked_before_between_and_after():
    log = []
    interleave(
        {"one": lambda: lambda: log.append("run") or 1.0}, Script(), budget=20.0,
        next_inputs=lambda: log.append("inputs"), check=lambda: log.append("check"),
    )  # fmt: skip
    rounds = log[log.index("check") :]
    assert log.count("inputs") == 20 and log.count("check") == 3
    assert rounds[-1] == "check" and "run" in rounds[rounds.index("check", 1) :]
    between = rounds.index("check", 1)
    assert "inputs" in rounds[:between] and "inputs" in rounds[between:]


def test_the_cache_of_this_computer():
    found = timing.cache_bytes(np)
    assert found is None or found >= 1 << 20
