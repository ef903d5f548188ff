"""The verses of the shipped Bible, and the testament of each."""

from __future__ import annotations

from minilm.text.datasets.labelled import TEST_PART
from minilm.text.kjv import kjv_verses


def testament() -> tuple[list[str], list[str], float]:
    """Texts, labels, and the part that is for testing. A verse that recurs counts once."""
    testament_of = {verse.text: verse.testament for verse in reversed(kjv_verses())}  # the first place counts
    return list(testament_of), list(testament_of.values()), TEST_PART
