"""The parts of the check one by one: records, time limits, kernels by time, estimates; nothing here needs a device."""

from __future__ import annotations

import json
import os
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from minilm.kernels import __main__ as kernels_command
from minilm.kernels.check import calls, command, estimate, every_kernel, parts, processes, records
from minilm.kernels.check.cases import Case, cases, softmax
from minilm.kernels.check.door import Request, requests_of
from minilm.kernels.check.records import FAILED, PASSED, SKIPPED, Record
from minilm.kernels.cuda import timing
from minilm.kernels.cuda.instances import all_instances

# ---- without a GPU, and wrong use


def test_without_a_gpu_it_says_so_in_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert kernels_command.main(["check"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1 and "CuPy is not installed" in said.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--minutes", "0"], "expected a number of minutes above 0"),
        (["--minutes", "soon"], "expected a number of minutes above 0"),
        (["--only", "ptx,tests"], "part 'tests' is unknown; choose device, ptx"),
        (["--only", ","], "part ',' is unknown"),
        (["--processes", "0"], "expected a whole number of at least 1"),
    ],
)
def test_wrong_use_is_told(options, message, capsys):
    with pytest.raises(SystemExit) as ended:
        kernels_command.main(["check", *options])
    assert ended.value.code == 2 and message in capsys.readouterr().err


# ---- every kernel


@pytest.mark.parametrize("quick", [True, False])
def test_the_calls_launch_every_entry_point(quick):
    asked = requests_of(lambda: every_kernel.launch_all(quick))
    entries = {(i.file, i.entry) for i in all_instances() if i.file != timing.SOURCE}  # a clock, no op
    assert {(request.file, request.entry) for request in asked} == entries
    heads = {dict(request.defines).get("HEAD") for request in asked if request.entry == "attention_forward"}
    assert heads == {"64", "128"}


def test_a_wrong_result_is_a_failed_record():
    arrays, options, _ = calls.inputs(Case("softmax", "", "float32", softmax(2, 5), True))
    (exact,), (allowed,) = calls.expected("softmax", arrays, options, "float32", None)
    right, wrong = (calls.measure("y", y, exact, allowed) for y in (exact, exact + 1e-5))
    assert every_kernel.record("calls", "softmax", right).status == PASSED
    told = every_kernel.record("calls", "softmax", wrong)
    assert told.status == FAILED and told.figures["error"] == pytest.approx(1e-5) and told.name == "softmax, y"


# ---- records


RECORDS = [
    Record("ptx", "mma", PASSED, "error 0", {"share": 0.5}, 0.25),
    Record("ptx", "ldmatrix", FAILED, "error inf\n\x1b[31mred"),
    Record("tests", "a.py::b", SKIPPED, "no device"),
]


def test_records_come_back_but_for_a_line_cut_short(tmp_path):
    path = tmp_path / "check.jsonl"
    assert records.read(path) == []
    for record in RECORDS:
        records.append(path, record)
    path.write_bytes(path.read_bytes() + b'{"part": "ptx", "na')
    assert records.read(path) == RECORDS


def test_junit_has_a_suite_per_part(tmp_path):
    records.write_junit(tmp_path / "check.xml", RECORDS)
    ptx, tests = ElementTree.parse(tmp_path / "check.xml").getroot()
    assert (ptx.get("name"), ptx.get("tests"), ptx.get("failures"), ptx.get("skipped")) == ("ptx", "2", "1", "0")
    assert tests.get("skipped") == "1" and tests.find("testcase/skipped").get("message") == "no device"
    assert ptx.find("testcase/properties/property").attrib == {"name": "share", "value": "0.5"}
    assert "\x1b" not in ptx.find("testcase/failure").get("message")


# ---- processes and their time


def run(code, limit, tmp_path):
    with open(tmp_path / "log", "w") as log:
        return processes.run([sys.executable, "-u", "-c", code], dict(os.environ), limit, log, tmp_path)


def test_a_process_that_ends_in_time(tmp_path):
    ended = run("import sys; print('one'); print('two', file=sys.stderr); sys.exit(3)", 60, tmp_path)
    assert ended.code == 3 and sorted(ended.output) == ["one", "two"]
    assert ended.says("wo") == "two" and ended.says("three") is None
    assert {"one", "two"} <= set((tmp_path / "log").read_text().splitlines())


STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid)
time.sleep(600)
"""


def test_a_process_that_does_not_end_is_ended_with_all_that_it_started(tmp_path):
    ended = run(STUBBORN, 1.0, tmp_path)
    assert ended.code is None
    child = int(ended.output[0])
    for _ in range(100):
        if not lives(child):
            return
        time.sleep(0.05)
    raise AssertionError(f"process {child} is still there")


def lives(process):
    """Whether a process is there, and more than a zombie that nobody has asked after."""
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_the_time_is_shared_by_what_the_parts_need():
    assert command.limit_of(120.0, [10.0, 30.0]) == 30.0  # there is more than enough: each gets its share
    assert command.limit_of(40.0, [10.0, 30.0]) == 20.0  # just enough: a slow one may take twice its time,
    assert command.limit_of(30.0, [10.0, 30.0]) == 15.0  # but leaves the others half of theirs,
    assert command.limit_of(20.0, [10.0, 30.0]) == 5.0  # and where there is too little, all get less
    assert command.limit_of(100.0, [30.0]) == 100.0
    assert command.limit_of(-5.0, [30.0]) == 0.0


# ---- what becomes of a part


def part_of(*argvs, name="toy"):
    made = [parts.Command(f"command {number}", [sys.executable, "-c", code]) for number, code in enumerate(argvs)]
    return parts.Part(name, "a toy", lambda plan: made)


def summary_of(part, tmp_path, limit=60.0):
    plan = parts.Plan(True, 1, tmp_path, parts.clone())
    with open(tmp_path / "log", "w") as log:
        return command.run_part(part, plan, limit, log)


SAY = "from minilm.kernels.check.records import *; say(Record('toy', 'a check', {status!r}, 'told'))"


def test_a_part_is_what_its_records_and_exit_codes_say(tmp_path):
    for number, (codes, status, counts, detail) in enumerate(
        [
            ([SAY.format(status="passed")], PASSED, (1, 0, 0), ""),
            ([SAY.format(status="passed"), SAY.format(status="failed")], FAILED, (1, 1, 0), "a check: told"),
            (["print('no memory'); raise SystemExit(7)"], FAILED, (0, 1, 0), "command 0: exit code 7: no memory"),
            (["print('well')"], FAILED, (0, 0, 0), "its processes ended well and said nothing"),
            (["print('Device not supported'); raise SystemExit(1)"], SKIPPED, (0, 0, 0), "Device not supported"),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        found = summary_of(part_of(*codes), folder)
        assert found.status == status and found[4:7] == counts and found.detail == detail, found


def test_a_part_out_of_time_keeps_what_it_found(tmp_path):
    found = summary_of(part_of(SAY.format(status="passed") + "; import time; time.sleep(600)"), tmp_path, 6.0)
    assert found.status == command.OUT_OF_TIME and found.passed == 1


def test_a_part_that_cannot_run_says_why(tmp_path):
    part = parts.Part("toy", "a toy", lambda plan: "there is no tool")
    assert summary_of(part, tmp_path)[1] == SKIPPED and summary_of(part, tmp_path).detail == "there is no tool"


def test_without_a_clone_tests_and_benchmarks_say_so(tmp_path):
    plan = parts.Plan(False, 2, tmp_path, None)
    by_name = {part.name: part.commands(plan) for part in parts.PARTS if part.name != "sanitizer"}
    assert {name for name, told in by_name.items() if isinstance(told, str)} == {
        "kernel-tests", "library-tests", "benchmarks", "step",
    }  # fmt: skip
    assert all("clone" in told for told in by_name.values() if isinstance(told, str))


# ---- the estimate


def test_every_module_of_the_check_has_its_seconds():
    asked = estimate.table_requests(False) | requests_of(lambda: every_kernel.launch_all(False))
    asked |= requests_of(every_kernel.launch_toys)
    recorded = json.loads(estimate.RECORD.read_text())
    assert {request.name for request in asked} == set(recorded["seconds"])
    assert sum(recorded["modules"].values()) == len(asked)
    assert estimate.compiling([Request("softmax.cu", "softmax_forward", ())] * 2) == pytest.approx(
        2 * recorded["seconds"]["softmax.cu:softmax_forward"]
    )


def test_the_estimate_fits_the_budget_that_is_the_default(tmp_path, capsys):
    plan = parts.Plan(False, 14, tmp_path, parts.clone())
    needed = {part.name: estimate.SECONDS[part.name](plan) for part in parts.PARTS}
    assert all(seconds > 0 for seconds in needed.values())
    told = command.estimate_table(parts.PARTS, needed, 480.0, 14)
    assert "the budget of 480 s fits" in told and "| kernel-tests " in told
    assert "does not fit" in command.estimate_table(parts.PARTS, needed, 30.0, 14)
    assert np.isclose(sum(needed.values()), float(told.rpartition("about ")[2].split(" s")[0]), atol=1)


def test_the_table_of_calls_is_asked_for_whole():
    assert len(estimate.table_requests(True)) < len(estimate.table_requests(False))
    assert len(cases()) > 190
