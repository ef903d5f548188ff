"""Loops in machine code, and the two figures of a tensor-core kernel that are drawn from them.

A kernel's text becomes basic blocks; natural loops are found by dominators [Aho et al. 2006, §9.6]; then

    hot loop   the innermost loop that holds tensor-core instructions and the fewest masks (selects and predicates)
    tile       the smallest loop around it (or itself) that holds a barrier or a cp.async: one tile of keys or queries.
               Counted is the longest path around it through the hot loop, `steps` times, past the other inner loops:
               addresses, copies, waits and barriers included

Both are given in instructions of a warp per 1000 fused multiply-adds (an m16n8k16 product is 2048 of them).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from minilm.kernels.gate.sass import Instruction


class Graph(NamedTuple):
    """Basic blocks: block b is code[starts[b]:starts[b + 1]]."""

    code: tuple[Instruction, ...]
    starts: tuple[int, ...]
    successors: tuple[tuple[int, ...], ...]

    def block(self, b: int) -> tuple[Instruction, ...]:
        return self.code[self.starts[b] : self.starts[b + 1]]

    def instructions(self, blocks: Iterable[int]) -> list[Instruction]:
        return [i for b in sorted(blocks) for i in self.block(b)]


class Loop(NamedTuple):
    """A natural loop: all its blocks are dominated by its header."""

    header: int
    blocks: frozenset[int]


def _jumps(instruction: Instruction) -> tuple[bool, bool]:
    """Whether control may go to the target, and whether it may go on to the next instruction."""
    name, *modifiers = instruction.opcode.split(".")
    if name in ("BRA", "JMP"):
        if "DIV" in modifiers or "CONV" in modifiers:  # to the way round for a warp that has diverged: never hot
            return False, True
        conditional = bool(instruction.predicate) or re.search(r"\bU?P\d", instruction.operands) is not None
        return True, conditional
    if name == "CALL":  # with a predicate it may be a loop's way out; a subroutine without one ends in RET
        return True, True
    if name in ("EXIT", "RET", "BRX", "JMX"):
        return False, bool(instruction.predicate)
    return False, True


def graph(code: Sequence[Instruction]) -> Graph:
    """The control flow of one kernel."""
    index = {instruction.address: n for n, instruction in enumerate(code)}
    edges = {n: _jumps(i) for n, i in enumerate(code) if _jumps(i) != (False, True)}
    targets = {n: index[code[n].target] for n, (taken, _) in edges.items() if taken and code[n].target in index}
    starts = sorted({0, *targets.values(), *(n + 1 for n in edges if n + 1 < len(code))})
    block_of = {start: b for b, start in enumerate(starts)}
    ends = [*starts[1:], len(code)]
    successors = []
    for b, end in enumerate(ends):
        last = end - 1
        to = {block_of[targets[last]]} if last in targets else set()
        if edges.get(last, (False, True))[1] and b + 1 < len(starts):
            to.add(b + 1)
        successors.append(tuple(sorted(to)))
    return Graph(tuple(code), (*starts, len(code)), tuple(successors))


def loops(flow: Graph) -> list[Loop]:
    """All natural loops, those with one header merged, the smallest first."""
    reached, pending = {0}, [0]
    while pending:
        for b in flow.successors[pending.pop()]:
            if b not in reached:
                reached.add(b)
                pending.append(b)
    predecessors: dict[int, set[int]] = {b: set() for b in reached}
    for b in reached:
        for to in flow.successors[b]:
            predecessors[to].add(b)
    dominators = {b: {0} if b == 0 else set(reached) for b in reached}
    changed = True
    while changed:
        changed = False
        for b in sorted(reached - {0}):
            new = {b} | set.intersection(*(dominators[p] for p in predecessors[b]))
            changed, dominators[b] = changed or new != dominators[b], new
    found: dict[int, set[int]] = {}
    for b in reached:
        for header in flow.successors[b]:
            if header in dominators[b]:
                body, pending = found.setdefault(header, {header}), [b]
                while pending:
                    inside = pending.pop()
                    if inside not in body:
                        body.add(inside)
                        pending.extend(predecessors[inside])
    return sorted((Loop(h, frozenset(body)) for h, body in found.items()), key=lambda loop: len(loop.blocks))


def innermost(found: Iterable[Loop]) -> list[Loop]:
    """The loops that hold no other loop."""
    found = list(found)
    return [loop for loop in found if not any(other.blocks < loop.blocks for other in found)]


def longest_path(flow: Graph, start: int, within: Iterable[int], goals: Iterable[int]) -> list[int]:
    """The blocks of the longest way, in instructions, from `start` to one of `goals`, inside `within`, without
    turning back; [] if there is none."""
    within, goals = set(within), set(goals)
    best: dict[int, list[int]] = {}  # the longest way from each block that was entered; none yet from those on the way

    def search(b: int) -> None:
        best[b], longest = [], []
        for to in (t for t in flow.successors[b] if t in within):
            if to not in best:
                search(to)
            longest = max(longest, best[to], key=lambda way: _size(flow, way))
        if longest or b in goals:
            best[b] = [b, *longest]

    search(start)
    return best[start]


class TensorLoop(NamedTuple):
    """The figures of a tensor-core kernel."""

    hot: tuple[Instruction, ...]  # the innermost loop
    tile: tuple[Instruction, ...]  # one way around the tile's loop, the hot loop repeated
    hot_per_kfma: float
    tile_per_kfma: float


def tensor_loop(code: Sequence[Instruction], steps: int = 1) -> TensorLoop | None:
    """The hot loop and its tile, None for a kernel without a tensor-core loop. steps: hot loops in one tile."""
    flow = graph(code)
    found = loops(flow)

    def multiply_adds(blocks: Iterable[int]) -> int:
        return sum(i.multiply_adds for i in flow.instructions(blocks))

    inner = [loop for loop in innermost(found) if multiply_adds(loop.blocks)]
    if not inner:
        return None

    def masks_then_size(loop: Loop) -> tuple[float, float]:
        body, work = flow.instructions(loop.blocks), multiply_adds(loop.blocks)
        return sum(i.family == "select" or bool(i.predicate) for i in body) / work, len(body) / work

    hot = min(inner, key=masks_then_size)
    body = flow.instructions(hot.blocks)
    around = [loop for loop in found if loop.blocks >= hot.blocks and _copies_or_waits(flow, loop)]
    tile = min(around, key=lambda loop: len(loop.blocks), default=hot)
    path = body
    if tile != hot:
        others = frozenset().union(*(loop.blocks for loop in inner if loop != hot))
        free = tile.blocks - others - hot.blocks
        last = {b for b in free if tile.header in flow.successors[b]}
        after = [to for b in hot.blocks for to in flow.successors[b] if to in free]
        before = longest_path(flow, tile.header, free | {hot.header}, {hot.header})
        behind = max((longest_path(flow, b, free, last) for b in after), default=[], key=lambda p: _size(flow, p))
        path = [*flow.instructions(b for b in before if b not in hot.blocks), *body * steps, *flow.instructions(behind)]
    return TensorLoop(tuple(body), tuple(path), _per_kfma(body), _per_kfma(path))


def _size(flow: Graph, blocks: Iterable[int]) -> int:
    return sum(len(flow.block(b)) for b in blocks)


def _copies_or_waits(flow: Graph, loop: Loop) -> bool:
    return any(i.opcode.startswith(("BAR", "LDGSTS")) for i in flow.instructions(loop.blocks))


def _per_kfma(code: Sequence[Instruction]) -> float:
    return 1000 * len(code) / sum(i.multiply_adds for i in code)
