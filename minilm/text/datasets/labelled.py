"""Texts with one class each, and their parts for training, validation and testing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minilm.backend import generator

SPLITS = ("train", "test")
TEST_PART = 0.2  # of sources that say of no text where it belongs


@dataclass(frozen=True)
class LabelledTexts:
    """N texts and the class of each."""

    texts: list[str]
    labels: np.ndarray  # (N,) int64: indices into label_names
    label_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: np.ndarray) -> LabelledTexts:
        """Some of the texts, in the order of `indices`."""
        return LabelledTexts([self.texts[i] for i in indices], self.labels[indices], self.label_names)


def number_labels(texts: list[str], names: list[str], source: str) -> LabelledTexts:
    """The texts with their labels as numbers. ValueError, naming the source, for fewer than two classes."""
    different = set(names)
    if not texts:
        raise ValueError(f"{source} holds no texts; expected at least two, of different classes")
    if len(different) < 2:
        raise ValueError(f"{source} has one class only ({names[0]!r}); a classifier needs at least two")
    numeric = all(name.removeprefix("-").isdecimal() for name in different)
    label_names = tuple(sorted(different, key=(lambda name: (int(name), name)) if numeric else None))
    numbers = {name: number for number, name in enumerate(label_names)}
    return LabelledTexts(texts, np.array([numbers[name] for name in names], dtype=np.int64), label_names)


def train_validation_split(
    labelled: LabelledTexts, fraction: float = 0.1, seed: int = 0
) -> tuple[LabelledTexts, LabelledTexts]:
    """(train, validation): `fraction` of each class, drawn by `seed`, is held out. Both parts are shuffled."""
    return _stratified(labelled, fraction, generator(seed, "VALI"))


def train_test_split(
    labelled: LabelledTexts, fraction: float = TEST_PART, seed: int = 0
) -> tuple[LabelledTexts, LabelledTexts]:
    """(train, test), as `train_validation_split`, drawn independently of it."""
    return _stratified(labelled, fraction, generator(seed, "TEST"))


def _stratified(
    labelled: LabelledTexts, fraction: float, rng: np.random.Generator
) -> tuple[LabelledTexts, LabelledTexts]:
    """Both parts have the proportions of the whole: each class gives its share, rounded so that the total is right."""
    total = len(labelled)
    held = round(total * fraction)
    if not 0 < fraction < 1 or not 0 < held < total:
        raise ValueError(
            f"a part of {fraction} of {total} texts can't be held out; expected more than 0 and less than all of them"
        )
    counts = np.bincount(labelled.labels, minlength=len(labelled.label_names))
    quotas = counts * held / total
    takes = np.floor(quotas).astype(np.int64)
    rounded_up = np.argsort(takes - quotas, kind="stable")[: held - takes.sum()]  # the largest remainders
    takes[rounded_up] += 1
    order = rng.permutation(total)
    rank = np.empty(total, dtype=np.int64)  # of each text among those of its class, in shuffled order
    for label, count in enumerate(counts):
        rank[order[labelled.labels[order] == label]] = np.arange(count)
    is_held = rank[order] < takes[labelled.labels[order]]
    return labelled.take(order[~is_held]), labelled.take(order[is_held])


def split_off(labelled: LabelledTexts, split: str | None, fraction: float, seed: int) -> LabelledTexts:
    """The part that `split` names; all of them for None."""
    if split is None:
        return labelled
    return train_test_split(labelled, fraction, seed)[SPLITS.index(split)]
