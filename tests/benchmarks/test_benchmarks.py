"""The benchmarks: the variants of every workload agree, wrong ones are not timed, numbers land where they belong."""

from __future__ import annotations

import argparse
import csv
import functools
import json
import sys

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import timing
from benchmarks.timing import interleave
from benchmarks.workloads import WORKLOADS, Setting, Variant, Workload
from minilm.kernels.host.builder import find_compiler
from tests import strict_cupy
from tests.strict_cupy.device_kernels import device_kernels

TINY = {
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
    "gpt-step": (2, 8, 6, 2),
    "classifier-step": (2, 5),
}


def test_every_name_of_the_command_is_a_workload():
    assert set(command.NAMES) == WORKLOADS.keys() == TINY.keys()


@pytest.mark.parametrize("name", TINY)
def test_variants_agree(name):
    """PyTorch is among them where it is installed."""
    workload = WORKLOADS[name](Setting(np, "float32", ("torch",)), *TINY[name])
    command.verify(workload)
    assert len(workload.variants) >= 1


def test_a_wrong_variant_is_not_timed():
    right = Variant(lambda: None, None, lambda: [np.ones(3)])
    wrong = Variant(lambda: None, None, lambda: [np.ones(3) * 1.01])
    workload = Workload("toy", "3", {"right": right, "wrong": wrong}, 0, 0, 1e-3)
    with pytest.raises(ValueError, match=r"toy.*wrong.*nothing was timed"):
        command.verify(workload)


class Script:
    """A clock that does not look at the time: a variant takes as long as it says."""

    def seconds(self, run):
        return run()


class Drifting:
    """The same on a machine that gets slower from round to round."""

    calls = 0

    def seconds(self, run):
        self.calls += 1
        return run() * (1 + (self.calls - 1) // 2)  # two variants: two calls a round


def test_the_ratio_is_that_of_paired_rounds():
    measured = interleave({"slow": lambda: lambda: 2.0, "fast": lambda: lambda: 1.0}, Drifting(), budget=30.0)
    assert measured["slow"].ratio == 1.0
    assert measured["fast"].ratio == 2.0
    assert measured["fast"].spread.p20 < measured["fast"].spread.p50 < measured["fast"].spread.p80


def test_preparation_is_not_timed():
    calls = []

    def prepare():
        calls.append("prepare")
        return lambda: calls.append("run") or 1.0

    interleave({"one": prepare}, Script(), budget=5.0)
    assert calls[:2] == ["prepare", "run"]
    assert calls.count("prepare") == calls.count("run")


def test_the_command(tmp_path, capfd):
    files = ["--json", str(tmp_path / "r.json"), "--csv", str(tmp_path / "r.csv")]
    arguments = ["softmax", "--sizes", "8", "16", "--seconds", "0.01", "--against", "torch,nosuchpeer", *files]
    assert command.main(arguments) == 0
    shown = capfd.readouterr().out
    assert "softmax  8 x 16" in shown
    assert "peer nosuchpeer is absent" in shown
    rows = json.loads((tmp_path / "r.json").read_text())["rows"]
    assert {row["phase"] for row in rows} == {"forward", "backward", "both"}
    assert all(row["p20_ms"] <= row["p50_ms"] <= row["p80_ms"] for row in rows)
    with open(tmp_path / "r.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(rows)
    assert lines[0]["numpy"] == np.__version__


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_way_on_a_gpu(dtype, monkeypatch):
    """On the stand-in, whose kernels run on the CPU: kernels are chosen, verified and timed between events."""
    if find_compiler() is None:
        pytest.skip("no C++ compiler")
    monkeypatch.setitem(sys.modules, "cupy", strict_cupy.strict)
    monkeypatch.setattr(timing, "L2_FLUSH_BYTES", 1 << 12)
    monkeypatch.setattr(timing, "ceilings", functools.partial(timing.ceilings, numbers=1 << 10, size=8))
    sizes = {"softmax": (4, 64), "cross_entropy": (4, 64), "attention": (1, 2, 20, 16), "decode": (1, 2, 1, 40, 16)}
    kernels = {
        "attention": "cuda.fused",
        "softmax": "cuda.fused",
        "cross_entropy": "cuda.fused",
        "decode": "cuda.decode",
    }
    if dtype == "float16":
        del sizes["cross_entropy"]
    with device_kernels(compute_capability=80):
        for name, size in sizes.items():
            options = argparse.Namespace(against="", dtype=dtype, sizes=size, seconds=0.001)
            found = command.measure([name], options, strict_cupy.strict, threads=1)
            assert found["environment"]["device"] == "stand-in"
            assert {row["variant"] for row in found["rows"]} >= {"definition", kernels[name]}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["sofmax"], "sofmax"), (["softmax", "--threads", "0"], "--threads"), (["softmax", "--device", "cuda"], "cuda")],
)
def test_wrong_input(arguments, words, capfd, request):
    from tests.conftest import CUPY_PROBLEM

    if "cuda" in arguments and CUPY_PROBLEM is None:
        pytest.skip("a GPU is here")
    try:
        code = command.main(arguments)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert words in capfd.readouterr().err
