"""How many warps of a kernel a multiprocessor holds at once: registers, shared memory and blocks decide.

The limits are those of the CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"; registers are
handed out to a warp in units of 256, by quarters of the multiprocessor; sm_80 and later keep 1 KB of each block's
shared memory for the system.
"""

from __future__ import annotations

from typing import NamedTuple

REGISTERS_PER_QUARTER = 16384
REGISTER_UNIT = 256


class Limits(NamedTuple):
    """The resources of one multiprocessor."""

    warps: int
    blocks: int
    shared: int  # bytes
    shared_per_block: int  # bytes at most, asked for explicitly above 48 KB
    reserved: int  # bytes of each block that the system takes


LIMITS = {
    75: Limits(32, 16, 65_536, 65_536, 0),
    80: Limits(64, 32, 167_936, 166_912, 1024),
    86: Limits(48, 16, 102_400, 101_376, 1024),
    89: Limits(48, 24, 102_400, 101_376, 1024),
    90: Limits(64, 32, 233_472, 232_448, 1024),
    100: Limits(64, 32, 233_472, 232_448, 1024),
    120: Limits(48, 24, 102_400, 101_376, 1024),
}


class Occupancy(NamedTuple):
    """Blocks and warps at once, and what stops more."""

    blocks: int
    warps: int
    limit: str  # "registers", "shared memory", "warps" or "blocks"


def occupancy(arch: int, registers: int, threads: int, shared: int) -> Occupancy:
    """The occupancy of blocks of `threads` threads with `shared` bytes each, at `registers` registers per thread.

    Zero blocks mean that the kernel can't be launched.
    """
    if arch not in LIMITS:
        raise ValueError(f"the limits of sm_{arch} are not known; known are {', '.join(f'sm_{a}' for a in LIMITS)}")
    limits = LIMITS[arch]
    warps = -(-threads // 32)
    of_warp = -(-registers * 32 // REGISTER_UNIT) * REGISTER_UNIT
    taken = shared + limits.reserved
    allowed = {  # the first of equals is named
        "warps": limits.warps // warps,
        "blocks": limits.blocks,
        "registers": REGISTERS_PER_QUARTER // max(of_warp, REGISTER_UNIT) * 4 // warps,
        "shared memory": limits.shared // taken if taken else limits.blocks,
    }
    if shared > limits.shared_per_block:
        allowed["shared memory"] = 0
    limit = min(allowed, key=lambda name: allowed[name])
    return Occupancy(allowed[limit], allowed[limit] * warps, limit)
