"""Tokenizers: round trips, vocabularies, files, and what each refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm.text.tokenizers import (
    KINDS,
    ByteBPETokenizer,
    CharTokenizer,
    UnknownCharacterError,
    WordTokenizer,
    load_tokenizer,
    split_words,
    train_tokenizer,
)

TEXT = "The cat sat on the mat; the cat didn't care.\nA naïve café, 東京 🙂\n" * 3
BPE = ByteBPETokenizer.train([TEXT], vocab_size=300)


@given(st.text())
def test_bpe_gives_back_any_text(text):
    assert BPE.decode(BPE.encode(text)) == text


@given(st.text(alphabet=sorted(set(TEXT))))
def test_characters_give_back_their_own_alphabet(text):
    tokenizer = CharTokenizer.train([TEXT])
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.lists(st.sampled_from(["the", "cat", "didn't", "café", "naïve"])))
def test_words_give_back_their_own_vocabulary(words):
    tokenizer = WordTokenizer.train([TEXT])
    assert tokenizer.decode(tokenizer.encode(" ".join(words))) == " ".join(words)


# ---- characters


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


# ---- words


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


# ---- byte-level BPE


def test_bpe_size_is_what_was_asked_for_and_never_less_than_the_bytes():
    assert ByteBPETokenizer.train([TEXT], vocab_size=280).size == 280
    assert ByteBPETokenizer.train(["ab"], vocab_size=1000).size == 256
    with pytest.raises(ValueError, match=r"vocab_size .* is 255, expected a whole number of at least 256"):
        ByteBPETokenizer.train(["ab"], vocab_size=255)


def test_bpe_is_the_same_in_another_process_and_prints_nothing():
    program = (
        "from minilm.text.tokenizers import train_tokenizer\n"
        f"print(train_tokenizer('bpe', {[TEXT]!r}, vocab_size=300).fingerprint)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert (done.stdout.strip(), done.stderr) == (BPE.fingerprint, "")


def test_bpe_trains_from_a_stream():
    lines = TEXT.splitlines(keepends=True)
    assert ByteBPETokenizer.train(iter(lines), vocab_size=300).fingerprint == BPE.fingerprint


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(ValueError, match="at position 1, which is no character"):
        BPE.encode("a\udcff")


# ---- all kinds


@pytest.mark.parametrize("kind", KINDS)
def test_decode_stream_is_decode(kind):
    tokenizer = train_tokenizer(kind, [TEXT])
    ids = tokenizer.encode(TEXT)
    parts = list(tokenizer.decode_stream(ids))
    assert "".join(parts) == tokenizer.decode(ids)
    assert all("\ufffd" not in part for part in parts)
    assert "".join(tokenizer.decode_stream([])) == ""


def test_decode_stream_ends_with_what_stays_incomplete():
    assert "".join(BPE.decode_stream(BPE.encode("a🙂")[:-1])).startswith("a\ufffd")


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load(kind, tmp_path):
    tokenizer = train_tokenizer(kind, [TEXT])
    tokenizer.save(tmp_path / "t.json")
    loaded = load_tokenizer(tmp_path / "t.json")
    assert type(loaded) is type(tokenizer) and loaded.size == tokenizer.size
    assert loaded.fingerprint == tokenizer.fingerprint
    assert (loaded.pad_id, loaded.unknown_id) == (tokenizer.pad_id, tokenizer.unknown_id)
    assert loaded.encode(TEXT) == tokenizer.encode(TEXT)


def test_fingerprint_follows_the_vocabulary():
    assert train_tokenizer("char", "ab").fingerprint != train_tokenizer("char", "abc").fingerprint
    assert WordTokenizer(["a"], lower=True).fingerprint != WordTokenizer(["a"], lower=False).fingerprint


@pytest.mark.parametrize("kind", ["char", "word"])
def test_a_file_cut_off_anywhere_is_one_error(kind, tmp_path):
    path = tmp_path / "t.json"
    train_tokenizer(kind, ["some words"]).save(path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="no tokenizer file"):
            load_tokenizer(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "no tokenizer file of minilm"),
        ({"version": 2}, "no tokenizer file of minilm"),
        ({"kind": "wordpiece"}, r"tokenizer kind 'wordpiece' is unknown; did you mean word\? choose char, word, bpe"),
        ({"kind": ["char"]}, "kind"),
        ({"characters": 3}, "damaged"),
        ({"kind": "word"}, "damaged tokenizer file: 'lower'|damaged tokenizer file: 'words'"),
        ({"kind": "word", "lower": True, "words": ["a", "a"]}, "stands twice"),
        ({"kind": "bpe", "tokenizer": {"version": "1.0"}}, "damaged"),
    ],
)
def test_a_foreign_file_is_one_error(change, message, tmp_path):
    path = tmp_path / "t.json"
    train_tokenizer("char", "ab").save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        load_tokenizer(path)


def test_other_files_are_errors(tmp_path):
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "binary.json").write_bytes(b"\x80\xff\0")
    for name in ("list.json", "binary.json"):
        with pytest.raises(ValueError, match="no tokenizer file"):
            load_tokenizer(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no such tokenizer file"):
        load_tokenizer(tmp_path / "absent.json")


@pytest.mark.parametrize("kind", KINDS)
def test_an_id_outside_the_vocabulary_is_refused(kind):
    tokenizer = train_tokenizer(kind, [TEXT])
    for wrong in (-1, tokenizer.size):
        with pytest.raises(ValueError, match=f"token id {wrong} is not in the vocabulary of {tokenizer.size}"):
            tokenizer.decode([0, wrong])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("texts", ["", [], ["", ""]])
def test_empty_text_is_refused(kind, texts):
    with pytest.raises(ValueError, match=r"is empty|no word occurs"):
        train_tokenizer(kind, texts)


def test_unknown_kinds_and_options_are_refused():
    with pytest.raises(ValueError, match="tokenizer 'sentence' is unknown; choose char, word, bpe"):
        train_tokenizer("sentence", TEXT)
    with pytest.raises(ValueError, match="a char tokenizer has no option vocab_size; it has unknown"):
        train_tokenizer("char", TEXT, vocab_size=10)
    with pytest.raises(ValueError, match="min_frequency is 0, expected a whole number of at least 1"):
        train_tokenizer("word", TEXT, min_frequency=0)
    with pytest.raises(ValueError, match=r"vocab_size .* is 2, expected a whole number of at least 3"):
        train_tokenizer("word", TEXT, vocab_size=2)
    with pytest.raises(ValueError, match="min_frequency is -1"):
        train_tokenizer("bpe", TEXT, min_frequency=-1)
