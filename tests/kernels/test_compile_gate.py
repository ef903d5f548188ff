"""The compile gate: reading machine code, counting its loops, judging the figures, and the command."""

from __future__ import annotations

import itertools
import json

import pytest

from minilm.kernels import __main__ as command
from minilm.kernels import compile as compiling
from minilm.kernels import gate, gate_command, gate_tables, sass
from minilm.kernels.compile import Figures
from minilm.kernels.control_flow import graph, longest_path, loops, tensor_loop
from minilm.kernels.cuda.instances import ARCHITECTURES, Instance
from minilm.kernels.occupancy import LIMITS, occupancy

# What cuobjdump -sass -res-usage prints for  y[i] = s * x[i]  over a grid-stride loop.
SCALE = """
Resource usage:
 Common:
  GLOBAL:0
 Function scale:
  REG:12 STACK:0 SHARED:0 LOCAL:0 CONSTANT[0]:376 TEXTURE:0 SURFACE:0 SAMPLER:0

\tcode for sm_80
\t.target\tsm_80

\t\tFunction : scale
\t.headerflags\t@"EF_CUDA_SM80 EF_CUDA_VIRTUAL_SM(EF_CUDA_SM80)"
        /*0000*/                   MOV R1, c[0x0][0x28] ;                             /* 0x00000a0000017a02 */
                                                                                      /* 0x000fe40000000f00 */
        /*0010*/                   S2R R0, SR_CTAID.X ;                               /* 0x0000000000007919 */
                                                                                      /* 0x000e280000002500 */
        /*0020*/                   IMAD R0, R0, c[0x0][0x0], R3 ;
        /*0030*/                   ISETP.GE.AND P0, PT, R0, c[0x0][0x170], PT ;
        /*0040*/               @P0 EXIT ;
        /*0050*/                   IMAD.WIDE R2, R0, R5, c[0x0][0x160] ;
        /*0060*/                   LDG.E.128 R8, [R2.64] ;
        /*0070*/              @!PT LDS RZ, [RZ] ;
        /*0080*/                   FMUL.FTZ R7, R8, c[0x0][0x174] ;
        /*0090*/                   STG.E [R4.64], R7 ;
        /*00a0*/              @!P0 BRA 0x50 ;
        /*00b0*/                   EXIT ;
        /*00c0*/                   BRA 0xc0;
        /*00d0*/                   NOP;
\t\t..........
"""


def listing(*lines: str, name: str = "kernel", usage: str = "REG:32 STACK:0 SHARED:0") -> str:
    """The tool's text for a kernel of these instructions, 16 bytes apart."""
    body = "\n".join(f"        /*{16 * n:04x}*/  {line} ;" for n, line in enumerate(lines))
    return f" Function {name}:\n  {usage} LOCAL:0\n\t\tFunction : {name}\n{body}\n"


def code(*lines: str):
    return sass.parse(listing(*lines), 80)["kernel"].code


# --- reading --------------------------------------------------------------------------------------------------------


def test_resources_instructions_and_filler():
    function = sass.parse(SCALE, 80)["scale"]
    assert function.resources == sass.Resources(registers=12, stack=0, shared=0)
    assert len(function.code) == 11  # neither the load that never runs, nor the jump to itself, nor the NOP
    assert function.code[4] == sass.Instruction(0x40, "EXIT", "", "P0")
    assert function.code[9].target == 0x50
    assert function.code[5].target is None  # its operands end in an address, but in brackets


def test_counts_of_classes_and_of_wide_accesses():
    function = sass.parse(SCALE, 80)["scale"]
    counts = sass.mix(function.code)
    assert (counts["global load"], counts["global store"], counts["float"], counts["control"]) == (1, 1, 1, 3)
    assert sum(counts.values()) == len(function.code)
    assert sass.wide(function.code, "LDG") == 1
    assert sass.wide(function.code, "STG") == 0


