"""Reading text: what is refused, and where pieces are cut."""

from __future__ import annotations

import pytest
from hypothesis import example, given, strategies as st

from minilm.text.files import cut_pieces, read_pieces, read_text


@pytest.fixture
def write(tmp_path):
    def write(content: bytes):
        path = tmp_path / "text.txt"
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize("size", range(1, 9))  # every way to break the mark, the accent and the line end apart
def test_byte_order_mark_line_ends_and_characters_across_blocks(write, size):
    path = write(b"\xef\xbb\xbfcaf\xc3\xa9 \xf0\x9f\x99\x82\r\n\r\nb\rc\r")
    assert "".join(read_pieces(path, size)) == read_text(path) == "café 🙂\n\nb\rc\r"


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_binary_is_refused_with_the_offset(write, size):
    with pytest.raises(ValueError, match=r"text\.txt.*NUL byte at byte 4"):
        list(read_pieces(write(b"abcd\0ef"), size))
    with pytest.raises(ValueError, match=r"text\.txt.*0xff at byte 5"):
        list(read_pieces(write("aéé\xff".encode()[:5] + b"\xff"), size))
    with pytest.raises(ValueError, match="at byte 2 does not decode"):  # a character that the end of the file cuts off
        list(read_pieces(write(b"ab\xe2\x82"), size))


def test_no_text_is_refused(write, tmp_path):
    with pytest.raises(ValueError, match="is empty"):
        read_text(write(b""))
    with pytest.raises(ValueError, match="is empty"):
        read_text(write(b"\xef\xbb\xbf"))
    with pytest.raises(FileNotFoundError, match=r"absent\.txt: there is no such file"):
        read_text(tmp_path / "absent.txt")
    with pytest.raises(ValueError, match="is a folder"):
        read_text(tmp_path)


@given(st.lists(st.text(alphabet="ab \n\t")), st.integers(1, 12))
@example(["aaaaaaaaaaaaaaaa ", "aaaaaa"], 3)  # what a cut leaves may be a whole piece by itself
def test_pieces_are_bounded_and_lose_nothing(blocks, size):
    pieces = list(cut_pieces(blocks, size))
    assert "".join(pieces) == "".join(blocks)
    assert all(0 < len(piece) < 2 * size for piece in pieces)


def test_pieces_are_cut_before_white_space():
    assert list(cut_pieces(["one two  three\n\nfour"], 8)) == ["one two", "  three", "\n\nfour"]
