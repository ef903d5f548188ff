"""Results: the fields of a row, where and when it was taken, as a table in the terminal, as JSON and as CSV."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from benchmarks.timing import Ceilings, Measured
from minilm.files import replacing, write_text

PHASES = ("forward", "backward", "both", "call")  # call: a workload without a backward, or a whole training step
CARD = (  # what a GPU says of itself, at most: its clocks may be lower while it works
    ("sm_clock_khz", "ClockRate"),
    ("memory_clock_khz", "MemoryClockRate"),
    ("memory_bus_bits", "GlobalMemoryBusWidth"),
    ("multiprocessors", "MultiProcessorCount"),
    ("l2_bytes", "L2CacheSize"),
)
FORMAT = "minilm benchmarks, version 1"  # what a file of results says of itself


class TimedRow(NamedTuple):
    """The figures of one variant of one workload, in one phase."""

    workload: str
    size: str
    variant: str
    phase: str
    threads: int
    dtype: str
    rounds: int
    p20_ms: float
    p50_ms: float
    p80_ms: float
    against: str  # the first peer, else the definition
    ratio: float  # time of `against` / own time, the median over the rounds: above 1 is faster
    ratio_p20: float
    ratio_p80: float
    ratio_to_definition: float | None
    gigabytes_per_second: float | None  # at least: inputs read once and outputs written once
    share_of_copy: float | None  # of what a plain copy reaches on this machine
    gigaflops_per_second: float | None
    share_of_product: float | None  # of what a matrix product reaches on this machine
    peak_memory_mb: float | None  # beyond inputs and weights, during forward and backward (memory.py)


class TimedRun(NamedTuple):
    """The rows of one process, or of several that belong together, and where they were taken."""

    environment: dict[str, Any]
    rows: list[TimedRow]
    notes: list[str]  # what was asked for and could not be had, and why


def rows_of(
    workload: Any, phase: str, measured: dict[str, Measured], memory: dict[str, int | None], threads: int, dtype: str
) -> list[TimedRow]:
    """The rows of one phase; with rates where the least traffic and the operations are stated, and without shares."""
    against = next(iter(measured))
    definition = measured.get("definition")
    rows = []
    for name, own in measured.items():
        p20, p50, p80 = own.spread
        ratio = own.ratio_to(measured[against])
        bandwidth, arithmetic = (amount / p50 / 1e9 if amount else None for amount in workload.amounts(phase))
        peak = memory.get(name)
        rows.append(
            TimedRow(
                workload=workload.name,
                size=workload.size,
                variant=name,
                phase=phase,
                threads=threads,
                dtype=dtype,
                rounds=len(own.seconds),
                p20_ms=1e3 * p20,
                p50_ms=1e3 * p50,
                p80_ms=1e3 * p80,
                against=against,
                ratio=ratio.p50,
                ratio_p20=ratio.p20,
                ratio_p80=ratio.p80,
                ratio_to_definition=own.ratio_to(definition).p50 if definition else None,
                gigabytes_per_second=bandwidth,
                share_of_copy=None,
                gigaflops_per_second=arithmetic,
                share_of_product=None,
                peak_memory_mb=None if peak is None else peak / 1e6,
            )
        )
    return rows


def with_shares(rows: Iterable[TimedRow], best: Mapping[str, Ceilings]) -> list[TimedRow]:
    """The rows with their rates as shares of what the machine reaches at best, in their precision."""
    return [
        row._replace(
            share_of_copy=_share(row.gigabytes_per_second, best[row.dtype].copy_gigabytes),
            share_of_product=_share(row.gigaflops_per_second, best[row.dtype].product_gigaflops),
        )
        for row in rows
    ]


def ceilings_out(best: Mapping[str, Ceilings]) -> dict[str, Any]:
    """The ceilings as entries of an environment: by precision, and those of the first, which most readers take."""
    first = next(iter(best.values()))
    return {
        "copy_gigabytes_per_second": round(max(own.copy_gigabytes for own in best.values()), 1),
        "product_gigaflops_per_second": round(first.product_gigaflops, 1),
        "product_dtype": first.product_dtype,
        "ceilings": {dtype: [*map(_rounded, own)] for dtype, own in best.items()},
    }


def _share(rate: float | None, ceiling: float) -> float | None:
    return None if rate is None else rate / ceiling


def environment(xp: Any, threads: int, best: Mapping[str, Ceilings], peers: Iterable[str] = ()) -> dict[str, Any]:
    """Machine, software and ceilings: enough to judge the numbers by."""
    blas = np.show_config(mode="dicts").get("Build Dependencies", {}).get("blas", {})
    found = {
        "date": date.today().isoformat(),
        "device": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": threads,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip(),
        **{peer: importlib.metadata.version(peer) for peer in peers},
        **ceilings_out(best),
    }
    if xp is not np:
        attributes = xp.cuda.Device().attributes
        properties = xp.cuda.runtime.getDeviceProperties(xp.cuda.Device().id)
        found |= {
            "device": properties["name"].decode(),
            "cupy": xp.__version__,
            "driver": xp.cuda.runtime.driverGetVersion(),
            "runtime": xp.cuda.runtime.runtimeGetVersion(),
            **{name: attributes[key] for name, key in CARD if key in attributes},
            "bandwidth": "triad",
        }
    return found


def _processor() -> str:
    """The name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


# ---- the terminal


def print_run(run: TimedRun) -> None:
    """Where it ran, what is missing, and one table per workload: phases and variants down."""
    print(describe(run.environment))
    for note in run.notes:
        print(note)
    print_tables(run.rows)
    if run.rows:
        print(f"\n{LEGEND}")


