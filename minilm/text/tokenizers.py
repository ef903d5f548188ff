"""Tokenizers: text to token ids and back. Characters, words, and byte-level BPE, behind one interface.

    tokenizer = train_tokenizer("word", texts, min_frequency=2)
    tokenizer.save("tokenizer.json");  load_tokenizer("tokenizer.json")

A tokenizer's file is JSON. Its fingerprint stands in every token file that it encoded (see `corpus`), so that tokens
of one vocabulary are never read with another.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from minilm.files import replacing

_FORMAT = "minilm tokenizer"


class Tokenizer(ABC):
    """What every tokenizer can do. Ids are 0 … size − 1."""

    kind: str  # "char", "word" or "bpe"
    pad_id: int | None = None  # None: there is no such token
    unknown_id: int | None = None

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
    def _fields(self) -> dict[str, Any]:
        """What the constructor needs, as JSON."""

    @classmethod
    @abstractmethod
    def _restore(cls, fields: dict[str, Any]) -> Tokenizer:
        """The inverse of `_fields`; KeyError, TypeError or ValueError where they are damaged."""

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
        content = json.dumps({"kind": self.kind, **self._fields()}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def save(self, path: str | Path) -> None:
        """Write the JSON file, under a temporary name first."""
        content = {"format": _FORMAT, "version": 1, "kind": self.kind, **self._fields()}
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(content, ensure_ascii=False, indent=0), encoding="utf-8")


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
        for text in _as_texts(texts):
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
        return "".join([self.characters[i] for i in _checked(ids, self.size)])

    def _fields(self) -> dict[str, Any]:
        return {"characters": "".join(self.characters), "unknown": self.unknown_id is not None}

    @classmethod
    def _restore(cls, fields: dict[str, Any]) -> CharTokenizer:
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


# Ideographs and kana stand alone, as they are written without spaces. [as BERT does, Devlin et al. 2018]
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+(?:['’][^\W{_CJK}]+)*|[^\w\s]")
_NO_SPACE_BEFORE = re.compile(r" (?=[,.;:!?)\]}%…])")
_NO_SPACE_AFTER = re.compile(r"(?<=[(\[{]) ")


def split_words(text: str) -> list[str]:
    """Words and single punctuation marks: "Don't stop, now" → ["Don't", "stop", ",", "now"]. White space is dropped."""
    return _WORD.findall(text)


class WordTokenizer(Tokenizer):
    """One token per word or punctuation mark. Id 0 pads, id 1 stands for any word that is not in the vocabulary.

    Words come in the order of their frequency, equally frequent ones in alphabetical order. Decoding puts one space
    between words, none before a comma; the case that `lower` dropped and line ends do not come back.
    """

    kind = "word"
    pad_id = 0
    unknown_id = 1
    SPECIAL = ("<pad>", "<unk>")  # no text gives them: the brackets are tokens of their own

    def __init__(self, words: Iterable[str], lower: bool = True) -> None:
        self.words = [*self.SPECIAL, *words]
        self.lower = lower
        self._ids = {word: i for i, word in enumerate(self.words)}
        if len(self._ids) < len(self.words):
            raise ValueError("a word stands twice in the vocabulary")

    @classmethod
    def train(
        cls, texts: Iterable[str], min_frequency: int = 1, max_size: int | None = None, lower: bool = True
    ) -> WordTokenizer:
        """The words that occur at least `min_frequency` times; of these the `max_size` − 2 most frequent ones."""
        if min_frequency < 1:
            raise ValueError(f"min_frequency is {min_frequency}, expected 1 or more")
        if max_size is not None and max_size < 3:
            raise ValueError(f"the vocabulary size is {max_size}, expected 3 or more: padding, unknown and one word")
        counts: Counter[str] = Counter()
        for text in _as_texts(texts):
            counts.update(split_words(text.lower() if lower else text))
        kept = [(word, count) for word, count in counts.items() if count >= min_frequency]
        if not kept:
            raise ValueError(
                f"no word occurs {min_frequency} times or more in the text to train a word tokenizer on; "
                "expected more text or a lower min_frequency"
            )
        kept.sort(key=lambda entry: (-entry[1], entry[0]))
        return cls([word for word, _ in kept][: None if max_size is None else max_size - len(cls.SPECIAL)], lower)

    @property
    def size(self) -> int:
        return len(self.words)

    def encode(self, text: str) -> list[int]:
        find = self._ids.get
        return [find(word, 1) for word in split_words(text.lower() if self.lower else text)]

    def decode(self, ids: Iterable[int]) -> str:
        """The words with single spaces; padding is left out, unknown words are "<unk>"."""
        text = " ".join([self.words[i] for i in _checked(ids, self.size) if i != self.pad_id])
        return _NO_SPACE_AFTER.sub("", _NO_SPACE_BEFORE.sub("", text))

    def _fields(self) -> dict[str, Any]:
        return {"lower": self.lower, "words": self.words[len(self.SPECIAL) :]}

    @classmethod
    def _restore(cls, fields: dict[str, Any]) -> WordTokenizer:
        words, lower = fields["words"], fields["lower"]
        if (
            not isinstance(words, list)
            or not all(isinstance(word, str) for word in words)
            or lower not in (True, False)
        ):
            raise TypeError("words must be a list of strings and lower a boolean")
        return cls(words, lower)


class ByteBPETokenizer(Tokenizer):
    """Byte-level byte-pair encoding, as GPT-2's: every byte is in the vocabulary, so nothing is unknown.

    Trained and run by the library `tokenizers`, whose own JSON is embedded in the file. Decoding gives back any text
    exactly. [Sennrich et al. 2016, §3.2; Radford et al. 2019, §2.2]
    """

    kind = "bpe"
    BYTES = 256

    def __init__(self, inner: Any) -> None:
        """`inner` is a `tokenizers.Tokenizer`."""
        self._inner = inner

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int = 4096, min_frequency: int = 2) -> ByteBPETokenizer:
        """Merge the most frequent neighbours, `vocab_size` − 256 times, or until none occurs `min_frequency` times."""
        if vocab_size < cls.BYTES:
            raise ValueError(f"the vocabulary size is {vocab_size}, expected at least {cls.BYTES}: one token per byte")
        if min_frequency < 1:
            raise ValueError(f"min_frequency is {min_frequency}, expected 1 or more")
        library = _library()
        inner = library.Tokenizer(library.models.BPE())
        inner.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=min_frequency,
            initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        empty = True

        def counted() -> Iterator[str]:
            nonlocal empty
            for text in _as_texts(texts):
                empty = empty and not text
                yield _whole_characters(text)

        inner.train_from_iterator(counted(), trainer)
        if empty:
            raise ValueError("the text to train a BPE tokenizer on is empty; expected at least one character")
        return cls(inner)

    @property
    def size(self) -> int:
        return self._inner.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        return self._inner.encode(_whole_characters(text), add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text; bytes that are no complete character become U+FFFD."""
        return self._inner.decode(_checked(ids, self.size), skip_special_tokens=False)

    def _fields(self) -> dict[str, Any]:
        return {"tokenizer": json.loads(self._inner.to_str())}

    @classmethod
    def _restore(cls, fields: dict[str, Any]) -> ByteBPETokenizer:
        try:
            return cls(_library().Tokenizer.from_str(json.dumps(fields["tokenizer"])))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(str(error)) from None


