"""Peak memory of one variant: what one forward and backward needs on top of its inputs and weights.

On the CPU every variant, of whatever library, is measured the same way: in a process of its own, which first runs it on
tiny inputs to load its code, then builds the inputs and runs it once. The figure is how much the process grew,

    peak resident memory during the call − resident memory before it

with outputs, caches, gradients, workspaces and what is kept for later calls (optimizer state that is made at the first
step). A second call in a process would show less: freed memory is not always given back. Code that is loaded for large
inputs only counts too, so a figure below about 2 MB says no more than "little". Linux tells the peak, others do not.
JAX compiles anew for each size: its compiler is in its figure.

On a GPU it is the growth of CuPy's and PyTorch's memory pools during one call after a warm-up.
"""

from __future__ import annotations

import ctypes
import gc
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

STATUS, FORGET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident_growth(run: Callable[[], Any]) -> int | None:
    """Bytes that the process grew by at most during `run()`; None where the system does not tell."""
    gc.collect()
    with suppress(AttributeError, OSError):  # what was freed before would be used again unseen
        ctypes.CDLL(None).malloc_trim(0)  # [malloc_trim(3), glibc]
    try:
        FORGET_PEAK.write_text("5")  # the peak so far becomes the present size [proc(5), clear_refs]
        before = _status("VmRSS")
        run()
        return max(0, _status("VmHWM") - before)
    except OSError:
        return None


def _status(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"{STATUS} has no {name}")
    return 1024 * int(found[1])


def pool_growth(cupy: Any, run: Callable[[], Any]) -> int | None:
    """Bytes that the memory pools on the device grew by during `run()`; None for a device without pools."""
    get_pool = getattr(cupy, "get_default_memory_pool", None)
    if get_pool is None:
        return None
    pool, torch = get_pool(), sys.modules.get("torch")
    on_device = torch is not None and torch.cuda.is_available()
    run()  # compile, and choose workspaces
    gc.collect()
    pool.free_all_blocks()
    before = pool.used_bytes()
    if on_device:
        torch.cuda.reset_peak_memory_stats()
        before += torch.cuda.memory_allocated()
    run()
    cupy.cuda.Device().synchronize()
    return max(0, pool.total_bytes() + (torch.cuda.max_memory_allocated() if on_device else 0) - before)


def free_pools(cupy: Any) -> None:
    """Give unused memory of CuPy's and PyTorch's pools back, so that one workload's leaves room for the next."""
    gc.collect()
    if get_pool := getattr(cupy, "get_default_memory_pool", None):
        get_pool().free_all_blocks()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
