"""The compile gate: which instances are compiled, the command, and the whole way where the compilers are installed."""

from __future__ import annotations

import itertools
import json
import re

import pytest

from minilm.kernels import __main__ as command
from minilm.kernels.cuda.instances import ARCHITECTURES, Instance, all_instances
from minilm.kernels.gate import command as gate_command, compile as compiling, rules
from minilm.kernels.gate.occupancy import LIMITS
from tests.kernels.gate_samples import GOOD, LIMITS_OF_TEST, WITHOUT_SOURCE_SIZE, WITHOUT_TRANS
from tests.kernels.planting import planted

# --- instances ------------------------------------------------------------------------------------------------------


def test_entries_that_share_a_source_are_compiled_together():
    defines = {"LANES": 32}
    forward, backward = (Instance("softmax.cu", name, defines, archs=(80, 90)) for name in ("forward", "backward"))
    other = Instance("softmax.cu", "forward", {"LANES": 64}, archs=(90,))
    work = compiling.units([forward, backward, other], (80, 90, 100))
    assert [(unit.arch, len(unit.instances)) for unit in work] == [(80, 2), (90, 2), (90, 1)]


def test_the_thinned_matrix_keeps_every_pair_of_choices():
    def instance(head, causal, dropout):
        return Instance("attention.cu", "forward", {"HEAD": head, "CAUSAL": causal, "DROPOUT": dropout}, archs=(80, 90))

    instances = [instance(*choice) for choice in itertools.product((16, 40, 64, 128), (0, 1), (0, 1))]
    work = compiling.units(instances, (80, 90))
    chosen = compiling.covering(work)
    assert len(work) == 32 and len(chosen) <= 12

    def pairs(units):
        choices = [(("arch", unit.arch), *sorted(unit.instances[0].defines.items())) for unit in units]
        return {pair for choice in choices for pair in itertools.combinations(choice, 2)}

    assert pairs(chosen) == pairs(work)


def test_what_the_budget_names_with_its_architecture_is_always_compiled():
    (on_80, on_90) = compiling.units([Instance("softmax.cu", "forward", {}, archs=(80, 90))], (80, 90))
    budget = {"limits": LIMITS_OF_TEST, "compared": []}
    assert rules.is_named(on_80, budget) and not rules.is_named(on_90, budget)
    row = {"title": "t", "kernel": "^softmax:", "arch": 90, "peer": "Triton", "triton": None}
    assert rules.is_named(on_90, {"limits": [], "compared": [row]})


def test_elements_of_a_thread():
    def elements(**defines):
        return compiling.elements_of_thread(Instance("softmax.cu", "softmax_forward", defines))

    assert elements(ELEMENT_F32=1, HELD=8, WIDE=1, EXACT=1) == 32
    assert elements(ELEMENT_BF16=1, HELD=2, WIDE=1, EXACT=1) == 16
    assert elements(ELEMENT_F32=1, HELD=8, WIDE=0, EXACT=1) == 8
    assert elements(ELEMENT_F32=1, HELD=0, WIDE=1) == 0  # rows of any length


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["compile", "--arch", "86"], "compute capability 86 is unknown; choose 75, 80, 90, 100"),
        (["compile", "--arch", "turing"], "'turing' is no list of compute capabilities"),
        (["compile", "--speed"], "unrecognized arguments"),
        (["assemble"], "invalid choice: 'assemble'"),
    ],
)
def test_wrong_arguments_exit_with_2(argv, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(argv)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def one_instance(monkeypatch):
    instance = Instance("softmax.cu", "forward", {"N": 4096})
    monkeypatch.setattr(gate_command, "all_instances", lambda: (instance,))
    monkeypatch.setattr(compiling, "missing", lambda: None)
    monkeypatch.setattr(compiling, "compiler_version", lambda: "NVRTC 13.0")
    return instance


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--kernel", "("], "no regular expression"),
        (["--kernel", "lstm"], "finds no instance"),
        (["--jobs", "0"], "--jobs 0: give 1 or more"),
    ],
)
def test_a_choice_of_nothing_exits_with_2(argv, message, one_instance, capsys):
    assert command.main(["compile", *argv]) == 2
    assert message in capsys.readouterr().err


def test_without_the_extra_the_command_says_what_to_install(one_instance, monkeypatch, capsys):
    monkeypatch.setattr(compiling, "missing", lambda: "cupy not found; pip install x")
    assert command.main(["compile"]) == 2
    assert capsys.readouterr().err == "error: cupy not found; pip install x\n"