def test_a_class_is_not_taken_by_a_name_that_begins_alike():
    counts = sass.mix(code("LDSM.16.M88.4 R4, [R2]", "LDGDEPBAR", "LDGSTS.E.128 [R1], [R2.64]", "LDL R1, [R1]"))
    assert counts == {"matrix load": 1, "control": 1, "asynchronous copy": 1, "spill": 1}


def test_static_shared_memory_is_without_what_the_system_keeps_from_sm_90_on():
    text = listing("EXIT", usage="REG:32 STACK:0 SHARED:1536")
    assert sass.parse(text, 80)["kernel"].resources.shared == 1536
    assert sass.parse(text, 90)["kernel"].resources.shared == 512


def test_text_of_something_else_is_refused():
    with pytest.raises(ValueError, match="not what cuobjdump"):
        sass.parse("cuobjdump info    : File 'x' does not contain device code", 80)


# --- loops ----------------------------------------------------------------------------------------------------------


def test_the_loop_of_a_grid_stride_kernel():
    flow = graph(sass.parse(SCALE, 80)["scale"].code)
    (loop,) = loops(flow)
    assert [i.opcode for i in flow.instructions(loop.blocks)][-1] == "BRA"
    assert len(flow.instructions(loop.blocks)) == 5


def test_a_block_set_aside_after_the_end_makes_no_loop():
    # It is jumped to, and jumps back: an address that decreases, and no loop.
    flow = graph(code("@P0 BRA 0x40", "FADD R1, R1, R2", "FADD R1, R1, R3", "EXIT", "MOV R2, RZ", "BRA 0x10"))
    assert loops(flow) == []


def test_the_longest_path_takes_the_longer_branch():
    flow = graph(code("@P0 BRA 0x40", "FADD R1, R1, R2", "FADD R1, R1, R3", "BRA 0x50", "MOV R2, RZ", "EXIT"))
    path = longest_path(flow, 0, range(len(flow.successors)), [len(flow.successors) - 1])
    assert len(flow.instructions(path)) == 5  # all but the MOV


HMMA = "HMMA.16816.F32 R4, R8, R12, R4"


def test_hot_loop_and_tile():
    """A tile loop with two inner loops, one masked: the tile is counted past the masked one."""
    tile = (
        "MOV R1, RZ",
        "BAR.SYNC 0x0",  # 0x10  the tile begins
        "@P0 BRA 0x70",
        HMMA,  # 0x30  the hot loop: 3 instructions
        "LDSM.16.M88.4 R8, [R2]",
        "@P1 BRA 0x30",
        "BRA 0xb0",
        HMMA,  # 0x70  the masked loop
        "FSEL R4, R4, R5, P3",
        "FSEL R6, R6, R7, P4",
        "@P1 BRA 0x70",
        "IADD3 R3, R3, 0x40, RZ",  # 0xb0
        "@P2 BRA 0x10",
        "EXIT",
    )
    found = tensor_loop(code(*tile), steps=4)
    assert found.hot_per_kfma == pytest.approx(1000 * 3 / 2048)
    assert len(found.tile) == 2 + 4 * 3 + 1 + 2  # BAR BRA, four times the hot loop, the jump over, IADD3 BRA
    assert found.tile_per_kfma == pytest.approx(1000 * 17 / (4 * 2048))


def test_a_hot_loop_with_its_own_copies_is_the_tile():
    found = tensor_loop(code("LDGSTS.E.128 [R1], [R2.64]", HMMA, HMMA, "@P0 BRA 0x0", "EXIT"), steps=1)
    assert found.hot == found.tile
    assert found.hot_per_kfma == pytest.approx(1000 * 4 / 4096)


def test_a_kernel_without_tensor_cores_has_no_tensor_loop():
    assert tensor_loop(sass.parse(SCALE, 80)["scale"].code) is None


