"""python -m benchmarks static: the CUDA kernels without a GPU. Compiled, not run; estimated, not timed.

Two tables: what our kernels compile to for sm_80 beside Triton's kernels of the same job (registers, spilled registers,
warps at once, the instructions of the hot loop), both read from machine code by the same tools; and the roofline, the
least time that the bytes and operations of each call take on some cards.

The first needs the extra kernels-ci; Triton's rows need Triton (pip install triton; Linux). What is missing is named.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import re
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.options import add_command
from minilm.files import write_text
from minilm.kernels import roofline
from minilm.kernels.cuda.instances import Instance, all_instances
from minilm.kernels.gate import compile as compiling, rules, tables

ARCH = 80
FORMAT = "minilm static tables, version 1"
COMPILED = f"Compiled for sm_{ARCH}, not run"
COLUMNS = (*tables.COMPARED[:2], ("instructions", lambda f: f.instructions), *tables.COMPARED[2:])


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """The subcommand of `python -m benchmarks`."""
    parser = add_command(commands, "static", __doc__, main)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the tables as JSON, for report")


def main(arguments: argparse.Namespace) -> int:
    """`python -m benchmarks static`"""
    if arguments.json:
        report.check_writable(arguments.json)
    found = static_tables()
    for note in found["notes"]:
        print(note)
    if found["kernels"]:
        print(f"{COMPILED} ({found['compilers']}). FMA are those of the tensor cores.\n")
        print(tables.markdown(found["kernels"]))
    print(f"\n{roofline.MEANING}\n")
    print(tables.markdown(found["roofline"]))
    print(f"\n{roofline.PEAKS}:")
    for line in found["peaks"]:
        print(f"  {line}")
    if arguments.json:
        write_text(arguments.json, json.dumps(found, indent=1) + "\n")
    return 0


def static_tables() -> dict[str, Any]:
    """Both tables, their cells as text, and what is absent."""
    notes, kernels, compilers = [], [], []
    if problem := compiling.missing():
        notes.append(f"the compiled kernels are absent: {problem}")
    else:
        kernels, compilers = _kernels(notes)
    return {
        "format": FORMAT,
        "date": date.today().isoformat(),
        "compilers": ", ".join(compilers),
        "notes": notes,
        "kernels": kernels,
        "roofline": roofline.rows(roofline.standard_work()),
        "peaks": roofline.peaks(),
    }


def read_json(path: Path) -> dict[str, Any] | None:
    """The tables in a file; None where it holds something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("format") == FORMAT else None


def _kernels(notes: list[str]) -> tuple[list[list[str]], list[str]]:
    """The first table, and the compilers it comes from."""
    compared = rules.read_budget()["compared"]
    wanted = [i for i in all_instances() if any(re.search(row["kernel"], i.name) for row in compared)]
    ours = [figures for unit in compiling.units(wanted, (ARCH,)) for figures in compiling.measure(unit)]
    compilers = [compiling.compiler_version()]
    triton, peers = "", {}
    if importlib.util.find_spec("triton"):
        triton, peers = f"Triton {importlib.metadata.version('triton')}", _triton_figures()
        compilers.append(triton)
    else:
        notes.append("Triton is absent: pip install triton (Linux); recorded figures stand in its rows")
    rows = [["kernel", "from", *(name for name, _ in COLUMNS)]]
    for row in compared:
        for figures in ours:
            if re.search(row["kernel"], figures.kernel):
                if figures.error:
                    raise ValueError(f"{figures.kernel} does not compile: {figures.error}")
                rows.append([row["title"], "minilm", *_cells(figures)])
        if row["title"] in peers:
            figures = peers[row["title"]]
            rows.append([row["title"], f"{triton}, {figures.threads // 32} warps", *_cells(figures)])
        elif row["triton"]:
            known = dict(zip((name for name, _ in tables.COMPARED), row["triton"], strict=True))
            rows.append([row["title"], f"{row['peer']}, recorded", *(known.get(name, "") for name, _ in COLUMNS)])
    return rows, compilers


def _cells(figures: compiling.Figures) -> list[str]:
    return [str(show(figures)) for _, show in COLUMNS]


def _triton_figures() -> dict[str, compiling.Figures]:
    """The figures of Triton's kernels, by the title of the row that they stand under."""
    from benchmarks import triton_kernels

    found = {}
    for kernel in triton_kernels.KERNELS:
        result = triton_kernels.compiled(kernel, ARCH)
        (function,) = compiling.disassemble(result.asm["cubin"], ARCH).values()
        as_instance = Instance(
            "triton.cu", kernel.name, {}, (ARCH,), 32 * result.metadata.num_warps, result.metadata.shared
        )
        figures = compiling.figures(as_instance, ARCH, function)
        per_element = round(len(function.code) / kernel.elements, 2) if kernel.elements else 0.0
        found[kernel.title] = figures._replace(per_element=per_element)
    return found
