"""The table of `minilm.kernels.check` as tests: a device under test, and the assertion on one call.

`test_gpu_lane` makes every call on CuPy arrays, `test_cupy_path` those marked `quick` on the strict stand-in, and under
`pytest -m full` all of them: what a GPU does for the first time is the arithmetic alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from minilm.kernels.check.calls import compare
from minilm.kernels.check.cases import Case
from tests import strict_cupy
from tests.conftest import Library


class Device(Library):
    """A library of device arrays: the stand-in's or CuPy's."""

    def quiet(self) -> contextlib.AbstractContextManager:
        """A block in which nothing may wait for the device. Only the stand-in can tell."""
        return strict_cupy.no_sync() if self.name == "strict" else contextlib.nullcontext()


def check(case: Case, device: Device, record: Callable[[str, object], None] = lambda *_: None) -> None:
    """Each result of the call is within what arithmetic allows, and has the same bits twice.

    record   pytest's `record_property`: gets one line for each result, which `pytest -m full` prints as a table
    """
    results = compare(case, device)
    for result in results:
        record("errors", f"{case} {result}")
    wrong = [str(result) for result in results if not result.right]
    assert not wrong, "; ".join(wrong)
