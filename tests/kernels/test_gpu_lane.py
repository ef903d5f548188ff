"""The CUDA kernels on a GPU, through CuPy: every launcher, dtype and option of the table, the choice in `ops`, a model.

    pytest -m gpu

The tests are those of `test_cupy_path`, which run on the stand-in everywhere; here `device` is CuPy, and the table of
calls is gone through in full. Where no GPU is found they are skipped with the reason.
"""

from __future__ import annotations

import pytest

from minilm.kernels.check.cases import cases
from tests.conftest import NO_GPU
from tests.kernels.cases import Device, check
from tests.kernels.test_cupy_path import (  # noqa: F401  the same tests, with the `device` below
    test_autotuned_choice,
    test_backward_computes_what_is_asked_for,
    test_dropout_is_drawn_from_the_generator,
    test_gradients_and_laws,
    test_one_query_without_a_cache_runs_the_decode_kernel,
    test_op_runs_the_kernel,
    test_reference_forces_the_definition,
    test_training_runs_through_the_kernels,
)

pytestmark = [pytest.mark.gpu, NO_GPU]


@pytest.fixture
def device():
    import cupy

    return Device("cupy", cupy)


@pytest.mark.parametrize("case", cases(), ids=str)
def test_launcher(case, device, record_property):
    if case.dtype == "bfloat16" or (case.op == "attention" and case.dtype == "float16"):
        capability = device.module.cuda.Device().compute_capability
        if int(capability) < 80:
            pytest.skip(f"{case.dtype} needs compute capability 8.0, the device has {capability[:-1]}.{capability[-1]}")
    check(case, device, record_property)
