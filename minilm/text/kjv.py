"""The shipped King James Bible, as running text and as labelled verses.

The public-domain King James text (1769) as Debian's bible-kjv prints it; see `minilm.data`. 66 books, 31,102 verses:
23,145 in the Old Testament, 7,957 in the New, which begins with Matthew.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from minilm.data import kjv_lines

# Debian's abbreviation = the English name, in the order of the canon. The last 27 books are the New Testament.
_BOOKS = """
Ge=Genesis Exo=Exodus Lev=Leviticus Num=Numbers Deu=Deuteronomy Josh=Joshua Jdgs=Judges Ruth=Ruth 1Sm=1_Samuel
2Sm=2_Samuel 1Ki=1_Kings 2Ki=2_Kings 1Chr=1_Chronicles 2Chr=2_Chronicles Ezra=Ezra Neh=Nehemiah Est=Esther Job=Job
Psa=Psalms Prv=Proverbs Eccl=Ecclesiastes SSol=Song_of_Solomon Isa=Isaiah Jer=Jeremiah Lam=Lamentations Eze=Ezekiel
Dan=Daniel Hos=Hosea Joel=Joel Amos=Amos Obad=Obadiah Jonah=Jonah Mic=Micah Nahum=Nahum Hab=Habakkuk Zep=Zephaniah
Hag=Haggai Zec=Zechariah Mal=Malachi
Mat=Matthew Mark=Mark Luke=Luke John=John Acts=Acts Rom=Romans 1Cor=1_Corinthians 2Cor=2_Corinthians Gal=Galatians
Eph=Ephesians Phi=Philippians Col=Colossians 1Th=1_Thessalonians 2Th=2_Thessalonians 1Tim=1_Timothy 2Tim=2_Timothy
Titus=Titus Phmn=Philemon Heb=Hebrews Jas=James 1Pet=1_Peter 2Pet=2_Peter 1Jn=1_John 2Jn=2_John 3Jn=3_John Jude=Jude
Rev=Revelation
"""
_NAMES = {entry.partition("=")[0]: entry.partition("=")[2].replace("_", " ") for entry in _BOOKS.split()}
BOOKS = tuple(_NAMES.values())
_NEW = frozenset(BOOKS[BOOKS.index("Matthew") :])
_LINE = re.compile(r"([1-3]?[A-Za-z]+)(\d+):(\d+) (.+)")


class Verse(NamedTuple):
    """One verse. The label `testament` comes with the text: it follows from the book."""

    book: str  # full English name: "1 Samuel"
    chapter: int
    verse: int
    text: str
    testament: str  # "Old" or "New"


def kjv_verses() -> list[Verse]:
    """All 31,102 verses in the order of the canon."""
    verses = []
    for line in kjv_lines():
        match = _LINE.fullmatch(line)
        assert match is not None, line
        abbreviation, chapter, verse, text = match.groups()
        book = _NAMES[abbreviation]
        verses.append(Verse(book, int(chapter), int(verse), text.strip(), "New" if book in _NEW else "Old"))
    return verses


def kjv_text() -> str:
    """The text for language modelling: one verse per line, without the references, which no one says aloud."""
    return "".join(verse.text + "\n" for verse in kjv_verses())
