"""The compile gate: what the kernels compile to, held to kernels/gate/budget.json.

    "limits"    data, changed by hand only: {"kernel": a regular expression on the instance's name, "arch": [80], or
                absent for all, "figure": a name in compile.Figures, "at_most" | "at_least" | "exactly": a number,
                "reason": why}
    "measured"  a record of the last run, rewritten by --update-budget: what moved is shown, and is no violation

A limit that no instance meets guards nothing any more: in a run over everything it is a violation itself, and so is a
source that no instance compiles.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from minilm.checks import one_of
from minilm.files import write_text
from minilm.kernels.gate.compile import Figures, Unit

BUDGET = Path(__file__).parent / "budget.json"
RECORDED = ("registers", "warps", "instructions")  # of each instance and architecture, in "measured"
_BOUNDS = {  # the key of a limit, when it is broken, and how that reads
    "at_most": (operator.gt, ">"),
    "at_least": (operator.lt, "<"),
    "exactly": (operator.ne, "is not"),
}
_KEYS = {"kernel", "arch", "figure", "reason", *_BOUNDS}


def read_budget(path: Path = BUDGET) -> dict[str, Any]:
    """The budget, checked: ValueError names the limit that is wrong."""
    budget = json.loads(path.read_text())
    for number, limit in enumerate(budget["limits"], 1):
        where = f"{path.name}, limit {number}"
        strange = limit.keys() - _KEYS
        if strange or not limit.get("reason"):
            raise ValueError(f"{where}: {'unknown ' + ', '.join(sorted(strange)) if strange else 'no reason is given'}")
        one_of(f"{where}: figure", limit["figure"], Figures._fields)
        if len(limit.keys() & _BOUNDS) != 1:
            raise ValueError(f"{where}: give one of {', '.join(_BOUNDS)}")
    return budget


def applies(limit: Mapping[str, Any], figure: Figures) -> bool:
    """Whether a limit is meant for this instance and architecture."""
    return figure.arch in limit.get("arch", [figure.arch]) and re.search(limit["kernel"], figure.kernel) is not None


def is_named(unit: Unit, budget: Mapping[str, Any]) -> bool:
    """Whether a limit or a row of the comparison names an instance of this run together with its architecture."""
    rows = [row for row in budget["limits"] if unit.arch in row.get("arch", ())]
    rows += [row for row in budget["compared"] if unit.arch == row["arch"]]
    return any(re.search(row["kernel"], instance.name) for row in rows for instance in unit.instances)


def violations(measured: Sequence[Figures], limits: Sequence[Mapping[str, Any]]) -> list[str]:
    """The figures that are not within the limits, one line each."""
    found = []
    for f in measured:
        where = f"{f.kernel}, sm_{f.arch}"
        if f.error:
            found.append(f"{where}: does not compile: {f.error}")
            continue
        if f.blocks == 0:
            found.append(f"{where}: cannot be launched: {f.threads} threads, {f.registers} registers, {f.shared} bytes")
        for limit in limits:
            if applies(limit, f):
                value = getattr(f, limit["figure"])
                for bound, (broken, sign) in _BOUNDS.items():
                    if bound in limit and broken(value, limit[bound]):
                        found.append(f"{where}: {limit['figure']} {value} {sign} {limit[bound]} ({limit['reason']})")
    return found


def idle_limits(measured: Sequence[Figures], limits: Sequence[Mapping[str, Any]]) -> list[str]:
    """Limits that no instance meets, one line each. Only of use after a run over everything."""
    return [
        f"no instance meets the limit {limit['figure']} of {limit['kernel']!r} ({limit['reason']})"
        for limit in limits
        if not any(applies(limit, f) for f in measured)
    ]


def sources_left_out(sources: Iterable[str], compiled: Iterable[str]) -> list[str]:
    """Sources that no instance compiles, one line each."""
    return [f"{file}: no launcher declares an instance of it" for file in sorted(set(sources) - set(compiled))]


def changes(measured: Iterable[Figures], budget: Mapping[str, Any]) -> list[str]:
    """The figures that moved against the record, one line each."""
    found = []
    for f in measured:
        before = budget["measured"].get(f.kernel, {}).get(str(f.arch))
        now = [getattr(f, name) for name in RECORDED]
        if before is not None and not f.error and before != now:
            moved = (f"{n} {a} -> {b}" for n, a, b in zip(RECORDED, before, now, strict=True) if a != b)
            found.append(f"{f.kernel}, sm_{f.arch}: {', '.join(moved)}")
    return found


def updated(budget: Mapping[str, Any], measured: Iterable[Figures], everything: bool) -> dict[str, Any]:
    """The budget with a new record, its limits untouched. everything: nothing older is kept."""
    record = {} if everything else {kernel: dict(archs) for kernel, archs in budget["measured"].items()}
    for f in measured:
        if not f.error:
            record.setdefault(f.kernel, {})[str(f.arch)] = [getattr(f, name) for name in RECORDED]
    return {**budget, "measured": dict(sorted(record.items()))}


def write_budget(budget: Mapping[str, Any], path: Path = BUDGET) -> None:
    """One line per limit and per instance, so that a change reads as one. The file is replaced whole or not at all."""
    limits = ",\n".join("    " + json.dumps(limit) for limit in budget["limits"])
    record = ",\n".join(f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in budget["measured"].items())
    rest = "".join(
        f"  {json.dumps(k)}: {json.dumps(v)},\n" for k, v in budget.items() if k not in ("limits", "measured")
    )
    text = f'{{\n{rest}  "limits": [\n{limits}\n  ],\n  "measured": {{\n{record}\n  }}\n}}\n'
    json.loads(text)
    write_text(path, text)
