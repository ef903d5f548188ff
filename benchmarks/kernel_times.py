"""Which kernels a call launches, and how long each takes on the GPU.

PyTorch's profiler, where it is installed and sees the GPU, records every kernel of the process, CuPy's and the
libraries' included. Elsewhere events are put around the launches of our own kernels, and the rest is left unnamed.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from minilm.kernels.check.door import Request, watching
from minilm.kernels.cuda.launch import Kernel

DEVICE_EVENTS = ("kernel", "gpu_memcpy", "gpu_memset")  # categories of a trace that pass on the GPU


class KernelTime(NamedTuple):
    """All launches of one kernel in one call."""

    name: str
    launches: int
    milliseconds: float


class Times(NamedTuple):
    """The times of one call."""

    milliseconds: float  # from its first to its last kernel, by events
    kernels: list[KernelTime]  # the longest first
    source: str  # who told


def measure(run: Callable[[], Any], xp: ModuleType) -> Times:
    """Run `run` three times: once untimed, once between two events, once with its kernels recorded."""
    run()
    start, end = xp.cuda.Event(), xp.cuda.Event()
    start.record()
    run()
    end.record()
    end.synchronize()
    milliseconds = xp.cuda.get_elapsed_time(start, end)
    torch = importlib.import_module("torch") if importlib.util.find_spec("torch") else None
    if torch is not None and torch.cuda.is_available():
        return Times(milliseconds, of_trace(_trace(run, torch)), "torch.profiler: every kernel")
    return Times(milliseconds, _by_events(run, xp), "events around our own kernels; others are not named")


def _trace(run: Callable[[], Any], torch: Any) -> list[dict[str, Any]]:
    """The events of a trace of `run`."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        return json.loads(path.read_text(encoding="utf-8", errors="replace"))["traceEvents"]


def of_trace(events: Iterable[dict[str, Any]]) -> list[KernelTime]:
    """The events of a trace in Chrome's format, added up by name; durations there are in microseconds."""
    spans = ((str(e["name"]), float(e["dur"]) / 1e3) for e in events if e.get("cat") in DEVICE_EVENTS and "dur" in e)
    return _added_up(spans)


def _by_events(run: Callable[[], Any], xp: ModuleType) -> list[KernelTime]:
    pairs: list[tuple[str, Any, Any]] = []

    def seen(request: Request, compiled: Callable[[], Kernel]) -> Kernel:
        kernel = compiled()

        def launch(*args: Any, **keywords: Any) -> None:
            start, end = xp.cuda.Event(), xp.cuda.Event()
            start.record()
            kernel(*args, **keywords)
            end.record()
            pairs.append((request.name, start, end))

        return launch

    with watching(seen):
        run()
    for _, _, end in pairs[-1:]:
        end.synchronize()
    return _added_up((name, xp.cuda.get_elapsed_time(start, end)) for name, start, end in pairs)


def _added_up(spans: Iterable[tuple[str, float]]) -> list[KernelTime]:
    by_name: dict[str, list[float]] = defaultdict(list)
    for name, milliseconds in spans:
        by_name[name].append(milliseconds)
    found = [KernelTime(name, len(own), sum(own)) for name, own in by_name.items()]
    return sorted(found, key=lambda kernel: -kernel.milliseconds)
