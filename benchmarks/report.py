"""Results as a table in the terminal, as CSV and JSON, with where and when they were taken."""

from __future__ import annotations

import csv
import json
import os
import platform
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.timing import Ceilings, Measured
from benchmarks.workloads import Workload

PHASES = ("forward", "backward", "both")


class Row(NamedTuple):
    """One variant of one workload, in one phase."""

    workload: str
    size: str
    variant: str
    phase: str
    threads: int
    dtype: str
    p20_ms: float
    p50_ms: float
    p80_ms: float
    ratio: float  # to the first peer, else to the definition: above 1 is faster
    against: str
    gigabytes_per_second: float | None
    gigaflops_per_second: float | None


def rows_of(
    workload: Workload, phase: str, measured: dict[str, Measured], against: str, threads: int, dtype: str
) -> list[Row]:
    """The rows of one phase; bandwidth and arithmetic rates for the forward, whose least traffic is known."""
    rows = []
    for name, (spread, ratio) in measured.items():
        rate = [
            amount / spread.p50 / 1e9 if phase == "forward" and amount else None
            for amount in (workload.bytes_forward, workload.flops_forward)
        ]
        milliseconds = (1e3 * seconds for seconds in spread)
        rows.append(
            Row(workload.name, workload.size, name, phase, threads, dtype, *milliseconds, ratio, against, *rate)
        )
    return rows


def environment(xp: Any, threads: int, best: Ceilings) -> dict[str, Any]:
    """What a reader needs to judge the numbers."""
    found = {
        "date": date.today().isoformat(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": threads,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "copy_gigabytes_per_second": round(best.copy_gigabytes, 1),
        "product_gigaflops_per_second": round(best.product_gigaflops, 1),
    }
    if xp is not np:
        properties = xp.cuda.runtime.getDeviceProperties(xp.cuda.Device().id)
        found |= {
            "device": properties["name"].decode(),
            "cupy": xp.__version__,
            "driver": xp.cuda.runtime.driverGetVersion(),
            "runtime": xp.cuda.runtime.runtimeGetVersion(),
        }
    return found


def print_rows(rows: list[Row]) -> None:
    """One table a workload: its variants down, the phases across."""
    for key in dict.fromkeys((row.workload, row.size) for row in rows):
        chosen = [row for row in rows if (row.workload, row.size) == key]
        phases = [phase for phase in PHASES if any(row.phase == phase for row in chosen)]
        print(f"\n{key[0]}  {key[1]}  {chosen[0].dtype}, {chosen[0].threads} thread(s)")
        head = "".join(f"{f'{phase}, ms (p20-p80)':>30}{'ratio':>8}" for phase in phases)
        print(f"  {'variant':<22}{head}{'GB/s':>8}{'GFLOP/s':>9}")
        for name in dict.fromkeys(row.variant for row in chosen):
            own = {row.phase: row for row in chosen if row.variant == name}
            cells = ""
            for phase in phases:
                row = own.get(phase)
                times = f"{row.p50_ms:.3f} ({row.p20_ms:.3f}-{row.p80_ms:.3f})" if row else ""
                cells += f"{times:>30}{f'{row.ratio:.2f}' if row else '':>8}"
            first = own[phases[0]]
            rates = (first.gigabytes_per_second, first.gigaflops_per_second)
            print(f"  {name:<22}{cells}{_number(rates[0]):>8}{_number(rates[1]):>9}")
        print(f"  ratio: time of {chosen[0].against} / time of the variant; above 1 is faster")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def write_json(path: str | Path, rows: list[Row], environments: list[dict[str, Any]]) -> None:
    content = {"environments": environments, "rows": [row._asdict() for row in rows]}
    Path(path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_csv(path: str | Path, rows: list[Row], environments: list[dict[str, Any]]) -> None:
    """A header, and a line a row; date, device and versions are columns of each."""
    by_threads = {found["threads"]: found for found in environments}
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*Row._fields, *(k for k in environments[0] if k not in Row._fields)])
        writer.writeheader()
        for row in rows:
            writer.writerow(by_threads[row.threads] | row._asdict())
