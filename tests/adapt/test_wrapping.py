"""LoRA on whole models: what is adapted, merging and unmerging, saving, training."""

from __future__ import annotations

import copy
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from minilm.adapt import adapter_state, apply_lora, merge, unmerge
from minilm.adapt.lora import LoRALinear, LoRAWeights
from minilm.gradcheck import check_model
from minilm.optim.adam import AdamW
from minilm.presets import build
from tests import strict_cupy

V = 11
SMALL = {
    "gpt": {"layers": 1, "heads": 2, "width": 8, "context": 6},
    "lstm-lm": {"embedding_size": 6, "width": 8, "layers": 2},
    "attention-lstm-lm": {"embedding_size": 8, "width": 8, "layers": 1, "heads": 2},
    "bilstm-classifier": {"embedding_size": 6, "width": 8},
    "conv-lstm-classifier": {"embedding_size": 6, "width": 8},
}


def small(preset: str, dtype="float32", **options):
    return build(preset, vocab_size=V, classes=3, dtype=dtype, **(SMALL[preset] | {"dropout": 0.0} | options))


def adapted(preset: str, rng, dtype="float32", rank=2, **options):
    """A small model whose adapters have been trained: B is not zero."""
    model = small(preset, dtype)
    apply_lora(model, rank, 4.0, rng=rng, **options)
    for name, array in adapter_state(model).items():
        if name.endswith("lora_B"):
            array[...] = rng.normal(size=array.shape)
    return model


def batch(preset: str, xp=None):
    rng = np.random.default_rng(1)
    arrays = {"ids": rng.integers(0, V, (2, 5)), "targets": rng.integers(0, V, (2, 5))}
    arrays |= {"lengths": np.array([5, 3]), "labels": np.array([2, 0])}
    return SimpleNamespace(**{name: xp.asarray(array) if xp else array for name, array in arrays.items()})


def outputs(model, preset):
    return model.forward(batch(preset).ids, train=False, cache=False)[0]


# ---- what is adapted


def test_every_linear_map_by_default(rng):
    names = apply_lora(small("conv-lstm-classifier"), 2, rng=rng)
    assert names == [
        "backbone.conv.weight",
        "backbone.rnn.weight_ih_l0",
        "backbone.rnn.weight_hh_l0",
        "head.weight",
    ]


def test_layers_are_replaced_in_place(rng):
    model = small("attention-lstm-lm")
    apply_lora(model, 2, rng=rng)
    assert type(model.backbone.attention.in_proj) is LoRALinear
    assert type(model.backbone.rnn) is LoRAWeights
    assert model.backbone.rnn.adapted == ("weight_ih_l0", "weight_hh_l0")


@pytest.mark.parametrize(
    "targets, names",
    [
        (("*.in_proj",), ["backbone.attention.in_proj.weight"]),
        (("head", "*.weight_hh*"), ["backbone.rnn.weight_hh_l0", "head.weight"]),
        ("backbone.rnn", ["backbone.rnn.weight_ih_l0", "backbone.rnn.weight_hh_l0"]),  # one pattern, not its letters
    ],
)
def test_targets(targets, names, rng):
    assert apply_lora(small("attention-lstm-lm"), 2, targets=targets, rng=rng) == names


def test_all_else_is_frozen(rng):
    model = small("gpt")
    apply_lora(model, 2, rng=rng)
    assert set(model.trainable()) == set(adapter_state(model))
    assert all(name.rpartition(".")[2] in ("lora_A", "lora_B") for name in model.trainable())


def test_what_is_trained_whole_gets_no_adapter(rng):
    model = small("bilstm-classifier")
    names = apply_lora(model, 2, train=("head.*", "*.bias_hh_l0"), rng=rng)
    assert not [name for name in names if name.startswith("head")]
    assert set(model.trainable()) - set(adapter_state(model)) == {
        "head.weight",
        "head.bias",
        "backbone.rnn.base.bias_hh_l0",
    }


def test_tables_of_embeddings_are_looked_up_and_not_adapted(rng):
    with pytest.raises(ValueError, match=r"no linear map matches targets \*.embedding"):
        apply_lora(small("lstm-lm"), 2, targets=("*.embedding",), rng=rng)


def test_the_same_seed_draws_the_same_adapters():
    one, other = small("gpt"), small("gpt")
    apply_lora(one, 2)
    apply_lora(other, 2)
    assert all(np.array_equal(array, adapter_state(other)[name]) for name, array in adapter_state(one).items())


# ---- what is refused, changing nothing


@pytest.mark.parametrize(
    "options, message",
    [
        ({"targets": ("*.q_proj",)}, r"no linear map matches targets \*.q_proj; there are backbone.attention.in_proj"),
        ({"targets": ()}, "no linear map matches targets"),
        ({"rank": 9}, r"rank 9 does not fit backbone.attention.in_proj.weight \(24, 8\): at most 8"),
        ({"rank": 0}, "rank is 0, expected a whole number of at least 1"),
        ({"rank": 2.0}, "rank is 2.0, expected a whole number"),
        ({"alpha": 0.0}, "alpha is 0, expected a finite number above 0"),
        ({"alpha": float("nan")}, "alpha is nan, expected a finite number"),
        ({"dropout": 1.0}, "adapter_dropout is 1.0, expected .* below 1"),
        ({"dropout": 0.1}, "dropout 0.1 is not defined for backbone.rnn.weight_ih_l0"),
        ({"train": ("tail.*",)}, r"no parameter matches tail.\*; there are backbone.embedding.weight"),
    ],
)
def test_refused(options, message, rng):
    model = small("attention-lstm-lm")
    before = list(model.trainable())
    with pytest.raises(ValueError, match=message):
        apply_lora(model, **{"rank": 2, "rng": rng} | options)
    assert list(model.trainable()) == before


