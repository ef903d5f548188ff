"""One token per word or punctuation mark."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from minilm.checks import whole
from minilm.text.tokenizers.base import Tokenizer, as_texts, checked_ids

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
        cls, texts: Iterable[str], min_frequency: int = 1, vocab_size: int | None = None, lower: bool = True
    ) -> WordTokenizer:
        """The words that occur at least `min_frequency` times; of these the `vocab_size` − 2 most frequent ones."""
        whole("min_frequency", min_frequency, at_least=1)
        if vocab_size is not None:
            whole("vocab_size (padding, unknown, words)", vocab_size, at_least=3)
        counts: Counter[str] = Counter()
        for text in as_texts(texts):
            counts.update(split_words(text.lower() if lower else text))
        frequent = [(word, count) for word, count in counts.items() if count >= min_frequency]
        if not frequent:
            raise ValueError(
                f"no word occurs {min_frequency} times or more in the text to train a word tokenizer on; "
                "expected more text or a lower min_frequency"
            )
        frequent.sort(key=lambda entry: (-entry[1], entry[0]))
        room = None if vocab_size is None else vocab_size - len(cls.SPECIAL)
        return cls([word for word, _ in frequent[:room]], lower)

    @property
    def size(self) -> int:
        return len(self.words)

    def encode(self, text: str) -> list[int]:
        find = self._ids.get
        return [find(word, 1) for word in split_words(text.lower() if self.lower else text)]

    def decode(self, ids: Iterable[int]) -> str:
        """The words with single spaces; padding is left out, unknown words are "<unk>"."""
        text = " ".join([self.words[i] for i in checked_ids(ids, self.size) if i != self.pad_id])
        return _NO_SPACE_AFTER.sub("", _NO_SPACE_BEFORE.sub("", text))

    def fields(self) -> dict[str, Any]:
        return {"lower": self.lower, "words": self.words[len(self.SPECIAL) :]}

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> WordTokenizer:
        words, lower = fields["words"], fields["lower"]
        are_words = isinstance(words, list) and all(isinstance(word, str) for word in words)
        if not are_words or lower not in (True, False):
            raise TypeError("words must be a list of strings and lower a boolean")
        return cls(words, lower)
