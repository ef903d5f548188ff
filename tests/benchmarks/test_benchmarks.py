"""The command: what it measures lands where it belongs, wrong variants are not timed, wrong input is one clear line."""

from __future__ import annotations

import csv
import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import measure, report, timing
from benchmarks.measure import Job, verify
from benchmarks.variants import Setting, Variant, Workload
from benchmarks.workloads import WORKLOADS
from minilm.kernels.host.builder import find_compiler
from tests import strict_cupy
from tests.benchmarks import toy
from tests.benchmarks.test_workloads import TINY
from tests.strict_cupy.device_kernels import device_kernels

SINGLE_OPS = {
    "softmax": (6, 9),
    "layer_norm": (6, 9),
    "gelu": (6, 9),
    "gelu-tanh": (6, 9),
    "cross_entropy": (6, 9),
    "embedding": (11, 4, 30),
    "attention": (2, 2, 7, 4),
    "decode": (2, 4, 2, 9, 4),
    "conv1d": (2, 7, 4, 3),
    "rnn": (2, 5, 3, 4),
    "lstm": (2, 5, 3, 4),
    "gru": (2, 5, 3, 4),
}


def test_every_workload_is_tested():
    assert SINGLE_OPS.keys() | TINY.keys() == WORKLOADS.keys()


@pytest.mark.parametrize("name", SINGLE_OPS)
def test_variants_agree(name):
    """PyTorch is among them where it is installed. The sizes are those that the command takes, in their order."""
    assert len(measure.sizes_of(name)) == len(SINGLE_OPS[name])
    verify(WORKLOADS[name](Setting(np, "float32", ("torch",)), *SINGLE_OPS[name]))


def test_a_wrong_variant_is_not_timed():
    right = Variant(lambda: None, None, lambda: [np.ones(3)])
    wrong = Variant(lambda: None, None, lambda: [np.ones(3) * 1.01])
    workload = Workload("toy", "3", {"right": right, "wrong": wrong}, 0, 0, 1e-3)
    with pytest.raises(ValueError, match=r"toy.*wrong.*nothing was timed"):
        verify(workload)


def test_a_variant_of_another_shape_is_not_timed():
    right = Variant(lambda: None, None, lambda: [np.ones(3)])
    wrong = Variant(lambda: None, None, lambda: [np.ones((3, 1))])
    with pytest.raises(ValueError, match=r"\(3, 1\) differs from that of right \(3,\)"):
        verify(Workload("toy", "3", {"right": right, "wrong": wrong}, 0, 0, 1e-3))


