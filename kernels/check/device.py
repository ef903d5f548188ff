"""The machine of the results: the device, its driver, and the versions of everything that takes part."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from minilm.kernels.check.records import FAILED, PASSED, SKIPPED, Record

PACKAGES = ("numpy", "torch", "triton", "pytest", "hypothesis", "pytest-xdist", "ml-dtypes")
ATTRIBUTES = (
    "MultiProcessorCount",
    "L2CacheSize",
    "MaxSharedMemoryPerBlockOptin",
    "MaxPersistingL2CacheSize",
    "ClockRate",
    "MemoryClockRate",
)
QUERY = "name,driver_version,memory.total,clocks.sm,clocks.max.sm,clocks.mem,power.limit,ecc.mode.current"


def describe(xp: ModuleType) -> Iterator[Record]:
    """The versions, the device, what nvidia-smi says; and whether an array of each dtype gets there and back."""
    yield Record("device", "versions", PASSED, figures=_versions(xp))
    yield Record("device", "device", PASSED, figures=_properties(xp))
    yield _nvidia_smi()
    yield _round_trip(xp)


def _versions(xp: ModuleType) -> dict[str, Any]:
    found = {"python": platform.python_version(), "machine": platform.platform(), "cupy": xp.__version__}
    found["cuda driver"] = xp.cuda.runtime.driverGetVersion()  # 13000 is 13.0
    found["cuda runtime"] = xp.cuda.runtime.runtimeGetVersion()
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def _properties(xp: ModuleType) -> dict[str, Any]:
    device = xp.cuda.Device()
    name = xp.cuda.runtime.getDeviceProperties(device.id)["name"]
    attributes = device.attributes
    found = {"name": name.decode() if isinstance(name, bytes) else name}
    found["compute capability"] = device.compute_capability
    return found | {key: attributes[key] for key in ATTRIBUTES if key in attributes}


def _nvidia_smi() -> Record:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Record("device", "nvidia-smi", SKIPPED, "nvidia-smi is not on the PATH")
    done = subprocess.run([tool, f"--query-gpu={QUERY}", "--format=csv"], capture_output=True, text=True, timeout=30)
    return Record("device", "nvidia-smi", PASSED, " | ".join((done.stdout or done.stderr).splitlines()))


def _round_trip(xp: ModuleType) -> Record:
    import ml_dtypes

    rng = np.random.default_rng(0)
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.int64, np.bool_):
        sent = (8 * rng.standard_normal((3, 5))).astype(dtype)
        if sent.tobytes() != xp.asarray(sent).get().tobytes():
            return Record("device", "arrays", FAILED, f"an array of {np.dtype(dtype)} comes back changed")
    return Record("device", "arrays", PASSED, "of six dtypes come back as they were sent")
