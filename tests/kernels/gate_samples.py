"""Samples for the tests of the compile gate: disassembled text, figures, and limits to hold them to."""

from __future__ import annotations

from minilm.kernels.gate.compile import Figures


def listing(*lines: str, name: str = "kernel", usage: str = "REG:32 STACK:0 SHARED:0") -> str:
    """The tool's text for a kernel of these instructions, 16 bytes apart."""
    body = "\n".join(f"        /*{16 * n:04x}*/  {line} ;" for n, line in enumerate(lines))
    return f" Function {name}:\n  {usage} LOCAL:0\n\t\tFunction : {name}\n{body}\n"


# Planted in ptx.cuh, or in a source that includes it: (old, new).
_COPY = "cp.async.cg.shared.global [%0], [%1], 16"
WITHOUT_TRANS = ("m8n8.x4.trans.shared", "m8n8.x4.shared")
WITHOUT_SOURCE_SIZE = (f'"{_COPY}, %2;" ::"r"(to), "l"(from), "r"(bytes)', f'"{_COPY};" ::"r"(to), "l"(from)')

GOOD = Figures(
    "softmax:forward[N=4096]", "", 80, registers=32, threads=128, blocks=16, warps=64, wide_loads=8, async_copies=4
)
LIMITS_OF_TEST = [
    {"kernel": "", "figure": "stack", "at_most": 0, "reason": "an array in memory"},
    {"kernel": "", "figure": "spills", "at_most": 0, "reason": "spilled"},
    {"kernel": "^softmax:", "arch": [80], "figure": "registers", "at_most": 40, "reason": "full occupancy"},
    {"kernel": "^softmax:", "figure": "wide_loads", "at_least": 1, "reason": "bandwidth"},
    {"kernel": "^softmax:", "figure": "async_copies", "exactly": 4, "reason": "an unrolled loop"},
]
