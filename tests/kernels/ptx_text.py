"""The text of ptx.cuh that only a GPU's compiler sees: as it was recorded, and as the PTX ISA wants it.

No run on a CPU meets these instructions, and the compile gate counts them without reading their operands. So their text
is held to a record, and each `asm` statement to what the ISA says of its instruction, which knows nothing of the twins.

    python -m tests.kernels.ptx_text        record the text as it is now
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from minilm.kernels.cuda import launch

RECORD = Path(__file__).with_name("ptx_text.txt")
ADVICE = (
    "the instructions in kernels/cuda/ptx.cuh are not those that were recorded. No test without a GPU runs them: "
    "change them only with a GPU at hand (python -m minilm.kernels check), or say in the commit why none is needed; "
    "then record the new text (python -m tests.kernels.ptx_text)"
)
TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|\w+|\S')


def ptx_source() -> str:
    return launch.source_of("ptx.cuh")


# ---- the record ------------------------------------------------------------------------------------------------------


def device_half(source: str) -> str:
    """The lines that are compiled where CUDA_CPU_MODEL is not defined, and only there; without comments."""
    kept = []
    asked: list[bool | None] = []  # of each open #if: is this its branch for a device? None: it asks for something else
    for line in re.sub(r"//[^\n]*", "", source).splitlines():
        about_device = False
        if word := re.match(r"\s*#\s*(ifdef|ifndef|if|elif|else|endif)\b\s*(.*)", line):
            if word[1].startswith("if"):
                asked.append(word[1] == "ifndef" if word[2].strip() == "CUDA_CPU_MODEL" else None)
            elif asked[-1] is not None:
                asked[-1] = not asked[-1]
            about_device = asked[-1] is not None
            if word[1] == "endif":
                asked.pop()
        if True in asked and not about_device:
            kept.append(line)
    return "\n".join(kept)


def normalised(text: str) -> str:
    """Tokens with one space between them, a line for each statement and directive: spaces and breaks don't matter."""
    lines = [""]
    for line in text.splitlines():
        directive = line.lstrip().startswith("#")
        if directive and lines[-1]:
            lines.append("")
        for token in TOKEN.findall(line):
            lines[-1] += f" {token}" if lines[-1] else token
            if token in ("{", "}", ";") and not directive:
                lines.append("")
        if directive:
            lines.append("")
    return "\n".join(line for line in lines if line) + "\n"


# ---- the PTX ISA -----------------------------------------------------------------------------------------------------


class Statement(NamedTuple):
    """One `asm` of a device function: `asm volatile("template" : outputs : inputs : clobbers);`"""

    function: str
    volatile: bool
    template: str
    operands: tuple[tuple[str, str], ...]  # (constraint, expression), outputs first, as %0, %1, ... count them
    clobbers: tuple[str, ...]


# By the PTX ISA: the operands of each instruction, "{r4}" for a vector of 4 registers, "[r]" for an address in one;
# r 32 bits, l 64 bits, f float32, n a constant. = is written, the rest is read. The ISA's layouts number the registers
# of a fragment upwards.
MMA = "mma.sync.aligned.m16n8k16.row.col.f32.{}.{}.f32"
ISA = {
    "cp.async.cg.shared.global": ("[r]", "[l]", "16", "r"),  # to, from, bytes written, bytes read: the rest are zeros
    "cp.async.commit_group": (),
    "cp.async.wait_group": ("n",),
    "ldmatrix.sync.aligned.m8n8.x2.shared.b16": ("={r2}", "[r]"),
    "ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16": ("={r2}", "[r]"),
    "ldmatrix.sync.aligned.m8n8.x4.shared.b16": ("={r4}", "[r]"),
    "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16": ("={r4}", "[r]"),
    MMA.format("f16", "f16"): ("={f4}", "{r4}", "{r2}", "{f4}"),  # d, a, b, c
    MMA.format("bf16", "bf16"): ("={f4}", "{r4}", "{r2}", "{f4}"),
    "ex2.approx.ftz.f32": ("=f", "f"),
    "mov.u32": ("=r", "special"),
}
NAMES = {"trans": ".trans", "x2": ".x2", "x4": ".x4", "m16n8k16": ".m16n8k16"}  # what a function's name promises


