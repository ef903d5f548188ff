"""Results that were never measured, for tests of what is made of them."""

from __future__ import annotations

import json

from benchmarks.report import FORMAT, TimedRow, TimedRun, write_json

VARIANTS = {"torch": 2.0, "definition": 4.0, "cpu.blocked": 1.0}  # milliseconds


def rows(workload="softmax", size="8 x 16", threads=1, phases=("forward", "backward", "both"), milliseconds=None):
    """A row a phase and variant; the first variant is the peer."""
    times = VARIANTS if milliseconds is None else milliseconds
    first = next(iter(times))
    return [
        TimedRow(
            workload, size, variant, phase, threads, "float32", 9, 0.9 * ms, ms, 1.1 * ms, first, times[first] / ms,
            0.9 * times[first] / ms, 1.1 * times[first] / ms, times.get("definition", ms) / ms, 10.0 / ms, 0.8 / ms,
            5.0 / ms, 0.1 / ms, 12.5,
        )
        for phase in phases
        for variant, ms in times.items()
    ]  # fmt: skip


def environment(threads=1, **more):
    return {
        "date": "2026-02-03",
        "device": "A CPU",
        "system": "Linux",
        "cores": 4,
        "threads": threads,
        "copy_gigabytes_per_second": 12.0,
        "product_gigaflops_per_second": 150.0,
        "product_dtype": "float32",
        "ceilings": {"float32": [12.0, 150.0, "float32"]},
        **more,
    }


def run(threads=1, notes=(), **options):
    return TimedRun(environment(threads), rows(threads=threads, **options), list(notes))


def results(folder, name="results.json", runs=None):
    """A file of results."""
    path = folder / name
    write_json(path, [run()] if runs is None else runs)
    assert json.loads(path.read_text())["format"] == FORMAT
    return path
