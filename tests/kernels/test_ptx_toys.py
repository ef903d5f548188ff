"""The toy kernels of the instructions: right on the twins in every order of threads, and no twin's fault gets by."""

from __future__ import annotations

import numpy as np
import pytest

from minilm.kernels.check import toys
from minilm.kernels.cuda import launch


def test_every_wrapper_is_right(order):
    found = list(toys.run_all(np))
    assert len(found) == 2 * len(toys.TOYS)
    for compared in found:
        assert compared.right, compared


# What an instruction would do whose text is wrong, done by its twin: (in ptx.cuh, in its place, the toy that sees it).
LDMATRIX, MMA, COPY = "ldmatrix x4, x4.trans, x2", "mma.m16n8k16", "cp.async, zero fill, groups"
FAULTS = {
    "not transposed": ("address, true, file", "address, false, file", LDMATRIX),
    "x2 reads the second half": ("8 * matrix + (transposed", "8 * (matrix + 4 - COUNT) + (transposed", LDMATRIX),
    "a[1] and a[2] swapped": ("{a[0], a[1], a[2], a[3], b[0], b[1]}", "{a[0], a[2], a[1], a[3], b[0], b[1]}", MMA),
    "b[0] and b[1] swapped": ("a[3], b[0], b[1]};\n    cuda", "a[3], b[1], b[0]};\n    cuda", MMA),
    "c left out": ("d[i] = c[i] + cuda_cpu_bits", "d[i] = cuda_cpu_bits", MMA),
    "no zero fill": (
        "store_16(copy.destination, copy.bytes ? copy.source : nullptr, 0);",
        "if (copy.bytes) store_16(copy.destination, copy.source, 0);", COPY,
    ),
    "natural exponential": ("const float y = exp2f(x);", "const float y = expf(x);", "ex2.approx"),
    "results below the normal numbers": ("return y < 1.17549435e-38f ? 0.f : y;", "return y;", "ex2.approx"),
    "halves swapped": ("__floats2half2_rn(low, high)", "__floats2half2_rn(high, low)", "pack, unpack"),
    "NaN stays": ("^ 0x80008000u", "", "finite"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_instruction_shows(fault, host_run, monkeypatch):
    old, new, toy = FAULTS[fault]
    source = launch.source_of(str(toys.SOURCE))
    assert source.count(old) == 1, f"the source holds {source.count(old)} times: {old}"
    monkeypatch.setattr(launch, "source_of", lambda file: source.replace(old, new))
    launch._host_kernel.cache_clear()
    try:
        assert not toys.run(toy, "float16", np).right
    finally:
        launch._host_kernel.cache_clear()