def statements(text: str) -> list[Statement]:
    """Every asm statement of the device half, its macros replaced: twice, where an #if gives a macro two values."""
    found = []
    macros = re.findall(r'#\s*define\s+(\w+)\s+(".*")', text)
    values = {name: [value for other, value in macros if other == name] for name, _ in macros}
    function = re.compile(r"(\w+)\s*\([^()]*\)\s*\{((?:[^{}\"]|\"[^\"]*\")*)\}")
    for name, body in function.findall(text):
        for volatile, content in re.findall(r"\basm\s*(volatile\s*)?\(((?:[^;\"]|\"[^\"]*\")*)\)\s*;", body):
            used = next((macro for macro in values if re.search(rf"\b{macro}\b", content)), None)
            for value in values.get(used, [""]):
                expanded = re.sub(rf"\b{used}\b", value, content) if used else content
                template, *parts = re.split(r':(?=(?:[^"]*"[^"]*")*[^"]*$)', expanded)
                outputs, inputs, clobbers = (*parts, "", "", "")[:3]
                operands = re.findall(r'"([^"]*)"\s*\(((?:[^()]|\([^()]*\))*)\)', outputs + "," + inputs)
                joined = "".join(re.findall(r'"([^"]*)"', template))
                found.append(
                    Statement(name, bool(volatile), joined, tuple(operands), tuple(re.findall(r'"(\w+)"', clobbers)))
                )
    return found


def faults(statement: Statement) -> list[str]:
    """The ISA's objections to a statement, one line each."""
    mnemonic, _, rest = statement.template.rstrip("; ").partition(" ")
    if mnemonic not in ISA:
        return [f"{statement.function}: {mnemonic} is unknown: add its operands, from the PTX ISA, to ISA"]
    found = []
    for word, part in NAMES.items():
        if (word in statement.function.split("_")) != (f"{part}." in mnemonic):
            found.append(f"the name and {mnemonic} disagree about {part}")
    given = re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*", rest)
    if len(given) != len(ISA[mnemonic]):
        return [f"{statement.function}: {mnemonic} takes {len(ISA[mnemonic])} operands, and {len(given)} are given"]
    used = set()
    for text, wanted in zip(given, ISA[mnemonic], strict=True):
        numbers = [int(number) for number in re.findall(r"%(\d+)", text)]
        used |= set(numbers)
        if wanted == "special" or wanted.isdigit():
            if numbers or (wanted.isdigit() and text != wanted):
                found.append(f"{text} stands where {wanted} is wanted")
            continue
        kind, count = re.fullmatch(r"=?[\[{]?([rlfn])(\d?)[\]}]?", wanted).groups()
        if len(numbers) != int(count or 1) or text[0] not in (wanted.strip("=")[0], "%"):
            found.append(f"{text} stands where {wanted} is wanted")
        for place, number in enumerate(numbers):
            constraint, expression = statement.operands[number]
            allowed = (f"={kind}", f"+{kind}") if wanted[0] == "=" else (kind, f"+{kind}")
            if constraint not in allowed:
                found.append(f"{expression} has the constraint {constraint!r}, not {allowed[0]!r}")
            if len(numbers) > 1 and not re.search(rf"(?:\[{place}\]|{place})$", expression):
                found.append(f"{expression} is register {place} of its operand")
    if used != set(range(len(statement.operands))):
        found.append("an operand that is listed is not used")
    if mnemonic.startswith(("cp.async", "ldmatrix")) and not (statement.volatile and "memory" in statement.clobbers):
        found.append('it touches memory: it must be volatile, with the clobber "memory"')
    return [f"{statement.function}: {fault}" for fault in found]


if __name__ == "__main__":
    RECORD.write_text(normalised(device_half(ptx_source())), encoding="utf-8")
    print(f"recorded in {RECORD}")
