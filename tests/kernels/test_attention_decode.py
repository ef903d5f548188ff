"""The decode kernel, run on the CPU from its CUDA source, is held to the float64 op with one query."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from minilm.kernels.cuda import autotune
from minilm.kernels.cuda.decode import attention_decode, default_splits, heads_per_block, split_candidates
from tests.kernels.tolerances import assert_call_within

pytestmark = pytest.mark.usefixtures("host_run", "poisoned_empty")

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float64": np.float64}
LENGTHS = (0, 1, 31, 33, 97, 130, 150)  # nothing; one key; ragged ends of warps, tiles and splits; the whole cache
CAPACITY = 150

# dtype, head size, heads, key/value heads: whole and broken numbers of lanes, groups of 1, 2, 3 and 9 heads
SHAPES = [
    ("float32", 16, 2, 2),
    ("float32", 128, 3, 1),  # three heads in a block for four
    ("float32", 256, 1, 1),  # a lane has two chunks of a row
    ("float16", 40, 4, 2),  # five chunks on eight lanes
    ("float16", 80, 9, 1),  # two blocks of eight to a group, the second with one head
    ("bfloat16", 64, 4, 2),
    ("float64", 40, 6, 2),
]


def draw(rng, dtype, B, H, Hkv, D, lengths):
    """q, k, v of a dtype; NaN behind each length."""
    q = rng.normal(size=(B, H, D)).astype(DTYPES[dtype])
    k, v = (rng.normal(size=(B, Hkv, CAPACITY, D)).astype(DTYPES[dtype]) for _ in "kv")
    for b, length in enumerate(lengths):
        k[b, :, length:] = np.nan
        v[b, :, length:] = np.nan
    return q, k, v


def assert_close(y, q, k, v, **options):
    assert y.dtype == q.dtype
    assert_call_within("attention_decode", {"q": q, "k": k, "v": v}, options, (y,))


@pytest.mark.parametrize("dtype, D, H, Hkv", SHAPES)
def test_agrees_with_the_op(rng, dtype, D, H, Hkv):
    q, k, v = draw(rng, dtype, len(LENGTHS), H, Hkv, D, LENGTHS)
    for splits in (None, 1, 3):
        y = attention_decode(q, k, v, key_lengths=LENGTHS, splits=splits)
        assert not y[0].any()  # length 0
        assert_close(y, q, k, v, key_lengths=list(LENGTHS))


@pytest.mark.parametrize("shape", ["B", "BH", "T"])
@pytest.mark.parametrize("dtype, D, H, Hkv", [("float32", 128, 3, 1), ("float16", 80, 9, 1), ("float64", 40, 6, 2)])
def test_mask(rng, dtype, D, H, Hkv, shape):
    B = 2
    q, k, v = draw(rng, dtype, B, H, Hkv, D, (130, 97))
    size = {"B": (B, 1, CAPACITY), "BH": (B, H, CAPACITY), "T": (CAPACITY,)}[shape]
    mask = rng.random(size) < 0.4
    mask[..., 64:100] = False  # whole tiles without a visible key
    if shape == "BH":
        mask[1, 0] = False  # a head that sees nothing
    hidden_from_all = ~np.broadcast_to(mask, (B, H, CAPACITY)).any(axis=1)  # (B, Tmax)
    k[np.broadcast_to(hidden_from_all[:, None], k.shape[:3])] = np.nan
    v[np.broadcast_to(hidden_from_all[:, None], v.shape[:3])] = np.nan
    for splits in (1, 2):
        y = attention_decode(q, k, v, key_lengths=[130, 97], mask=mask, splits=splits)
        assert_close(y, q, k, v, key_lengths=[130, 97], mask=mask)
        if shape == "BH":
            assert not y[1, 0].any()


def test_a_value_hidden_from_one_head_does_not_reach_it(rng):
    """The op zeroes what nobody of a group sees; the kernel also keeps a NaN that one head sees from the others."""
    q, k, v = draw(rng, "float32", 1, 3, 1, 128, (CAPACITY,))
    mask = np.ones((1, 3, CAPACITY), bool)
    mask[0, 1, 7] = False
    v[0, 0, 7] = np.nan
    y = attention_decode(q, k, v, mask=mask)
    assert np.isnan(y[0, [0, 2]]).all()
    v[0, 0, 7] = 0.0
    assert_close(y[:, 1:2], q[:, 1:2], k, v, mask=mask[:, 1:2])


@pytest.mark.parametrize("dtype, D, H, Hkv", [("float32", 128, 3, 1), ("float16", 40, 4, 2)])
def test_splits_agree_and_every_order_gives_the_same_bits(rng, in_all_orders, dtype, D, H, Hkv):
    lengths = (130, 33)
    q, k, v = draw(rng, dtype, 2, H, Hkv, D, lengths)
    for splits in range(1, 9):
        y = in_all_orders(lambda splits=splits: attention_decode(q, k, v, key_lengths=lengths, splits=splits))
        assert_close(y, q, k, v, key_lengths=list(lengths))


SANITIZED = """
import numpy as np
from minilm.kernels.cuda.decode import attention_decode

