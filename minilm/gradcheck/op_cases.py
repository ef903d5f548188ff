"""Cases of the ops on single positions: maps, activations, normalizations, losses. See `cases`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from minilm.backend import generator
from minilm.gradcheck.cases import Case
from minilm.gradcheck.checker import gradcheck
from minilm.gradcheck.laws import LawViolation, check_laws
from minilm.gradcheck.report import Report, Row
from minilm.gradcheck.structures import fresh
from minilm.selection import registered


class Op:
    """Makes cases of one op: `op(label, x=..., weight=..., options={...})`."""

    def __init__(self, name: str, seed: int) -> None:
        self.name, self.op = name, registered()[name]
        self.rng = generator(seed, 1)

    def normal(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        return scale * self.rng.standard_normal(shape)

    def __call__(
        self, label: str, *, wrt: Sequence[str] | None = None, options: dict[str, Any] | None = None, **arrays: Any
    ) -> Case:
        forward = self._bound(list(arrays), options or {})

        def run(seed: int) -> Report:
            report = gradcheck(forward, self.op.backward, tuple(arrays.values()), wrt=wrt, seed=seed)
            try:
                check_laws(forward, self.op.backward, tuple(arrays.values()), wrt=wrt, seed=seed)
            except LawViolation as broken:
                row = Row(self.name, "(all)", "law", None, np.nan, np.nan, np.inf, False, str(broken))
                report = report._replace(rows=(*report.rows, row))
            return report

        return Case(label, run)

    def _bound(self, names: list[str], options: dict[str, Any]) -> Callable[..., Any]:
        """The op over the named arrays, its options fixed; a generator among them starts anew at each call."""

        def forward(*values: Any, cache: bool = True) -> Any:
            given = dict(zip(names, values, strict=True))
            return self.op(**given, **{name: fresh(value) for name, value in options.items()}, cache=cache)

        parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
        keyword = inspect.Parameter("cache", inspect.Parameter.KEYWORD_ONLY, default=True)
        forward.__signature__ = inspect.Signature([*parameters, keyword])
        forward.__name__ = self.name
        return forward


def linear(seed: int) -> Iterator[Case]:
    op = Op("linear", seed)
    yield op("x (B, T, Cin)", x=op.normal(2, 3, 4), weight=op.normal(5, 4), bias=op.normal(5))
    yield op("no bias, x (Cin)", x=op.normal(4), weight=op.normal(5, 4))
    yield op("no positions", x=op.normal(0, 4), weight=op.normal(5, 4), bias=op.normal(5))


def embedding(seed: int) -> Iterator[Case]:
    op = Op("embedding", seed)
    ids = np.array([[1, 0, 3, 3], [3, 1, 0, 2]])  # ids repeat, id 4 does not occur
    yield op("repeated ids", ids=ids, weight=op.normal(5, 3))
    yield op("one id, often", ids=np.full(7, 2), weight=op.normal(5, 3))


def _activation(name: str) -> Callable[[int], Iterator[Case]]:
    def build(seed: int) -> Iterator[Case]:
        op = Op(name, seed)
        for kind in ("none", "tanh") if name == "gelu" else (None,):
            options, label = ({}, "") if kind is None else ({"approximate": kind}, f"approximate={kind}; ")
            yield op(f"{label}x (B, T, C)", x=op.normal(2, 3, 4), options=options)
            wide = np.linspace(-9.0, 9.0, 24)  # into both tails, where it is flat or the identity
            yield op(f"{label}tails", x=wide, options=options)

    return build


def dropout(seed: int) -> Iterator[Case]:
    op = Op("dropout", seed)
    yield op("p=0.4", x=op.normal(3, 4, 2), options={"p": 0.4, "rng": generator(seed, 2)})
    yield op("p=0", x=op.normal(3, 4), options={"p": 0.0, "rng": None})


def _softmax(name: str) -> Callable[[int], Iterator[Case]]:
    def build(seed: int) -> Iterator[Case]:
        op = Op(name, seed)
        yield op("last axis", x=op.normal(2, 3, 5))
        yield op("axis=0", x=op.normal(4, 3), options={"axis": 0})
        yield op("logits far apart", x=op.normal(3, 5, scale=20.0))
        yield op("one class", x=op.normal(3, 1))
        hidden = op.normal(3, 4)
        hidden[0], hidden[1, 2] = -np.inf, -np.inf  # a row of all -inf gives zeros
        if name == "softmax":
            yield op("-inf", x=hidden)

    return build


def layer_norm(seed: int) -> Iterator[Case]:
    op = Op("layer_norm", seed)
    yield op("x (B, T, C)", x=op.normal(2, 3, 5), gain=op.normal(5), bias=op.normal(5))
    yield op("large offset", x=100.0 + op.normal(3, 5), gain=op.normal(5), bias=op.normal(5))
    yield op("C=1", x=op.normal(3, 1), gain=op.normal(1), bias=op.normal(1))


def rms_norm(seed: int) -> Iterator[Case]:
    op = Op("rms_norm", seed)
    yield op("x (B, T, C)", x=op.normal(2, 3, 5), gain=op.normal(5))
    yield op("large offset", x=100.0 + op.normal(3, 5), gain=op.normal(5))


def batch_norm(seed: int) -> Iterator[Case]:
    op = Op("batch_norm", seed)
    for train in (True, False):
        running = {"running_mean": op.normal(4), "running_var": op.rng.uniform(0.5, 2.0, 4)}
        yield op(
            f"train={train}", wrt=("x", "gain", "bias"), options={"train": train},
            x=op.normal(3, 5, 4), gain=op.normal(4), bias=op.normal(4), **running,
        )  # fmt: skip


def pool(seed: int) -> Iterator[Case]:
    op, lengths = Op("pool", seed), np.array([3, 1])
    for kind in ("last", "mean", "max"):
        yield op(kind, hidden=op.normal(2, 3, 4), options={"lengths": None, "kind": kind})
        yield op(f"{kind}, lengths", hidden=op.normal(2, 3, 4), options={"lengths": lengths, "kind": kind})
    both = {"lengths": lengths, "kind": "last", "directions": 2}
    yield op("last, both directions, lengths", hidden=op.normal(2, 3, 4), options=both)


def cross_entropy(seed: int) -> Iterator[Case]:
    op = Op("cross_entropy", seed)
    targets = np.array([[0, 4, 2], [-100, 1, 4]])
    weights = op.rng.uniform(0.5, 2.0, 5)
    for reduction in ("mean", "sum", "none"):
        logits = op.normal(2, 3, 5)
        yield op(f"{reduction}", logits=logits, targets=targets, options={"reduction": reduction})
        yield op(
            f"{reduction}, smoothing, class weights", wrt=("logits",), logits=logits, targets=targets,
            class_weights=weights, options={"reduction": reduction, "label_smoothing": 0.1},
        )  # fmt: skip
    yield op("smoothing", logits=op.normal(2, 3, 5), targets=targets, options={"label_smoothing": 0.2})
    yield op("ignore_index=2", logits=op.normal(4, 5), targets=np.array([2, 1, 2, 0]), options={"ignore_index": 2})
    yield op("logits far apart", logits=op.normal(4, 5, scale=20.0), targets=np.array([0, 1, 2, 3]))


def binary_cross_entropy_with_logits(seed: int) -> Iterator[Case]:
    op = Op("binary_cross_entropy_with_logits", seed)
    targets = np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 0.3]])
    for reduction in ("mean", "sum", "none"):
        arrays = {"logits": op.normal(2, 3), "targets": targets}
        yield op(reduction, wrt=("logits",), options={"reduction": reduction}, **arrays)
    yield op(
        "pos_weight", wrt=("logits",), logits=op.normal(2, 3, scale=10.0), targets=targets,
        pos_weight=np.array([0.5, 2.0, 3.0]),
    )  # fmt: skip


CASES: dict[str, Callable[[int], Iterator[Case]]] = {
    "linear": linear,
    "embedding": embedding,
    **{name: _activation(name) for name in ("relu", "gelu", "silu", "sigmoid", "tanh")},
    "dropout": dropout,
    "softmax": _softmax("softmax"),
    "log_softmax": _softmax("log_softmax"),
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "batch_norm": batch_norm,
    "pool": pool,
    "cross_entropy": cross_entropy,
    "binary_cross_entropy_with_logits": binary_cross_entropy_with_logits,
}