@pytest.mark.parametrize(("stack", "code"), [(0, 0), (8, 1)])
def test_the_exit_code_is_the_verdict(one_instance, stack, code, monkeypatch, capsys, tmp_path):
    measured = [GOOD._replace(kernel=one_instance.name, stack=stack)]
    monkeypatch.setattr(compiling, "measure_all", lambda work, jobs: [measured])
    assert command.main(["compile", "--arch", "80", "--json", str(tmp_path / "figures.json")]) == code
    assert ("VIOLATION" in capsys.readouterr().out) == bool(code)
    assert json.loads((tmp_path / "figures.json").read_text())[0]["stack"] == stack


# --- the whole way, where the extra is installed --------------------------------------------------------------------

MISSING = compiling.missing()
needs_compiler = pytest.mark.skipif(MISSING is not None, reason=f"needs the compile gate's tools: {MISSING}")

SMALL = """
extern "C" __global__ void scale(const float4* x, float4* y, int n, float s) {
    __shared__ float kept[64];
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    kept[threadIdx.x] = s;
    __syncthreads();
    if (i < n) y[i] = make_float4(FACTOR * x[i].x, x[i].y, x[i].z, kept[63 - threadIdx.x]);
}
"""


@needs_compiler
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_small_kernel_compiles_and_is_read_back(arch):
    instance = Instance("small.cu", "scale", {"FACTOR": 2}, threads=64)
    functions = compiling.disassemble(compiling.compile_source(SMALL, instance.defines, arch), arch)
    figures = compiling.figures(instance, arch, functions["scale"])
    assert 0 < figures.registers <= 32
    assert (figures.stack, figures.spills, figures.tensor, figures.shared) == (0, 0, 0, 256)
    assert (figures.wide_loads, figures.wide_stores) == (1, 1)
    assert figures.warps == LIMITS[arch].blocks * 2


@needs_compiler
def test_a_kernel_that_does_not_compile_says_why(monkeypatch):
    monkeypatch.setattr(
        compiling.launch, "source_of", lambda file: 'extern "C" __global__ void broken() { float x = y; }'
    )
    (figures,) = compiling.measure(compiling.Unit(80, (Instance("broken.cu", "broken"),)))
    assert 'identifier "y" is undefined' in figures.error


@needs_compiler
def test_an_array_that_got_no_register_is_a_violation():
    source = """
    extern "C" __global__ void spill(float* x, int n) {
        float held[64];
        for (int i = 0; i < 64; i++) held[i] = x[i];
        held[n % 64] = 0;
        for (int i = 0; i < 64; i++) x[n + held[i] > 0 ? i : n] = held[i];
    }
    """
    function = compiling.disassemble(compiling.compile_source(source, {}, 80), 80)["spill"]
    figures = compiling.figures(Instance("spill.cu", "spill"), 80, function)
    assert figures.stack > 0
    assert len(rules.violations([figures], LIMITS_OF_TEST[:2])) == 2


# --- bugs that no run on a CPU meets, planted in the sources --------------------------------------------------------

TENSOR_CORES = {
    "attention_forward": r"^attention_tensor_core:.*CAUSAL=0,.*DROPOUT=0,ELEMENT_F16=1,HAS_BIAS=0,HAS_MASK=0,HEAD=64,",
    "attention_backward_dkdv": r"^attention_tensor_core_backward:attention_backward_dkdv\[ELEMENT_F16=1,HEAD=64,KV_",
    "attention_backward_dq": r"^attention_tensor_core_backward:.*_dq\[(DQ_\w+=\d+,)+ELEMENT_F16=1,HEAD=64\]",
}
UNROLLED = "for (int step = 0; step < D_STEPS; step++)\n            #pragma unroll\n            for (int n"
BUGS = {
    "ldmatrix without .trans": (TENSOR_CORES, WITHOUT_TRANS, "transposed_loads 0 < 1"),
    "cp.async without its source size": (TENSOR_CORES, WITHOUT_SOURCE_SIZE, "zero_filled_copies 0 < 1"),
    "a loop of Q K' is not unrolled": (
        ["attention_forward"],
        (f"#pragma unroll\n        {UNROLLED}", f"#pragma unroll 1\n        {UNROLLED}"),
        "> 0 (an array that lives in memory",
    ),
}


def violations_of(entry: str, arch: int) -> list[str]:
    (instance,) = (i for i in all_instances() if i.entry == entry and re.search(TENSOR_CORES[entry], i.name))
    return rules.violations(compiling.measure(compiling.Unit(arch, (instance,))), rules.read_budget()["limits"])


@needs_compiler
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize(("bug", "entry"), [(bug, entry) for bug in BUGS for entry in BUGS[bug][0]])
def test_a_planted_bug_is_a_violation(bug, entry, arch):
    _, replacement, says = BUGS[bug]
    file = "attention_tensor_core.cu" if entry == "attention_forward" else "attention_tensor_core_backward.cu"
    with planted(file, [replacement]):
        assert any(says in line for line in violations_of(entry, arch))
