"""Reading machine code: instructions and resources from the disassembler's text, loops from jumps, occupancy."""

from __future__ import annotations

import pytest

from minilm.kernels.cuda.instances import ARCHITECTURES
from minilm.kernels.gate import sass
from minilm.kernels.gate.control_flow import graph, longest_path, loops, tensor_loop
from minilm.kernels.gate.occupancy import LIMITS, occupancy
from tests.kernels.gate_samples import listing

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


@pytest.mark.parametrize(
    ("line", "transposed", "zero_filled"),
    [
        ("LDSM.16.M88.4 R12, [R9]", 0, 0),
        ("LDSM.16.MT88.4 R16, [R211+UR4+0x1800]", 1, 0),
        ("LDSM.T.16.M88.4 R16, [R2]", 1, 0),
        ("LDGSTS.E.BYPASS.128 [R13], [R8.64]", 0, 0),
        ("LDGSTS.E.BYPASS.128 [R13], [R8.64], P6", 0, 1),  # sm_80
        ("LDGSTS.E.BYPASS.128 [R13+0x80], desc[UR8][R2.64+0x80], !P4", 0, 1),  # sm_90 and 100
        ("@P1 LDGSTS.E.BYPASS.128 [R13], desc[UR8][R2.64]", 0, 0),  # not run at all where P1 is false
        ("LDG.E.128 R4, [R8.64], P6", 0, 0),
    ],
)
def test_what_a_matrix_load_and_a_copy_do_besides(line, transposed, zero_filled):
    assert (sass.transposed(code(line)), sass.zero_filled(code(line))) == (transposed, zero_filled)


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
