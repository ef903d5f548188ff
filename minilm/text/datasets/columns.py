"""The columns of a table with labelled texts: which is the text, which is the label."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

TEXT_COLUMNS = ("text", "review", "sentence", "content")
LABEL_COLUMNS = ("label", "sentiment", "class", "target", "category")


def text_and_label(
    path: Path, rows: Iterable[tuple[int, dict]], text_column: str | None, label_column: str | None
) -> tuple[list[str], list[str]]:
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
