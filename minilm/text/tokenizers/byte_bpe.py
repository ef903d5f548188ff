"""Byte-level byte-pair encoding."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

from minilm.checks import whole
from minilm.text.tokenizers.base import Tokenizer, as_texts, checked_ids


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
        whole("vocab_size (one token per byte, and merges)", vocab_size, at_least=cls.BYTES)
        whole("min_frequency", min_frequency, at_least=1)
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
            for text in as_texts(texts):
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
        return self._inner.decode(checked_ids(ids, self.size), skip_special_tokens=False)

    def fields(self) -> dict[str, Any]:
        return {"tokenizer": json.loads(self._inner.to_str())}

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> ByteBPETokenizer:
        try:
            return cls(_library().Tokenizer.from_str(json.dumps(fields["tokenizer"])))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(str(error)) from None


def _library() -> Any:
    """The package `tokenizers`, imported at first use. Threads are off unless the environment asks for them: with
    them, every later fork (a data-parallel worker) prints a warning."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers  # noqa: F401  become attributes of the package

    return tokenizers


def _whole_characters(text: str) -> str:
    """`text`, which may hold no half of a surrogate pair: a shell's invalid bytes arrive as such, and have no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text holds {text[error.start]!r} at position {error.start}, which is no character; expected UTF-8"
        ) from None
    return text
