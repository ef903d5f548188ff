"""Kernels by time, told by a trace, or by events around the launches."""

from __future__ import annotations

import sys

from benchmarks import kernel_times, step
from tests.strict_cupy import strict
from tests.strict_cupy.device_kernels import device_kernels


def test_a_trace_is_added_up_by_kernel():
    events = [
        {"cat": "kernel", "name": "gemm", "dur": 3000, "ts": 1},
        {"cat": "gpu_memset", "name": "Memset (Device)", "dur": 500},
        {"cat": "kernel", "name": "gemm", "dur": 1000},
        {"cat": "cpu_op", "name": "aten::mm", "dur": 9000},
        {"cat": "kernel", "name": "no duration"},
        {"ph": "M", "name": "process_name"},
    ]
    found = kernel_times.of_trace(events)
    assert found == [("gemm", 2, 4.0), ("Memset (Device)", 1, 0.5)]


def test_a_step_on_the_stand_in_names_its_kernels(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", strict)
    with device_kernels():
        (record,) = step.steps(strict, step.QUICK)
    assert record.status == "passed" and len(record.figures["losses"]) == 3
    launches = {kernel["name"]: kernel["launches"] for kernel in record.figures["kernels"]}
    assert launches["attention.cu:attention_forward"] == launches["attention.cu:attention_dq"] == step.QUICK[0].layers
    assert record.figures["milliseconds"] > 0
