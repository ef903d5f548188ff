"""The command: what it measures lands where it belongs, wrong variants are not timed, wrong input is one clear line."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import __main__ as command, measure, report, timing
from benchmarks.gpu_work import GPU_WORK, QUICK, SIXTEEN_BITS, TINY, work_on
from benchmarks.measure import Job
from benchmarks.variants import Variant, Workload
from benchmarks.workloads import WORKLOADS
from minilm.kernels.host.builder import find_compiler
from tests import strict_cupy
from tests.benchmarks import toy
from tests.benchmarks.test_workloads import MODELS, made
from tests.strict_cupy import quick_timing
from tests.strict_cupy.device_kernels import device_kernels

MOST_BYTES = 60e9
COPIES = 30  # arrays of the largest size: inputs, what they held at first, peers' copies, results, temporaries
SCORES = 10  # arrays of attention's scores that its definition holds


def test_every_workload_is_tested():
    assert TINY.keys() == WORKLOADS.keys()


@pytest.mark.parametrize("name", [name for name in TINY if name not in MODELS])
def test_variants_agree(name):
    """PyTorch is among them where it is installed. The sizes are those that the command takes, in their order."""
    assert len(measure.sizes_of(name)) == len(TINY[name])
    _, watch = made(name, peers=("torch",))
    watch.verify()
    watch.next_inputs()
    watch.verify()


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
    step = Variant(lambda: 1.0, None, lambda _: [np.ones(1)])
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


def test_a_package_that_is_missing_leaves_a_workload_out(monkeypatch):
    def needing(setting):
        raise ModuleNotFoundError("No module named 'tqdm'", name="tqdm")

    monkeypatch.setitem(WORKLOADS, "toy", needing)
    monkeypatch.setattr(timing, "ceilings", lambda *_: timing.Ceilings(10.0, 100.0, "float32"))
    run, failed = measure.measure(Job([("toy", [])], "cpu", "float32", [], 0.01, memory=False), np, 1)
    assert failed == [] and run.notes == ["toy is left out: it needs the package tqdm, which is not installed"]


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
    second.environment["ceilings"] = {"float32": [20.0, 150.0, "float32"]}
    for each in (first, second):
        each.environment["torch"] = "2.13"
    died = report.TimedRun({}, [], ["FAILED: lstm was not timed"])
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


@pytest.fixture
def stand_in(monkeypatch):
    """The stand-in in CuPy's place, whose kernels run on the CPU."""
    if find_compiler() is None:
        pytest.skip("no C++ compiler")
    monkeypatch.setitem(sys.modules, "cupy", strict_cupy.strict)
    for setting in quick_timing.settings():
        monkeypatch.setattr(*setting)
    with device_kernels(compute_capability=80):
        yield strict_cupy.strict


@pytest.mark.full
def test_everything_on_a_gpu(stand_in):
    """As `all --quick --device cuda` does: kernels are chosen, results compared, calls timed between events."""
    job = Job(list(QUICK), "cuda", "float32", [], seconds=0.001, memory=False)  # the stand-in has no pools
    run, failed = measure.measure(job, stand_in, threads=1)
    assert failed == [], run.notes
    assert [note for note in run.notes if "host, from an idle" not in note] == [
        "word2vec runs on the CPU only: its rows are added up with NumPy's indexing"
    ]
    assert run.environment["device"] == "stand-in" and run.environment["bandwidth"] == "triad"
    found = {(row.workload, row.dtype): set() for row in run.rows}
    for row in run.rows:
        found[row.workload, row.dtype].add(row.variant)
    assert {name for name, dtype in found if dtype == "float32"} == TINY.keys() - {"word2vec"}
    for name in SIXTEEN_BITS:
        kernel = "cuda.decode" if name == "decode" else "cuda.fused"
        assert found[name, "float32"] >= {"definition", kernel}
        assert found[name, "float16"] == found[name, "bfloat16"] == {kernel}
    best = {dtype: timing.Ceilings(*own) for dtype, own in run.environment["ceilings"].items()}
    assert report.with_shares(run.rows, best) != []


