"""The positional encodings: one interface, each with its own effect."""

import numpy as np
import pytest

from minilm.layers.positional import KINDS, Learned, positional_encoding
from minilm.ops.sinusoidal_positions import sinusoidal_positions
from tests.layers.helpers import check_gradients, check_library


@pytest.fixture
def make(rng):
    return lambda kind, dtype="float64": positional_encoding(kind, 9, 8, 2, rng, dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient(kind, make, rng):
    check_gradients(make(kind), rng.normal(size=(2, 5, 8)))


@pytest.mark.parametrize("kind", KINDS)
def test_library(kind, xp):
    x = np.random.default_rng(1).normal(size=(2, 5, 8)).astype("float32")
    check_library(lambda: positional_encoding(kind, 9, 8, 2, np.random.default_rng(0), "float32"), x, xp)


@pytest.mark.parametrize("kind", KINDS)
def test_offset_continues(kind, make, rng, xp):
    """The second part of a text, given its offset, gets what it gets within the whole."""
    encoding = make(kind).to(xp.module)
    x, q = rng.normal(size=(2, 7, 8)), rng.normal(size=(2, 2, 7, 4))
    whole, _ = encoding.forward(xp.asarray(x))
    part, _ = encoding.forward(xp.asarray(x[:, 4:]), offset=4)
    np.testing.assert_allclose(xp.to_numpy(part), xp.to_numpy(whole)[:, 4:], atol=1e-15)
    whole, _ = encoding.rotate(xp.asarray(q))
    part, _ = encoding.rotate(xp.asarray(q[:, :, 4:]), 4)
    np.testing.assert_allclose(xp.to_numpy(part), xp.to_numpy(whole)[:, :, 4:], atol=1e-15)
    whole, part = encoding.bias(2, 7, 7, xp.asarray(x)), encoding.bias(2, 3, 7, xp.asarray(x))
    if kind == "alibi":
        np.testing.assert_array_equal(xp.to_numpy(part), xp.to_numpy(whole)[:, 4:])
    else:
        assert whole is None and part is None


def test_each_kind_does_its_own_thing(make, rng):
    x, q = rng.normal(size=(1, 4, 8)), rng.normal(size=(1, 2, 4, 4))
    acts = {
        kind: (
            not np.array_equal(make(kind).forward(x)[0], x),
            not np.array_equal(make(kind).rotate(q)[0], q),
            make(kind).bias(2, 4, 4, q) is not None,
        )
        for kind in KINDS
    }
    assert acts == {
        "sinusoidal": (True, False, False),
        "learned": (True, False, False),
        "rotary": (False, True, False),
        "alibi": (False, False, True),
        "none": (False, False, False),
    }


def test_sinusoidal_table_follows_length_dtype_and_library(make, xp):
    encoding = make("sinusoidal")
    for length, dtype in [(3, "float32"), (70, "float32"), (3, "float64"), (200, "float64")]:
        y, _ = encoding.forward(xp.asarray(np.zeros((1, length, 8), dtype)))
        assert y.dtype == dtype
        np.testing.assert_allclose(xp.to_numpy(y)[0], sinusoidal_positions(length, 8, dtype=dtype), rtol=1e-6)
    assert encoding.forward(np.zeros((1, 3, 8)))[0].shape == (1, 3, 8)  # and back to NumPy


def test_learned_gradient_reaches_only_the_positions_used(make):
    layer = make("learned")
    _, cache = layer.forward(np.zeros((2, 3, 8)), offset=2)
    _, grads = layer.backward(np.ones((2, 3, 8)), cache)
    np.testing.assert_array_equal(grads["weight"][:, 0], [0, 0, 2, 2, 2, 0, 0, 0, 0])
    layer.freeze("*")
    assert layer.backward(np.ones((2, 3, 8)), cache, need_dx=False) == (None, {})


def test_learned_positions_end(make):
    with pytest.raises(ValueError, match=r"reaches 10 tokens.*9 positions"):
        make("learned").forward(np.zeros((1, 4, 8)), offset=6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("sine", 9, 8, 2), "rotary"), (("learned", None, 8, 2), "context"), (("rotary", 9, 6, 2), "even")],
)
def test_wrong_options(arguments, message, rng):
    with pytest.raises(ValueError, match=message):
        positional_encoding(*arguments, rng)


def test_learned_sizes(rng):
    with pytest.raises(ValueError, match="context is 0"):
        Learned(0, 4, rng=rng)
