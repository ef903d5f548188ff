"""The two LoRA layers: their gradients, the work that frozen weights don't cost, and that parents notice nothing."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from minilm.adapt import lora
from minilm.adapt.lora import LoRALinear, LoRAWeights
from minilm.gradcheck import check_layer
from minilm.layers.base import Layer
from minilm.layers.convolution import Conv1d
from minilm.layers.embedding import Embedding
from minilm.layers.linear import Linear
from minilm.layers.recurrent import GRU, LSTM, RNN
from tests import strict_cupy

B, T, C, K = 2, 4, 5, 6


def trained(adapter: Layer, rng) -> Layer:
    """As after some training: B is not zero any more."""
    for name in adapter.params:
        if name.endswith("lora_B"):
            adapter.params[name] = rng.normal(size=adapter.params[name].shape)
    return adapter


def linear_adapter(rng, rank=2, bias=True, dropout=0.0, dtype="float64"):
    return LoRALinear(Linear(C, K, bias, rng=rng, dtype=dtype), rank, 3.0, dropout, rng=rng)


def recurrent_adapter(kind, rng, adapted=("weight_ih_l0", "weight_hh_l0"), **options):
    return LoRAWeights(kind(C, 3, rng=rng, dtype="float64", **options), adapted, 2, 3.0, rng=rng)


# ---- gradients


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("rank", [1, 2, C])  # C: full rank
def test_linear_gradients(rank, dropout, xp, rng):
    layer = trained(linear_adapter(rng, rank, dropout=dropout), rng).to(xp.module)
    report = check_layer(layer, xp.asarray(rng.normal(size=(B, T, C))))
    assert report, report
    assert report.max_rel_error < 1e-11


@pytest.mark.parametrize("kind", [RNN, GRU, LSTM])
def test_recurrent_gradients(kind, xp, rng):
    layer = trained(recurrent_adapter(kind, rng), rng).to(xp.module)
    report = check_layer(layer, xp.asarray(rng.normal(size=(B, T, C))))
    assert report, report
    assert report.max_rel_error < 1e-11


def test_bidirectional_stack_gradients(rng):
    adapted = tuple(f"weight_{part}_l{n}{way}" for part in ("ih", "hh") for n in (0, 1) for way in ("", "_reverse"))
    layer = trained(recurrent_adapter(GRU, rng, adapted, num_layers=2, bidirectional=True), rng)
    report = check_layer(layer, rng.normal(size=(B, T, C)))
    assert report, report


def test_convolution_gradients(xp, rng):
    """(Cout, Cin, K) counts as the matrix (Cout, Cin·K)."""
    layer = trained(LoRAWeights(Conv1d(C, K, 3, rng=rng, dtype="float64"), ("weight",), 2, 3.0, rng=rng), rng)
    assert layer.weight_lora_A.shape == (2, 3 * C)
    report = check_layer(layer.to(xp.module), xp.asarray(rng.normal(size=(B, T, C))))
    assert report, report


def test_embedding_gradients(rng):
    layer = trained(LoRAWeights(Embedding(7, C, rng=rng, dtype="float64"), ("weight",), 2, 3.0, rng=rng), rng)
    report = check_layer(layer, rng.integers(0, 7, (B, T)))
    assert report, report


def test_linear_gradients_by_the_formula(rng):
    """dB = s dyᵀ (x Aᵀ), dA = s (dy B)ᵀ x, dx = dy (W + s B A)."""
    layer = trained(linear_adapter(rng), rng)
    x, dy = rng.normal(size=(9, C)), rng.normal(size=(9, K))
    y, cache = layer.forward(x)
    a, b, s = layer.lora_A, layer.lora_B, 3.0 / 2
    whole = layer.base.weight + s * b @ a
    np.testing.assert_allclose(y, x @ whole.T + layer.base.bias, rtol=1e-12)
    dx, grads = layer.backward(dy, cache)
    np.testing.assert_allclose(dx, dy @ whole, rtol=1e-12)
    np.testing.assert_allclose(grads["lora_B"], s * dy.T @ (x @ a.T), rtol=1e-12)
    np.testing.assert_allclose(grads["lora_A"], s * (dy @ b).T @ x, rtol=1e-12)


def test_both_forms_agree(rng):
    """A Linear adapted on its input, and through W': the same function, the same gradients."""
    one = trained(linear_adapter(rng), rng)
    other = LoRAWeights(copy.deepcopy(one.base), ("weight",), 2, 3.0, rng=rng)
    other.params |= {"weight_lora_A": one.lora_A, "weight_lora_B": one.lora_B}
    x, dy = rng.normal(size=(B, T, C)), rng.normal(size=(B, T, K))
    (y, cache), (z, other_cache) = one.forward(x), other.forward(x)
    np.testing.assert_allclose(y, z, rtol=1e-12)
    (dx, grads), (dz, other_grads) = one.backward(dy, cache), other.backward(dy, other_cache)
    np.testing.assert_allclose(dx, dz, rtol=1e-12)
    for name in ("lora_A", "lora_B"):
        np.testing.assert_allclose(grads[name], other_grads[f"weight_{name}"], rtol=1e-11)


