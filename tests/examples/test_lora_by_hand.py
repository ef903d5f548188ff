"""LoRA by hand is right, is minilm's LoRA, and adapts."""

from __future__ import annotations

import numpy as np
import pytest

from minilm.gradcheck import gradcheck
from tests.examples import load

example = load("lora_by_hand")


def test_its_gradients_are_checked():
    report = example.check()
    assert report.passed and {row.argument for row in report.rows} == {"x", "a", "b"}
    assert report.max_rel_error < 1e-13


def test_the_check_notices_a_forgotten_scale():
    def without_scale(dy, cache):
        return example.lora_backward(dy, cache._replace(scale=1.0))

    rng = np.random.default_rng(0)
    args = rng.normal(size=(5, 7)), rng.normal(size=(4, 7)), rng.normal(size=(2, 7)), rng.normal(size=(4, 2)), 0.5
    assert not gradcheck(example.lora, without_scale, args, wrt=("x", "a", "b")).passed


def test_it_computes_what_the_layer_computes():
    assert example.difference_from_the_layer() < 1e-14


def test_it_adapts_with_a_sixth_of_the_numbers(capsys):
    before, adapted, whole = example.main(steps=150).values()
    assert whole < adapted < before - 0.05
    table = capsys.readouterr().out.splitlines()[-3:]
    assert [int(line[23:38].replace(",", "")) for line in table] == [0, 2520, 15876]


def test_an_adapter_at_zero_changes_nothing():
    rng = np.random.default_rng(0)
    x, weight, a = rng.normal(size=(3, 5)), rng.normal(size=(4, 5)), rng.normal(size=(2, 5))
    y, cache = example.lora(x, weight, a, np.zeros((4, 2)), 0.5)
    assert np.array_equal(y, x @ weight.T)
    _, dweight, da, db = example.lora_backward(np.ones_like(y), cache)
    assert dweight is None  # frozen: not computed
    assert not da.any() and db.any()  # B has to move before A can


@pytest.mark.parametrize("rank", [1, 4])
def test_the_weight_is_read_and_never_written(rank):
    text = example.Text(("Ruth",), sorted({c for v in example.kjv_verses() for c in v.text} | {"\n"}))
    weight = np.zeros((text.V, 4 * text.V))
    weight.flags.writeable = False
    a, b = example.train_lora(weight, text, steps=2, lr=0.01, rank=rank)
    assert a.shape == (rank, 4 * text.V) and b.any()
