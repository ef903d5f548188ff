"""The interface of all tokenizers, their files, and the checks that several kinds share."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from minilm.files import write_text

FORMAT = "minilm tokenizer"  # what a file says of itself


class Tokenizer(ABC):
    """Text to token ids and back. Ids are 0 … size − 1."""

    kind: str  # the name that `train_tokenizer` and files know it by
    pad_id: int | None = None  # None: there is no such token
    unknown_id: int | None = None

    @classmethod
    @abstractmethod
    def train(cls, texts: Iterable[str], **options: Any) -> Tokenizer:
        """A tokenizer with the vocabulary of `texts`, read once; the options are those in its signature."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of tokens in the vocabulary, special ones included."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The ids of a text."""

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids. Raises ValueError where one is not in the vocabulary."""

    @abstractmethod
    def fields(self) -> dict[str, Any]:
        """The arguments of the constructor, as JSON."""

    @classmethod
    @abstractmethod
    def from_fields(cls, fields: dict[str, Any]) -> Tokenizer:
        """The inverse of `fields`; KeyError, TypeError or ValueError where they are damaged."""

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """The ids of every text."""
        return [self.encode(text) for text in texts]

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """The text of ids that arrive one by one, each part as soon as its characters are complete."""
        window: list[int] = []
        shown = ""
        for number in ids:
            window.append(number)
            text = self.decode(window)
            if text.endswith("\ufffd"):  # the bytes so far end inside a character
                continue
            yield text[len(shown) :]
            if len(window) > 64:  # what came long before no longer matters: keeps the work per token bounded
                window = window[-8:]
                text = self.decode(window)
            shown = text
        yield self.decode(window)[len(shown) :]

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any change of the vocabulary."""
        content = json.dumps({"kind": self.kind, **self.fields()}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def save(self, path: str | Path) -> None:
        """Write the JSON file, whole or not at all."""
        content = {"format": FORMAT, "version": 1, "kind": self.kind, **self.fields()}
        write_text(path, json.dumps(content, ensure_ascii=False, indent=0))


def as_texts(texts: Iterable[str]) -> Iterable[str]:
    return [texts] if isinstance(texts, str) else texts


def checked_ids(ids: Iterable[int], size: int) -> list[int]:
    """`ids` as a list of Python integers, each in the vocabulary."""
    numbers = [int(i) for i in ids]
    for i in numbers:
        if not 0 <= i < size:
            raise ValueError(f"token id {i} is not in the vocabulary of {size} tokens (0 to {size - 1})")
    return numbers
