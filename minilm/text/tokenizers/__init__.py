"""Tokenizers: text to token ids and back, behind one interface. Public are the names below.

    tokenizer = train_tokenizer("word", texts, min_frequency=2)
    tokenizer.save("tokenizer.json");  load_tokenizer("tokenizer.json")

A tokenizer's file is JSON. Its fingerprint stands in every token file that it encoded (see `corpus`), so that tokens
of one vocabulary are never read with another. One kind per file; a new one is registered by a line in `kinds`.
"""

from minilm.text.tokenizers.base import Tokenizer
from minilm.text.tokenizers.byte_bpe import ByteBPETokenizer
from minilm.text.tokenizers.characters import CharTokenizer, UnknownCharacterError
from minilm.text.tokenizers.kinds import KINDS, load_tokenizer, train_tokenizer
from minilm.text.tokenizers.words import WordTokenizer, split_words

__all__ = [
    "KINDS",
    "ByteBPETokenizer",
    "CharTokenizer",
    "Tokenizer",
    "UnknownCharacterError",
    "WordTokenizer",
    "load_tokenizer",
    "split_words",
    "train_tokenizer",
]
