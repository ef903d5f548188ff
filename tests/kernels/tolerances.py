"""How near a kernel must come to the float64 definition: within what its arithmetic allows, element by element.

The bounds are those of `minilm.kernels.check`; nothing here depends on what NumPy computes in another dtype.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minilm.kernels.check.calls import NAMES, expected, measure


def assert_within(got: Any, exact: Any, allowed: Any, name: str = "value") -> None:
    """`got` is within `allowed` of the float64 result `exact`; what is not finite there is the same in both."""
    result = measure(name, *(np.asarray(x) for x in (got, exact, allowed)))
    assert result.right, str(result)


def assert_call_within(op: str, arrays: dict, options: dict, results: tuple, dy: Any = None) -> None:
    """The results of a call of a launcher, (y, gradients ...), are within what is allowed for the dtype of y."""
    dtype = results[0].dtype
    wanted, allowed = expected(op, arrays, options, dtype.name, dy)
    assert len(results) == len(wanted)
    for name, got, exact, bound in zip(NAMES[op], results, wanted, allowed, strict=False):
        assert (got is None) == (exact is None), name
        if got is not None:
            assert got.dtype == dtype
            assert_within(got, exact, bound, name)