def test_no_second_adapter_on_the_first(rng):
    model = adapted("gpt", rng)
    for _ in range(2):
        with pytest.raises(ValueError, match="has adapters already, or merged ones"):
            apply_lora(model, 2, rng=rng)
        if adapter_state(model):
            merge(model)


# ---- gradients


@pytest.mark.parametrize("preset", SMALL)
def test_gradients(preset, rng):
    model = adapted(preset, rng, "float64")
    report = check_model(model, batch(preset))
    assert report, report


@pytest.mark.parametrize("preset", SMALL)
def test_starts_as_the_base(preset, rng):
    model = small(preset)
    before = outputs(model, preset)
    apply_lora(model, 2, rng=rng)
    assert np.array_equal(outputs(model, preset), before)


# ---- merging


@pytest.mark.parametrize("preset", SMALL)
def test_merge_and_unmerge(preset, rng):
    """Merged: plain layers, the same function to rounding. Unmerged: the same weights, bit for bit."""
    model = adapted(preset, rng, "float64")
    state = {name: array.copy() for name, array in model.state().items()}
    before, plain_names = outputs(model, preset), set(small(preset).state())

    names = merge(model)
    assert set(model.state()) == plain_names
    assert not [layer for _, layer in model.walk() if isinstance(layer, LoRALinear | LoRAWeights)]
    np.testing.assert_allclose(outputs(model, preset), before, rtol=1e-12, atol=1e-14)

    assert unmerge(model) == names
    assert set(model.state()) == set(state)
    assert all(array.tobytes() == state[name].tobytes() for name, array in model.state().items())
    assert np.array_equal(outputs(model, preset), before)


def test_merged_weights_are_w_plus_s_b_a(rng):
    model = adapted("gpt", rng, "float64", targets=("*.out_proj",))
    layer = model.backbone.blocks.children["0"].self_attn.out_proj
    want = layer.base.weight + (4.0 / 2) * layer.lora_B @ layer.lora_A
    merge(model)
    np.testing.assert_allclose(model.backbone.blocks.children["0"].self_attn.out_proj.weight, want, rtol=1e-13)


def test_merged_again_and_again(rng):
    """float32 adds and subtracts would drift; nothing is subtracted."""
    model = adapted("lstm-lm", rng)
    state = {name: array.copy() for name, array in model.state().items()}
    for _ in range(5):
        merge(model)
        unmerge(model)
    assert all(array.tobytes() == state[name].tobytes() for name, array in model.state().items())


def test_unmerged_after_a_move(rng, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", strict_cupy.strict)
    model = adapted("gpt", rng)
    want = {name: array.copy() for name, array in model.state().items()}
    merge(model)
    model.to(strict_cupy.strict)
    unmerge(model)
    assert all(type(array) is strict_cupy.StrictArray for array in model.state().values())
    assert all(array.get().tobytes() == want[name].tobytes() for name, array in model.state().items())


def test_nothing_to_merge_or_unmerge(rng):
    model = small("gpt")
    with pytest.raises(ValueError, match="no adapter to merge"):
        merge(model)
    apply_lora(model, 2, rng=rng)
    with pytest.raises(ValueError, match="no merged adapter"):
        unmerge(model)


# ---- saving


@pytest.mark.parametrize("preset", SMALL)
def test_rebuilt_from_options_and_state(preset, rng):
    options = {"targets": ("backbone.*",), "train": ("*bias*",) if preset != "gpt" else ("*norm*",)}
    model, other = adapted(preset, rng, **options), small(preset)
    apply_lora(other, 2, 4.0, **options)
    other.load_state(model.state())
    assert np.array_equal(outputs(other, preset), outputs(model, preset))
    assert list(other.trainable()) == list(model.trainable())


def test_adapters_alone_go_onto_another_copy(rng):
    model, other = adapted("lstm-lm", rng), small("lstm-lm")
    apply_lora(other, 2, 4.0)
    tensors = {name: array.copy() for name, array in adapter_state(model).items()}
    assert sum(a.size for a in tensors.values()) < 0.5 * sum(a.size for a in model.parameters().values())
    other.load_state(other.state() | tensors)
    assert np.array_equal(outputs(other, "lstm-lm"), outputs(model, "lstm-lm"))


# ---- training


@pytest.mark.parametrize("preset", ["attention-lstm-lm", "conv-lstm-classifier"])
def test_training_moves_the_adapters_and_nothing_else(preset, xp, rng):
    model = small(preset)
    apply_lora(model, 3, rng=rng)
    model.to(xp.module)
    optimizer = AdamW(model, lr=0.03)
    frozen = {name: xp.to_numpy(a).copy() for name, a in model.state().items() if name not in model.trainable()}
    data, losses = batch(preset, xp), []
    for _ in range(60):
        loss, cache = model.loss(data, rng=rng)
        losses.append(float(xp.to_numpy(loss)))
        grads = model.loss_backward(1.0, cache)
        assert grads.keys() == model.trainable().keys()
        optimizer.accumulate(grads)
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    assert all(xp.to_numpy(model.state()[name]).tobytes() == array.tobytes() for name, array in frozen.items())


def test_generating_with_adapters_is_generating_merged(rng):
    """Incremental inference goes through the adapters too, in stacks (step) and in attention."""
    for preset in ("gpt", "attention-lstm-lm"):
        model = adapted(preset, rng, "float64")
        merged = copy.deepcopy(model)
        merge(merged)
        ids, state, merged_state = batch(preset).ids, None, None
        for t in range(ids.shape[1]):
            logits, state = model.next_logits(ids[:, t : t + 1], state)
            want, merged_state = merged.next_logits(ids[:, t : t + 1], merged_state)
            np.testing.assert_allclose(logits, want, rtol=1e-10)
