"""The laws of layers, besides those of every op pair: freezing, need_dx. Each that is broken is a failed row.

frozen parameters   have no gradient, and change no other one
need_dx=False       gives None for dx, and changes no gradient
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minilm.backend import to_numpy
from minilm.gradcheck.report import ReportRow
from minilm.gradcheck.structures import draw_like, fresh
from minilm.gradcheck.trees import Tree, frozen


def freezing_rows(tree: Tree, seed: int) -> list[ReportRow]:
    """need_dx=False, then each parameter frozen in turn, and all of them."""
    y, _ = tree.forward(*tree.values)
    dy = draw_like(y, np.random.default_rng(seed))

    def gradients(need_dx: bool = True) -> dict[str, Any]:
        _, cache = tree.forward(*map(fresh, tree.values))
        return tree.backward(fresh(dy), cache, need_dx=need_dx)

    whole = gradients()
    parameters = [name for name in whole if name not in tree.inputs]
    further = {name for name in tree.inputs if name.partition("[")[0] != "x"}  # need_dx says nothing of those
    got, expected = ({n: g for n, g in some.items() if n not in further} for some in (gradients(False), whole))
    rows = _differences(tree.op, got, {name: expected[name] for name in parameters}, "need_dx=False")
    for names in [[name] for name in parameters] + [parameters] * (len(parameters) > 1):
        with frozen(tree.layer, set(names)):
            got = gradients()
        expected = {name: gradient for name, gradient in whole.items() if name not in names}
        rows += _differences(tree.op, got, expected, f"freezing {'all' if len(names) > 1 else names[0]}")
    return rows


def _differences(op: str, got: dict[str, Any], expected: dict[str, Any], what: str) -> list[ReportRow]:
    notes = dict.fromkeys(got.keys() - expected.keys(), f"{what}: it still has a gradient")
    notes |= dict.fromkeys(expected.keys() - got.keys(), f"{what}: its gradient is missing")
    shared = got.keys() & expected.keys()
    notes |= {name: f"{what} changes its gradient" for name in shared if not _close(got[name], expected[name])}
    return [ReportRow.broken(op, name, note) for name, note in notes.items()]


def _close(a: Any, b: Any) -> bool:
    a, b = to_numpy(a), to_numpy(b)
    return a.shape == b.shape and np.allclose(a, b, rtol=1e-10, atol=1e-12 * float(np.abs(b).max(initial=0.0)))
