"""Batches: windows of running text for language models, length buckets of texts for classification.

A training batch is a pure function of (seed, step): nothing is carried along, so a run that is resumed at step n draws
what it would have drawn. All arrays are int64 on the host; whoever trains moves them to its device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from minilm.backend import generator
from minilm.checks import whole
from minilm.text.corpus import TokenFile, token_array

IGNORED = -100  # the target of a position that does not count, as in ops.cross_entropy


class LanguageBatch(NamedTuple):
    """Windows of text, and for each position the token that comes next."""

    ids: np.ndarray  # (B, T)
    targets: np.ndarray  # (B, T)  IGNORED behind the end

    @property
    def terms(self) -> int:
        """The number of targets that count: the loss is their mean."""
        return int((self.targets != IGNORED).sum())

    @property
    def tokens(self) -> int:
        return self.ids.size


class ClassificationBatch(NamedTuple):
    """Texts with a class each, padded at the end to the longest of them."""

    ids: np.ndarray  # (B, T)
    lengths: np.ndarray  # (B,)  each at least 1
    labels: np.ndarray  # (B,)

    @property
    def terms(self) -> int:
        """The number of texts: the loss is the mean over them."""
        return self.labels.size

    @property
    def tokens(self) -> int:
        return self.ids.size


class WindowSampler:
    """Contiguous windows of `context` tokens from a text, the targets one token ahead.

    Only the windows that are asked for are read, so `tokens` may be a mapped file larger than memory. Raises ValueError
    for a text shorter than context + 1 and, where `vocab_size` is given, for an id beyond it.
    """

    def __init__(
        self,
        tokens: TokenFile | np.ndarray,
        context: int,
        batch_size: int,
        seed: int = 0,
        *,
        vocab_size: int | None = None,
    ) -> None:
        whole("context", context, 1)
        whole("batch_size", batch_size, 1)
        self.tokens = token_array(tokens)  # (N,)
        self.context, self.batch_size, self.seed, self.vocab_size = context, batch_size, seed, vocab_size
        if len(self.tokens) < context + 1:
            raise ValueError(
                f"the text has {len(self.tokens)} tokens, a context of {context} needs at least {context + 1}; "
                "use a longer text or a shorter context"
            )

    @property
    def batches_per_epoch(self) -> int:
        """Batches that hold as many positions as the text has."""
        return -(-(len(self.tokens) - 1) // (self.context * self.batch_size))

    def batch(self, step: int, micro: int = 0) -> LanguageBatch:
        """`batch_size` windows that begin anywhere in the text: a function of (seed, step, micro) alone."""
        rng = generator(self.seed, "WIND", step, micro)
        starts = rng.integers(0, len(self.tokens) - self.context, size=self.batch_size)
        return self._windows(starts)

    def sequential(self, batch_size: int | None = None) -> Iterator[LanguageBatch]:
        """The whole text once, in windows that do not overlap: every token but the first is a target exactly once.

        The last window is padded with id 0 and target IGNORED; the last batch may have fewer rows.
        """
        batch_size = self.batch_size if batch_size is None else whole("batch_size", batch_size, 1)
        starts = np.arange(0, len(self.tokens) - 1, self.context)
        for first in range(0, len(starts), batch_size):
            yield self._windows(starts[first : first + batch_size])

    def _windows(self, starts: np.ndarray) -> LanguageBatch:
        positions = starts[:, None] + np.arange(self.context + 1)  # (B, T + 1)
        inside = positions < len(self.tokens)
        windows = self.tokens[np.minimum(positions, len(self.tokens) - 1)].astype(np.int64)  # (B, T + 1)
        if self.vocab_size is not None:
            check_ids(windows, self.vocab_size)
        ids = np.where(inside[:, 1:], windows[:, :-1], 0)  # (B, T)  an id without a target predicts nothing
        return LanguageBatch(ids, np.where(inside[:, 1:], windows[:, 1:], IGNORED))


class BucketSampler:
    """Batches of labelled id sequences of similar length, so that little is padding.

    Every epoch takes each sequence exactly once. Its order is a permutation drawn from (seed, epoch); within pools of
    `POOL` batches the sequences are sorted by length and cut into batches, and the batches are shuffled.

    max_length   longer sequences lose their start: the last tokens are kept
    pad_id       fills up rows; an empty sequence becomes one `pad_id`, so that every length is at least 1
    micro        with `micro_batches` M, a step takes M consecutive batches: batch(step, 0 … M − 1)
    """

    POOL = 50  # batches sorted together: enough for tight buckets, few enough to mix well

    def __init__(
        self,
        sequences: Sequence[Sequence[int]],
        labels: Sequence[int] | np.ndarray,
        batch_size: int,
        seed: int = 0,
        max_length: int | None = None,
        pad_id: int | None = 0,
        *,
        micro_batches: int = 1,
        vocab_size: int | None = None,
    ) -> None:
        whole("batch_size", batch_size, 1)
        whole("micro_batches", micro_batches, 1)
        self.labels = np.asarray(labels, dtype=np.int64)
        if not len(sequences) or self.labels.shape != (len(sequences),):
            raise ValueError(
                f"{len(sequences)} sequences with labels of shape {self.labels.shape}; expected one label for each, "
                "and at least one sequence"
            )
        self.batch_size, self.seed, self.micro_batches = batch_size, seed, micro_batches
        self.pad_id = 0 if pad_id is None else pad_id  # never looked at: models stop at `lengths`
        cut = [_cut(sequence, max_length, self.pad_id) for sequence in sequences]
        self.lengths = np.array([len(sequence) for sequence in cut], dtype=np.int64)  # (N,)
        self._ends = np.cumsum(self.lengths)
        self._flat = np.concatenate([np.asarray(sequence, dtype=np.int64) for sequence in cut])
        if self._flat.min() < 0 or self._flat.max() >= 1 << 31:
            raise ValueError(f"ids lie between {self._flat.min()} and {self._flat.max()}; expected 0 … 2³¹ − 1")
        if vocab_size is not None:
            check_ids(self._flat, vocab_size)
        self._flat = self._flat.astype(np.int32)  # one array instead of a list per text: a tenth of the memory
        self._epoch: tuple[int, list[np.ndarray]] = (-1, [])

    @property
    def batches_per_epoch(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def batch(self, step: int, micro: int = 0) -> ClassificationBatch:
        """The batch of a step: a function of (seed, step, micro) alone."""
        if not 0 <= micro < self.micro_batches:
            raise ValueError(f"micro is {micro}, expected 0 … {self.micro_batches - 1}")
        epoch, number = divmod(step * self.micro_batches + micro, self.batches_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._order(epoch))
        return self._gather(self._epoch[1][number])

    def sequential(self, batch_size: int | None = None) -> Iterator[tuple[ClassificationBatch, np.ndarray]]:
        """Every sequence once, by length, each batch with the indices of its sequences: result[indices] = rows."""
        batch_size = self.batch_size if batch_size is None else whole("batch_size", batch_size, 1)
        order = np.argsort(self.lengths, kind="stable")
        for first in range(0, len(order), batch_size):
            indices = order[first : first + batch_size]
            yield self._gather(indices), indices

    def _order(self, epoch: int) -> list[np.ndarray]:
        """The indices of each batch of an epoch."""
        rng = generator(self.seed, "BUCK", epoch)
        permutation = rng.permutation(len(self.labels))
        batches, pool_size = [], self.POOL * self.batch_size
        for start in range(0, len(permutation), pool_size):
            pool = permutation[start : start + pool_size]
            pool = pool[np.argsort(self.lengths[pool], kind="stable")]
            batches += [pool[first : first + self.batch_size] for first in range(0, len(pool), self.batch_size)]
        return [batches[i] for i in rng.permutation(len(batches))]

    def _gather(self, indices: np.ndarray) -> ClassificationBatch:
        lengths = self.lengths[indices]  # (B,)
        columns = np.arange(lengths.max())  # (T,)
        positions = (self._ends[indices] - lengths)[:, None] + columns  # (B, T)
        inside = columns < lengths[:, None]
        ids = np.where(inside, self._flat[np.where(inside, positions, 0)], self.pad_id).astype(np.int64)
        return ClassificationBatch(ids, lengths, self.labels[indices])


def pad_sequences(
    sequences: Sequence[Sequence[int]], pad_id: int = 0, max_length: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(ids (B, T), lengths (B,)): the last `max_length` ids of each, rows filled up at the end to the longest.

    An empty sequence becomes one `pad_id` of length 1.
    """
    if not len(sequences):
        raise ValueError("there is no sequence to pad; expected at least one")
    cut = [_cut(sequence, max_length, pad_id) for sequence in sequences]
    lengths = np.array([len(sequence) for sequence in cut], dtype=np.int64)
    ids = np.full((len(cut), lengths.max()), pad_id, dtype=np.int64)  # (B, T)
    for row, sequence in zip(ids, cut, strict=True):
        row[: len(sequence)] = sequence
    return ids, lengths


def check_ids(ids: np.ndarray, vocab_size: int) -> None:
    """Raise ValueError naming the first id outside 0 … vocab_size − 1.

    On the host and before a step: on a device an id out of range would wrap around in silence.
    """
    wrong = (ids < 0) | (ids >= vocab_size)
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"ids[{', '.join(map(str, where))}] is {int(ids[where])}, but the vocabulary has {vocab_size} tokens "
            f"(0 to {vocab_size - 1}); was the text encoded by another tokenizer?"
        )


def _cut(sequence: Sequence[int], length: int | None, pad_id: int) -> Sequence[int]:
    """The last `length` ids of a sequence; one `pad_id` for an empty one."""
    if length is not None:
        whole("max_length", length, 1)
        sequence = sequence[-length:]
    return sequence if len(sequence) else [pad_id]
