"""The table of `minilm gradcheck`: everything that is registered is in it and passes, a broken op fails."""

from __future__ import annotations

import json

import numpy as np
import pytest

from minilm import selection
from minilm.gradcheck import check_layer
from minilm.ops import layer_norm
from minilm.study import table
from minilm.study.cases import METHODS, MODELS, OPS, TABLES

TOLERANCES = {"complex-step": 1e-11, "central-difference": 1e-7}


@pytest.mark.parametrize("name", table.known_cases())
def test_everything_passes(name):
    rows = table.run_cases([name])
    assert rows
    for row in rows:
        assert row.passed, table.format_table(rows)
        assert row.max_rel_error <= TOLERANCES[row.method], row


@pytest.mark.parametrize("cases", TABLES, ids=lambda cases: cases.kind)
def test_what_is_registered_has_a_case_and_nothing_else_has(cases):
    assert cases.without_case() == []
    assert sorted(cases.names()) == sorted(cases.registered())


def test_no_name_stands_for_two_things():
    names = [name for cases in TABLES for name in cases.names()]
    assert len(names) == len(set(names))


def test_an_op_without_a_case_is_named(monkeypatch):
    monkeypatch.setattr(selection, "_ops", {**selection.registered()})

    @selection.op
    def cube(x):
        return x**3, x

    assert OPS.without_case() == ["cube"]
    assert "cube" in table.known_cases()
    rows = table.run_cases(["relu", "cube"])
    assert [row.op for row in rows if not row.passed] == ["cube"]
    assert "this op is registered, but has no case" in table.format_table(rows)


def test_a_name_has_its_cases_once():
    with pytest.raises(ValueError, match="the op 'linear' has its cases already"):
        OPS.of("cube", "linear")


@pytest.mark.parametrize("method, only", [("head", {"head.weight", "head.bias"}), ("lora", None), ("full", None)])
def test_a_method_is_checked_on_exactly_what_it_trains(method, only):
    for case in METHODS.cases(method):
        layer = case.layer if hasattr(case, "layer") else case.model
        checked = {row.argument for row in case.run().rows} - {"x"}
        assert checked == layer.trainable().keys()
        if method == "full":
            assert checked == layer.parameters().keys()
        else:
            assert checked < layer.parameters().keys()
        assert only is None or checked == only


@pytest.mark.parametrize("name", MODELS.names())
def test_models_are_layers_too(name):
    """Through forward and backward of the logits, frozen, as they infer, without a cache."""
    for case in MODELS.cases(name):
        report = check_layer(case.model, case.batch.ids, lengths=case.batch.lengths)
        assert report, report


def test_another_seed_gives_other_numbers_that_pass():
    rows = table.run_cases(["layer_norm"], seed=5)
    assert all(row.passed for row in rows)
    assert rows != table.run_cases(["layer_norm"], seed=0)


def test_rows_are_json():
    rows = table.run_cases(["linear", "softmax"])
    first = rows[0]
    assert (first.op, first.argument, first.method, first.passed) == ("linear", "x", "complex-step", True)
    listed = json.loads(json.dumps([row._asdict() for row in rows], allow_nan=False))
    assert {"op", "argument", "method", "max_rel_error", "passed"} <= set(listed[0])
    assert {row["op"] for row in listed} == {"linear", "softmax"}


@pytest.mark.parametrize(
    "wrong, meant", [("atention", "attention"), ("Lstm", "lstm"), ("gtp", "gpt"), ("layernorm", "layer_norm")]
)
def test_unknown_names_list_close_ones(wrong, meant):
    with pytest.raises(ValueError, match=f"'{wrong}' is unknown; did you mean .*{meant}"):
        table.run_cases(["linear", wrong])  # before anything is computed


def test_a_broken_op_fails_in_the_table(monkeypatch):
    sound = layer_norm.backward

    def wrong(dy, cache, wrt=("x", "gain", "bias")):
        dx, dgain, dbias = sound(dy, cache, wrt)
        return dx, None if dgain is None else -dgain, dbias

    monkeypatch.setattr(layer_norm, "backward", wrong)
    rows = table.run_cases(["layer_norm"])
    assert {row.argument for row in rows if not row.passed} == {"gain"}
    text = table.format_table(rows)
    assert "FAILED" in text
    assert "analytic" in text


def test_a_broken_law_fails_in_the_table(monkeypatch):
    sound = layer_norm.backward

    def wrong(dy, cache, wrt=("x", "gain", "bias")):
        gradients = sound(dy, cache, wrt)
        cache.xhat[...] = 0.0
        return gradients

    monkeypatch.setattr(layer_norm, "backward", wrong)
    rows = table.run_cases(["layer_norm"])
    broken = [row for row in rows if row.method == "law"]
    assert broken
    assert not any(row.passed for row in broken)
    assert all(row.max_rel_error is None and "cache kept" in row.note for row in broken)
    json.dumps([row._asdict() for row in rows], allow_nan=False)


def test_format_table():
    rows = [
        table.TableRow("attention", "q", "complex-step", 3e-15, True, "causal"),
        table.TableRow("attention", "k", "central-difference", 0.5, False, "causal", "worst element [0]"),
        table.TableRow("attention", "(all)", "law", None, False, "causal", "dy kept: attention"),
    ]
    text = table.format_table(rows)
    assert text.splitlines()[0].split() == ["op", "case", "argument", "method", "max", "rel", "error", "verdict"]
    assert "1 of 3 passed; worst relative error by complex-step 3.0e-15" in text
    assert "dy kept" in text
    assert table.format_table([]).endswith("0 of 0 passed")
    assert not np.any([len(line) > 200 for line in text.splitlines()])
