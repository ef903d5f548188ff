"""Comma and tab separated values, with a header line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from minilm.text.files import read_text

_LARGEST_FIELD = 2**31 - 1  # characters; csv's own limit is 131,072


def csv_rows(path: Path) -> Iterator[tuple[int, dict]]:
    """The line number and the values by column of each row below the header line, by tabs in a .tsv file.

    Quoted fields may hold line ends, so lines are split by the csv reader.
    """
    text, delimiter = read_text(path), "\t" if path.suffix.lower() == ".tsv" else ","
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
