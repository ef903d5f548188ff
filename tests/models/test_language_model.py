"""Language models see no later token, continue exactly, and share the embedding where tied."""

import numpy as np
import pytest

from minilm.layers.base import merge
from minilm.models.language_model import LanguageModel
from minilm.models.recurrent_backbone import RecurrentBackbone
from minilm.models.transformer_backbone import TransformerBackbone
from tests.models.tiny import LANGUAGE_MODELS, V, batch, make


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_no_leak(name):
    """Changing a token changes no earlier logits, so no model can look at the word that it is asked to predict."""
    model, ids = make(name), batch().ids
    want, _ = model.forward(ids, train=False, cache=False)
    for position in range(ids.shape[1]):
        changed = ids.copy()
        changed[:, position] = (changed[:, position] + 1) % V
        got, _ = model.forward(changed, train=False, cache=False)
        np.testing.assert_array_equal(got[:, :position], want[:, :position])
        assert (got[:, position] != want[:, position]).any()


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_every_logit_sees_the_whole_past(name):
    model, ids = make(name), batch().ids
    changed = ids.copy()
    changed[:, 0] = (changed[:, 0] + 1) % V
    got, want = model.forward(changed, train=False, cache=False)[0], model.forward(ids, train=False)[0]
    assert (got != want).any(axis=-1).all()


BIDIRECTIONAL = {
    "two directions": lambda rng: RecurrentBackbone(V, 4, 4, bidirectional=True, rng=rng),
    "unmasked attention": lambda rng: RecurrentBackbone(V, 4, 4, heads=2, causal=False, rng=rng),
    "convolution of neighbours": lambda rng: RecurrentBackbone(V, 4, 4, conv_kernel=3, causal=False, rng=rng),
    "unmasked transformer": lambda rng: TransformerBackbone(V, 4, 1, 2, context=5, causal=False, rng=rng),
}


@pytest.mark.parametrize("kind", BIDIRECTIONAL)
def test_bidirectional_backbones_are_refused(kind, rng):
    """And rightly so: each of them does see later tokens."""
    backbone = BIDIRECTIONAL[kind](rng)
    with pytest.raises(ValueError, match="later tokens"):
        LanguageModel(backbone, rng=rng)
    with pytest.raises(ValueError, match="later tokens"):
        backbone.extend(np.array([[1]]))
    hidden = [backbone.forward(np.array([[1, 2, last]]), train=False, cache=False)[0][:, 0] for last in (3, 4)]
    if kind == "convolution of neighbours":
        hidden = [backbone.forward(np.array([[1, last]]), train=False, cache=False)[0][:, 0] for last in (3, 4)]
    assert (hidden[0] != hidden[1]).any()


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
@pytest.mark.parametrize("pieces", [[1] * 6, [3, 1, 2], [6]], ids=str)
def test_next_logits_equal_the_full_forward(name, pieces, xp):
    model, ids = make(name).to(xp.module), batch(xp).ids
    want, _ = model.forward(ids, train=False, cache=False)
    state, start = None, 0
    for size in pieces:
        logits, state = model.next_logits(ids[:, start : start + size], state)
        start += size
        np.testing.assert_allclose(xp.to_numpy(logits), xp.to_numpy(want)[:, start - 1], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_state_can_be_continued_twice(name):
    model, ids = make(name), batch().ids
    _, state = model.next_logits(ids[:, :3])
    once, _ = model.next_logits(ids[:, 3:4], state)
    model.next_logits((ids[:, 3:4] + 1) % V, state)
    np.testing.assert_array_equal(model.next_logits(ids[:, 3:4], state)[0], once)


def test_loss_is_the_mean_negative_log_likelihood():
    model, data = make("gpt"), batch()
    logits, _ = model.forward(data.ids, train=False, cache=False)
    logp = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    counted = data.targets >= 0
    want = -np.take_along_axis(logp, np.where(counted, data.targets, 0)[..., None], -1)[..., 0][counted].mean()
    np.testing.assert_allclose(model.loss(data)[0], want)


def test_tied_head_adds_both_gradients():
    """The embedding's gradient is the sum of the look-up's and the output layer's."""
    tied, untied, data = make("gpt"), make("gpt", tied=False), batch()
    weight = tied.backbone.embedding.weight
    untied.load_state(tied.state() | {"head.weight": weight})
    assert "head.weight" not in tied.parameters()
    (loss, cache), (same, other) = tied.loss(data), untied.loss(data)
    assert loss == same
    grads, parts = tied.loss_backward(1.0, cache), untied.loss_backward(1.0, other)
    name = "backbone.embedding.weight"
    np.testing.assert_allclose(grads[name], parts[name] + parts["head.weight"], atol=1e-15)


def test_backward_is_linear(rng):
    model, data = make("attention-lstm-lm"), batch()
    logits, cache = model.forward(data.ids)
    a, b = rng.normal(size=(2, *logits.shape))
    both, parts = (
        model.backward(a + b, cache)[1],
        merge(model.backward(a, cache)[1], model.backward(b, cache)[1]),
    )
    for name, gradient in both.items():
        np.testing.assert_allclose(gradient, parts[name], atol=1e-12)


def test_gpt2_initialization():
    """Maps into the residual path are smaller by √(2·layers), so that the stream's variance doesn't grow with depth."""
    model = make("gpt", "float32", width=64, layers=8, bias=True)
    state = model.state()
    into_residual = [n for n in state if n.endswith(("out_proj.weight", "linear2.weight"))]
    assert len(into_residual) == 16
    for name, array in state.items():
        if array.ndim == 1:
            assert (array == (0 if name.endswith("bias") else 1)).all()
        else:
            std = 0.02 / 4 if name in into_residual else 0.02
            assert abs(array.std() / std - 1) < 0.15, name


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        (np.zeros((1, 7), int), ValueError, "7 tokens long.*context of this model is 6"),
        (np.zeros(3, int), ValueError, r"\(3,\), expected \(B, T\)"),
        (np.zeros((1, 3)), TypeError, "integers"),
        (np.array([[0, V]]), ValueError, "11"),
        (np.array([[0, -1]]), ValueError, "-1"),
    ],
)
def test_wrong_ids(ids, error, message):
    with pytest.raises(error, match=message):
        make("gpt").forward(ids)


def test_context_counts_the_state():
    model = make("gpt")
    _, state = model.next_logits(np.zeros((1, 4), int))
    with pytest.raises(ValueError, match="7 tokens long"):
        model.next_logits(np.zeros((1, 3), int), state)


def test_tied_head_needs_equal_widths(rng):
    with pytest.raises(ValueError, match="tied=False"):
        LanguageModel(RecurrentBackbone(V, 4, 6, rng=rng), tied=True, rng=rng)
