"""Triton's kernels: right in its interpreter on the CPU, through the variants that are timed; compiled without a GPU.

The interpreter must be chosen before Triton is imported, so it runs in a process of its own: this file as a module.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import measure
from benchmarks.honesty import Watch
from benchmarks.inputs import Inputs
from benchmarks.variants import Setting
from benchmarks.workloads import WORKLOADS
from minilm import ops
from tests.benchmarks.outcome import results

DTYPES = ("float32", "float16", "bfloat16")
TOLERANCE = {"float32": 5e-5, "float16": 4e-3, "bfloat16": 2e-2}  # of the largest number
ROWS = [(5, 37), (1, 64), (3, 1), (90, 33), (2, 1000)]  # one row, one column, more rows than programs to sum them
CASES = {
    "softmax": list(itertools.product(DTYPES, ROWS)),
    "layer_norm": list(itertools.product(DTYPES, ROWS)),
    "cross_entropy": list(itertools.product(DTYPES, [*ROWS, (4, 2500)])),  # three blocks
    "attention": [  # not in bfloat16, whose matrices the interpreter multiplies as integers
        (dtype, (*shape, causal, choice))
        for dtype in DTYPES[:2]
        for shape in [(2, 2, 1, 32), (1, 2, 7, 64), (1, 1, 128, 32), (1, 1, 150, 32), (1, 2, 70, 128)]
        for causal in (True, False)
        for choice in (0, 1, 2, 3)
        if choice == 0 or shape[2] == 150  # blocks of 16 to 128 in all proportions, none of which divides 150
    ],
}
WIRED = {"softmax": (3, 20), "layer_norm": (3, 20), "cross_entropy": (3, 20), "attention": (1, 2, 20, 32)}
KERNELS = (
    "softmax_forward", "softmax_backward", "layer_norm_forward", "layer_norm_backward", "layer_norm_sum_parts",
    "cross_entropy_forward", "cross_entropy_backward", "attention_delta", "attention_forward",
    "attention_backward_dkdv", "attention_backward_dq",
)  # fmt: skip
FLOAT32 = {"lse", "mean", "rstd", "delta", "losses", "dgain_parts", "dbias_parts"}
NUMBERS = {**dict.fromkeys(("N", "T", "rows", "rows_stride", "programs"), "i32"), "scale": "fp32", "eps": "fp32"}

NEEDS_TRITON = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
NEEDS_TORCH = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")


# ---- in Triton's interpreter


def inputs_of(op, dtype, sizes):
    """What the op's variant takes, ∂L/∂y last, rounded to the type; cross-entropy's loss has none."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        if dtype == "bfloat16":
            pytest.importorskip("ml_dtypes")
        return rng.standard_normal(shape).astype(dtype)

    if op == "attention":
        q, k, v, dy = (draw(*sizes[:4]) for _ in range(4))
        if sizes[3] == 64:  # lse is about -128: a score of 0 beyond the end would overflow exp(score - lse)
            q, k = q + q.dtype.type(4), k - k.dtype.type(4)
        return [q, k, v, dy]
    if op == "cross_entropy":
        return [draw(*sizes), rng.integers(0, sizes[1], sizes[0])]
    return [draw(*sizes), *([draw(sizes[1]), draw(sizes[1])] if op == "layer_norm" else []), draw(*sizes)]


def interpreted(op, dtype, sizes):
    """The outputs and gradients of the variant that the benchmark times."""
    from benchmarks.peers import triton_functions

    options = {"causal": sizes[4], "choice": sizes[5]} if op == "attention" else {}
    setting = Setting(np, dtype, ("triton",), interpret=True)
    return results(triton_functions.OPS[op](setting, *inputs_of(op, dtype, sizes), **options))


def expected(op, dtype, sizes):
    """The same by the definitions, in float64."""
    *args, dy = (x.astype(np.float64) if x.dtype.kind != "i" else x for x in inputs_of(op, dtype, sizes))
    if op == "cross_entropy":
        args, dy = [*args, dy], 1.0
    y, cache = getattr(ops, op)(*args, **({"causal": sizes[4]} if op == "attention" else {}))
    gradients = getattr(ops, f"{op}_backward")(dy, cache)
    return [y, *(g for g in (gradients if isinstance(gradients, tuple) else [gradients]) if g is not None)]


