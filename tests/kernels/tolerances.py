"""How near a kernel must come to the float64 definition, as data.

    error of the kernel <= FACTOR x error of the naive op in the same dtype      error: largest difference from float64

Naive: products in float32 on the rounded inputs, each intermediate array rounded to the dtype, the result rounded.
Where the naive op is exact, as for one visible key, FLOOR takes its place: relative to the largest entry, or to 1.
"""

from __future__ import annotations

import numpy as np

FACTOR = {"value": 2.0, "gradient": 3.0}
FLOOR = {"float64": 1e-13, "float32": 4e-7, "float16": 1e-5, "bfloat16": 1e-5}


def assert_within(got, exact, naive, kind: str, dtype: str | None = None) -> None:
    """`got` against the float64 result `exact`, beside the `naive` one (None: the floor alone).

    kind: "value" or "gradient". dtype: whose floor holds, of `got` by default.
    """
    name = dtype or np.asarray(got).dtype.name
    got, exact = np.asarray(got, np.float64), np.asarray(exact, np.float64)
    assert got.shape == exact.shape, f"shape {got.shape}, expected {exact.shape}"
    finite = np.isfinite(exact)
    np.testing.assert_array_equal(got[~finite], exact[~finite])  # a LSE of +inf is exact
    allowed = FLOOR[name] * max(1.0, np.abs(exact[finite]).max(initial=0.0))
    if naive is not None:
        difference = np.abs(np.asarray(naive, np.float64)[finite] - exact[finite])
        allowed = max(allowed, FACTOR[kind] * difference.max(initial=0.0))
    error = np.abs(got[finite] - exact[finite])
    worst = error.max(initial=0.0)
    where = np.argwhere(finite)[error.argmax()] if error.size and not np.isnan(worst) else np.argwhere(np.isnan(got))
    assert worst <= allowed, f"error {worst:.3g} at {where.tolist()[:8]}, allowed {allowed:.3g} ({kind}, {name})"
