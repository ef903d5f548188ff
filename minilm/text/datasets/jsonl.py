"""One JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from minilm.text.files import read_text


def json_rows(path: Path) -> Iterator[tuple[int, dict]]:
    """The line number and the values by column of each object."""
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}, line {number}: malformed JSON ({error.msg}); expected one object per line"
            ) from None
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: expected a JSON object, found {type(row).__name__}")
        yield number, row