def in_the_interpreter(*arguments):
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "tests.benchmarks.test_triton", *map(str, arguments)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@NEEDS_TRITON
@NEEDS_TORCH
@pytest.mark.parametrize("op", CASES)
def test_outputs_and_gradients_are_the_definitions(op, tmp_path):
    pytest.importorskip("ml_dtypes")
    file = tmp_path / "results.npz"
    in_the_interpreter(op, file)
    with np.load(file) as found:
        for case, (dtype, sizes) in enumerate(CASES[op]):
            wanted = expected(op, dtype, sizes)
            got = [found[f"{case}.{number}"] for number in range(len(wanted))]
            assert f"{case}.{len(wanted)}" not in found
            for number, (one, other) in enumerate(zip(got, wanted, strict=True)):
                assert one.shape == np.shape(other)
                error = np.abs(one - other).max() / max(np.abs(other).max(), 0.1)  # T = 1 has dq = dk = 0
                assert error <= TOLERANCE[dtype], f"result {number} of {op} {dtype} {sizes} is off by {error:.1e}"


@NEEDS_TRITON
@NEEDS_TORCH
def test_the_workloads_hold_triton_and_verify():
    assert in_the_interpreter("workloads").split() == list(WIRED)


def child(arguments):
    """What `in_the_interpreter` starts."""
    if arguments == ["workloads"]:
        for name, sizes in WIRED.items():
            setting = Setting(np, "float32", ("triton",), interpret=True, inputs=Inputs())
            workload = WORKLOADS[name](setting, *sizes)
            Watch(workload, setting).verify()
            if "triton" in workload.variants:
                print(name)
        return
    op, file = arguments
    arrays = {
        f"{case}.{number}": array
        for case, (dtype, sizes) in enumerate(CASES[op])
        for number, array in enumerate(interpreted(op, dtype, sizes))
    }
    np.savez(file, **arrays)


# ---- who takes part


@pytest.mark.parametrize(
    "setting",
    [
        Setting(np, "float32", ("triton",)),  # the CPU
        Setting(np, "float32", (), interpret=True),  # not asked for
        Setting(np, "float64", ("triton",), interpret=True),
        Setting(object(), "float32", ("triton",), interpret=True),  # device arrays are no matter for the interpreter
    ],
)
def test_triton_stays_out(setting):
    assert setting.triton() is None
    if setting.xp is np:
        assert all("triton" not in WORKLOADS[name](setting, *sizes).variants for name, sizes in WIRED.items())


@pytest.mark.parametrize(
    ("name", "sizes"), [("attention", (1, 2, 5, 48)), ("softmax", (1, 65537)), ("layer_norm", (1, 65537))]
)
def test_sizes_that_the_kernels_do_not_serve_are_left_out(name, sizes, monkeypatch):
    pytest.importorskip("triton")
    pytest.importorskip("torch")
    from benchmarks.peers import triton_functions

    monkeypatch.setattr(Setting, "triton", lambda self: triton_functions)
    assert "triton" not in WORKLOADS[name](Setting(np, "float32", ("triton",)), *sizes).variants


def test_triton_without_pytorch_or_its_cuda_says_so(monkeypatch):
    installed = {"triton": True, "torch": False}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: installed[name] or None)
    assert "PyTorch, which is not installed" in measure.unavailable("triton", "cuda")
    torch = type("torch", (), {"cuda": type("cuda", (), {"is_available": staticmethod(lambda: False)})})
    installed["torch"] = True
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert "PyTorch sees no CUDA device (it takes memory" in measure.unavailable("triton", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert "unset TRITON_INTERPRET" in measure.unavailable("triton", "cuda")
    monkeypatch.delenv("TRITON_INTERPRET")
    assert measure.unavailable("triton", "cuda") is None


# ---- compiled


@NEEDS_TRITON
@NEEDS_TORCH
@pytest.mark.filterwarnings("ignore:::triton")
@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_compiles_without_a_gpu(name, dtype):
    from benchmarks import triton_kernels
    from benchmarks.peers import triton_functions

    parameters = getattr(triton_kernels, name).params
    choice = triton_functions.choices_of(name, "float32" if dtype == "fp32" else "float16")[0]
    constants = {"BLOCK": 1024, "D": 64, "CAUSAL": True, "EVEN": False, **choice.kwargs}
    kernel = triton_kernels.Kernel(
        "", name,
        {p.name: "constexpr" if p.is_constexpr else NUMBERS.get(p.name) or pointer(p.name, dtype) for p in parameters},
        {p.name: constants[p.name] for p in parameters if p.is_constexpr},
        choice.num_warps, choice.num_stages, 0,
    )  # fmt: skip
    for arch, least in ((80, 163), (90, 227)):
        result = triton_kernels.compiled(kernel, arch)
        assert len(result.asm["cubin"]) > 0
        assert result.metadata.shared <= least * 1024  # what a block may have


def pointer(name, dtype):
    return "*i64" if name == "targets" else "*fp32" if name in FLOAT32 else f"*{dtype}"


if __name__ == "__main__":
    child(sys.argv[1:])
