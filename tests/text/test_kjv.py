"""The shipped text: complete, in order, labelled by book."""

from __future__ import annotations

from collections import Counter

from minilm.data import kjv_lines
from minilm.text.kjv import BOOKS, kjv_text, kjv_verses


def test_every_verse_is_there():
    verses = kjv_verses()
    assert len(kjv_lines()) == len(verses) == 31_102
    assert Counter(v.testament for v in verses) == {"Old": 23_145, "New": 7_957}
    assert tuple(dict.fromkeys(v.book for v in verses)) == BOOKS
    assert len(BOOKS) == 66


def test_first_and_last_verse():
    verses = kjv_verses()
    assert verses[0] == ("Genesis", 1, 1, "In the beginning God created the heaven and the earth.", "Old")
    assert verses[-1][:3] == ("Revelation", 22, 21)
    assert verses[-1].text == "The grace of our Lord Jesus Christ be with you all. Amen."
    assert [v.testament for v in verses if v.chapter == v.verse == 1 and v.book in ("Malachi", "Matthew")] == [
        "Old",
        "New",
    ]


def test_text_has_a_verse_a_line_and_no_references():
    text = kjv_text()
    assert text.startswith("In the beginning") and text.endswith("Amen.\n")
    assert text.count("\n") == 31_102
    assert not any(digit in text for digit in "0123456789")
