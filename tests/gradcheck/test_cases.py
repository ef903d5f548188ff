"""The table of `minilm gradcheck`: everything in it passes, a broken op fails, unknown names are refused."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pytest

from minilm.gradcheck import cases
from minilm.ops import layer_norm

OPS = {"linear", "embedding", "relu", "gelu", "silu", "sigmoid", "tanh", "dropout", "softmax", "log_softmax"}
OPS |= {"layer_norm", "rms_norm", "batch_norm", "cross_entropy", "binary_cross_entropy_with_logits", "attention"}
OPS |= {"rotary", "conv1d", "rnn", "gru", "lstm"}
TOLERANCES = {"complex-step": 1e-11, "central-difference": 1e-7}


@pytest.mark.parametrize("name", cases.known_cases())
def test_everything_passes(name):
    rows = cases.run_cases([name])
    assert rows
    for row in rows:
        assert row.passed, cases.format_table(rows)
        assert row.max_rel_error <= TOLERANCES[row.method], row


def test_every_op_layer_and_preset_is_known():
    known = cases.known_cases()
    assert set(known) >= OPS
    presets = importlib.import_module("minilm.presets").PRESETS
    assert set(known) >= set(presets)


def test_another_seed_gives_other_numbers_that_pass():
    rows = cases.run_cases(["layer_norm"], seed=5)
    assert all(row.passed for row in rows)
    assert rows != cases.run_cases(["layer_norm"], seed=0)


def test_rows_come_one_by_one_and_are_json():
    rows = cases.iter_cases(["linear", "softmax"])
    first = next(rows)
    assert (first.op, first.argument, first.method, first.passed) == ("linear", "x", "complex-step", True)
    listed = json.loads(json.dumps([row._asdict() for row in [first, *rows]], allow_nan=False))
    assert {"op", "argument", "method", "max_rel_error", "passed"} <= set(listed[0])
    assert {row["op"] for row in listed} == {"linear", "softmax"}


@pytest.mark.parametrize(
    "wrong, meant", [("atention", "attention"), ("Lstm", "lstm"), ("gtp", "gpt"), ("layernorm", "layer_norm")]
)
def test_unknown_names_list_close_ones(wrong, meant):
    with pytest.raises(ValueError, match=f"nothing named '{wrong}'.*did you mean .*{meant}"):
        cases.iter_cases(["linear", wrong])  # at once, not at the first row


def test_a_broken_op_fails_in_the_table(monkeypatch):
    sound = layer_norm.backward

    def wrong(dy, cache, wrt=("x", "gain", "bias")):
        dx, dgain, dbias = sound(dy, cache, wrt)
        return dx, None if dgain is None else -dgain, dbias

    monkeypatch.setattr(layer_norm, "backward", wrong)
    rows = cases.run_cases(["layer_norm"])
    assert {row.argument for row in rows if not row.passed} == {"gain"}
    table = cases.format_table(rows)
    assert "FAILED" in table
    assert "analytic" in table


def test_a_broken_law_fails_in_the_table(monkeypatch):
    sound = layer_norm.backward

    def wrong(dy, cache, wrt=("x", "gain", "bias")):
        gradients = sound(dy, cache, wrt)
        cache.xhat[...] = 0.0
        return gradients

    monkeypatch.setattr(layer_norm, "backward", wrong)
    rows = cases.run_cases(["layer_norm"])
    broken = [row for row in rows if row.method == "law"]
    assert broken
    assert not any(row.passed for row in broken)
    assert all(row.max_rel_error is None and "cache kept" in row.note for row in broken)
    json.dumps([row._asdict() for row in rows], allow_nan=False)


def test_format_table():
    rows = [
        cases.Row("attention", "q", "complex-step", 3e-15, True, "causal"),
        cases.Row("attention", "k", "central-difference", 0.5, False, "causal", "worst element [0]"),
        cases.Row("attention", "(all)", "law", None, False, "causal", "dy kept: attention"),
    ]
    table = cases.format_table(rows)
    assert table.splitlines()[0].split() == ["op", "case", "argument", "method", "max", "rel", "error", "verdict"]
    assert "1 of 3 passed; worst relative error by complex-step 3.0e-15" in table
    assert "dy kept" in table
    assert cases.format_table([]).endswith("0 of 0 passed")
    assert not np.any([len(line) > 200 for line in table.splitlines()])
