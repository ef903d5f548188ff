"""One token per character."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from minilm.text.tokenizers.base import Tokenizer, as_texts, checked_ids


class CharTokenizer(Tokenizer):
    """One token per character, in the order of their code points.

    A character that is not in the vocabulary is an error, unless `unknown` reserves a token for it, which decodes to
    U+FFFD, the replacement character.
    """

    kind = "char"

    def __init__(self, characters: Iterable[str], unknown: bool = False) -> None:
        self.characters = sorted(set(characters) | ({"\ufffd"} if unknown else set()))
        if not self.characters:
            raise ValueError("the text to train a character tokenizer on is empty; expected at least one character")
        if any(len(c) != 1 for c in self.characters):
            raise ValueError("characters must be strings of length 1")
        self._ids = {c: i for i, c in enumerate(self.characters)}
        self.unknown_id = self._ids["\ufffd"] if unknown else None

    @classmethod
    def train(cls, texts: Iterable[str], unknown: bool = False) -> CharTokenizer:
        """The vocabulary of all characters in `texts`."""
        characters: set[str] = set()
        for text in as_texts(texts):
            characters.update(text)
        if not characters:
            raise ValueError("the text to train a character tokenizer on is empty; expected at least one character")
        return cls(characters, unknown)

    @property
    def size(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> list[int]:
        """One id per character. Raises UnknownCharacterError (a ValueError) for one that is not in the vocabulary."""
        if self.unknown_id is not None:
            return [self._ids.get(c, self.unknown_id) for c in text]
        try:
            return [self._ids[c] for c in text]
        except KeyError as missing:
            character = missing.args[0]
            raise UnknownCharacterError(character, text.index(character), self.size) from None

    def decode(self, ids: Iterable[int]) -> str:
        return "".join([self.characters[i] for i in checked_ids(ids, self.size)])

    def fields(self) -> dict[str, Any]:
        return {"characters": "".join(self.characters), "unknown": self.unknown_id is not None}

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> CharTokenizer:
        if not isinstance(fields["characters"], str) or not isinstance(fields["unknown"], bool):
            raise TypeError("characters must be a string and unknown a boolean")
        return cls(fields["characters"], fields["unknown"])


class UnknownCharacterError(ValueError):
    """A character that the vocabulary does not know: which one, and where in the text."""

    def __init__(self, character: str, position: int, size: int) -> None:
        super().__init__(
            f"character {character!r} (U+{ord(character):04X}) at position {position} is not in the vocabulary of "
            f"{size} characters; leave it out, or use a tokenizer that was trained on text with it"
        )
        self.character, self.position, self.size = character, position, size
