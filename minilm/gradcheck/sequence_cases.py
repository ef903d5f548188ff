"""Cases of the ops along time: attention, rotary positions, convolution, recurrence. See `cases`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from minilm.backend import generator
from minilm.gradcheck.cases import Case
from minilm.gradcheck.op_cases import Op


def attention(seed: int) -> Iterator[Case]:
    op = Op("attention", seed)
    B, H, Tq, Tk, D = 2, 2, 3, 4, 2

    def qkv(heads: int = H, kv_heads: int = H, queries: int = Tq, keys: int = Tk) -> dict[str, np.ndarray]:
        return {
            "q": op.normal(B, heads, queries, D),
            "k": op.normal(B, kv_heads, keys, D),
            "v": op.normal(B, kv_heads, keys, D),
        }

    lengths = np.array([4, 2])
    mask = op.rng.random((B, 1, Tq, Tk)) < 0.6
    mask[0, :, 1] = False  # a row that sees nothing
    mask[1, :, 0] = True
    yield op("all see all", **qkv())
    yield op("causal", **qkv(queries=4), options={"causal": True})
    yield op("causal, Tq < Tk", **qkv(), options={"causal": True})
    yield op("causal, Tq > Tk: empty rows", **qkv(queries=5, keys=3), options={"causal": True})
    yield op("key_lengths", **qkv(), options={"key_lengths": lengths})
    yield op("key_lengths with 0, causal", **qkv(), options={"key_lengths": np.array([3, 0]), "causal": True})
    yield op("mask with an empty row", **qkv(), options={"mask": mask})
    yield op("bias (B, H, Tq, Tk)", **qkv(), bias=op.normal(B, H, Tq, Tk))
    yield op("bias (H, 1, Tk), causal, mask", **qkv(), bias=op.normal(H, 1, Tk), options={"causal": True, "mask": mask})
    hiding = op.normal(Tq, Tk)
    hiding[1], hiding[2, 3] = -np.inf, -np.inf  # a mask written as a bias, with an empty row
    yield op("bias (Tq, Tk) with -inf", **qkv(), bias=hiding)
    yield op("4 heads on 2 key heads", **qkv(heads=4), options={"causal": True})
    yield op("4 heads on 1 key head, bias", **qkv(heads=4, kv_heads=1), bias=op.normal(4, Tq, Tk))
    yield op("dropout", **qkv(), options={"dropout": 0.3, "rng": generator(seed, 2)})
    yield op("scale=2", **qkv(), options={"scale": 2.0})
    many = {"dropout": 0.3, "rng": generator(seed, 2), "causal": True, "key_lengths": lengths, "mask": mask}
    yield op("everything at once", **qkv(heads=4), bias=op.normal(1, 4, Tq, Tk), options=many)
    yield op("one key", **qkv(keys=1))


def rotary(seed: int) -> Iterator[Case]:
    op = Op("rotary", seed)
    positions = np.array([0, 1, 5])
    for interleaved in (False, True):
        label, options = f"interleaved={interleaved}", {"interleaved": interleaved}
        yield op(label, x=op.normal(2, 2, 3, 4), positions=positions, options=options)
    yield op("base=100", x=op.normal(3, 4), positions=positions, options={"base": 100.0})


def conv1d(seed: int) -> Iterator[Case]:
    op = Op("conv1d", seed)
    for padding in ("same", "valid", "causal"):
        for K, stride, dilation in ((3, 1, 1), (2, 1, 1), (3, 2, 1), (3, 1, 2), (2, 3, 2)):
            yield op(
                f"{padding}, K={K}, stride={stride}, dilation={dilation}",
                x=op.normal(2, 7, 2), weight=op.normal(3, 2, K), bias=op.normal(3),
                options={"padding": padding, "stride": stride, "dilation": dilation},
            )  # fmt: skip
    yield op("1x1, no bias", x=op.normal(2, 4, 3), weight=op.normal(2, 3, 1))
    yield op("T=1", x=op.normal(2, 1, 3), weight=op.normal(2, 3, 3), bias=op.normal(2))


def _recurrent(name: str, gates: int) -> Callable[[int], Iterator[Case]]:
    def build(seed: int) -> Iterator[Case]:
        op = Op(name, seed)
        B, T, I, H = 3, 4, 2, 3
        inputs = {
            "x": op.normal(B, T, I), "w_ih": op.normal(gates * H, I), "w_hh": op.normal(gates * H, H, scale=0.7)
        }  # fmt: skip
        biases = {"b_ih": op.normal(gates * H), "b_hh": op.normal(gates * H)}
        state = {"h0": op.normal(B, H)} | ({"c0": op.normal(B, H)} if name == "lstm" else {})
        lengths = np.array([2, 4, 1])
        yield op("biases and initial state", **inputs, **biases, **state)
        yield op("neither", **inputs)
        yield op("one bias", **inputs, b_hh=biases["b_hh"])
        yield op("reverse", **inputs, **biases, **state, options={"reverse": True})
        yield op("lengths", **inputs, **biases, **state, options={"lengths": lengths})
        yield op("lengths, reverse", **inputs, **biases, **state, options={"lengths": lengths, "reverse": True})
        yield op("T=1", **(inputs | {"x": op.normal(B, 1, I)}), **state)

    return build


CASES: dict[str, Callable[[int], Iterator[Case]]] = {
    "attention": attention,
    "rotary": rotary,
    "conv1d": conv1d,
    "rnn": _recurrent("rnn", 1),
    "gru": _recurrent("gru", 3),
    "lstm": _recurrent("lstm", 4),
}
