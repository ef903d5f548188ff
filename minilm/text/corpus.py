"""Corpora for language models: text in, a memory-mapped file of token ids out.

    tokens = encode_corpus(["a.txt", "b.txt"], tokenizer, "corpus.tokens")      or "kjv" for the shipped text
    train, held_out = split_tokens(tokens, validation=0.1)

Text is read, encoded and written piece by piece, and the file is mapped rather than loaded: neither the text nor its
tokens need to fit in memory. The file:

    bytes 0–255   a line of JSON, padded with spaces: format, version, dtype, count, vocabulary size, fingerprint
    bytes 256–    count token ids, little-endian uint16 (vocabularies up to 65,536) or uint32
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minilm.checks import number
from minilm.files import replacing
from minilm.text.files import cut_pieces, read_pieces
from minilm.text.kjv import kjv_text
from minilm.text.tokenizers import Tokenizer, UnknownCharacterError

_FORMAT = "minilm tokens"
_HEADER = 256  # bytes; a multiple of every item size, so that the ids are aligned

Sources = str | Path | Sequence[str | Path]


class TokenFile(NamedTuple):
    """An open token file. The ids are read from disk as they are touched."""

    path: Path
    tokens: np.ndarray  # (N,) uint16 or uint32, read-only, memory-mapped
    vocab_size: int
    fingerprint: str  # of the tokenizer


def read_sources(sources: Sources) -> Iterator[str]:
    """The text of files, or of the shipped Bible for "kjv", in pieces that never end inside a word.

    A line end is put between two files where the first lacks one. Raises as `files.read_pieces`, and ValueError where
    no source is named.
    """
    named = [sources] if isinstance(sources, str | Path) else list(sources)
    if not named:
        raise ValueError('no text was named; expected "kjv" or the path of a text file')
    last = "\n"
    for source in named:
        if last != "\n":
            yield "\n"
        for piece in cut_pieces([kjv_text()]) if str(source) == "kjv" else read_pieces(source):
            yield piece
            last = piece[-1]


def encode_pieces(pieces: Iterable[str], tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """The ids of each piece, in the dtype of a token file.

    An unknown character is named by its position in the whole text.
    """
    dtype = token_dtype(tokenizer.size)
    position = 0
    for piece in pieces:
        try:
            yield np.asarray(tokenizer.encode(piece), dtype=dtype)
        except UnknownCharacterError as error:
            raise UnknownCharacterError(error.character, position + error.position, error.size) from None
        position += len(piece)


def encode_text(pieces: str | Iterable[str], tokenizer: Tokenizer) -> np.ndarray:
    """All ids of a text that fits in memory, (N,) uint16 or uint32."""
    pieces = cut_pieces([pieces] if isinstance(pieces, str) else pieces)
    encoded = list(encode_pieces(pieces, tokenizer))
    return np.concatenate([np.zeros(0, token_dtype(tokenizer.size)), *encoded])


def encode_corpus(sources: Sources, tokenizer: Tokenizer, path: str | Path) -> TokenFile:
    """Encode files (or "kjv") into the token file `path` and open it. See `read_sources` and `write_tokens`."""
    return write_tokens(read_sources(sources), tokenizer, path)


def write_tokens(pieces: Iterable[str], tokenizer: Tokenizer, path: str | Path) -> TokenFile:
    """Encode text piece by piece into the token file `path`, written under a temporary name first, and open it.

    Raises ValueError where the text gives no token.
    """
    count = 0
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(b" " * _HEADER)
        for ids in encode_pieces(pieces, tokenizer):
            file.write(ids.tobytes())
            count += ids.size
        if not count:
            raise ValueError("the text gives no token; expected at least one word or character")
        file.seek(0)
        file.write(_header(tokenizer, count))
    return open_tokens(path)


def open_tokens(path: str | Path) -> TokenFile:
    """Map a token file. Raises FileNotFoundError, or ValueError for a foreign or truncated file."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such token file") from None
    try:
        fields = json.loads(header)
        if fields["format"] != _FORMAT or fields["version"] != 1 or fields["dtype"] not in ("<u2", "<u4"):
            raise ValueError
        dtype, count = np.dtype(fields["dtype"]), int(fields["count"])
        vocab_size, fingerprint = int(fields["vocab_size"]), str(fields["tokenizer"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is no token file of minilm, or its start is cut off; encode the text again") from None
    size, expected = path.stat().st_size, _HEADER + count * dtype.itemsize
    if count < 1 or size != expected:
        raise ValueError(
            f"{path} is damaged: it has {size} bytes, {count} tokens take {expected}; encode the text again"
        )
    tokens = np.memmap(path, dtype=dtype, mode="r", offset=_HEADER, shape=(count,))
    return TokenFile(path, np.asarray(tokens), vocab_size, fingerprint)


def split_tokens(tokens: TokenFile | np.ndarray, validation: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """The tokens to train on and, from the end of the text, the part `validation` that is held out: views, not copies.

    The end and not a random part: neighbouring windows share sentences. [as nanoGPT's prepare.py]
    """
    array = token_array(tokens)
    trained_on = int(len(array) * (1 - number("validation", validation, below=1)))
    return array[:trained_on], array[trained_on:]


def token_array(tokens: TokenFile | np.ndarray) -> np.ndarray:
    """The ids themselves, (N,)."""
    array = tokens.tokens if isinstance(tokens, TokenFile) else np.asarray(tokens)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"tokens have shape {array.shape} and dtype {array.dtype}, expected integers of shape (N,)")
    return array


def token_dtype(vocab_size: int) -> np.dtype:
    """The narrowest of the two id types that holds 0 … vocab_size − 1."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def _header(tokenizer: Tokenizer, count: int) -> bytes:
    fields = {
        "format": _FORMAT,
        "version": 1,
        "dtype": token_dtype(tokenizer.size).str,
        "count": count,
        "vocab_size": tokenizer.size,
        "tokenizer": tokenizer.fingerprint,
    }
    return json.dumps(fields).encode().ljust(_HEADER - 1) + b"\n"