def test_a_trained_weight_besides_its_adapter(rng):
    """Nothing forbids to train W or its bias too."""
    for layer in (trained(linear_adapter(rng), rng), trained(recurrent_adapter(GRU, rng), rng)):
        layer.unfreeze()
        report = check_layer(layer, rng.normal(size=(B, T, C)))
        assert report, report


def test_float32_stays_float32(xp, rng):
    layer = linear_adapter(rng, dropout=0.3, dtype="float32").to(xp.module)
    y, cache = layer.forward(xp.asarray(rng.normal(size=(B, T, C)).astype("float32")), rng=rng)
    dx, grads = layer.backward(y, cache)
    assert {a.dtype.name for a in (y, dx, *grads.values())} == {"float32"}


def test_a_step_does_not_wait_for_the_device(xp, rng):
    layer = linear_adapter(rng, dtype="float32").to(xp.module)
    x = xp.asarray(rng.normal(size=(B, T, C)).astype("float32"))
    with strict_cupy.no_sync(("sync", "upload")):
        y, cache = layer.forward(x)
        layer.backward(y, cache)


# ---- what an untrained adapter changes: nothing


def test_starts_as_the_base(rng):
    x = rng.normal(size=(B, T, C))
    base = Linear(C, K, rng=rng, dtype="float64")
    assert np.array_equal(LoRALinear(base, 2, rng=rng).forward(x)[0], base.forward(x)[0])
    stack = LSTM(C, 3, rng=rng, dtype="float64")
    adapter = LoRAWeights(stack, ("weight_ih_l0", "weight_hh_l0"), 2, rng=rng)
    (y, (h, c)), _ = adapter.forward(x, lengths=[4, 2])
    (z, (g, d)), _ = stack.forward(x, lengths=[4, 2])
    assert all(np.array_equal(one, other) for one, other in ((y, z), (h, g), (c, d)))


def test_initialization(rng):
    """A from U(−1/√Cin, 1/√Cin), B zero, in the weight's dtype."""
    adapter = LoRALinear(Linear(400, 60, rng=rng), 50, rng=rng)
    assert adapter.lora_A.shape == (50, 400) and adapter.lora_B.shape == (60, 50)
    assert adapter.lora_A.dtype == adapter.lora_B.dtype == np.float32
    assert not adapter.lora_B.any()
    assert 0.99 / 20 < np.abs(adapter.lora_A).max() <= 1 / 20
    assert abs(adapter.lora_A.std() - 1 / 20 / 3**0.5) < 1e-3


@pytest.mark.parametrize("rank", [0, -1, C + 1])
def test_rank_out_of_range(rank, rng):
    with pytest.raises(ValueError, match=rf"rank {rank} does not fit weight \({K}, {C}\); choose 1..{C}"):
        linear_adapter(rng, rank)


def test_dropout_needs_a_generator(rng):
    layer = linear_adapter(rng, dropout=0.5)
    with pytest.raises(ValueError, match="give rng="):
        layer.forward(np.ones((1, C)))
    y, cache = layer.forward(np.ones((1, C)), train=False, cache=False)
    assert cache is None and y.shape == (1, K)


# ---- frozen: no gradient, and no work


def test_frozen_base_has_no_gradient(rng):
    layer = linear_adapter(rng)
    y, cache = layer.forward(rng.normal(size=(B, T, C)))
    assert layer.backward(y, cache)[1].keys() == layer.trainable().keys() == {"lora_A", "lora_B"}


