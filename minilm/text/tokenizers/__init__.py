"""Tokenizers: text to token ids and back, behind one interface. Public are the names below.

    tokenizer = train_tokenizer("word", texts, min_frequency=2)
    tokenizer.save("tokenizer.json");  load_tokenizer("tokenizer.json")

A tokenizer's file is JSON. Its fingerprint stands in every token file that it encoded (see `corpus`), so that tokens
of one vocabulary are never read with another. One kind per file; a new one is registered by a line in `kinds`.
"""

from minilm.text.tokenizers.base import Tokenizer as Tokenizer
from minilm.text.tokenizers.byte_bpe import ByteBPETokenizer as ByteBPETokenizer
from minilm.text.tokenizers.characters import (
    CharTokenizer as CharTokenizer,
    UnknownCharacterError as UnknownCharacterError,
)
from minilm.text.tokenizers.kinds import (
    KINDS as KINDS,
    load_tokenizer as load_tokenizer,
    train_tokenizer as train_tokenizer,
)
from minilm.text.tokenizers.words import WordTokenizer as WordTokenizer, split_words as split_words
