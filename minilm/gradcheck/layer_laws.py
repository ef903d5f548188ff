"""The laws of layers, besides those of every op pair. Each that is broken is a failed row.

frozen parameters   have no gradient, and change no other one
need_dx=False       gives None for dx, and changes no gradient
train=False         can be differentiated too; with cache=False it gives the same y, and no cache
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minilm.backend import to_numpy
from minilm.gradcheck.report import ReportRow, joined
from minilm.gradcheck.structures import changed, fresh, snapshot
from minilm.gradcheck.trees import Tree, frozen


def freezing_rows(tree: Tree, seed: int, *, train: bool) -> list[ReportRow]:
    """need_dx=False, then each parameter frozen in turn, and all of them."""
    whole = tree.gradients(seed, train=train)
    parameters = [name for name in whole if name not in tree.inputs]
    further = {name for name in tree.inputs if name.partition("[")[0] != "x"}  # need_dx says nothing of those
    got = tree.gradients(seed, train=train, need_dx=False)
    got = {name: gradient for name, gradient in got.items() if name not in further}
    rows = _differences(tree.op, got, {name: whole[name] for name in parameters}, "need_dx=False")
    for names in [[name] for name in parameters] + [parameters] * (len(parameters) > 1):
        with frozen(tree.layer, set(names)):
            got = tree.gradients(seed, train=train)
        expected = {name: gradient for name, gradient in whole.items() if name not in names}
        rows += _differences(tree.op, got, expected, f"freezing {'all' if len(names) > 1 else names[0]}")
    return rows


def inference_rows(tree: Tree, checked: list[str], seed: int, **settings: Any) -> list[ReportRow]:
    """Gradients with train=False: those of training where y is the same to the last bit, else against numeric ones."""
    y, _ = tree.forward(*map(fresh, tree.values), train=False)
    dry, cache = tree.forward(*map(fresh, tree.values), train=False, cache=False)
    rows = []
    if cache is not None or changed(snapshot(dry), snapshot(y)):
        note = "with train=False, cache=False, forward gives another y, or a cache"
        rows.append(ReportRow.broken(tree.op, "(all)", note))
    trained, _ = tree.forward(*map(fresh, tree.values), train=True)
    if not changed(snapshot(trained), snapshot(y)):
        inferred, expected = (tree.gradients(seed, train=train) for train in (False, True))
        return rows + _differences(tree.op, inferred, expected, "train=False")
    report = tree.check(checked, "", train=False, seed=seed, laws=False, **settings)
    return rows + [row._replace(note=joined("train=False", row.note)) for row in report.rows]


def _differences(op: str, got: dict[str, Any], expected: dict[str, Any], what: str) -> list[ReportRow]:
    notes = dict.fromkeys(got.keys() - expected.keys(), f"{what}: it still has a gradient")
    notes |= dict.fromkeys(expected.keys() - got.keys(), f"{what}: its gradient is missing")
    shared = got.keys() & expected.keys()
    notes |= {name: f"{what} changes its gradient" for name in shared if not _close(got[name], expected[name])}
    return [ReportRow.broken(op, name, note) for name, note in notes.items()]


def _close(a: Any, b: Any) -> bool:
    a, b = to_numpy(a), to_numpy(b)
    return a.shape == b.shape and np.allclose(a, b, rtol=1e-10, atol=1e-12 * float(np.abs(b).max(initial=0.0)))