_KINDS: dict[str, type[Tokenizer]] = {t.kind: t for t in (CharTokenizer, WordTokenizer, ByteBPETokenizer)}
KINDS = tuple(_KINDS)
_OPTIONS = {
    "char": ("unknown",),
    "word": ("min_frequency", "vocab_size", "lower"),
    "bpe": ("vocab_size", "min_frequency"),
}


def train_tokenizer(kind: str, texts: Iterable[str], **options: Any) -> Tokenizer:
    """Train a tokenizer of `kind` "char", "word" or "bpe" on texts, which are read once, one by one.

    Options: char `unknown`; word `min_frequency`, `vocab_size` (or `max_size`), `lower`; bpe `vocab_size`,
    `min_frequency`. Raises ValueError for an unknown kind or option, and for empty text.
    """
    if kind not in _KINDS:
        raise ValueError(f"tokenizer {kind!r} is unknown; choose {', '.join(KINDS)}")
    if kind == "word" and "max_size" in options:
        options["vocab_size"] = options.pop("max_size")
    for name in options:
        if name not in _OPTIONS[kind]:
            raise ValueError(f"a {kind} tokenizer has no option {name}; it has {', '.join(_OPTIONS[kind])}")
    if kind == "word" and "vocab_size" in options:
        options["max_size"] = options.pop("vocab_size")
    return _KINDS[kind].train(texts, **options)


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer in a file that `save` wrote. Raises FileNotFoundError, or ValueError for any other content."""
    path = Path(path)
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such tokenizer file") from None
    except ValueError:  # malformed JSON, or bytes that are no text
        raise ValueError(
            f"{path} is no tokenizer file, or it is cut off; expected the JSON that Tokenizer.save writes"
        ) from None
    if not isinstance(content, dict) or content.get("format") != _FORMAT or content.get("version") != 1:
        raise ValueError(f"{path} is no tokenizer file of minilm; expected the JSON that Tokenizer.save writes")
    if content.get("kind") not in KINDS:
        raise ValueError(f"{path} holds a tokenizer of kind {content.get('kind')!r}; known are {', '.join(KINDS)}")
    try:
        return _KINDS[content["kind"]]._restore(content)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is a damaged tokenizer file: {error}") from None


def _library() -> Any:
    """The package `tokenizers`, imported at first use. Threads are off unless the environment asks for them: with
    them, every later fork (a data-parallel worker) prints a warning."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers  # noqa: F401  become attributes of the package

    return tokenizers


def _as_texts(texts: Iterable[str]) -> Iterable[str]:
    return [texts] if isinstance(texts, str) else texts


def _whole_characters(text: str) -> str:
    """`text`, which may hold no half of a surrogate pair: a shell's invalid bytes arrive as such, and have no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text holds {text[error.start]!r} at position {error.start}, which is no character; expected UTF-8"
        ) from None
    return text


def _checked(ids: Iterable[int], size: int) -> list[int]:
    """`ids` as a list of Python integers, each in the vocabulary."""
    numbers = [int(i) for i in ids]
    for i in numbers:
        if not 0 <= i < size:
            raise ValueError(f"token id {i} is not in the vocabulary of {size} tokens (0 to {size - 1})")
    return numbers
