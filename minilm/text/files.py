"""UTF-8 text, read from files piece by piece and checked.

A piece is about a million characters, so that a file larger than memory can be read. Pieces are cut in front of white
space, never inside a word: encoding piece by piece then gives the tokens of encoding all at once, for characters, for
words, and for byte-level BPE, whose pre-tokens never join a word to the white space after it. Only a stretch of a whole
piece without a single space or line end is cut elsewhere.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

PIECE = 1 << 20  # characters

# The first character of a run of white space. The four separators are white space to Python alone.
_CUT = re.compile(r"(?<!\s)[^\S\x1c-\x1f]")


def read_pieces(path: str | Path, size: int = PIECE) -> Iterator[str]:
    """The text of a UTF-8 file in pieces of about `size` characters. A byte order mark is dropped, CR LF becomes LF.

    Raises FileNotFoundError; ValueError for a folder, an empty file, and a file that is no UTF-8 text (a NUL byte, or
    bytes that do not decode), with the byte offset.
    """
    yield from cut_pieces(_decoded(Path(path), size), size)


def read_text(path: str | Path) -> str:
    """The whole text of a file, read as by `read_pieces`."""
    return "".join(_decoded(Path(path), PIECE))


def _decoded(path: Path, block_bytes: int) -> Iterator[str]:
    """Blocks of decoded text with LF line ends."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder, expected a text file")
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such file") from None
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset, held, empty, first = 0, "", True, True
    with file:
        while True:
            block = file.read(block_bytes)
            if (nul := block.find(0)) >= 0:
                raise ValueError(f"{path} is no text file: NUL byte at byte {offset + nul}; expected UTF-8 text")
            pending = len(decoder.getstate()[0])  # bytes of a character that the last block broke off
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                where = offset - pending + error.start
                raise ValueError(
                    f"{path} is no UTF-8 text: byte 0x{error.object[error.start]:02x} at byte {where} does not decode; "
                    "convert the file to UTF-8"
                ) from None
            offset += len(block)
            if first and text:
                text, first = text.removeprefix("\ufeff"), False
            empty = empty and not text
            text = held + text
            held = "\r" if block and text.endswith("\r") else ""  # its line feed may open the next block
            text = text.removesuffix("\r") if held else text
            if text:
                yield text.replace("\r\n", "\n")
            if not block:
                break
    if empty:
        raise ValueError(f"{path} is empty; expected a file with text in it")


def cut_pieces(blocks: Iterable[str], size: int = PIECE) -> Iterator[str]:
    """The text of `blocks` in pieces of about `size` characters, fewer than twice that, cut before white space."""
    held = ""
    for block in blocks:
        for start in range(0, len(block), size):
            held += block[start : start + size]
            while len(held) >= size:
                cut = _last_cut(held)
                yield held[:cut]
                held = held[cut:]
    if held:
        yield held


def _last_cut(text: str) -> int:
    """Where the last run of white space in `text` begins; the end of `text` where there is none."""
    for start in (max(1, len(text) - 4096), 1):
        cuts = [match.start() for match in _CUT.finditer(text, start)]
        if cuts:
            return cuts[-1]
    return len(text)
