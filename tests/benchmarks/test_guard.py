"""The guard: a ratio that fell is seen, one within tolerance and spread is not, and recording keeps the rest."""

from __future__ import annotations

import pytest

from benchmarks import __main__ as command, guard
from benchmarks.report import TimedRun, read_json, write_json
from tests.benchmarks import toy


def verdicts(milliseconds, tolerance=0.1, recorded=None):
    """Of the whole of `softmax`, where torch takes 2 ms and the tuned version took 1: ratio 2, from 1.8 to 2.2."""
    then = toy.rows(phases=("both",), milliseconds=recorded)
    return guard.compare(then, toy.rows(phases=("both",), milliseconds=milliseconds), tolerance)


@pytest.mark.parametrize(("own", "fell"), [(1.0, False), (1.2, False), (1.3, True), (0.5, False)])
def test_a_ratio_falls_below_the_recorded_spread_and_the_tolerance(own, fell):
    """At least 1.8 · 0.9 = 1.62: 2 / 1.2 = 1.67 is kept, 2 / 1.3 = 1.54 fell."""
    (verdict,) = verdicts({"torch": 2.0, "definition": 4.0, "cpu.blocked": own})
    assert verdict.variant == "cpu.blocked"
    assert verdict.least == pytest.approx(1.62)
    assert verdict.fell is fell


@pytest.mark.parametrize(("own", "fell"), [(1.05, False), (1.2, True)])
def test_without_the_peer_the_definition_is_the_measure(own, fell):
    (verdict,) = verdicts({"definition": 4.0, "cpu.blocked": own})
    assert (verdict.against, verdict.recorded) == ("definition", 4.0)
    assert verdict.fell is fell


def test_a_tuned_version_that_no_longer_serves_is_a_fall():
    (verdict,) = verdicts({"torch": 2.0, "definition": 4.0})
    assert verdict.variant == "definition"
    assert verdict.fell


def test_a_definition_alone_is_held_to_nothing():
    assert verdicts({"definition": 9.0}, recorded={"definition": 4.0}) == []


def arguments(folder, *more):
    return ["guard", *more, "--results", str(folder), "--threads", "1"]


@pytest.fixture
def measured(monkeypatch):
    """What the next measurement gives, in place of one."""
    found = {"run": toy.run()}
    monkeypatch.setattr(guard, "start", lambda job, threads: (found["run"], True))
    return found


def test_the_exit_code_says_that_a_ratio_fell(tmp_path, capsys, measured):
    write_json(guard.file_of(tmp_path, "float32", 1), [toy.run()])
    assert command.main(arguments(tmp_path)) == 0
    assert "kept" in capsys.readouterr().out
    measured["run"] = toy.run(milliseconds={"torch": 2.0, "definition": 4.0, "cpu.blocked": 3.0})
    assert command.main(arguments(tmp_path, "softmax")) == 1
    shown = capsys.readouterr()
    assert "FELL" in shown.out
    assert "A ratio fell" in shown.err
    assert command.main(arguments(tmp_path, "--tolerance", "0.9")) == 0


@pytest.mark.parametrize(("second", "code"), [(1.0, 0), (3.0, 1)])
def test_what_is_below_is_measured_again(second, code, tmp_path, capsys, monkeypatch):
    """Only the workload that fell, and the better of both counts."""
    times = iter([3.0, second])
    asked = []

    def start(job, threads):
        names = [name for name, _ in job.work]
        asked.append(names)
        slow = toy.VARIANTS | {"cpu.blocked": next(times)}
        rows = [row for name in names for row in toy.rows(name, milliseconds=slow if name == "softmax" else None)]
        return TimedRun(toy.environment(), rows, []), True

    recorded = TimedRun(toy.environment(), [*toy.rows("softmax"), *toy.rows("gelu")], [])
    write_json(guard.file_of(tmp_path, "float32", 1), [recorded])
    monkeypatch.setattr(guard, "start", start)
    assert command.main(arguments(tmp_path)) == code
    assert asked == [["softmax", "gelu"], ["softmax"]]
    shown = capsys.readouterr()
    assert "measuring again: softmax" in shown.err
    assert ("FELL" in shown.out) == bool(code)


def test_recording_one_workload_keeps_the_others(tmp_path, capsys, measured):
    path = guard.file_of(tmp_path, "float32", 1)
    write_json(path, [toy.run(workload="softmax"), toy.run(workload="gelu")])
    measured["run"] = toy.run(workload="gelu", milliseconds={"torch": 7.0, "definition": 8.0})
    assert command.main(arguments(tmp_path, "gelu", "--record")) == 0
    runs = read_json(path)
    assert [{row.workload for row in run.rows} for run in runs] == [{"softmax"}, {"gelu"}]
    assert {row.p50_ms for row in runs[1].rows} == {7.0, 8.0}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["gelu"], "gelu is not recorded"),
        (["sofmax"], "sofmax"),
        (["--dtype", "float64"], "nothing is recorded"),
        (["--tolerance", "1.5"], "--tolerance"),
    ],
)
def test_wrong_input(more, words, tmp_path, capsys, measured):
    write_json(guard.file_of(tmp_path, "float32", 1), [toy.run()])
    try:
        code = command.main(arguments(tmp_path, *more))
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert words in capsys.readouterr().err