rng = np.random.default_rng(0)
q = rng.normal(size=(2, 2, 40)).astype(np.float16)
k, v = (rng.normal(size=(2, 1, 70, 40)).astype(np.float16) for _ in "kv")
y = attention_decode(q, k, v, key_lengths=[70, 33], mask=rng.random((2, 2, 70)) < 0.8, splits=2)
assert np.isfinite(y).all()
q, (k, v) = rng.normal(size=(1, 4, 128)).astype(np.float32), rng.normal(size=(2, 1, 2, 131, 128)).astype(np.float32)
assert np.isfinite(attention_decode(q, k, v)).all()
"""


def test_sanitizers_are_silent(sanitized):
    outcome = sanitized(SANITIZED)
    assert outcome.clean, outcome.report


def test_scale_and_a_query_axis(rng):
    q, k, v = draw(rng, "float32", 1, 3, 1, 128, (CAPACITY,))
    y = attention_decode(q[:, :, None], k, v, scale=-0.3)
    assert y.shape == (1, 3, 1, 128)
    assert_close(y[:, :, 0], q, k, v, scale=-0.3)
    mask = np.arange(CAPACITY) < 40
    y = attention_decode(q[:, :, None], k, v, mask=mask[None, None, None])
    assert_close(y[:, :, 0], q, k, v, mask=mask)


def test_large_scores_do_not_overflow(rng):
    q, k, v = draw(rng, "float16", 1, 4, 2, 40, (CAPACITY,))
    q, k = q * np.float16(100), k * np.float16(100)
    assert_close(attention_decode(q, k, v), q, k, v)


def test_arguments_stay_as_they_are(rng):
    arrays = draw(rng, "float32", 1, 3, 1, 128, (33,))
    before = [a.copy() for a in arrays]
    attention_decode(*arrays, key_lengths=[33])
    for array, kept in zip(arrays, before, strict=True):
        assert array.tobytes() == kept.tobytes()


def test_nothing_to_do():
    empty = np.zeros((0, 4, 64), np.float32), np.zeros((0, 2, 9, 64), np.float32), np.zeros((0, 2, 9, 64), np.float32)
    assert attention_decode(*empty).shape == (0, 4, 64)
    no_keys = (np.ones((1, 3, 128), np.float32), *(np.zeros((1, 1, 0, 128), np.float32) for _ in "kv"))
    assert not attention_decode(*no_keys).any()


Q, KV = np.zeros((2, 4, 64), np.float32), np.zeros((2, 2, 9, 64), np.float32)
MANY = np.zeros((65536, 1, 1, 16), np.float16)
WRONG = [
    ("two queries", ValueError, "one query per head", (np.zeros((2, 4, 2, 64), np.float32), KV, KV), {}),
    ("no array", ValueError, "one query per head", (None, KV, KV), {}),
    ("integers", TypeError, "dtype int32", (Q.astype(np.int32), KV, KV), {}),
    ("two dtypes", TypeError, "one dtype", (Q, KV.astype(np.float16), KV), {}),
    ("head size", ValueError, "head size 20 is not served", tuple(np.zeros_like(a[..., :20]) for a in (Q, KV, KV)), {}),
    ("group", ValueError, "must divide", (Q, *(np.zeros((2, 3, 9, 64), np.float32),) * 2), {}),
    ("batch", ValueError, "do not fit", (Q[:1], KV, KV), {}),
    ("strides", ValueError, "k is not C-contiguous", (Q, KV.swapaxes(0, 1), KV), {}),
    ("strided q", ValueError, "q is not C-contiguous", (Q[:, ::-1], KV, KV), {}),
    ("address", ValueError, "multiple of 16 bytes", (np.zeros(513, np.float32)[1:].reshape(2, 4, 64), KV, KV), {}),
    ("no library", TypeError, "expected a NumPy or CuPy array", (Q, KV.tolist(), KV), {}),
    ("lengths too large", ValueError, "expected 0..9", (Q, KV, KV), {"key_lengths": [10, 1]}),
    ("lengths' shape", ValueError, r"expected \(2,\)", (Q, KV, KV), {"key_lengths": [1]}),
    ("float mask", TypeError, "expected bool", (Q, KV, KV), {"mask": np.ones(9, np.float32)}),
    ("mask's shape", ValueError, "does not broadcast", (Q, KV, KV), {"mask": np.ones((3, 1, 9), bool)}),
    ("scale", ValueError, "finite", (Q, KV, KV), {"scale": float("nan")}),
    ("no splits", ValueError, "splits = 0", (Q, KV, KV), {"splits": 0}),
    ("broken splits", ValueError, "splits = 1.5", (Q, KV, KV), {"splits": 1.5}),
    ("beyond the grid", ValueError, "grid", (np.zeros((65536, 1, 16), np.float16), *(MANY,) * 2), {}),
]  # fmt: skip


@pytest.mark.parametrize("error, message, arrays, options", [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_wrong_input_is_refused_before_the_launch(error, message, arrays, options):
    with pytest.raises(error, match=message):
        attention_decode(*arrays, **options)


def test_default_splits():
    assert default_splits(8, 32768, 264) == 29  # 232 of 264 blocks busy, and no second wave
    assert default_splits(8, 1000, 264) == 3  # no fewer than 256 keys each
    assert default_splits(512, 32768, 264) == 1  # two waves, 97 % busy
    assert default_splits(300, 32768, 264) == 3  # one split would leave the second wave nearly empty
    assert default_splits(1, 0, 264) == 1
    for blocks in range(1, 600, 7):
        splits = default_splits(blocks, 1 << 20, 264)
        assert 1 <= splits <= 128 and blocks * splits >= 0.4 * min(264, 128 * blocks)


def test_split_candidates():
    assert split_candidates(8, 4096, 264) == (14, 1, 2, 4, 8, 16, 32, 64)
    assert split_candidates(4096, 4096, 264) == (1,)
    for blocks, longest in ((1, 0), (1, 1 << 20), (5000, 77)):
        candidates = split_candidates(blocks, longest, 264)
        assert len(set(candidates)) == len(candidates) and candidates[0] == default_splits(blocks, longest, 264)


def test_heads_of_a_block():
    assert [heads_per_block(group, "float16") for group in (1, 2, 3, 4, 5, 8, 9, 64)] == [1, 2, 4, 4, 8, 8, 8, 8]
    assert [heads_per_block(group, "float64") for group in (1, 2, 3)] == [1, 2, 2]


def test_splits_are_tuned_where_asked(rng, tmp_path):
    q, k, v = draw(rng, "float32", 1, 3, 1, 128, (CAPACITY,))
    times = iter([3.0, 1.0, 2.0])  # of 2, 1 and 4 splits

    def timer(run):
        run()
        return next(times)

    for _ in range(2):  # the second time nothing is timed
        with autotune.autotuning(timer=timer, path=tmp_path / "choices.json"):
            y = attention_decode(q, k, v)
        assert y.tobytes() == attention_decode(q, k, v, splits=1).tobytes()
    assert next(times, None) is None
