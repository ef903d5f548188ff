"""The workloads: peers and definitions agree, in results that would differ if something were wrong."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.measure import verify
from benchmarks.variants import Variant
from benchmarks.workloads import WORKLOADS, Setting, skip_gram
from minilm.models import build

PEERS = ("torch", "jax", "gensim")
TINY = {  # the workloads whose variants are more than one op
    "gpt-step": (2, 8, 6, 2),
    "gpt-step-large": (3, 12, 5, 3),
    "classifier-step": (2, 5),
    "bert-encode": (2, 8, 2, 7, 3),
    "generate": (2, 8, 5, 3, 11),
    "word2vec": (30, 6, 20, 7, 2),
    "adamw": (90,),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", TINY)
def test_variants_agree_with_every_peer_that_is_installed(name, dtype):
    workload = WORKLOADS[name](Setting(np, dtype, PEERS), *TINY[name])
    verify(workload)
    results = workload.variants["definition"].results()
    assert all(np.isfinite(array).all() and array.dtype == dtype for array in results)
    assert any(array.any() for array in results)


@pytest.mark.parametrize(("name", "sizes"), [("attention", (2, 2, 7, 4)), ("conv1d", (2, 7, 4, 3)), ("gelu", (6, 9))])
def test_jax_takes_part_where_it_is_installed(name, sizes):
    pytest.importorskip("jax")
    workload = WORKLOADS[name](Setting(np, "float32", ("jax",)), *sizes)
    assert "jax" in workload.variants
    verify(workload)


def test_no_peer_unless_asked_for():
    for name, sizes in TINY.items():
        assert not {"torch", "jax", "gensim"} & WORKLOADS[name](Setting(np, "float32", ()), *sizes).variants.keys()


def test_a_step_is_compared_in_its_loss_and_every_gradient():
    workload = WORKLOADS["gpt-step"](Setting(np, "float64", ()), *TINY["gpt-step"])
    model = build("gpt", vocab_size=65, layers=2, heads=2, width=8, context=6)
    loss, *gradients = workload.variants["tuned where served"].results()
    assert loss.shape == ()
    assert [g.shape for g in gradients] == [p.shape for p in model.parameters().values()]
    assert all(g.any() for g in gradients)


@pytest.mark.parametrize("name", [name for name in TINY if name != "word2vec"])
def test_the_same_on_device_arrays(name, xp):
    workload = WORKLOADS[name](Setting(xp.module, "float32", ()), *TINY[name])
    verify(workload)
    expected = WORKLOADS[name](Setting(np, "float32", ()), *TINY[name]).variants["definition"].results()
    for one, other in zip(workload.variants["definition"].results(), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_word2vec_refuses_device_arrays():
    with pytest.raises(ValueError, match="CPU only"):
        WORKLOADS["word2vec"](Setting(object(), "float32", ()))


@pytest.mark.parametrize("name", ["gpt-step", "adamw", "word2vec", "generate"])
def test_a_run_changes_nothing_that_is_compared(name):
    """The times of later runs would be those of another computation."""
    variants = WORKLOADS[name](Setting(np, "float32", ()), *TINY[name]).variants
    for variant in variants.values():
        before = variant.results()
        variant.forward()
        for one, other in zip(before, variant.results(), strict=True):
            np.testing.assert_array_equal(one, other)


def test_only_what_can_be_compared_is_compared():
    workload = WORKLOADS["adamw"](Setting(np, "float32", ()), 90)
    odd = Variant(lambda: None, None, list, comparable=False)
    verify(workload._replace(variants={"drawn by itself": odd, **workload.variants}))
    with pytest.raises(ValueError, match="drawn by itself gives 0 arrays"):
        verify(workload._replace(variants={**workload.variants, "drawn by itself": odd._replace(comparable=True)}))


# ---- skip-gram


def loss_of(w_in, w_out, ids, negatives, options):
    """Σ over pairs, as the equation says it."""
    total = 0.0
    for text in ids:
        for t, centre in enumerate(text):
            for s, context in enumerate(text):
                if 0 < abs(t - s) <= options.window:
                    total += np.logaddexp(0.0, -w_in[centre] @ w_out[context])
                    avoided = np.logaddexp(0.0, w_out[negatives] @ w_in[centre]).sum()
                    total += options.negatives / options.shared * avoided
    return total


@pytest.mark.parametrize("update", [skip_gram.plain_update, skip_gram.update])
@pytest.mark.parametrize("window", [1, 2, 9])  # 9 is longer than a text
def test_skip_gram_descends_the_gradient(update, window):
    rng = np.random.default_rng(0)
    w_in, w_out = rng.standard_normal((2, 6, 3))
    ids, negatives = rng.integers(0, 5, (2, 4)), np.array([0, 3, 3])  # words repeat; word 5 only if drawn
    options = skip_gram.Options(window=window, negatives=2, shared=3, lr=0.1)
    new_in, new_out = w_in.copy(), w_out.copy()
    update(new_in, new_out, ids, negatives, options)
    for table, new in ((w_in, new_in), (w_out, new_out)):
        direction, h = rng.standard_normal(table.shape), 1e-6
        ahead, behind = table + h * direction, table - h * direction
        tables = (lambda w: (w, w_out)) if table is w_in else (lambda w: (w_in, w))
        slope = (
            loss_of(*tables(ahead), ids, negatives, options) - loss_of(*tables(behind), ids, negatives, options)
        ) / (2 * h)
        np.testing.assert_allclose((direction * (table - new) / options.lr).sum(), slope, rtol=1e-7)
    np.testing.assert_array_equal(new_in[5], w_in[5])


def test_pairs_of_a_text():
    centres, contexts = skip_gram.pairs(np.array([[7, 8, 9]]), window=1)
    assert sorted(zip(centres.tolist(), contexts.tolist(), strict=True)) == [(7, 8), (8, 7), (8, 9), (9, 8)]


def test_frequent_words_are_drawn_more_often_but_every_word_can_be():
    table = skip_gram.negative_table(np.array([[0] * 90 + [1] * 9]), vocabulary=4, size=1000)
    counts = np.bincount(table)
    assert counts[0] > counts[1] > counts[2] == counts[3] > 0
    assert counts[0] < 0.9 * table.size  # to the power of 3/4


def test_texts_without_pairs_are_refused():
    with pytest.raises(ValueError, match="at least 2"):
        WORKLOADS["word2vec"](Setting(np, "float32", ()), 30, 6, 20, 1, 2)


# ---- inference


def test_generation_is_compared_with_the_whole_text_at_once():
    setting = Setting(np, "float64", ())
    found = WORKLOADS["generate"](setting, *TINY["generate"]).variants["tuned where served"].results()
    model = build("gpt", vocab_size=11, layers=2, heads=1, width=8, context=8, bias=True, dtype="float64")
    ids = np.concatenate((setting.integers(11, 1, 5), setting.integers(11, 1, 3)), axis=1)
    logits, _ = model.forward(ids, train=False)  # (1, 8, V)
    np.testing.assert_allclose(np.concatenate(found), logits[0, 5:], rtol=1e-9, atol=1e-12)
