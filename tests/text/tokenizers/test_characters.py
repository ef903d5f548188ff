"""Characters: round trips, their order, and those that the vocabulary does not know."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from minilm.text.tokenizers import CharTokenizer, UnknownCharacterError
from tests.text.tokenizers.test_kinds import TEXT


@given(st.text(alphabet=sorted(set(TEXT))))
def test_characters_give_back_their_own_alphabet(text):
    tokenizer = CharTokenizer.train([TEXT])
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_characters_are_sorted():
    tokenizer = CharTokenizer.train(["ba", "cb"])
    assert tokenizer.characters == ["a", "b", "c"]
    assert tokenizer.encode("cab") == [2, 0, 1]
    assert tokenizer.size == 3 and tokenizer.pad_id is None and tokenizer.unknown_id is None


def test_unknown_character_is_named_with_its_position():
    with pytest.raises(UnknownCharacterError, match=r"'é' \(U\+00E9\) at position 3 is not in the vocabulary of 3"):
        CharTokenizer.train(["abc"]).encode("abcé")


def test_unknown_character_on_request():
    tokenizer = CharTokenizer.train("abc", unknown=True)
    assert tokenizer.decode(tokenizer.encode("aéc")) == "a\ufffdc"
    assert tokenizer.unknown_id == 3
