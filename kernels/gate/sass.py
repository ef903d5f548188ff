"""Machine code read back: what `cuobjdump -sass -res-usage` prints, as instructions, resources and counts.

It knows names, not times: an instruction counts one, whatever it costs. `control_flow` finds the loops.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

FMA_OF_TENSOR_SHAPE = {"16816": 2048, "1688": 1024, "884": 256}  # HMMA.<shape>: multiply-adds of the warp
SYSTEM_SHARED_MEMORY = 1024  # bytes of a block that the driver keeps on sm_90 and later; they stand in SHARED there

# The classes that the table counts, by the opcode without its modifiers.
CLASSES = {
    "spill": {"LDL", "STL"},
    "tensor": {"HMMA", "IMMA", "DMMA", "HGMMA"},
    "matrix load": {"LDSM"},
    "asynchronous copy": {"LDGSTS"},
    "global load": {"LDG"},
    "global store": {"STG"},
    "shared": {"LDS", "STS", "STSM"},
    "special function": {"MUFU"},
    "float": {"FFMA", "FMUL", "FADD", "FMNMX", "DFMA", "DMUL", "DADD", "HFMA2", "HADD2", "HMUL2", "HMNMX2"},
    "select": {"FSEL", "SEL", "USEL"},
    "shuffle": {"SHFL", "REDUX"},
    "barrier": {"BAR", "WARPSYNC"},
    "convert": {"F2F", "F2FP", "I2F", "I2FP", "F2I", "F2IP"},
    "control": {"BRA", "EXIT", "CALL", "RET", "NOP", "BSSY", "BSYNC", "BREAK", "DEPBAR", "LDGDEPBAR", "YIELD"},
    "atomic": {"ATOM", "ATOMG", "ATOMS", "RED", "REDG"},
}
_CLASS_OF = {opcode: name for name, opcodes in CLASSES.items() for opcode in opcodes}


class Instruction(NamedTuple):
    """One line of SASS: `/*0040*/ @!P0 BRA 0x90 ;`"""

    address: int
    opcode: str  # with its modifiers: LDG.E.128
    operands: str
    predicate: str  # "", "P0", "!UP1"

    @property
    def family(self) -> str:
        """The class of `CLASSES` it belongs to; what is in none is "integer and move": addresses, counters, copies."""
        return _CLASS_OF.get(self.opcode.partition(".")[0], "integer and move")

    @property
    def multiply_adds(self) -> int:
        """Fused multiply-adds of the warp in one tensor-core instruction, 0 for any other."""
        found = re.match(r"HMMA\.(\d+)", self.opcode)
        return FMA_OF_TENSOR_SHAPE[found[1]] if found else 0

    @property
    def target(self) -> int | None:
        """Where a jump goes to."""
        found = re.search(r"0x([0-9a-f]+)\s*$", self.operands)
        return int(found[1], 16) if found else None


class Resources(NamedTuple):
    """The resources that a kernel takes, per thread (registers, stack) or block (shared)."""

    registers: int
    stack: int
    shared: int  # static


class Function(NamedTuple):
    """One kernel of a binary."""

    name: str
    resources: Resources
    code: tuple[Instruction, ...]


_FUNCTION = re.compile(r"\s*Function : (\S+)")
_INSTRUCTION = re.compile(r"\s*/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][A-Z0-9_.x]*)\s*(.*?)\s*;")
_RESOURCES_OF = re.compile(r"\s*Function (\S+):\s*$")
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+)")


def parse(text: str, arch: int) -> dict[str, Function]:
    """The kernels in what `cuobjdump -sass -res-usage` printed for one architecture."""
    resources: dict[str, Resources] = {}
    code: dict[str, list[Instruction]] = {}
    usage_of = lines = None
    for line in text.splitlines():
        if found := _RESOURCES_OF.match(line):
            usage_of = found[1]
        elif usage_of and (found := _USAGE.search(line)):
            registers, stack, shared = map(int, found.groups())
            if arch >= 90 and shared >= SYSTEM_SHARED_MEMORY:
                shared -= SYSTEM_SHARED_MEMORY
            resources[usage_of] = Resources(registers, stack, shared)
        elif found := _FUNCTION.match(line):
            lines = code.setdefault(found[1], [])
        elif lines is not None and (found := _INSTRUCTION.match(line)) and found[2] != "!PT":  # !PT: filler, never run
            lines.append(Instruction(int(found[1], 16), found[3], found[4], found[2] or ""))
    missing = code.keys() - resources.keys()
    if missing or not code:
        raise ValueError(f"not what cuobjdump -sass -res-usage prints: no {'resources of ' if missing else ''}kernels")
    return {name: Function(name, resources[name], _without_filler(lines)) for name, lines in code.items()}


def _without_filler(code: list[Instruction]) -> tuple[Instruction, ...]:
    """Without the jump to itself and the NOPs that fill the end of a kernel."""
    end = len(code)
    while end and (code[end - 1].opcode == "NOP" or code[end - 1].target == code[end - 1].address):
        end -= 1
    return tuple(code[:end])


def mix(code: Iterable[Instruction]) -> Counter[str]:
    """How many instructions of each class of `CLASSES`."""
    return Counter(instruction.family for instruction in code)


def transposed(code: Iterable[Instruction]) -> int:
    """How many matrix loads transpose: LDSM.16.MT88.4, where a plain one is LDSM.16.M88.4."""
    return sum(re.match(r"LDSM\.(\w+\.)*M?T", i.opcode) is not None for i in code)


def zero_filled(code: Iterable[Instruction]) -> int:
    """How many asynchronous copies write zeros where a condition fails: their last operand is a predicate (the size of
    the source, in PTX). `LDGSTS.E.BYPASS.128 [R13], [R8.64], P6`
    """
    return sum(i.opcode.startswith("LDGSTS") and re.search(r"\], !?U?P\d$", i.operands) is not None for i in code)


def wide(code: Iterable[Instruction], opcode: str) -> int:
    """How many of the instructions `opcode` access 128 bits."""
    return sum(i.opcode.partition(".")[0] == opcode and ".128" in i.opcode for i in code)
