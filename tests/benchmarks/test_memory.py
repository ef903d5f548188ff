"""Peak memory: it sees what a call needs, and what it gives back before it ends."""

from __future__ import annotations

import json
import subprocess
import sys
import types

import numpy as np
import pytest

from benchmarks import memory
from benchmarks.measure import Job

MB = 1_000_000


@pytest.mark.skipif(not memory.STATUS.exists(), reason="the system does not tell resident memory")
def test_a_temporary_counts():
    """256 MB are touched and freed: far above what the rest of the process does meanwhile."""

    def call():
        np.ones(32 * MB).sum()

    found = memory.resident_growth(call)
    assert 200 * MB < found < 320 * MB


def test_none_where_the_system_tells_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "STATUS", tmp_path / "absent")
    assert memory.resident_growth(lambda: None) is None


def test_a_variant_is_measured_in_a_process_of_its_own():
    """A float32 softmax of 2048 x 512 makes an output and a gradient of 4.2 MB each."""
    job = Job([("softmax", [2048, 512])], "cpu", "float32", [], variant="definition")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.measure", json.dumps(job)],
        capture_output=True,
        text=True,
        check=True,
        env={"OPENBLAS_NUM_THREADS": "1", "PATH": ""},
    )
    found = json.loads(done.stdout)
    if memory.STATUS.exists():
        assert 8 * MB < found < 24 * MB


class Pool:
    """A memory pool on a device, like CuPy's: it keeps what is freed."""

    used, total = 3, 7

    def free_all_blocks(self):
        self.total = self.used

    def used_bytes(self):
        return self.used

    def total_bytes(self):
        return self.total


def test_the_growth_of_a_pool(monkeypatch):
    pool = Pool()
    device = types.SimpleNamespace(synchronize=lambda: None)
    cupy = types.SimpleNamespace(
        get_default_memory_pool=lambda: pool, cuda=types.SimpleNamespace(Device=lambda: device)
    )
    monkeypatch.delitem(sys.modules, "torch", raising=False)

    def call():
        pool.total = max(pool.total, pool.used + 10)

    assert memory.pool_growth(cupy, call) == 10
    assert memory.pool_growth(types.SimpleNamespace(), call) is None
