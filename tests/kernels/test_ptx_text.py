"""The PTX instructions, which nothing without a GPU runs: their text is the recorded one, and the one the ISA wants."""

from __future__ import annotations

import pytest

from tests.kernels.gate_samples import WITHOUT_SOURCE_SIZE, WITHOUT_TRANS
from tests.kernels.planting import planted
from tests.kernels.ptx_text import (
    ADVICE,
    ISA,
    RECORD,
    device_half,
    faults,
    normalised,
    ptx_source,
    statements,
)

# old -> new in ptx.cuh, and what the ISA's rules say to it
WAIT = "cp.async.wait_group"
BUGS = {
    "ldmatrix without .trans": (WITHOUT_TRANS, "disagree about .trans"),
    "cp.async without its source size": (WITHOUT_SOURCE_SIZE, "takes 4 operands, and 3 are given"),
    "cp.async that ignores its source size": (
        ('"l"(from), "r"(bytes)', '"l"(from), "r"(16), "r"(bytes)'),
        "an operand that is listed is not used",
    ),
    "mma with a[1] and a[2] swapped": (
        (
            '"r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0])',
            '"r"(a[0]), "r"(a[2]), "r"(a[1]), "r"(a[3]), "r"(b[0])',
        ),
        "a[2] is register 1",
    ),
    "mma with b in the place of a": (
        ("{%4, %5, %6, %7}, {%8, %9}, {%10", "{%8, %9}, {%4, %5, %6, %7}, {%10"),
        "{%8, %9} stands where {r4} is wanted",
    ),
    "wait without volatile": ((f'asm volatile("{WAIT}', f'asm("{WAIT}'), "it must be volatile"),
    "ldmatrix without volatile": (
        ('asm volatile("ldmatrix.sync.aligned.m8n8.x2', 'asm("ldmatrix.sync.aligned.m8n8.x2'), "it must be volatile",
    ),
    "wait without memory": ((f'"{WAIT} %0;" ::"n"(N) : "memory"', f'"{WAIT} %0;" ::"n"(N)'), '"memory"'),
    "address of 32 bits for global memory": (('"l"(from)', '"r"(from)'), "constraint 'r', not 'l'"),
}  # fmt: skip


def rules_broken() -> list[str]:
    return [fault for statement in statements(device_half(ptx_source())) for fault in faults(statement)]


def test_the_instructions_are_those_that_were_recorded():
    assert normalised(device_half(ptx_source())) == RECORD.read_text(encoding="utf-8"), ADVICE


def test_the_instructions_are_what_the_isa_wants():
    found = statements(device_half(ptx_source()))
    assert len({statement.function for statement in found}) == 10, "a statement was not read"
    assert {statement.template.rstrip(";").split(" ")[0] for statement in found} <= ISA.keys()
    assert rules_broken() == []


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_breaks_the_record_and_the_rules(bug):
    replacement, says = BUGS[bug]
    with planted("ptx.cuh", [replacement]):
        with pytest.raises(AssertionError, match="only with a GPU at hand"):
            test_the_instructions_are_those_that_were_recorded()
        (fault,) = {fault for fault in rules_broken() if says in fault}
        assert fault


def test_comments_twins_and_spaces_do_not_matter():
    source = ptx_source()
    changed = source.replace("int index;", "int\n   index ;  // a word").replace("= exp2f(x)", "= exp2f(x + 1)")
    assert changed != source
    assert normalised(device_half(changed)) == normalised(device_half(source))


@pytest.mark.parametrize(
    "source",
    [
        "a;\n#ifdef CUDA_CPU_MODEL\n#if X\ntwin;\n#endif\n#else\n#if X\nb;\n#endif\n#endif\nc;",
        "#ifndef CUDA_CPU_MODEL\n#if X\nb;\n#endif\n#endif\n#ifdef CUDA_CPU_MODEL\ntwin;\n#endif",
    ],
)
def test_the_device_half_is_what_only_a_gpu_compiles(source):
    assert normalised(device_half(source)) == "# if X\nb ;\n# endif\n"
