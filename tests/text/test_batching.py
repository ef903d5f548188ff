"""Batches: pure functions of seed and step, every item once an epoch, padding that is marked as such."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from minilm.text.batching import IGNORED, BucketSampler, WindowSampler, check_ids, pad_sequences
from minilm.text.corpus import write_tokens
from minilm.text.tokenizers import CharTokenizer


def equal(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


# ---- windows


def test_windows_are_contiguous_and_targets_one_ahead():
    batch = WindowSampler(np.arange(100, dtype=np.uint16), 7, 50, seed=1).batch(3)
    assert batch.ids.shape == batch.targets.shape == (50, 7)
    assert batch.ids.dtype == batch.targets.dtype == np.int64
    assert (np.diff(batch.ids, axis=1) == 1).all() and (batch.targets == batch.ids + 1).all()


def test_windows_begin_anywhere():
    sampler = WindowSampler(np.arange(12), 4, 64)
    assert {int(ids[0]) for step in range(20) for ids in sampler.batch(step).ids} == set(range(8))


def test_windows_are_a_function_of_seed_step_and_micro():
    tokens = np.arange(1000)
    first = WindowSampler(tokens, 8, 4, seed=5)
    later = WindowSampler(tokens, 8, 4, seed=5)  # a resumed run, which never saw the steps before
    assert equal(first.batch(17, 1), later.batch(17, 1))
    others = [
        first.batch(17, 0),
        first.batch(18, 1),
        first.batch(1, 17),
        WindowSampler(tokens, 8, 4, seed=6).batch(17, 1),
    ]
    assert not any(equal(first.batch(17, 1), other) for other in others)


@given(st.integers(2, 60), st.integers(1, 12), st.integers(1, 5))
def test_sequential_windows_predict_every_token_but_the_first_once(length, context, batch_size):
    context = min(context, length - 1)
    tokens = np.arange(length) + 1
    batches = list(WindowSampler(tokens, context, 3).sequential(batch_size))
    targets = np.concatenate([b.targets.ravel() for b in batches])
    ids = np.concatenate([b.ids.ravel() for b in batches])
    assert targets[targets != IGNORED].tolist() == tokens[1:].tolist()
    assert ids[targets != IGNORED].tolist() == tokens[:-1].tolist()
    assert all(b.ids.shape[1] == context and len(b.ids) <= batch_size for b in batches)


def test_windows_of_a_mapped_file(tmp_path):
    tokens = write_tokens(["abcabcab"], CharTokenizer("abc"), tmp_path / "tokens.bin")
    (batch,) = WindowSampler(tokens, 4, 2).sequential()
    assert batch.ids.tolist() == [[0, 1, 2, 0], [1, 2, 0, 0]]
    assert batch.targets.tolist() == [[1, 2, 0, 1], [2, 0, 1, IGNORED]]


def test_batches_per_epoch():
    assert WindowSampler(np.arange(101), 10, 3).batches_per_epoch == 4


def test_short_text_and_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="has 8 tokens, a context of 8 needs at least 9"):
        WindowSampler(np.arange(8), 8, 1)
    assert WindowSampler(np.arange(9), 8, 1).batch(0).ids.tolist() == [list(range(8))]
    with pytest.raises(ValueError, match="context is 0"):
        WindowSampler(np.arange(8), 0, 1)
    with pytest.raises(ValueError, match="batch_size is -1"):
        WindowSampler(np.arange(8), 2, -1)


def test_ids_beyond_the_vocabulary_are_refused():
    with pytest.raises(ValueError, match=r"ids\[0, 0\] is 50, but the vocabulary has 50 tokens \(0 to 49\)"):
        next(WindowSampler(np.arange(50, 100), 49, 1, vocab_size=50).sequential())
    with pytest.raises(ValueError, match=r"ids\[1\] is -1"):
        check_ids(np.array([4, -1]), 5)
    check_ids(np.array([0, 4]), 5)


# ---- buckets


def sequences_of(lengths):
    """Sequence n is n, n, …: every entry tells whose it is."""
    return [[n] * length for n, length in enumerate(lengths)]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=150), st.integers(1, 9), st.integers(0, 3))
def test_every_sequence_once_per_epoch(lengths, batch_size, epoch):
    sampler = BucketSampler(sequences_of(lengths), np.arange(len(lengths)), batch_size, seed=4, pad_id=999)
    sampler.POOL = 3
    n = sampler.batches_per_epoch
    seen = []
    for step in range(epoch * n, (epoch + 1) * n):
        batch = sampler.batch(step)
        assert batch.ids.shape == (len(batch.labels), batch.lengths.max())
        assert 1 <= len(batch.labels) <= batch_size
        for ids, length, label in zip(batch.ids, batch.lengths, batch.labels, strict=True):
            assert length == lengths[label]
            assert (ids[:length] == label).all() and (ids[length:] == 999).all()
        seen += batch.labels.tolist()
    assert sorted(seen) == list(range(len(lengths)))


def test_buckets_are_a_function_of_seed_and_step(rng):
    sequences = sequences_of(rng.integers(1, 50, 200))

    def sampler(seed=3, micro_batches=1):
        return BucketSampler(sequences, np.arange(200), 16, seed, micro_batches=micro_batches)

    straight, resumed = sampler(), sampler()
    batches = [straight.batch(step) for step in range(30)]
    assert equal(resumed.batch(27), batches[27]) and equal(resumed.batch(4), batches[4])
    assert not equal(batches[0], sampler(seed=4).batch(0))
    assert not equal(batches[0], batches[straight.batches_per_epoch])  # another epoch, another order
    assert equal(sampler(micro_batches=2).batch(5, 1), batches[11])
    with pytest.raises(ValueError, match="micro is 2, expected 0 … 1"):
        sampler(micro_batches=2).batch(5, 2)


def test_buckets_hold_little_padding(rng):
    sampler = BucketSampler(sequences_of(rng.integers(1, 200, 3200)), np.zeros(3200), 32)
    batches = [sampler.batch(step) for step in range(sampler.batches_per_epoch)]
    assert sum(b.lengths.sum() for b in batches) / sum(b.ids.size for b in batches) > 0.95


def test_sequential_restores_the_order(rng):
    lengths = rng.integers(1, 20, 45)
    sampler = BucketSampler(sequences_of(lengths), np.arange(45) % 2, 8)
    first_ids = np.full(45, -1)
    for batch, indices in sampler.sequential(7):
        first_ids[indices] = batch.ids[:, 0]
        assert np.array_equal(batch.labels, indices % 2)
    assert first_ids.tolist() == list(range(45))


def test_truncation_and_empty_sequences():
    sequences = [[1, 2, 3, 4], np.array([5, 6]), []]
    ((batch, order),) = BucketSampler(sequences, [0, 1, 1], 3, max_length=3, pad_id=9).sequential()
    assert order.tolist() == [2, 1, 0]
    assert batch.ids.tolist() == [[9, 9, 9], [5, 6, 9], [2, 3, 4]]
    assert batch.lengths.tolist() == [1, 2, 3] and batch.labels.tolist() == [1, 1, 0]
    ((batch, _),) = BucketSampler(sequences, [0, 1, 1], 3, max_length=3, pad_id=None).sequential()
    assert batch.ids.tolist() == [[0, 0, 0], [5, 6, 0], [2, 3, 4]]


def test_pad_sequences():
    ids, lengths = pad_sequences([[1, 2, 3], []], pad_id=7, max_length=2)
    assert ids.tolist() == [[2, 3], [7, 7]] and lengths.tolist() == [2, 1]
    ids, lengths = pad_sequences([[1, 2, 3], [4]], max_length=5)
    assert ids.tolist() == [[1, 2, 3], [4, 0, 0]] and lengths.tolist() == [3, 1]
    assert pad_sequences([[1], [2, 3]])[0].shape == (2, 2)
    with pytest.raises(ValueError, match="no sequence to pad"):
        pad_sequences([])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [0]}, r"2 sequences with labels of shape \(1,\)"),
        ({"sequences": [], "labels": []}, "0 sequences"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"max_length": 0}, "length is 0"),
        ({"micro_batches": 0}, "micro_batches is 0"),
        ({"vocab_size": 3}, r"ids\[2\] is 3, but the vocabulary has 3"),
        ({"sequences": [[1], [-2]]}, "ids lie between -2 and 1"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    arguments = {"sequences": [[1, 2], [3]], "labels": [0, 1], "batch_size": 2} | change
    with pytest.raises(ValueError, match=message):
        BucketSampler(**arguments)