def test_a_call_that_waits_for_the_device_gets_no_time_and_a_note(stand_in, monkeypatch):
    def waiting(setting):
        x = setting.draw(4)
        variants = {
            "queued": Variant(lambda: x + x, None, lambda y: y),
            "waiting": Variant(lambda: (float(x.sum()), x + x), None, lambda both: both[1]),
        }
        return Workload("toy", "4", variants, 0.0, 0.0, 1e-6)

    monkeypatch.setitem(WORKLOADS, "toy", waiting)
    run, failed = measure.measure(Job([("toy", [])], "cuda", "float32", [], 0.001, False), stand_in, 1)
    assert failed == [] and {row.variant for row in run.rows} == {"queued"}
    assert "no time for waiting: the call waits for the device" in run.notes[0]


@pytest.mark.parametrize(("theirs", "fine"), [(0, True), (7, False)])
def test_pytorch_works_on_the_stream_that_is_timed(theirs, fine):
    stream = SimpleNamespace(ptr=0)
    cupy = SimpleNamespace(cuda=SimpleNamespace(get_current_stream=lambda: stream))
    torch = SimpleNamespace(cuda=SimpleNamespace(current_stream=lambda: SimpleNamespace(cuda_stream=theirs)))
    if fine:
        assert measure.same_stream(cupy, torch) is None
    else:
        with pytest.raises(ValueError, match="CuPy works on stream 0 and PyTorch on 7"):
            measure.same_stream(cupy, torch)


def test_a_gpu_s_work_is_one_process_and_the_cpu_s_one_for_each_workload():
    job = Job([("gelu", []), ("softmax", []), ("gelu", [4, 4])], "cpu", "float32", [])
    assert [[name for name, _ in own.work] for own in measure._processes(job).values()] == [
        ["gelu", "gelu"],
        ["softmax"],
    ]
    assert list(measure._processes(job._replace(device="cuda")).values()) == [job._replace(device="cuda")]


def held_bytes(work):
    """At most so many bytes on the device at a time."""
    item = {"float64": 8, "float32": 4}.get(work.dtype, 2)
    sizes = work.sizes
    if work.name.startswith("attention"):
        B, H, T, D = sizes
        scores = min(4 * B * H * T * T, max(1 << 30, 4 * T * T))  # of all heads, or of the one that is compared
        return COPIES * item * B * H * T * D + SCORES * scores
    if work.name == "decode":
        B, H, Hkv, T, D = sizes
        return COPIES * item * B * Hkv * T * D + SCORES * 4 * B * H * T
    return COPIES * item * math.prod(sizes) if sizes else 0.0


def test_work_on_a_gpu_fits_a_card_and_names_what_exists():
    for work in GPU_WORK:
        assert len(work.sizes) in (0, len(measure.sizes_of(work.name))) or work.name == "adamw"
        assert held_bytes(work) <= MOST_BYTES
    assert {work.name for work in GPU_WORK} == WORKLOADS.keys() == {work.name for work in QUICK}
    assert ("cross_entropy", [8192, 50257], "float32") in GPU_WORK
    assert held_bytes(GPU_WORK[-1]) == 0 < held_bytes(GPU_WORK[0])


def test_which_work_a_command_means():
    assert work_on("cuda", ["decode"], "float16", False) == [w for w in GPU_WORK if w[::2] == ("decode", "float16")]
    assert work_on("cuda", ["gelu"], "float16", False) == [("gelu", [], "float16")]
    assert work_on("cpu", ["gelu"], None, False) == [("gelu", [], "float32")]
    assert {work.dtype for work in work_on("cpu", list(TINY), None, True)} == {"float32"}
    assert work_on("cuda", list(TINY), None, True) == sorted(QUICK, key=lambda work: list(TINY).index(work.name))


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
        (["softmax", "--quick", "--sizes", "4"], "--quick has sizes of its own"),
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
