"""Files that are written whole or not at all, and JSON in them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path that takes the place of `path` when the block ends, in one move that survives a power cut.

    Where the block raises, `path` stays as it was and nothing is left behind. What a killed process left is overwritten
    by the next: the temporary name is fixed.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":
        _flush(path.parent)  # the rename itself


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, replacing the file in one move."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as readable JSON, replacing the file in one move."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file. Raises ValueError, naming the file, where it is missing or no JSON."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as problem:
        raise ValueError(f"{path}: cannot be read ({problem.strerror}); is the name right?") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a JSON file but binary data; restore it, or make the run again") from None
    return parse_json(text, path)


def parse_json(text: str, path: str | Path) -> Any:
    """The value that `text` says. Raises ValueError, naming the file it stands in, where it is no JSON."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as problem:
        raise ValueError(f"{path}: not valid JSON ({problem}); restore it, or make the run again") from None


def _flush(path: Path) -> None:
    """Wait until `path` is on the disk."""
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