def test_the_command(tmp_path, capfd):
    """Two thread counts, each in a process, with memory; PyTorch is among the variants where it is installed."""
    files = ["--json", str(tmp_path / "r.json"), "--csv", str(tmp_path / "r.csv")]
    arguments = ["softmax", "--sizes", "8", "16", "--seconds", "0.01", "--against", "torch,gensim", "--threads", "1,2"]
    assert command.main([*arguments, *files]) == 0
    shown = capfd.readouterr().out
    assert "softmax  8 x 16  float32, 1 thread\n" in shown
    assert "softmax  8 x 16  float32, 2 threads\n" in shown
    assert "gensim" in shown  # absent, or without a softmax
    runs = report.read_json(tmp_path / "r.json")
    rows = [row for run in runs for row in run.rows]
    assert [run.environment["threads"] for run in runs] == [1, 2]
    assert {row.phase for row in rows} == {"forward", "backward", "both"}
    assert all(row.p20_ms <= row.p50_ms <= row.p80_ms for row in rows)
    assert all(row.ratio_p20 <= row.ratio <= row.ratio_p80 for row in rows)
    assert all((row.share_of_copy is None) == (row.phase == "backward") for row in rows)
    with open(tmp_path / "r.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(rows)
    assert lines[0]["numpy"] == np.__version__


def test_a_step_has_one_phase_and_no_bandwidth(monkeypatch):
    """A variant of a peer comes first: the others are compared with it."""
    step = Variant(lambda: 1.0, None, lambda: [np.ones(1)])
    toy_step = Workload("toy", "1", {"definition": step, "torch": step}, 0.0, 6.0, 1e-3)
    monkeypatch.setitem(WORKLOADS, "toy", lambda setting: toy_step)
    monkeypatch.setattr(measure, "unavailable", lambda peer, device: None)
    monkeypatch.setattr(timing, "ceilings", lambda *_: timing.Ceilings(10.0, 100.0, "float32"))
    monkeypatch.setattr(report, "environment", lambda *_: toy.environment())
    run, failed = measure.measure(Job([("toy", [])], "cpu", "float32", ["gensim"], 0.001, False), np, 1)
    assert failed == []
    assert run.notes == []
    assert {row.phase for row in run.rows} == {"call"}
    assert all(row.gigabytes_per_second is None and row.share_of_product > 0 for row in run.rows)


def test_a_workload_that_fails_is_named_and_the_others_go_on(monkeypatch):
    def wrong(setting):
        raise ValueError("no such thing")

    monkeypatch.setitem(WORKLOADS, "toy", wrong)
    monkeypatch.setattr(timing, "ceilings", lambda *_: timing.Ceilings(10.0, 100.0, "float32"))
    work = [("toy", []), ("softmax", [4, 8])]
    run, failed = measure.measure(Job(work, "cpu", "float32", [], 0.001, False), np, 1)
    assert failed == ["toy"]
    assert any("toy was not timed: ValueError: no such thing" in note for note in run.notes)
    assert {row.workload for row in run.rows} == {"softmax"}


def test_single_operations_need_nothing_but_numpy():
    """In the source tree, where nothing was installed: packages that minilm asks for are hidden from a new process."""
    code = """if True:
        import sys
        for name in ("threadpoolctl", "tqdm", "safetensors", "tokenizers", "torch", "matplotlib"):
            sys.modules[name] = None
        sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in str(finder).lower()]
        import numpy
        import benchmarks.__main__
        from benchmarks import measure
        from minilm import threads
        with threads.limit(2):
            job = measure.Job([("attention", [1, 2, 64, 8])], "cpu", "float32", [], 0.01, memory=False)
            run, failed = measure.measure(job, numpy, 2)
        assert not failed, run.notes
        print(len(run.rows))
    """
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 6  # two variants, three phases


def test_what_processes_measured_becomes_one_run():
    """The best ceilings count for all rows; a note stands once; peers without a version of something are named."""
    first = toy.run(notes=["peer jax is absent"], workload="softmax")
    second = toy.run(
        notes=["peer jax is absent"], workload="gelu", milliseconds={"definition": 4.0, "cpu.blocked": 1.0}
    )
    second.environment["copy_gigabytes_per_second"] = 20.0
    for each in (first, second):
        each.environment["torch"] = "2.13"
    died = report.Run({}, [], ["FAILED: lstm was not timed"])
    run = measure.merged([first, second, died], ["torch", "jax"])
    assert run.notes == ["peer jax is absent", "FAILED: lstm was not timed", "peer torch has no version of gelu"]
    assert [row.workload for row in run.rows] == ["softmax"] * 9 + ["gelu"] * 6
    assert run.environment["copy_gigabytes_per_second"] == 20.0
    assert run.rows[2].share_of_copy == run.rows[2].gigabytes_per_second / 20.0
    with pytest.raises(ValueError, match="lstm was not timed"):
        measure.merged([died], ["torch"])


def test_a_process_that_dies_leaves_the_other_workloads(monkeypatch):
    made = toy.run(workload="gelu")
    answer = {"environment": made.environment, "rows": [row._asdict() for row in made.rows], "notes": []}
    answers = {"softmax": (None, -9), "gelu": (answer, 0)}
    monkeypatch.setattr(measure, "_in_a_process", lambda job, environment: answers[job.work[0][0]])
    run, well = measure.start(Job([("softmax", []), ("gelu", [])], "cpu", "float32", []), 1)
    assert not well
    assert run.notes == ["FAILED: softmax was not timed: the measuring process was ended by signal 9"]
    assert {row.workload for row in run.rows} == {"gelu"}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_way_on_a_gpu(dtype, monkeypatch):
    """On the stand-in, whose kernels run on the CPU: kernels are chosen, verified and timed between events."""
    if find_compiler() is None:
        pytest.skip("no C++ compiler")
    monkeypatch.setitem(sys.modules, "cupy", strict_cupy.strict)
    monkeypatch.setattr(timing, "L2_FLUSH_BYTES", 1 << 12)
    monkeypatch.setattr(timing, "ceilings", functools.partial(timing.ceilings, numbers=1 << 10, size=8))
    sizes = {"softmax": [4, 64], "cross_entropy": [4, 64], "attention": [1, 2, 20, 16], "decode": [1, 2, 1, 40, 16]}
    kernels = {
        "attention": "cuda.fused",
        "softmax": "cuda.fused",
        "cross_entropy": "cuda.fused",
        "decode": "cuda.decode",
    }
    if dtype == "float16":
        del sizes["cross_entropy"]
    with device_kernels(compute_capability=80):
        job = Job(list(sizes.items()), "cuda", dtype, [], seconds=0.001, memory=False)  # the stand-in has no pools
        run, failed = measure.measure(job, strict_cupy.strict, threads=1)
    assert (failed, run.notes) == ([], [])
    assert run.environment["device"] == "stand-in"
    for name in sizes:
        assert {row.variant for row in run.rows if row.workload == name} >= {"definition", kernels[name]}


def test_a_peer_that_cannot_take_part_says_why():
    assert "cannot serve cpu: it runs on cuda only" in measure.unavailable("triton", "cpu") or (
        "not installed (pip install triton)" in measure.unavailable("triton", "cpu")
    )


def test_scaling_varies_the_length():
    assert measure.scaled_sizes("softmax", [8, 100]) == [[8, 25], [8, 50], [8, 100], [8, 200]]
    assert measure.scaled_sizes("softmax", [8, 1]) == [[8, 1], [8, 2]]
    lengths = [dict(zip(measure.sizes_of("lstm"), sizes, strict=True))["T"] for sizes in measure.scaled_sizes("lstm")]
    assert lengths == sorted(set(lengths))


def test_results_are_read_as_they_were_written(tmp_path):
    runs = [toy.run(notes=["peer jax is absent"]), toy.run(threads=2)]
    assert report.read_json(toy.results(tmp_path, runs=runs)) == [
        run._replace(rows=[row._replace(**rounded(row)) for row in run.rows]) for run in runs
    ]


def rounded(row):
    return {name: float(f"{value:.5g}") for name, value in row._asdict().items() if isinstance(value, float)}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sofmax"], "sofmax"),
        (["softmax", "static"], "put it first"),
        ([], "NAME"),
        (["softmax", "--threads", "0"], "--threads"),
        (["softmax", "--threads", "1,x"], "--threads"),
        (["softmax", "--seconds", "nan"], "--seconds"),
        (["softmax", "--against", "torhc"], "torhc"),
        (["softmax", "--device", "cuda"], "cuda"),
        (["softmax", "--sizes", "0"], "each at least 1: rows (4096), columns (1024)"),
        (["softmax", "--sizes", "1", "2", "3"], "softmax takes at most"),
        (["softmax", "--json", "no/such/folder.json"], "there is no folder no/such"),
        (["softmax", "--csv", "."], "is a folder"),
        (["softmax", "--csv", "/proc/results.csv"], "cannot be written"),
        (["softmax", "--plots", "pyproject.toml"], "--plots"),
    ],
)
def test_wrong_input(arguments, words, capfd):
    from tests.conftest import CUPY_PROBLEM

    if "cuda" in arguments and CUPY_PROBLEM is None:
        pytest.skip("a GPU is here")
    try:
        code = command.main(arguments)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert words in capfd.readouterr().err


def test_help_names_every_command_and_workload(capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(["--help"])
    assert stop.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for word in (*WORKLOADS, "static", "report", "guard", "examples"):
        assert word in shown
    for name in ("static", "report", "guard"):
        with pytest.raises(SystemExit):
            command.main([name, "--help"])


def test_json_holds_a_row_a_line(tmp_path):
    path = toy.results(tmp_path)
    rows = [line for line in path.read_text().splitlines() if '"workload"' in line]
    assert len(rows) == len(toy.run().rows)
    assert json.loads(rows[0].strip().rstrip(","))["variant"] == "torch"
