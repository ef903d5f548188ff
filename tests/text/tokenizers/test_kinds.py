"""All kinds of tokenizers: streams, files, fingerprints, and what each refuses."""

from __future__ import annotations

import json

import pytest

from minilm.text.tokenizers import KINDS, WordTokenizer, load_tokenizer, train_tokenizer

TEXT = "The cat sat on the mat; the cat didn't care.\nA naïve café, 東京 🙂\n" * 3


@pytest.mark.parametrize("kind", KINDS)
def test_decode_stream_is_decode(kind):
    tokenizer = train_tokenizer(kind, [TEXT])
    ids = tokenizer.encode(TEXT)
    parts = list(tokenizer.decode_stream(ids))
    assert "".join(parts) == tokenizer.decode(ids)
    assert all("\ufffd" not in part for part in parts)
    assert "".join(tokenizer.decode_stream([])) == ""


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
