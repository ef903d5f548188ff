"""The timer of a GPU, and what the benchmarks measure with it, in amounts that a run on the CPU affords.

    for module, name, value in settings(): monkeypatch.setattr(module, name, value)

The stand-in is never behind: no spin is ever too short for it.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from benchmarks import timing
from minilm.kernels.cuda import timing as device_timing


def settings() -> list[tuple[ModuleType, str, Any]]:
    return [
        (device_timing, "FLUSH_BYTES", 1 << 12),
        (device_timing, "CYCLES", 1 << 14),  # 16 µs
        (device_timing, "LEAST_SPIN", 1e-5),
        (timing, "LEAST_ROUNDS", 2),
        (timing, "UNTOLD", {"cpu": 10.0, "cuda": 10.0}),  # other processes share the processor
        (timing, "COPIED", {"cpu": 1 << 10, "cuda": 1 << 10}),
        (timing, "PRODUCT", {"cpu": 8, "cuda": 8}),
    ]
