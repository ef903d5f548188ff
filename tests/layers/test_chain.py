"""Composition: chains, residual connections, frozen parts, and one layer in two places."""

import numpy as np
import pytest

from minilm.adapt import adapter_state, apply_lora, merge, unmerge
from minilm.layers.activation import Activation
from minilm.layers.chain import Chain, Composite, Stack
from minilm.layers.dropout import Dropout
from minilm.layers.embedding import Embedding
from minilm.layers.linear import Linear, TiedLinear
from minilm.layers.normalization import LayerNorm
from minilm.layers.residual import Residual
from minilm.layers.transformer import TransformerDecoderBlock
from minilm.models.summary import num_parameters
from minilm.optim import SGD
from tests.layers.helpers import check_freezing, check_gradients, check_library

C = 4


def linear(seed=0, dtype="float64"):
    return Linear(C, C, rng=np.random.default_rng(seed), dtype=dtype)


def two_linears(dtype="float64"):
    return Composite(first=linear(0, dtype), tanh=Activation("tanh"), second=linear(1, dtype))


class Block(Composite):
    """norm(x + second(dropout(tanh(first(x)))))."""

    def __init__(self, dtype="float64", norm_first=False):
        super().__init__(
            first=linear(0, dtype), tanh=Activation("tanh"), drop=Dropout(0.3), second=linear(1, dtype),
            norm=LayerNorm(C, dtype=dtype),
        )  # fmt: skip
        inner = ("first", "tanh", "drop", "second")
        steps = (Residual(self.children, "norm", *inner),) if norm_first else (Residual(self.children, *inner), "norm")
        self.chain = Chain(self.children, *steps)


def test_a_chain_is_its_layers_in_turn(rng, xp):
    layer, x = two_linears(), rng.normal(size=(3, C))
    by_hand = np.tanh(x @ layer.first.weight.T + layer.first.bias) @ layer.second.weight.T + layer.second.bias
    np.testing.assert_allclose(layer.forward(x)[0], by_hand, atol=1e-14)
    check_gradients(layer, x)
    check_library(lambda: two_linears("float32"), x.astype("float32"), xp)


@pytest.mark.parametrize("norm_first", [False, True])
def test_residual(norm_first, rng, xp):
    layer, x = Block(norm_first=norm_first), rng.normal(size=(3, C))
    inner = Chain(layer.children, "first", "tanh", "second")
    normed = layer.norm.forward(x)[0] if norm_first else x
    want = x + inner.forward(normed)[0]
    want = want if norm_first else layer.norm.forward(want)[0]
    np.testing.assert_allclose(layer.forward(x, train=False)[0], want, atol=1e-14)
    check_gradients(layer, x)


@pytest.mark.parametrize("need_dx", [False, True])
@pytest.mark.parametrize("norm_first", [False, True])
def test_freezing(norm_first, need_dx, rng):
    layer = Block(norm_first=norm_first)
    x, dy = rng.normal(size=(2, 3, C))

    def backward():
        dx, grads = layer.backward(dy, layer.forward(x, rng=np.random.default_rng(0))[1], need_dx=need_dx)
        assert (dx is not None) == need_dx
        return grads

    check_freezing(layer, backward)


def test_work_below_the_lowest_trained_layer_is_not_done(rng, monkeypatch):
    layer, x = two_linears(), rng.normal(size=(3, C))
    layer.freeze("first.*")
    y, cache = layer.forward(x)
    for name in ("first", "tanh"):
        monkeypatch.setattr(layer.children[name], "backward", None)
    assert layer.backward(y, cache, need_dx=False)[1].keys() == {"second.weight", "second.bias"}
    layer.freeze()
    monkeypatch.setattr(layer.second, "backward", None)
    assert layer.backward(y, cache, need_dx=False) == (None, {})


def test_nothing_is_kept_below_the_lowest_trained_layer_over_ids(rng):
    """Ids have no gradient, so a frozen part at the bottom needs no cache; what is above still gets its gradients."""
    embedding = Embedding(7, C, rng=rng, dtype="float64")
    layer = Composite(embedding=embedding, norm=LayerNorm(C, dtype="float64"), head=linear())
    ids = np.array([[1, 2, 3]])
    y, cache = layer.forward(ids)
    _, want = layer.backward(y, cache)
    assert want.keys() == layer.parameters().keys()
    layer.freeze("embedding.*", "norm.*")
    _, cache = layer.forward(ids)
    assert cache.steps[0] is cache.steps[1] is None
    dx, got = layer.backward(y, cache, need_dx=True)
    assert dx is None and got.keys() == {"head.weight", "head.bias"}
    for name, gradient in got.items():
        np.testing.assert_array_equal(gradient, want[name])


def test_a_replaced_child_is_used(rng):
    layer, x = Block(), rng.normal(size=(3, C))
    before = layer.forward(x, train=False)[0]
    layer.children["second"] = linear(5)
    assert (layer.forward(x, train=False)[0] != before).any()
    check_gradients(layer, x)


def test_options_reach_their_layer_or_are_refused(rng):
    layer, x = two_linears(), rng.normal(size=(3, C))
    with pytest.raises(TypeError, match=r"options for third, but the layers are first, tanh, second"):
        layer.forward(x, third={"causal": True})
    with pytest.raises(TypeError, match="causal"):
        layer.forward(x, first={"causal": True})


