"""Folders of text files: LABEL/*.txt, or train/LABEL/*.txt and test/LABEL/*.txt."""

from __future__ import annotations

from pathlib import Path

from minilm.text.datasets.labelled import SPLITS, TEST_PART, LabelledTexts, number_labels, split_off
from minilm.text.files import read_text


def read_folder(path: Path, split: str | None, seed: int) -> LabelledTexts:
    """The texts of a folder; its own parts where it has them, and parts drawn by `seed` elsewhere."""
    parts = [part for part in SPLITS if (path / part).is_dir()]
    if parts and split is not None and split not in parts:
        raise ValueError(f"{path} has no folder {split}/; it has {', '.join(parts)}/")
    roots = [path / part for part in parts if split in (None, part)] or [path]
    texts, names = [], []
    for root in roots:
        for folder in sorted(f for f in root.iterdir() if f.is_dir() and f.name != "unsup"):
            for file in sorted(folder.glob("*.txt")):
                texts.append(without_breaks(read_text(file)))
                names.append(folder.name)
    if not texts:
        raise ValueError(
            f"{path} holds no labelled texts; expected LABEL/*.txt or train/LABEL/*.txt and test/LABEL/*.txt"
        )
    labelled = number_labels(texts, names, str(path))
    return labelled if parts else split_off(labelled, split, TEST_PART, seed)


def without_breaks(text: str) -> str:
    """`text` with spaces for the line breaks of HTML."""
    return text.replace("<br />", " ")
