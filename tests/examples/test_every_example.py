"""Each example is short, says how it is run, and has a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.examples import FOLDER

EXAMPLES = sorted(FOLDER.glob("*.py"))


def test_there_are_examples():
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_is_short_and_says_how_it_is_run(file):
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 250
    assert f"python examples/{file.name}" in text.partition("from __future__")[0]
    assert text.endswith('if __name__ == "__main__":\n    main()\n')
    assert (Path(__file__).parent / f"test_{file.name}").is_file()
