"""The workloads: peers and definitions agree, in results that would differ if something were wrong."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.gpu_work import TINY
from benchmarks.honesty import Refused, Watch
from benchmarks.inputs import Inputs
from benchmarks.variants import LeftOut, Setting, Variant
from benchmarks.workloads import WORKLOADS, single_ops, skip_gram
from minilm.presets import build
from tests import strict_cupy
from tests.benchmarks.outcome import results

PEERS = ("torch", "jax", "gensim")
MODELS = (  # the workloads whose variants are more than one op
    "gpt-step", "gpt-step-large", "classifier-step", "bert-encode", "generate", "word2vec", "adamw",
)  # fmt: skip


def made(name, xp=np, dtype="float32", peers=()):
    """The workload at tiny sizes, and what watches it."""
    setting = Setting(xp, dtype, peers, inputs=Inputs())
    workload = WORKLOADS[name](setting, *TINY[name])
    return workload, Watch(workload, setting)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MODELS)
def test_variants_agree_with_every_peer_that_is_installed(name, dtype):
    """Also for other inputs than the first."""
    workload, watch = made(name, dtype=dtype, peers=PEERS)
    watch.verify()
    watch.next_inputs()
    watch.verify()
    found = results(workload.variants["definition"])
    assert all(np.isfinite(array).all() and array.dtype == dtype for array in found)
    assert any(array.any() for array in found)


@pytest.mark.parametrize("name", ["attention", "attention-full", "conv1d", "gelu"])
def test_jax_takes_part_where_it_is_installed(name):
    pytest.importorskip("jax")
    workload, watch = made(name, peers=("jax",))
    assert "jax" in workload.variants
    watch.verify()
    watch.next_inputs()
    watch.verify()


def test_no_peer_unless_asked_for():
    for name, sizes in TINY.items():
        assert not {"torch", "jax", "gensim"} & WORKLOADS[name](Setting(np, "float32", ()), *sizes).variants.keys()


def test_a_step_is_compared_in_its_loss_and_every_gradient():
    workload = WORKLOADS["gpt-step"](Setting(np, "float64", ()), *TINY["gpt-step"])
    model = build("gpt", vocab_size=65, layers=2, heads=2, width=8, context=6)
    loss, *gradients = results(workload.variants["tuned where served"])
    assert loss.shape == ()
    assert [g.shape for g in gradients] == [p.shape for p in model.parameters().values()]
    assert all(g.any() for g in gradients)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "word2vec"])
def test_the_same_on_device_arrays(name, xp):
    workload, watch = made(name, xp.module)
    watch.verify()
    expected = results(WORKLOADS[name](Setting(np, "float32", ()), *TINY[name]).variants["definition"])
    for one, other in zip(results(workload.variants["definition"]), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_word2vec_refuses_device_arrays():
    with pytest.raises(LeftOut, match="CPU only"):
        WORKLOADS["word2vec"](Setting(object(), "float32", ()))


@pytest.mark.parametrize("name", ["gpt-step", "adamw", "word2vec", "generate"])
def test_a_run_changes_nothing_that_is_compared(name):
    """The times of later runs would be those of another computation."""
    variants = WORKLOADS[name](Setting(np, "float32", ()), *TINY[name]).variants
    for variant in variants.values():
        before = [array.copy() for array in results(variant)]
        variant.forward()
        for one, other in zip(before, results(variant), strict=True):
            np.testing.assert_array_equal(one, other)


def test_only_what_can_be_compared_is_compared():
    workload, watch = made("adamw")
    odd = Variant(lambda: None, None, lambda _: [], comparable=False)
    Watch(workload._replace(variants={"drawn by itself": odd, **workload.variants}), watch.setting).verify()
    with pytest.raises(Refused, match="drawn by itself gives 0 arrays"):
        variants = {**workload.variants, "drawn by itself": odd._replace(comparable=True)}
        Watch(workload._replace(variants=variants), watch.setting).verify()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", TINY)
def test_16_bits_on_the_cpu_are_left_out_with_one_note(name, dtype):
    op = "attention" if name in ("decode", "attention-full") else name.removesuffix("-tanh")
    with pytest.raises(LeftOut, match=f"{op}: .*no version takes {dtype}"):
        made(name, dtype=dtype)


def test_a_tensor_on_a_gpu_is_copied_there(monkeypatch):
    """Not by way of the host; bfloat16, which the interface between the libraries has no name for, as its bits."""
    pytest.importorskip("ml_dtypes")
    xp = strict_cupy.strict
    monkeypatch.setitem(sys.modules, "cupy", xp)

    class Tensor(SimpleNamespace):
        def clone(self):
            return Tensor(array=self.array.copy(), dtype=self.dtype)

        def view(self, dtype):
            return Tensor(array=self.array, dtype=dtype)

    def as_tensor(array, device):
        assert device == "cuda"
        return Tensor(array=array, dtype=array.dtype.name)

    torch = SimpleNamespace(as_tensor=as_tensor, bfloat16="bfloat16")
    for dtype in ("float32", "float16", "bfloat16"):
        setting = Setting(xp, dtype, ("torch",), inputs=Inputs())
        x = setting.draw(3, 5)
        tensor = setting.tensor(torch, x)
        assert tensor.dtype == dtype
        np.testing.assert_array_equal(tensor.array.view(x.dtype).get(), x.get())
        assert setting.inputs.shared[0].copies[0].read() is tensor


def test_attention_without_a_definition_is_compared_head_by_head(monkeypatch):
    """Another head in each check, so that none can be left out for good."""
    pytest.importorskip("torch")
    monkeypatch.setattr(single_ops, "MOST_SCORES", 1000)
    setting = Setting(np, "float32", ("torch",), inputs=Inputs())
    workload = WORKLOADS["attention"](setting, 2, 3, 20, 16)
    assert "definition" not in workload.variants and "no definition" in workload.notes[0]
    watch, seen = Watch(workload, setting), set()
    for _ in range(40):
        reference = workload.reference(watch.random)
        assert [a.shape for a in reference.outputs + reference.gradients] == [(1, 1, 20, 16)] * 4
        seen.add(str(reference.index))
    assert len(seen) > 3
    watch.verify()
    setting = Setting(np, "float32", (), inputs=Inputs())
    with pytest.raises(LeftOut, match=r"no definition.*no other version"):
        WORKLOADS["attention"](setting, 2, 3, 20, 16)


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
    found = results(WORKLOADS["generate"](setting, *TINY["generate"]).variants["tuned where served"])
    model = build("gpt", vocab_size=11, layers=2, heads=1, width=8, context=8, bias=True, dtype="float64")
    ids = np.concatenate((setting.integers(11, 1, 5), setting.integers(11, 1, 3)), axis=1)
    logits, _ = model.forward(ids, train=False, cache=False)  # (1, 8, V)
    np.testing.assert_allclose(np.concatenate(found), logits[0, 5:], rtol=1e-9, atol=1e-12)