# --- occupancy ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "registers", "threads", "shared", "expected"),
    [
        (80, 255, 128, 32768, (2, 8, "registers")),
        (80, 32, 256, 0, (8, 64, "warps")),
        (80, 33, 256, 0, (6, 48, "registers")),  # registers come in units of 8 a thread
        (80, 32, 32, 0, (32, 32, "blocks")),
        (80, 64, 128, 65536, (2, 8, "shared memory")),  # 1 KB a block is the system's
        (75, 64, 256, 0, (4, 32, "warps")),
        (90, 168, 384, 98304, (1, 12, "registers")),
        (80, 64, 1024, 0, (1, 32, "registers")),
        (75, 32, 128, 70000, (0, 0, "shared memory")),  # can't be launched
    ],
)
def test_occupancy(arch, registers, threads, shared, expected):
    assert occupancy(arch, registers, threads, shared) == expected


def test_every_architecture_that_is_compiled_for_has_limits():
    assert set(ARCHITECTURES) <= set(LIMITS)
    with pytest.raises(ValueError, match="sm_70 are not known"):
        occupancy(70, 32, 128, 0)


# --- the gate -------------------------------------------------------------------------------------------------------

GOOD = Figures("softmax:forward[N=4096]", "", 80, registers=32, threads=128, blocks=16, warps=64, wide_loads=8)
LIMITS_OF_TEST = [
    {"kernel": "", "figure": "stack", "at_most": 0, "reason": "an array in memory"},
    {"kernel": "", "figure": "spills", "at_most": 0, "reason": "spilled"},
    {"kernel": "^softmax:", "arch": [80], "figure": "registers", "at_most": 40, "reason": "full occupancy"},
    {"kernel": "^softmax:", "figure": "wide_loads", "at_least": 1, "reason": "bandwidth"},
]


def test_what_is_within_the_limits_passes():
    assert gate.violations([GOOD], LIMITS_OF_TEST) == []


@pytest.mark.parametrize(
    ("planted", "message"),
    [
        ({"stack": 16}, "stack 16 > 0 (an array in memory)"),
        ({"spills": 2}, "spills 2 > 0"),
        ({"registers": 41}, "registers 41 > 40 (full occupancy)"),
        ({"wide_loads": 0}, "wide_loads 0 < 1"),
        ({"blocks": 0, "warps": 0}, "cannot be launched"),
        ({"error": "expected a ';'"}, "does not compile: expected a ';'"),
    ],
)
def test_each_planted_overrun_is_one_violation(planted, message):
    (line,) = gate.violations([GOOD._replace(**planted)], LIMITS_OF_TEST)
    assert line.startswith("softmax:forward[N=4096], sm_80: ")
    assert message in line


def test_a_limit_is_for_its_kernels_and_architectures():
    assert gate.violations([GOOD._replace(arch=90, registers=41)], LIMITS_OF_TEST) == []
    assert gate.violations([GOOD._replace(kernel="decode:split[]", registers=41, wide_loads=0)], LIMITS_OF_TEST) == []


def test_a_spill_in_the_text_reaches_the_gate():
    function = sass.parse(listing("STL [R1], R4", "LDL R4, [R1]", "EXIT", usage="REG:32 STACK:8 SHARED:0"), 80)[
        "kernel"
    ]
    figures = compiling.figures(Instance("softmax.cu", "kernel"), 80, function)
    found = gate.violations([figures], LIMITS_OF_TEST[:2])
    assert [line.partition("sm_80: ")[2].split(" (")[0] for line in found] == ["stack 8 > 0", "spills 2 > 0"]


def test_a_limit_that_nothing_meets_and_a_source_that_nothing_compiles_are_violations():
    assert gate.idle_limits([GOOD], LIMITS_OF_TEST) == []
    (line,) = gate.idle_limits([GOOD._replace(arch=90)], LIMITS_OF_TEST)
    assert "registers" in line and "full occupancy" in line
    (line,) = gate.sources_left_out(["a.cu", "ladder/b.cu"], ["a.cu"])
    assert line.startswith("ladder/b.cu:")