def print_tables(rows: Sequence[TimedRow], file: TextIO | None = None) -> None:
    """A table for each workload, size and precision."""
    for key in dict.fromkeys((row.workload, row.size, row.dtype) for row in rows):
        chosen = [row for row in rows if (row.workload, row.size, row.dtype) == key]
        print(f"\n{key[0]}  {key[1]}  {key[2]}, {thread_count(chosen[0].threads)}", file=file)
        print(as_text([HEAD, *cells_of(chosen)]), file=file, flush=True)


def describe(environment: dict[str, Any]) -> str:
    """Three lines: the machine, the software, and what the machine reaches at best."""
    machine = ("date", "device", "system", "cores", "threads")
    ceilings = ("copy_gigabytes_per_second", "product_gigaflops_per_second", "product_dtype")
    copy, product, dtype = (environment[name] for name in ceilings)
    about = ", ".join(f"{environment[name]}" for name in machine[:3])
    shown = {k: v for k, v in environment.items() if k not in (*machine, *ceilings, "ceilings", "command")}
    software = ", ".join(f"{k} {v}" for k, v in shown.items())
    return (
        f"{about}; threads: {environment['threads']}, cores: {environment['cores']}\n{software}\n"
        f"at best: {environment.get('bandwidth', 'copy')} {copy} GB/s, matrix product {product} GFLOP/s ({dtype})"
    )


HEAD = ("phase", "variant", "ms, median", "p20 - p80", "ratio", "p20 - p80", "× definition")
HEAD += ("GB/s", "of copy", "GFLOP/s", "of product", "peak MB")
LEGEND = (
    "ratio: time of the phase's first variant / time of this one, median of paired rounds: above 1 is faster. "
    "× definition: the same against\nthe definition. Of copy, of product: share of this machine's measured ceilings "
    "(above 100 %: it stayed in the cache).\nPeak MB: memory beyond inputs and weights (Linux, GPU)."
)


def cells_of(rows: Sequence[TimedRow]) -> list[tuple[str, ...]]:
    """The cells under `HEAD`; a phase and a variant's memory are named once."""
    cells, seen = [], set()
    for row in rows:
        fresh = row.variant not in seen
        seen.add(row.variant)
        above = cells and rows[len(cells) - 1].phase == row.phase
        cells.append(
            (
                "" if above else row.phase,
                row.variant,
                milliseconds(row.p50_ms),
                f"{milliseconds(row.p20_ms)} - {milliseconds(row.p80_ms)}",
                f"{row.ratio:.2f}",
                f"{row.ratio_p20:.2f} - {row.ratio_p80:.2f}",
                _number(row.ratio_to_definition, ".2f"),
                _number(row.gigabytes_per_second, ".1f"),
                _number(row.share_of_copy, ".0%"),
                _number(row.gigaflops_per_second, ".1f"),
                _number(row.share_of_product, ".0%"),
                _number(row.peak_memory_mb, ".1f") if fresh else "",
            )
        )
    return cells


def thread_count(threads: int) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}"


def milliseconds(value: float) -> str:
    """Three significant digits or more, never an exponent."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if value >= 100 else f"{value:.3f}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def as_text(table: Sequence[Sequence[str]], left: int = 2) -> str:
    """Columns side by side, the first `left` to the left; columns without a number are left out."""
    shown = [c for c in range(len(table[0])) if any(row[c] for row in table[1:])]
    widths = {c: max(len(row[c]) for row in table) for c in shown}
    lines = []
    for row in table:
        lines.append("  ".join(row[c].ljust(widths[c]) if c < left else row[c].rjust(widths[c]) for c in shown))
    return "\n".join(f"  {line}".rstrip() for line in lines)


# ---- files


def check_writable(path: str | Path) -> None:
    """ValueError where `path` cannot become a file: known before minutes of measuring, not after."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise ValueError(f"{path} cannot be written: there is no folder {path.parent}; make it first")
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.touch()
        temporary.unlink()
    except OSError as problem:
        raise ValueError(f"{path} cannot be written: {problem.strerror}; choose another folder") from None


def write_json(path: str | Path, runs: Sequence[TimedRun]) -> None:
    """One line per row, so that a change of recorded results reads as one."""
    parts = []
    for run in runs:
        rows = ",\n".join("    " + json.dumps({k: _rounded(v) for k, v in row._asdict().items()}) for row in run.rows)
        head = f'"environment": {json.dumps(run.environment)},\n   "notes": {json.dumps(run.notes)}'
        parts.append(f'  {{{head},\n   "rows": [\n{rows}\n  ]}}')
    content = ",\n".join(parts)
    write_text(path, f'{{"format": {json.dumps(FORMAT)},\n "runs": [\n{content}\n]}}\n')


def _rounded(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def read_json(path: str | Path) -> list[TimedRun]:
    """The runs in a file of results. Raises ValueError with the file's name where it is not one."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}")
        return [
            TimedRun(run["environment"], [TimedRow(**row) for row in run["rows"]], run["notes"])
            for run in content["runs"]
        ]
    except OSError as problem:
        raise ValueError(f"{path} cannot be read: {problem.strerror}") from None
    except (ValueError, KeyError, TypeError) as problem:
        raise ValueError(
            f"{path} holds no benchmark results ({type(problem).__name__}: {problem}); expected a file that "
            "python -m benchmarks NAME --json FILE wrote"
        ) from None


def write_csv(path: str | Path, runs: Sequence[TimedRun]) -> None:
    """A header, and one line per row; date, device and versions are columns of each."""
    about = dict.fromkeys(key for run in runs for key in run.environment if key not in TimedRow._fields)
    columns = [*TimedRow._fields, *about]
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for run in runs:
            for row in run.rows:
                writer.writerow(run.environment | row._asdict())
