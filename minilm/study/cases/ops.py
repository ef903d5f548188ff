"""Cases of the ops: every op of `minilm.selection.registered()` has some here, under its name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

import minilm.ops  # noqa: F401  (registers them)
from minilm.backend import generator
from minilm.selection import registered
from minilm.study.cases.case import CaseTable, OpCase


class OpCases:
    """Makes the cases of one op: `case(label, x=..., weight=..., options={...})`."""

    def __init__(self, name: str, seed: int) -> None:
        self.name, self.seed = name, seed
        self.rng = generator(seed, 1)

    def normal(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        return scale * self.rng.standard_normal(shape)

    def __call__(
        self, label: str, *, wrt: Sequence[str] | None = None, options: dict[str, Any] | None = None, **arrays: Any
    ) -> OpCase:
        return OpCase(label, self.name, arrays, options or {}, wrt, self.seed)


OPS = CaseTable("op", registered, OpCases)


@OPS.of("linear")
def linear(case: OpCases) -> Iterator[OpCase]:
    yield case("x (B, T, Cin)", x=case.normal(2, 3, 4), weight=case.normal(5, 4), bias=case.normal(5))
    yield case("no bias, x (Cin)", x=case.normal(4), weight=case.normal(5, 4))
    yield case("no positions", x=case.normal(0, 4), weight=case.normal(5, 4), bias=case.normal(5))


@OPS.of("embedding")
def embedding(case: OpCases) -> Iterator[OpCase]:
    ids = np.array([[1, 0, 3, 3], [3, 1, 0, 2]])  # ids repeat, id 4 does not occur
    yield case("repeated ids", ids=ids, weight=case.normal(5, 3))
    yield case("one id, often", ids=np.full(7, 2), weight=case.normal(5, 3))


@OPS.of("relu", "gelu", "silu", "sigmoid", "tanh")
def activation(case: OpCases) -> Iterator[OpCase]:
    for kind in ("none", "tanh") if case.name == "gelu" else (None,):
        options, label = ({}, "") if kind is None else ({"approximate": kind}, f"approximate={kind}; ")
        yield case(f"{label}x (B, T, C)", x=case.normal(2, 3, 4), options=options)
        wide = np.linspace(-9.0, 9.0, 24)  # into both tails, where it is flat or the identity
        yield case(f"{label}tails", x=wide, options=options)


@OPS.of("dropout")
def dropout(case: OpCases) -> Iterator[OpCase]:
    yield case("p=0.4", x=case.normal(3, 4, 2), options={"p": 0.4, "rng": generator(case.seed, 2)})
    yield case("p=0", x=case.normal(3, 4), options={"p": 0.0, "rng": None})


@OPS.of("softmax", "log_softmax")
def softmax(case: OpCases) -> Iterator[OpCase]:
    yield case("last axis", x=case.normal(2, 3, 5))
    yield case("axis=0", x=case.normal(4, 3), options={"axis": 0})
    yield case("logits far apart", x=case.normal(3, 5, scale=20.0))
    yield case("one class", x=case.normal(3, 1))
    if case.name == "softmax":
        hidden = case.normal(3, 4)
        hidden[0], hidden[1, 2] = -np.inf, -np.inf  # a row of all -inf gives zeros
        yield case("-inf", x=hidden)


@OPS.of("layer_norm")
def layer_norm(case: OpCases) -> Iterator[OpCase]:
    yield case("x (B, T, C)", x=case.normal(2, 3, 5), gain=case.normal(5), bias=case.normal(5))
    yield case("large offset", x=100.0 + case.normal(3, 5), gain=case.normal(5), bias=case.normal(5))
    yield case("C=1", x=case.normal(3, 1), gain=case.normal(1), bias=case.normal(1))


@OPS.of("rms_norm")
def rms_norm(case: OpCases) -> Iterator[OpCase]:
    yield case("x (B, T, C)", x=case.normal(2, 3, 5), gain=case.normal(5))
    yield case("large offset", x=100.0 + case.normal(3, 5), gain=case.normal(5))


@OPS.of("batch_norm")
def batch_norm(case: OpCases) -> Iterator[OpCase]:
    for train in (True, False):
        running = {"running_mean": case.normal(4), "running_var": case.rng.uniform(0.5, 2.0, 4)}
        yield case(
            f"train={train}", wrt=("x", "gain", "bias"), options={"train": train},
            x=case.normal(3, 5, 4), gain=case.normal(4), bias=case.normal(4), **running,
        )  # fmt: skip


@OPS.of("pool")
def pool(case: OpCases) -> Iterator[OpCase]:
    lengths = np.array([3, 1])
    for kind in ("last", "mean", "max"):
        yield case(kind, hidden=case.normal(2, 3, 4), options={"lengths": None, "kind": kind})
        yield case(f"{kind}, lengths", hidden=case.normal(2, 3, 4), options={"lengths": lengths, "kind": kind})
    both = {"lengths": lengths, "kind": "last", "directions": 2}
    yield case("last, both directions, lengths", hidden=case.normal(2, 3, 4), options=both)


@OPS.of("cross_entropy")
def cross_entropy(case: OpCases) -> Iterator[OpCase]:
    targets = np.array([[0, 4, 2], [-100, 1, 4]])
    weights = case.rng.uniform(0.5, 2.0, 5)
    for reduction in ("mean", "sum", "none"):
        logits = case.normal(2, 3, 5)
        yield case(f"{reduction}", logits=logits, targets=targets, options={"reduction": reduction})
        yield case(
            f"{reduction}, smoothing, class weights", wrt=("logits",), logits=logits, targets=targets,
            class_weights=weights, options={"reduction": reduction, "label_smoothing": 0.1},
        )  # fmt: skip
    yield case("smoothing", logits=case.normal(2, 3, 5), targets=targets, options={"label_smoothing": 0.2})
    yield case("ignore_index=2", logits=case.normal(4, 5), targets=np.array([2, 1, 2, 0]), options={"ignore_index": 2})
    yield case("logits far apart", logits=case.normal(4, 5, scale=20.0), targets=np.array([0, 1, 2, 3]))


@OPS.of("binary_cross_entropy_with_logits")
def binary_cross_entropy_with_logits(case: OpCases) -> Iterator[OpCase]:
    targets = np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 0.3]])
    for reduction in ("mean", "sum", "none"):
        arrays = {"logits": case.normal(2, 3), "targets": targets}
        yield case(reduction, wrt=("logits",), options={"reduction": reduction}, **arrays)
    yield case(
        "pos_weight", wrt=("logits",), logits=case.normal(2, 3, scale=10.0), targets=targets,
        pos_weight=np.array([0.5, 2.0, 3.0]),
    )  # fmt: skip


@OPS.of("attention")
def attention(case: OpCases) -> Iterator[OpCase]:
    B, H, Tq, Tk, D = 2, 2, 3, 4, 2

    def qkv(heads: int = H, kv_heads: int = H, queries: int = Tq, keys: int = Tk) -> dict[str, Any]:
        return {
            "q": case.normal(B, heads, queries, D),
            "k": case.normal(B, kv_heads, keys, D),
            "v": case.normal(B, kv_heads, keys, D),
        }

    lengths = np.array([4, 2])
    mask = case.rng.random((B, 1, Tq, Tk)) < 0.6
    mask[0, :, 1] = False  # a row that sees nothing
    mask[1, :, 0] = True
    yield case("all see all", **qkv())
    yield case("causal", **qkv(queries=4), options={"causal": True})
    yield case("causal, Tq < Tk", **qkv(), options={"causal": True})
    yield case("causal, Tq > Tk: empty rows", **qkv(queries=5, keys=3), options={"causal": True})
    yield case("key_lengths", **qkv(), options={"key_lengths": lengths})
    yield case("key_lengths with 0, causal", **qkv(), options={"key_lengths": np.array([3, 0]), "causal": True})
    yield case("mask with an empty row", **qkv(), options={"mask": mask})
    yield case("bias (B, H, Tq, Tk)", **qkv(), bias=case.normal(B, H, Tq, Tk))
    yield case(
        "bias (H, 1, Tk), causal, mask", **qkv(), bias=case.normal(H, 1, Tk), options={"causal": True, "mask": mask}
    )
    hiding = case.normal(Tq, Tk)
    hiding[1], hiding[2, 3] = -np.inf, -np.inf  # a mask written as a bias, with an empty row
    yield case("bias (Tq, Tk) with -inf", **qkv(), bias=hiding)
    yield case("4 heads on 2 key heads", **qkv(heads=4), options={"causal": True})
    yield case("4 heads on 1 key head, bias", **qkv(heads=4, kv_heads=1), bias=case.normal(4, Tq, Tk))
    yield case("dropout", **qkv(), options={"dropout": 0.3, "rng": generator(case.seed, 2)})
    yield case("scale=2", **qkv(), options={"scale": 2.0})
    many = {"dropout": 0.3, "rng": generator(case.seed, 2), "causal": True, "key_lengths": lengths, "mask": mask}
    yield case("everything at once", **qkv(heads=4), bias=case.normal(1, 4, Tq, Tk), options=many)
    yield case("one key", **qkv(keys=1))


@OPS.of("rotary")
def rotary(case: OpCases) -> Iterator[OpCase]:
    positions = np.array([0, 1, 5])
    for interleaved in (False, True):
        label, options = f"interleaved={interleaved}", {"interleaved": interleaved}
        yield case(label, x=case.normal(2, 2, 3, 4), positions=positions, options=options)
    yield case("base=100", x=case.normal(3, 4), positions=positions, options={"base": 100.0})


@OPS.of("conv1d")
def conv1d(case: OpCases) -> Iterator[OpCase]:
    for padding in ("same", "valid", "causal"):
        for K, stride, dilation in ((3, 1, 1), (2, 1, 1), (3, 2, 1), (3, 1, 2), (2, 3, 2)):
            yield case(
                f"{padding}, K={K}, stride={stride}, dilation={dilation}",
                x=case.normal(2, 7, 2), weight=case.normal(3, 2, K), bias=case.normal(3),
                options={"padding": padding, "stride": stride, "dilation": dilation},
            )  # fmt: skip
    yield case("1x1, no bias", x=case.normal(2, 4, 3), weight=case.normal(2, 3, 1))
    yield case("T=1", x=case.normal(2, 1, 3), weight=case.normal(2, 3, 3), bias=case.normal(2))


@OPS.of("rnn", "gru", "lstm")
def recurrent(case: OpCases) -> Iterator[OpCase]:
    gates = {"rnn": 1, "gru": 3, "lstm": 4}[case.name]
    B, T, I, H = 3, 4, 2, 3
    x, w_ih = case.normal(B, T, I), case.normal(gates * H, I)
    inputs: dict[str, Any] = {"x": x, "w_ih": w_ih, "w_hh": case.normal(gates * H, H, scale=0.7)}
    biases: dict[str, Any] = {"b_ih": case.normal(gates * H), "b_hh": case.normal(gates * H)}
    state: dict[str, Any] = {"h0": case.normal(B, H)} | ({"c0": case.normal(B, H)} if case.name == "lstm" else {})
    lengths = np.array([2, 4, 1])
    yield case("biases and initial state", **inputs, **biases, **state)
    yield case("neither", **inputs)
    yield case("one bias", **inputs, b_hh=biases["b_hh"])
    yield case("reverse", **inputs, **biases, **state, options={"reverse": True})
    yield case("lengths", **inputs, **biases, **state, options={"lengths": lengths})
    yield case("lengths, reverse", **inputs, **biases, **state, options={"lengths": lengths, "reverse": True})
    yield case("T=1", **(inputs | {"x": case.normal(B, 1, I)}), **state)