def test_the_record_is_rewritten_and_the_limits_are_not(tmp_path):
    path = tmp_path / "budget.json"
    budget = {"limits": LIMITS_OF_TEST, "compared": [], "measured": {"gone:kernel[]": {"80": [1, 2, 3]}}}
    path.write_text(json.dumps(budget))
    assert gate.changes([GOOD], gate.read_budget(path)) == []  # new, not changed
    gate.write_budget(gate.updated(gate.read_budget(path), [GOOD], everything=True), path)
    again = gate.read_budget(path)
    assert again["limits"] == LIMITS_OF_TEST
    assert again["measured"] == {GOOD.kernel: {"80": [32, 64, 0]}}
    assert gate.changes([GOOD._replace(registers=40)], again) == [f"{GOOD.kernel}, sm_80: registers 32 -> 40"]
    # A run over some kernels keeps the record of the others.
    assert gate.updated(budget, [GOOD], everything=False)["measured"].keys() == {"gone:kernel[]", GOOD.kernel}


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ({"kernel": "", "figure": "registres", "at_most": 0, "reason": "r"}, "figure 'registres' is unknown"),
        ({"kernel": "", "figure": "stack", "at_most": 0}, "no reason"),
        ({"kernel": "", "figure": "stack", "reason": "r"}, "one of at_most and at_least"),
        ({"kernel": "", "figure": "stack", "most": 0, "reason": "r"}, "unknown most"),
    ],
)
def test_a_wrong_limit_is_named(tmp_path, limit, message):
    path = tmp_path / "budget.json"
    path.write_text(json.dumps({"limits": [limit], "measured": {}}))
    with pytest.raises(ValueError, match=message):
        gate.read_budget(path)


def test_the_budget_itself_is_well_formed_and_forbids_spills_everywhere():
    limits = gate.read_budget()["limits"]
    for figure in ("stack", "spills"):
        assert {"kernel": "", "figure": figure, "at_most": 0}.items() <= next(
            limit for limit in limits if limit["figure"] == figure
        ).items()


# --- instances and tables -------------------------------------------------------------------------------------------


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
    assert gate.is_named(on_80, budget) and not gate.is_named(on_90, budget)
    row = {"title": "t", "kernel": "^softmax:", "arch": 90, "peer": "Triton", "triton": None}
    assert gate.is_named(on_90, {"limits": [], "compared": [row]})


def test_elements_of_a_thread():
    def elements(**defines):
        return compiling.elements_of_thread(Instance("softmax.cu", "softmax_forward", defines))

    assert elements(ELEMENT_F32=1, HELD=8, WIDE=1, EXACT=1) == 32
    assert elements(ELEMENT_BF16=1, HELD=2, WIDE=1, EXACT=1) == 16
    assert elements(ELEMENT_F32=1, HELD=8, WIDE=0, EXACT=1) == 8
    assert elements(ELEMENT_F32=1, HELD=0, WIDE=1) == 0  # rows of any length


def test_tables_say_what_failed_and_set_triton_below():
    broken = GOOD._replace(arch=90, error="expected a ';'")
    table = gate_tables.resource_table([GOOD, broken])
    assert len(table.splitlines()) == 4
    assert "does not compile" in table.splitlines()[3]
    triton = ["38", "0", "", "", "", "", "", "", "", "", "16.60"]
    row = {"title": "softmax", "kernel": "^softmax:", "arch": 80, "peer": "Triton", "triton": triton}
    lines = gate_tables.comparison_table([GOOD, broken], [row]).splitlines()
    assert [line.split("|")[2].strip() for line in lines[2:]] == ["minilm", "Triton"]


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["compile", "--arch", "86"], "86 is unknown; choose from 75, 80, 90, 100"),
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
    monkeypatch.setattr(compiling, "source_of", lambda file: 'extern "C" __global__ void broken() { float x = y; }')
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
    assert len(gate.violations([figures], LIMITS_OF_TEST[:2])) == 2
