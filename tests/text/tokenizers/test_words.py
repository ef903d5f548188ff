"""Words: how text is split and joined, and which words are in the vocabulary."""

from __future__ import annotations

from hypothesis import given, strategies as st

from minilm.text.tokenizers import WordTokenizer, split_words
from tests.text.tokenizers.test_kinds import TEXT


@given(st.lists(st.sampled_from(["the", "cat", "didn't", "café", "naïve"])))
def test_words_give_back_their_own_vocabulary(words):
    tokenizer = WordTokenizer.train([TEXT])
    assert tokenizer.decode(tokenizer.encode(" ".join(words))) == " ".join(words)


def test_split_words():
    assert split_words("Don't stop, o'er the rock’s 2nd…") == [
        "Don't",
        "stop",
        ",",
        "o'er",
        "the",
        "rock’s",
        "2nd",
        "…",
    ]
    assert split_words("'quoted' <unk> 東京 a-b") == ["'", "quoted", "'", "<", "unk", ">", "東", "京", "a", "-", "b"]


def test_words_by_frequency_then_alphabet():
    tokenizer = WordTokenizer.train(["b a c", "b A d"])
    assert tokenizer.words == ["<pad>", "<unk>", "a", "b", "c", "d"]
    assert WordTokenizer.train(["b a c", "b A d"], min_frequency=2).words[2:] == ["a", "b"]
    assert WordTokenizer.train(["b a c", "b A d"], vocab_size=3).words[2:] == ["a"]
    assert WordTokenizer.train(["b a c", "b A d"], lower=False).words[2:] == ["b", "A", "a", "c", "d"]


def test_unknown_and_padding_words():
    tokenizer = WordTokenizer.train(["a b"])
    assert tokenizer.encode("A zebra b") == [2, 1, 3]
    assert tokenizer.decode([0, 2, 1, 3, 0]) == "a <unk> b"


def test_words_are_joined_as_one_writes():
    tokenizer = WordTokenizer.train(["so ( he said ) : go , now !"])
    assert tokenizer.decode(tokenizer.encode("So (he said): go, now!")) == "so (he said): go, now!"