class Recording(np.ndarray):
    """An array that notes the shape of each matrix product that it takes part in."""

    products: list = []  # noqa: RUF012  shared on purpose

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        plain = [np.asarray(i) if isinstance(i, Recording) else i for i in inputs]
        result = getattr(ufunc, method)(*plain, **kwargs)
        if ufunc is np.matmul:
            Recording.products.append(result.shape)
        return result.view(Recording) if isinstance(result, np.ndarray) else result


def products_of_backward(layer, rng, **options):
    x, dy = rng.normal(size=(7, C)).view(Recording), rng.normal(size=(7, K)).view(Recording)
    _, cache = layer.forward(x)
    Recording.products = []
    dx, grads = layer.backward(dy, cache, **options)
    return Recording.products, dx, grads


def test_frozen_base_costs_no_product(rng):
    """dy B, Bᵀ's, A's, dx's two: nothing of the size (Cout, Cin) is formed."""
    products, dx, _ = products_of_backward(linear_adapter(rng), rng)
    assert sorted(products) == sorted([(7, 2), (K, 2), (2, C), (7, C), (7, C)])
    assert dx is not None


def test_without_dx_the_base_costs_nothing(rng):
    products, dx, grads = products_of_backward(linear_adapter(rng), rng, need_dx=False)
    assert sorted(products) == sorted([(7, 2), (K, 2), (2, C)])
    assert dx is None and grads.keys() == {"lora_A", "lora_B"}


@pytest.mark.parametrize("frozen, left", [("lora_A", [(K, 2)]), ("lora_B", [(7, 2), (2, C)])])
def test_a_frozen_factor_costs_nothing(frozen, left, rng):
    layer = linear_adapter(rng)
    layer.freeze(frozen)
    products, _, grads = products_of_backward(layer, rng, need_dx=False)
    assert sorted(products) == sorted(left)
    assert grads.keys() == {"lora_A", "lora_B"} - {frozen}


def test_base_is_not_asked_for_its_weight_gradient(rng, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "minilm.layers.linear.linear_backward",
        lambda dy, cache, wrt: asked.append(set(wrt)) or lora.linear_backward(dy, cache, wrt),
    )
    products_of_backward(linear_adapter(rng), rng)
    assert asked == [{"x"}]


def test_frozen_adapter_of_a_stack_asks_for_no_weight_gradient(rng, monkeypatch):
    layer = recurrent_adapter(GRU, rng)
    layer.freeze()
    asked = []
    backward = layer.base.op.backward
    monkeypatch.setattr(
        layer.base.op, "backward", lambda dy, cache, wrt: asked.append(set(wrt)) or backward(dy, cache, wrt)
    )
    (y, _), cache = layer.forward(rng.normal(size=(B, T, C)))
    (dx, _), grads = layer.backward((y, None), cache)
    assert grads == {} and dx.shape == (B, T, C)
    assert asked == [{"x"}]


# ---- in the place of the wrapped layer


def test_methods_compute_with_the_adapted_weight(rng):
    """Conv1d.extend, of which LoRA knows nothing, goes on as forward does."""
    base = Conv1d(C, K, 3, padding="causal", rng=rng, dtype="float64")
    adapter = trained(LoRAWeights(base, ("weight",), 2, rng=rng), rng)
    x = rng.normal(size=(B, T, C))
    first, past = adapter.extend(x[:, :2])
    second, _ = adapter.extend(x[:, 2:], past)
    np.testing.assert_allclose(np.concatenate((first, second), axis=1), adapter.forward(x)[0], rtol=1e-10)


def test_forward_takes_the_arguments_of_the_wrapped_layer(rng):
    adapter = trained(recurrent_adapter(GRU, rng), rng)
    plain = copy.deepcopy(adapter.base)
    plain.params |= adapter.merged_weights()
    x, h0 = rng.normal(size=(B, T, C)), rng.normal(size=(1, B, 3))
    (y, h), _ = adapter.forward(x, h0, lengths=np.array([4, 1]), train=False, cache=False)
    (z, g), _ = plain.forward(x, h0, lengths=np.array([4, 1]), train=False, cache=False)
    assert np.array_equal(y, z) and np.array_equal(h, g)


def test_copies_are_independent(rng):
    adapter = trained(linear_adapter(rng), rng)
    other = copy.deepcopy(adapter)
    other.params["lora_B"][...] = 0
    other.base.weight[...] = 0
    assert adapter.lora_B.any() and adapter.base.weight.any()
