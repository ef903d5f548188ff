"""Fixtures of the whole suite: the array library under test, a seeded generator, hypothesis profiles."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections import Counter

# One BLAS thread per test process, before NumPy loads: pytest-xdist already runs one process per core.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import numpy as np
import pytest

from tests import strict_cupy

hypothesis.settings.register_profile("default", deadline=None, max_examples=25)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_collection_modifyitems(config, items):
    """What is marked `full` runs where the command names the mark: it takes long."""
    if "full" not in config.option.markexpr:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("full")])
        items[:] = [item for item in items if not item.get_closest_marker("full")]


def pytest_terminal_summary(terminalreporter):
    """One line for each reason to skip, instead of one for each place."""
    skipped = Counter(report.longrepr[2] for report in terminalreporter.stats.get("skipped", ()))
    for reason, count in skipped.most_common():
        terminalreporter.write_line(f"{count} skipped: {reason.removeprefix('Skipped: ')}")


class Library:
    """One array library: how host arrays get in and results get out."""

    def __init__(self, name: str, module):
        self.name, self.module = name, module

    def asarray(self, array):
        """A host array (or None, or anything that is no array) as this library's."""
        return self.module.asarray(array) if isinstance(array, np.ndarray) else array

    def asarrays(self, arrays):
        return tuple(self.asarray(a) for a in arrays)

    def to_numpy(self, array):
        return array.get() if hasattr(array, "get") else np.asarray(array)

    def __repr__(self):
        return self.name


def _cupy_problem() -> str | None:
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed"
    import cupy

    return None if cupy.is_available() else "CuPy sees no CUDA device"


CUPY_PROBLEM = _cupy_problem()
NO_GPU = pytest.mark.skipif(CUPY_PROBLEM is not None, reason=f"needs a GPU: {CUPY_PROBLEM}")


@pytest.fixture(params=["numpy", "strict", pytest.param("cupy", marks=[pytest.mark.gpu, NO_GPU])])
def xp(request, monkeypatch):
    """NumPy; the strict stand-in, which forbids what CuPy forbids; CuPy itself where a GPU is found."""
    if request.param == "numpy":
        return Library("numpy", np)
    if request.param == "cupy":
        import cupy

        return Library("cupy", cupy)
    strict_cupy.events.clear()
    monkeypatch.setitem(sys.modules, "cupy", strict_cupy.strict)
    return Library("strict", strict_cupy.strict)


@pytest.fixture
def rng():
    return np.random.default_rng(20240229)
