"""Kernel tests run the CUDA sources on the CPU, which needs a C++ compiler and nothing else."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from minilm.kernels.cuda.launch import kernel
from minilm.kernels.host import CompileError, compiler_problem, host_options
from minilm.kernels.host.sanitize import run_sanitized, runtime

PROBLEM = compiler_problem()
SKIPPED = f"needs a run of the kernels on the CPU: {PROBLEM}"
ORDERS = [("forward", 0), ("reverse", 0), ("random", 1)]


def pytest_terminal_summary(terminalreporter, config):
    """The errors of the table's calls, where all of them were made."""
    if not {"full", "gpu"} & set(config.option.markexpr.split()):
        return
    reports = terminalreporter.stats.get("passed", []) + terminalreporter.stats.get("failed", [])
    lines = [text for report in reports for name, text in report.user_properties if name == "errors"]
    for text in sorted(lines):
        terminalreporter.write_line(text)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """A test that launches a kernel without a compiler is skipped, whether it asks for `host_run` or not."""
    try:
        return (yield)
    except CompileError:
        if PROBLEM is None:
            raise
        pytest.skip(SKIPPED)


@pytest.fixture
def host_run():
    """Kernels can be compiled for the CPU here, else the test is skipped with the reason."""
    if PROBLEM is not None:
        pytest.skip(SKIPPED)


@pytest.fixture(params=ORDERS, ids=[order for order, _ in ORDERS])
def order(request, host_run):
    """The test runs once in each order of threads and blocks."""
    name, seed = request.param
    with host_options(order=name, seed=seed):
        yield name


@pytest.fixture
def in_all_orders(host_run):
    """in_all_orders(run): the arrays of run(), which has the same bits in each order of threads and blocks."""

    def run_all(run):
        results = []
        for name, seed in ORDERS:
            with host_options(order=name, seed=seed):
                results.append(run())
        first = results[0] if isinstance(results[0], tuple) else (results[0],)
        for (name, _), other in zip(ORDERS[1:], results[1:], strict=True):
            for number, (a, b) in enumerate(zip(first, other if isinstance(other, tuple) else (other,), strict=True)):
                assert a is None or a.tobytes() == b.tobytes(), f"order {name} changes result {number}"
        return results[0]

    return run_all


@pytest.fixture
def poisoned_empty(monkeypatch):
    """Arrays that a launcher doesn't initialise hold NaN (and −1): what its kernels leave out shows."""
    empty = np.empty

    def poisoned(*args, **kwargs):
        array = empty(*args, **kwargs)
        array.reshape(-1).view(np.uint8)[...] = 0xFF
        return array

    monkeypatch.setattr(np, "empty", poisoned)
    monkeypatch.setattr(np, "empty_like", lambda a, dtype=None, **k: poisoned(np.shape(a), dtype or a.dtype, **k))


@pytest.fixture(params=["thread", "address,undefined"])
def sanitized(request, host_run):
    """sanitized(code): run Python code under each sanitizer; its Outcome."""
    if runtime(request.param) is None:
        pytest.skip(f"the runtime of sanitizer {request.param!r} isn't installed")
    return lambda code, *arguments: run_sanitized(request.param, code, *arguments)


@pytest.fixture
def toy(tmp_path):
    """toy(body, ...): a kernel `toy` with the parameters float* x, float* y, int n, compiled for the CPU."""
    numbers = itertools.count()

    def compile_toy(body, parameters="const float* x, float* y, int n", before="", defines=()):
        file = tmp_path / f"toy{next(numbers)}.cu"
        file.write_text(f'{before}\nextern "C" __global__ void toy({parameters}) {{\n{body}\n}}\n', encoding="utf-8")
        return kernel(file, "toy", dict(defines), like=np.zeros(1))

    return compile_toy