def test_a_memory_is_read_by_every_block_of_a_stack(rng):
    """Its gradient is summed over them, also where nothing else below needs one."""
    blocks = [TransformerDecoderBlock(8, 2, 6, rng=np.random.default_rng(n), dtype="float64") for n in range(2)]
    stack, x, memory = Stack(blocks), rng.normal(size=(2, 3, 8)), rng.normal(size=(2, 4, 8))
    check_gradients(stack, x, memory=memory, memory_lengths=np.array([4, 2]))
    y, cache = stack.forward(x, memory=memory)
    (_, want), _ = stack.backward(y, cache)
    stack.freeze()
    (dx, dmemory), grads = stack.backward(y, cache, need_dx=False, need_dmemory=True)
    assert dx is None and not grads
    np.testing.assert_array_equal(dmemory, want)
    assert stack.backward(y, cache, need_dx=False) == ((None, None), {})


# ---- one layer in two places


def named_twice():
    layer = Composite(linear=linear(), tanh=Activation("tanh"))
    layer.chain = Chain(layer.children, "linear", "tanh", "linear")
    return layer


def under_two_names():
    shared = linear()
    return Composite(linear=shared, tanh=Activation("tanh"), again=shared)


def at_two_depths():
    shared = linear()
    return Composite(linear=shared, inner=Composite(tanh=Activation("tanh"), again=shared, other=linear(1)))


def below_two_parents():
    """The composites themselves are met twice, each with all that is in it."""
    shared = Composite(linear=linear(), tanh=Activation("tanh"))
    return Composite(first=Stack([shared, linear(1)]), second=shared)


SHARED = (named_twice, under_two_names, at_two_depths, below_two_parents)


@pytest.mark.parametrize("make", SHARED)
def test_gradients_of_both_places_are_summed_under_the_first_name(make, rng):
    layer, x = make(), rng.normal(size=(3, C))
    check_gradients(layer, x)
    y, cache = layer.forward(x)
    check_freezing(layer, lambda: layer.backward(y, cache)[1])
    assert not [name for name in layer.parameters() if "again" in name or "second" in name]


@pytest.mark.parametrize("make", SHARED)
def test_it_is_counted_and_stored_once(make, rng):
    layer = make()
    arrays = {id(array) for array in layer.parameters().values()}
    assert len(arrays) == len(layer.parameters()) == len(layer.state())
    assert num_parameters(layer) == (C * C + C) * len(arrays) // 2
    other, x = make(), rng.normal(size=(3, C))
    other.map_arrays(lambda name, array: array + 1.0)
    for name, array in other.state().items():
        np.testing.assert_array_equal(array, layer.state()[name] + 1.0)  # once, and not at each place
    other.load_state(layer.state())
    np.testing.assert_array_equal(other.forward(x)[0], layer.forward(x)[0])
    layer.to(dtype="float32")
    assert layer.forward(x.astype("float32"))[0].dtype == np.float32


@pytest.mark.parametrize("make", SHARED)
def test_an_optimizer_updates_it_once(make, rng):
    layer, x = make(), rng.normal(size=(3, C))
    before = {name: array.copy() for name, array in layer.parameters().items()}
    optimizer = SGD(layer, 0.1)
    y, cache = layer.forward(x)
    _, grads = layer.backward(y, cache)
    optimizer.accumulate(grads)
    optimizer.step()
    for name, array in layer.parameters().items():
        np.testing.assert_allclose(array, before[name] - 0.1 * grads[name], atol=1e-14)


@pytest.mark.parametrize("make", SHARED)
def test_it_has_one_adapter(make, rng):
    layer, x = make(), rng.normal(size=(3, C))
    plain = layer.forward(x)[0]
    apply_lora(layer, 2, targets=("*linear",), rng=rng)
    np.testing.assert_array_equal(layer.forward(x)[0], plain)
    (a, b) = layer.trainable()
    assert a.endswith("linear.lora_A") and b.endswith("linear.lora_B")
    layer.trainable()[b][...] = rng.normal(size=(C, 2))
    check_gradients(layer, x)
    adapted, copy = layer.forward(x)[0], make()
    apply_lora(copy, 2, targets=("*linear",))
    copy.load_state(copy.state() | adapter_state(layer))
    np.testing.assert_array_equal(copy.forward(x)[0], adapted)
    merge(layer)
    np.testing.assert_allclose(layer.forward(x)[0], adapted, atol=1e-14)
    unmerge(layer)
    np.testing.assert_array_equal(layer.forward(x)[0], adapted)


def test_tied_linear_map_is_its_embedding(rng):
    embedding = Embedding(7, C, rng=rng, dtype="float64")
    layer, ids = Composite(embedding=embedding, tanh=Activation("tanh"), head=TiedLinear(embedding)), np.array([[1, 3]])
    assert list(layer.state()) == ["embedding.weight"]
    check_gradients(layer, ids)
    check_gradients(layer.head, rng.normal(size=(2, C)))
    np.testing.assert_array_equal(layer.forward(ids)[0], np.tanh(embedding.weight[ids]) @ embedding.weight.T)
