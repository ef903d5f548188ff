"""Token files: what is streamed is what was encoded; damaged files are told apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from minilm.text.corpus import (
    encode_corpus,
    encode_pieces,
    encode_text,
    open_tokens,
    read_sources,
    split_tokens,
    token_array,
    token_dtype,
    write_tokens,
)
from minilm.text.files import cut_pieces, read_pieces
from minilm.text.tokenizers import KINDS, CharTokenizer, WordTokenizer, train_tokenizer

TEXT = "It was  the best of times,\n\n it wasn't; the café's worst\tof times.\n   \nThe end...\n" * 5
WORDS = st.text(alphabet="It'swacfé,.;", min_size=1, max_size=4)
SPACES = st.text(alphabet=" \n\t", min_size=1, max_size=4)
TOKENIZERS = {kind: train_tokenizer(kind, [TEXT]) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.lists(st.tuples(WORDS, SPACES)).map(lambda parts: "".join(map("".join, parts))), size=st.integers(9, 16))
def test_pieces_encode_to_what_the_whole_encodes_to(kind, text, size):
    """Words and spaces are at most 4 characters each, so that 9 always hold a place to cut."""
    tokenizer = TOKENIZERS[kind]
    streamed = [i for ids in encode_pieces(cut_pieces([text], size), tokenizer) for i in ids.tolist()]
    assert streamed == tokenizer.encode(text)


@pytest.mark.parametrize("kind", KINDS)
def test_token_file_holds_what_the_tokenizer_encodes(kind, tmp_path):
    tokenizer = TOKENIZERS[kind]
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    write_tokens(read_pieces(tmp_path / "text.txt", 20), tokenizer, tmp_path / "pieces.bin")
    tokens = encode_corpus([tmp_path / "text.txt"], tokenizer, tmp_path / "tokens.bin")
    assert (tmp_path / "pieces.bin").read_bytes() == (tmp_path / "tokens.bin").read_bytes()
    assert tokens.tokens.tolist() == tokenizer.encode(TEXT) == encode_text(TEXT, tokenizer).tolist()
    assert (tokens.vocab_size, tokens.fingerprint) == (tokenizer.size, tokenizer.fingerprint)
    assert isinstance(tokens.tokens.base, np.memmap) and not tokens.tokens.flags.writeable
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pieces.bin", "text.txt", "tokens.bin"]


def test_sources_are_joined_at_line_ends(tmp_path):
    (tmp_path / "a").write_text("one")
    (tmp_path / "b").write_text("two\n")
    (tmp_path / "c").write_text("three")
    assert "".join(read_sources([tmp_path / name for name in "abc"])) == "one\ntwo\nthree"
    assert "".join(read_sources(str(tmp_path / "a"))) == "one"
    assert next(read_sources("kjv")).startswith("In the beginning")
    with pytest.raises(ValueError, match="no text was named"):
        list(read_sources([]))
    with pytest.raises(FileNotFoundError, match="no such file"):
        list(read_sources([tmp_path / "a", tmp_path / "absent"]))


def test_wide_vocabularies_take_wider_ids(tmp_path):
    assert token_dtype(1 << 16) == np.uint16 and token_dtype((1 << 16) + 1) == np.uint32
    tokenizer = WordTokenizer([f"w{i}" for i in range(70_000)])
    tokens = write_tokens(["w0 w69999"], tokenizer, tmp_path / "tokens.bin")
    assert tokens.tokens.dtype == np.uint32 and tokens.tokens.tolist() == [2, 70_001]


def test_unknown_character_is_named_by_its_place_in_the_whole_text(tmp_path):
    with pytest.raises(ValueError, match=r"'x' \(U\+0078\) at position 6 "):
        write_tokens(["abc", "ab", "ax"], CharTokenizer("abc"), tmp_path / "tokens.bin")
    assert not list(tmp_path.iterdir())


def test_text_without_tokens_is_refused(tmp_path):
    with pytest.raises(ValueError, match="gives no token"):
        write_tokens(["  \n"], TOKENIZERS["word"], tmp_path / "tokens.bin")


def test_a_file_cut_off_anywhere_is_one_error(tmp_path):
    path = tmp_path / "tokens.bin"
    write_tokens(["abcabc"], CharTokenizer("abc"), path)
    whole = path.read_bytes()
    assert len(whole) == 256 + 12
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"no token file|damaged"):
            open_tokens(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match="has 269 bytes, 6 tokens take 268"):
        open_tokens(path)


@pytest.mark.parametrize("content", [b"\0" * 400, b"[1, 2]" + b" " * 400, b'{"format": "other"}' + b" " * 400])
def test_a_foreign_file_is_one_error(content, tmp_path):
    (tmp_path / "tokens.bin").write_bytes(content)
    with pytest.raises(ValueError, match="no token file of minilm"):
        open_tokens(tmp_path / "tokens.bin")


def test_an_absent_file_is_one_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such token file"):
        open_tokens(tmp_path / "tokens.bin")


def test_the_end_of_the_text_is_held_out():
    train, held_out = split_tokens(np.arange(25), 0.1)
    assert train.tolist() == list(range(22)) and held_out.tolist() == [22, 23, 24]  # int(0.9 · 25), as nanoGPT
    assert len(split_tokens(np.arange(25), 0.0)[1]) == 0
    assert np.shares_memory(train, split_tokens(train, 0.5)[0])
    for wrong in (1.0, -0.1):
        with pytest.raises(ValueError, match="validation is"):
            split_tokens(np.arange(25), wrong)


def test_tokens_are_a_row_of_integers():
    for wrong in (np.zeros(3), np.zeros((2, 3), int)):
        with pytest.raises(ValueError, match="expected integers of shape"):
            token_array(wrong)
