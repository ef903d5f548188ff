"""Generation: greedy and sampled, limited and cropped, the same with and without a state."""

import itertools

import numpy as np
import pytest

from minilm.models.generation import generate, sample
from tests.models.tiny import LANGUAGE_MODELS, V, make

LOGITS = np.log(np.array([0.1, 0.4, 0.05, 0.25, 0.2]))


def lively(name):
    """A model whose next token depends on many before it: with its initial weights it would hardly."""
    model, rng = make(name), np.random.default_rng(0)
    for _, layer in model.walk():
        for array in layer.params.values():
            array += 0.5 * rng.normal(size=array.shape)
    return model


def by_full_forwards(model, prompt, count, seed, **options):
    """Each token from a full forward over the last `context` tokens: what generation has to give."""
    tokens, rng = list(prompt), np.random.default_rng(seed)
    for _ in range(count):
        seen = tokens if model.context is None else tokens[-model.context :]
        logits, _ = model.forward(np.array([seen]), train=False, cache=False)
        tokens.append(sample(logits[0, -1], rng=rng, **options))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("prompt", [[1, 2, 3], [6, 5, 4, 3, 2, 1]], ids=["short", "full"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_equals_full_forwards(name, temperature, prompt, xp):
    """12 tokens pass the end of the context (6) where there is one: from there on the text is cropped."""
    model = lively(name)
    want = by_full_forwards(model, prompt, 12, seed=1, temperature=temperature)
    assert temperature == 0 or len(set(want)) > 3
    got = generate(model.to(xp.module), prompt, 12, temperature=temperature, rng=np.random.default_rng(1))
    assert list(got) == want


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "top_k": 3}, {"top_p": 0.8}])
def test_seed_decides(options):
    model = make("lstm-lm")

    def draw(seed):
        return list(generate(model, [1], 20, rng=np.random.default_rng(seed), **options))

    assert draw(1) == draw(1) and len(draw(1)) == 20 and all(0 <= token < V for token in draw(1))
    assert len({tuple(draw(seed)) for seed in range(5)}) > 1


def test_streams():
    """Tokens come one by one: asking for three of very many is quick."""
    tokens = generate(make("lstm-lm"), [1], 10**9, rng=np.random.default_rng(0))
    assert len(list(itertools.islice(tokens, 3))) == 3


def test_stop():
    model = make("gpt")
    tokens = list(generate(model, [1], 8, rng=np.random.default_rng(0)))
    stop = tokens[4]
    want = tokens[: tokens.index(stop)]
    for given in (stop, [stop], {stop, V + 5}):
        assert list(generate(model, [1], 8, rng=np.random.default_rng(0), stop=given)) == want


def test_sampling_follows_the_probabilities(rng):
    drawn = np.bincount([sample(LOGITS, rng=rng) for _ in range(4000)], minlength=5) / 4000
    np.testing.assert_allclose(drawn, np.exp(LOGITS), atol=0.03)


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({"top_k": 1}, {1}),
        ({"top_k": 2}, {1, 3}),
        ({"top_k": 99}, {0, 1, 2, 3, 4}),
        ({"top_p": 0.01}, {1}),
        ({"top_p": 0.5}, {1, 3}),
        ({"top_p": 0.9}, {0, 1, 3, 4}),
        ({"top_p": 1.0}, {0, 1, 2, 3, 4}),
        ({"top_k": 3, "top_p": 0.6}, {1, 3}),  # of the three, 0.4 and 0.25 are 0.76 of the sum
        ({"temperature": 1e-3}, {1}),
        ({"temperature": 1e-300}, {1}),  # no overflow
    ],
)
def test_limits(options, allowed, rng):
    assert {sample(LOGITS, rng=rng, **options) for _ in range(600)} == allowed


def test_equal_logits():
    logits = np.zeros(4)
    assert sample(logits, temperature=0) == 0
    assert {sample(logits, top_k=2, rng=np.random.default_rng(s)) for s in range(50)} == {0, 1}


def test_minus_infinity_is_never_drawn(rng):
    logits = np.array([-np.inf, 0.0, -np.inf])
    assert {sample(logits, rng=rng) for _ in range(50)} == {1}


@pytest.mark.parametrize("logits", [[0.0, np.nan], [-np.inf, -np.inf], [np.inf, 0.0]])
def test_damaged_logits(logits, rng):
    with pytest.raises(ValueError, match="damaged"):
        sample(np.array(logits), rng=rng)


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ([], {}, "at least one token"),
        ([[1, 2]], {}, "one dimension"),
        ([1] * 7, {}, "7 tokens long.*context of this model is 6"),
        ([1, V], {}, "outside of the vocabulary 0 … 10: 11"),
        ([-1], {}, "outside of the vocabulary"),
        ([1], {"temperature": -0.1}, "temperature"),
        ([1], {"temperature": float("nan")}, "temperature"),
        ([1], {"top_k": 0}, "top_k"),
        ([1], {"top_k": 1.5}, "top_k"),
        ([1], {"top_p": 0.0}, "top_p"),
        ([1], {"top_p": 1.1}, "top_p"),
        ([1], {"rng": None}, "rng="),
        ([1], {"max_new_tokens": -1}, "max_new_tokens"),
    ],
)
def test_wrong_arguments_are_told_at_once(prompt, options, message, rng):
    """At the call, not when the first token is asked for."""
    arguments = {"max_new_tokens": 3, "rng": rng} | options
    with pytest.raises(ValueError, match=message):
        generate(make("gpt"), prompt, arguments.pop("max_new_tokens"), **arguments)


def test_text_is_no_prompt(rng):
    with pytest.raises(TypeError, match="integer token ids"):
        generate(make("gpt"), [1.5], 3, rng=rng)


def test_nothing_asked_nothing_given(rng):
    assert list(generate(make("gpt"), [1], 0, rng=rng)) == []
