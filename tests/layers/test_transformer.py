"""Transformer blocks: gradients for all settings, freezing, incremental inference."""

import numpy as np
import pytest

from minilm.layers.positional import ALiBi, Rotary
from minilm.layers.transformer import TransformerDecoderBlock, TransformerEncoderBlock
from tests.layers.helpers import check_freezing, check_gradients, check_library

SETTINGS = {
    "post-norm": {},
    "pre-norm": {"norm_first": True, "activation": "gelu", "bias": False},
    "pre-norm rms grouped rotary": {
        "norm_first": True, "norm": "rms", "activation": "silu", "kv_heads": 1, "positions": Rotary(),
    },
    "post-norm rms alibi": {"norm": "rms", "activation": "gelu-tanh", "positions": ALiBi(), "eps": 1e-3},
}  # fmt: skip


def make(block, dtype, **options):
    return block(8, 2, 6, rng=np.random.default_rng(0), dtype=dtype, **options)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("masks", [{"causal": True}, {"key_lengths": np.array([4, 2])}], ids=["causal", "padded"])
def test_encoder_gradient_and_library(name, masks, rng, xp):
    x = rng.normal(size=(2, 4, 8))
    check_gradients(make(TransformerEncoderBlock, "float64", **SETTINGS[name]), x, **masks)
    check_library(lambda: make(TransformerEncoderBlock, "float32", **SETTINGS[name]), x.astype("float32"), xp, **masks)


@pytest.mark.parametrize("name", SETTINGS)
def test_decoder_gradient_and_library(name, rng, xp):
    x, memory, lengths = rng.normal(size=(2, 4, 8)), rng.normal(size=(2, 3, 8)), np.array([3, 1])
    layer = make(TransformerDecoderBlock, "float64", **SETTINGS[name])
    check_gradients(layer, x, memory=memory, memory_lengths=lengths)
    check_library(
        lambda: make(TransformerDecoderBlock, "float32", **SETTINGS[name]), x.astype("float32"), xp,
        memory=memory.astype("float32"), memory_lengths=lengths,
    )  # fmt: skip


@pytest.mark.parametrize("norm_first", [False, True])
def test_dropout_gradient(norm_first, rng):
    """Four masks are drawn: attention weights, both residuals, inside the feed-forward layer."""
    layer = make(TransformerEncoderBlock, "float64", dropout=0.3, norm_first=norm_first)
    check_gradients(layer, rng.normal(size=(2, 4, 8)), causal=True)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("need_dx", [False, True])
def test_encoder_freezing(norm_first, need_dx, rng):
    layer = make(TransformerEncoderBlock, "float64", norm_first=norm_first)
    x, dy = rng.normal(size=(2, 2, 3, 8))

    def backward():
        dx, grads = layer.backward(dy, layer.forward(x)[1], need_dx=need_dx)
        assert (dx is not None) == need_dx
        return grads

    check_freezing(layer, backward)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize(("need_dx", "need_dmemory"), [(True, True), (False, False), (False, True), (True, False)])
def test_decoder_freezing(norm_first, need_dx, need_dmemory, rng):
    layer = make(TransformerDecoderBlock, "float64", norm_first=norm_first)
    x, dy = rng.normal(size=(2, 2, 3, 8))
    memory = rng.normal(size=(2, 2, 8))

    def backward():
        cache = layer.forward(x, memory)[1]
        (dx, dmemory), grads = layer.backward(dy, cache, need_dx=need_dx, need_dmemory=need_dmemory)
        assert (dx is not None) == need_dx and (dmemory is not None) == need_dmemory
        return grads

    check_freezing(layer, backward)


@pytest.mark.parametrize("norm_first", [False, True])
def test_work_below_the_last_trained_layer_is_not_done(norm_first, rng, monkeypatch):
    """With only the last sub-layer trained, the backward of the attention never runs."""
    layer = make(TransformerEncoderBlock, "float64", norm_first=norm_first)
    layer.freeze("self_attn.*", "norm1.*", "norm2.*")
    y, cache = layer.forward(rng.normal(size=(2, 3, 8)))
    monkeypatch.setattr("minilm.layers.heads.attention_backward", None)
    _, grads = layer.backward(y, cache, need_dx=False)
    assert {name.split(".")[0] for name in grads} == {"linear1", "linear2"}


@pytest.mark.parametrize("name", SETTINGS)
def test_extend_equals_forward(name, rng, xp):
    layer = make(TransformerEncoderBlock, "float64", **SETTINGS[name]).to(xp.module)
    x = xp.asarray(rng.normal(size=(2, 6, 8)))
    want, _ = layer.forward(x, causal=True, train=False, cache=False)
    past, got = None, []
    for piece in (x[:, :3], x[:, 3:4], x[:, 4:]):
        y, past = layer.extend(piece, past)
        got.append(xp.to_numpy(y))
    np.testing.assert_allclose(np.concatenate(got, axis=1), xp.to_numpy(want), atol=1e-13)


def test_decoder_is_causal_and_reads_its_memory(rng):
    layer = make(TransformerDecoderBlock, "float64")
    x, memory = rng.normal(size=(1, 4, 8)), rng.normal(size=(1, 3, 8))
    y, _ = layer.forward(x, memory, train=False, cache=False)
    later, other = x.copy(), memory.copy()
    later[:, 3] += 1
    other[:, 2] += 1
    np.testing.assert_array_equal(layer.forward(later, memory, train=False, cache=False)[0][:, :3], y[:, :3])
    assert (layer.forward(x, other, train=False, cache=False)[0] != y).all(axis=-1).all()
    hidden, _ = layer.forward(x, other, memory_lengths=np.array([2]), train=False, cache=False)
    np.testing.assert_allclose(hidden, layer.forward(x, memory[:, :2], train=False, cache=False)[0], atol=1e-14)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"norm": "batch"}, "rms"), ({"activation": "swish"}, "silu"), ({"dropout": 2.0}, "dropout")],
)
def test_wrong_options(options, message, rng):
    with pytest.raises(ValueError, match=message):
        TransformerEncoderBlock(8, 2, rng=rng, **options)


def test_wrong_sizes(rng):
    with pytest.raises(ValueError, match="hidden is 0"):
        TransformerEncoderBlock(8, 2, 0, rng=rng)
