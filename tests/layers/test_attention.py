"""Multi-head attention: gradients for every kind, freezing, and inference with a key/value cache."""

import numpy as np
import pytest

from minilm.layers.attention import MultiHeadAttention
from minilm.layers.positional import ALiBi, Learned, Rotary
from tests.layers.helpers import check_freezing, check_gradients, check_library

KINDS = {
    "plain": ({}, {}),
    "causal": ({}, {"causal": True}),
    "grouped": ({"kv_heads": 2}, {"causal": True}),
    "one key head, no bias": ({"kv_heads": 1, "bias": False}, {}),
    "rotary": ({"positions": Rotary(), "kv_heads": 2}, {"causal": True}),
    "alibi": ({"positions": ALiBi()}, {"causal": True}),
    "padded": ({}, {"key_lengths": np.array([5, 2])}),
    "masked": ({}, {"mask": np.tri(5, dtype=bool)[::-1]}),
}
CROSS = {
    "cross": ({}, {}),
    "cross grouped": ({"kv_heads": 2}, {"key_lengths": np.array([3, 1])}),
}


def make(dtype, seed=0, **options):
    return MultiHeadAttention(8, 4, rng=np.random.default_rng(seed), dtype=dtype, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_and_library(kind, rng, xp):
    options, masks = KINDS[kind]
    x = rng.normal(size=(2, 5, 8))
    check_gradients(make("float64", **options), x, **masks)
    check_library(lambda: make("float32", **options), x.astype("float32"), xp, **masks)


@pytest.mark.parametrize("kind", CROSS)
def test_cross_gradient_and_library(kind, rng, xp):
    options, masks = CROSS[kind]
    x, memory = rng.normal(size=(2, 5, 8)), rng.normal(size=(2, 3, 8))
    check_gradients(make("float64", cross=True, **options), x, memory=memory, **masks)
    check_library(lambda: make("float32", cross=True, **options), x.astype("float32"), xp,
                  memory=memory.astype("float32"), **masks)  # fmt: skip


def test_dropout_gradient(rng):
    check_gradients(make("float64", dropout=0.3), rng.normal(size=(2, 4, 8)), causal=True)


@pytest.mark.parametrize("need_dx", [True, False])
def test_freezing(need_dx, rng):
    layer = make("float64")
    x, dy = rng.normal(size=(2, 3, 2, 8))
    check_freezing(layer, lambda: layer.backward(dy, layer.forward(x)[1], need_dx=need_dx)[1])


@pytest.mark.parametrize(("need_dx", "need_dmemory"), [(True, True), (True, False), (False, True), (False, False)])
def test_cross_freezing(need_dx, need_dmemory, rng):
    layer = make("float64", cross=True)
    x, memory, dy = rng.normal(size=(2, 5, 8)), rng.normal(size=(2, 3, 8)), rng.normal(size=(2, 5, 8))

    def backward():
        (dx, dmemory), grads = layer.backward(
            dy, layer.forward(x, memory)[1], need_dx=need_dx, need_dmemory=need_dmemory
        )
        assert (dx is not None) == need_dx and (dmemory is not None) == need_dmemory
        return grads

    check_freezing(layer, backward)


def test_frozen_input_maps_cost_no_attention_backward(rng, monkeypatch):
    layer = make("float64")
    layer.freeze("in_proj.*")
    x = rng.normal(size=(2, 3, 8))
    y, cache = layer.forward(x)
    monkeypatch.setattr("minilm.layers.heads.attention_backward", None)
    assert layer.backward(y, cache, need_dx=False)[1].keys() == {"out_proj.weight", "out_proj.bias"}


@pytest.mark.parametrize("pieces", [[1] * 6, [4, 1, 1], [2, 4], [6]])
@pytest.mark.parametrize("kind", ["causal", "grouped", "rotary", "alibi"])
def test_extend_equals_forward(kind, pieces, rng, xp):
    layer = make("float64", **KINDS[kind][0]).to(xp.module)
    x = xp.asarray(rng.normal(size=(2, 6, 8)))
    want, _ = layer.forward(x, causal=True, train=False, cache=False)
    past, start, got = None, 0, []
    for size in pieces:
        y, past = layer.extend(x[:, start : start + size], past)
        got.append(xp.to_numpy(y))
        start += size
    np.testing.assert_allclose(np.concatenate(got, axis=1), xp.to_numpy(want), atol=1e-14)


def test_extend_leaves_its_past_as_it_was(rng):
    layer = make("float64")
    x = rng.normal(size=(1, 4, 8))
    _, past = layer.extend(x[:, :2])
    once, twice = layer.extend(x[:, 2:3], past)[0], layer.extend(x[:, 2:3], past)[0]
    np.testing.assert_array_equal(once, twice)


def test_cross_attention_cannot_be_continued(rng):
    with pytest.raises(ValueError, match="needs its memory"):
        make("float64", cross=True).extend(rng.normal(size=(1, 1, 8)))


def test_a_group_with_equal_heads_is_grouped_attention(rng):
    """Grouped heads equal full heads whose keys and values are repeated within each group."""
    grouped, full = make("float64", kv_heads=2), make("float64")
    rows = {
        name: np.split(grouped.parameters()[name], [8, 12]) for name in ("in_proj.weight", "in_proj.bias")
    }  # q 8, k 4, v 4
    state = grouped.parameters()
    for name, (q, k, v) in rows.items():
        repeated = [
            np.repeat(part.reshape(2, 2, *part.shape[1:]), 2, axis=0).reshape(8, *part.shape[1:]) for part in (k, v)
        ]
        state[name] = np.concatenate([q, *repeated])
    full.load_state(state)
    x = rng.normal(size=(2, 5, 8))
    np.testing.assert_allclose(grouped.forward(x)[0], full.forward(x)[0], atol=1e-14)


def test_weights_sum_to_one_over_what_is_seen(rng, xp):
    layer = make("float64", positions=Rotary()).to(xp.module)
    seen = xp.to_numpy(layer.weights(xp.asarray(rng.normal(size=(2, 5, 8))), causal=True))
    assert seen.shape == (2, 4, 5, 5)
    np.testing.assert_allclose(seen.sum(axis=-1), 1)
    assert not np.triu(seen, 1).any()


def test_replaced_child_is_used(rng):
    """Nothing but `children` holds a child, so that one can be replaced (low-rank updates do)."""
    layer, other = make("float64"), make("float64", seed=1)
    x = rng.normal(size=(2, 5, 8))
    layer.children["in_proj"], layer.children["out_proj"] = other.in_proj, other.out_proj
    np.testing.assert_array_equal(layer.forward(x)[0], other.forward(x)[0])


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((8, 3), {}, "multiple"),
        ((8, 0), {}, "multiple"),
        ((-8, 4), {}, "multiple"),
        ((8, 4), {"kv_heads": 3}, "divisor"),
        ((8, 4), {"kv_heads": 0}, "divisor"),
        ((8, 4), {"dropout": 1.0}, "dropout"),
    ],
)
def test_wrong_options(arguments, options, message, rng):
    with pytest.raises(ValueError, match=message):
        MultiHeadAttention(*arguments, rng=rng, **options)


def test_positions_with_parameters_are_refused(rng):
    with pytest.raises(ValueError, match="below the blocks"):
        MultiHeadAttention(8, 4, positions=Learned(5, 8, rng=rng), rng=rng)


def test_wrong_inputs(rng):
    with pytest.raises(ValueError, match=r"\(2, 5, 7\), expected \(B, T, 8\)"):
        make("float64").forward(np.zeros((2, 5, 7)))
    with pytest.raises(ValueError, match="memory="):
        make("float64", cross=True).forward(np.zeros((2, 5, 8)))
    with pytest.raises(ValueError, match="cross=True"):
        make("float64").forward(np.zeros((2, 5, 8)), np.zeros((2, 5, 8)))
