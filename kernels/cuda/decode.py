"""Decode attention: one query per head over a cache of keys and values, as in text generation.

    y_h = Σ_j softmax(scale · q_h · k_j)_j v_j      over the first key_lengths[b] keys that the mask shows

    q (B, H, D)    k, v (B, Hkv, Tmax, D)    y (B, H, D)

The value is that of `minilm.ops.attention` with Tq = 1. There is no backward: nothing is trained one token at a time.
The keys are cut into `splits` ranges, a block of threads for each, and the partial results are merged (see
attention_decode.cu). More splits fill the GPU where batch and heads alone don't; each costs a partial result, written
and read.

[Dao et al. 2023, "Flash-Decoding for long-context inference"; Ainslie et al. 2023, "GQA"]
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from minilm.backend import Array
from minilm.kernels.cuda import autotune, launch
from minilm.kernels.cuda.attention_options import EXACT_HEAD_SIZES, Checked, check
from minilm.kernels.cuda.instances import ARCHITECTURES, TENSOR_CORE_ARCHITECTURES, Instance
from minilm.kernels.cuda.rows import ELEMENT_DEFINES

SOURCE = "attention_decode.cu"
THREADS = 128  # of a block, as in the source
MAX_SPLITS = 1024
DEFAULT_MOST = 128  # splits that are taken unasked: each output waits for the merge of them all
HOST_SPLITS = (2, 1, 4)  # on the CPU blocks run one after the other: 2, so that every call goes through the merge

RESIDENT = 2  # blocks on a multiprocessor, as in the source: they have enough bytes in flight
MIN_KEYS = 256  # keys per split: below, partial results cost more than 6 % of the reads of 8 heads per key
GOOD_ENOUGH = 0.85  # of the best occupation: fewer splits have fewer partial results to merge


def attention_decode(
    q: Array,
    k: Array,
    v: Array,
    *,
    key_lengths: Array | Sequence[int] | None = None,
    mask: Array | None = None,
    scale: float | None = None,
    splits: int | None = None,
) -> Array:
    """y (B, H, D), or (B, H, 1, D) for q of four axes. float32, float16, bfloat16 (sm_80 and later), float64.

    key_lengths  (B,) integers: sequence b has keys 0..key_lengths[b]−1; rows of k and v behind them are not read.
                 A list or a host array is checked, and its maximum helps to choose the splits
    mask         boolean, True = may look; broadcasts to (B, H, Tmax), or to (B, H, 1, Tmax) for q of four axes
    scale        1/√D by default
    splits       ranges that the keys are cut into, 1..1024; by default from the sizes and the device
                 (`default_splits`), or timed (`autotune`)

    A query that sees nothing, as in a sequence of length 0, gives 0. Head sizes 16 to 128 in steps of 8, and 256.
    The result is the same, bit for bit, in every run with the same number of splits.
    Raises TypeError for a wrong library or dtype, ValueError for shapes, strides and sizes that are not served.
    """
    name = "attention_decode"
    if getattr(q, "ndim", 0) not in (3, 4) or (q.ndim == 4 and q.shape[2] != 1):
        raise ValueError(
            f"{name}: q has shape {getattr(q, 'shape', None)}; expected one query per head, (B, H, D) or (B, H, 1, D); "
            "for several queries use attention"
        )
    shape = q.shape
    if q.ndim == 3:
        q = q[:, :, None]  # (B, H, 1, D)
        if getattr(mask, "ndim", 0) > 1:
            mask = mask[..., None, :]  # (B|1, H|1, 1, Tmax)
    checked = check(name, q, k, v, key_lengths=key_lengths, mask=mask, scale=scale, head_sizes=EXACT_HEAD_SIZES)
    if splits is not None and not (isinstance(splits, int | np.integer) and 1 <= splits <= MAX_SPLITS):
        raise ValueError(f"{name}: splits = {splits!r}, expected an integer 1..{MAX_SPLITS}")

    y = checked.xp.empty((checked.B, checked.H, checked.D), q.dtype)
    if y.size == 0:
        return y.reshape(shape)
    if splits is None:
        splits = _choose(checked, y, _longest(key_lengths, checked.Tk))
    _launch(checked, y, int(splits))
    return y.reshape(shape)


@functools.cache
def default_splits(blocks: int, longest: int, resident: int) -> int:
    """How many ranges to cut the keys into: the fewest that keep the GPU about as busy as any number could.

    blocks    blocks of one split: B · Hkv · parts of a group
    longest   keys of the longest sequence, where the host knows it, else the capacity of the cache
    resident  blocks that run on the GPU at a time: multiprocessors · RESIDENT

    The blocks · splits blocks run in waves of `resident`. The last wave may be nearly empty, so that more splits are
    not always better: the busy share is blocks · splits over what the begun waves could hold.
    [after num_splits_heuristic of the flash-attention library]

        >>> default_splits(8, 32768, 264)  # one sequence, 8 groups of 8 heads, a GPU of 132 multiprocessors
        29
        >>> default_splits(8, 1000, 264)  # too short to cut further
        3
        >>> default_splits(512, 32768, 264)  # busy enough without
        1
    """
    most = max(1, min(longest // MIN_KEYS, DEFAULT_MOST))
    busy = [blocks * s / (-(-blocks * s // resident) * resident) for s in range(1, most + 1)]
    return next(s for s, share in enumerate(busy, 1) if share >= GOOD_ENOUGH * max(busy))


@functools.cache
def split_candidates(blocks: int, longest: int, resident: int) -> tuple[int, ...]:
    """Numbers of splits worth timing: the default first, then powers of two, up to 64 keys a split and 8 waves."""
    most = max(1, min(longest // 64, 8 * resident // blocks, DEFAULT_MOST))
    powers = (1 << n for n in range(most.bit_length()))
    return tuple(dict.fromkeys((default_splits(blocks, longest, resident), *powers)))


def heads_per_block(group: int, dtype: str) -> int:
    """Query heads that one block serves, of a group that shares a key/value head: what its registers can hold."""
    most = 2 if dtype == "float64" else 8
    return min(most, 1 << (group - 1).bit_length())


def _parts(group: int, dtype: str) -> int:
    """Blocks that share the query heads of a group."""
    return -(-group // heads_per_block(group, dtype))


def _defines(entry: str, D: int, dtype: str, heads: int = 1, masked: bool = False) -> dict[str, int]:
    """Of attention_decode_split, or of the merge: one instance for all groups, with a mask or without."""
    only = f"ENTRY_{entry.removeprefix('attention_decode_').upper()}"
    return {"HEAD_SIZE": D, ELEMENT_DEFINES[dtype]: 1, "HEADS": heads, "MASKED": int(masked), only: 1}


def _choose(checked: Checked, y: Array, longest: int) -> int:
    """The default of the very sizes, or the choice that is tuned for all sizes of the bucket."""
    group, dtype = checked.H // checked.Hkv, checked.q.dtype.name
    blocks = checked.B * checked.Hkv * _parts(group, dtype)
    on_host, resident = checked.xp is np, 0
    if not on_host:
        resident = checked.q.device.attributes["MultiProcessorCount"] * RESIDENT
    if not autotune.active(y):
        return HOST_SPLITS[0] if on_host else default_splits(blocks, longest, resident)
    blocks, keys = autotune.bucket(blocks), autotune.bucket(longest)
    key = {"dtype": dtype, "D": checked.D, "group": group, "mask": checked.mask is not None}
    key |= {"blocks": blocks, "keys": keys}
    candidates = HOST_SPLITS if on_host else split_candidates(blocks, keys, resident)
    return autotune.choose("attention_decode", key, candidates, functools.partial(_launch, checked, y), like=y)


def _launch(checked: Checked, y: Array, splits: int) -> None:
    """Fill y (B, H, D)."""
    xp, B, H, Hkv, D = checked.xp, checked.B, checked.H, checked.Hkv, checked.D
    dtype = checked.q.dtype.name
    number = checked.number  # of sums, and of the scale
    group = H // Hkv
    defines = _defines("attention_decode_split", D, dtype, heads_per_block(group, dtype), checked.mask is not None)
    state = total = None
    if splits > 1:
        state, total = xp.empty((splits, B * H, 2), number), xp.empty((splits, B * H, D), number)

    grid = (splits, Hkv * _parts(group, dtype), B)
    launch.check_grid(grid)
    mask, mask_batch, mask_head, _, mask_key = checked.mask_arguments
    masks = (checked.options.key_lengths, mask, mask_batch, mask_head, np.int32(mask_key))
    sizes = (np.int32(H), np.int32(Hkv), np.int32(checked.Tk), number(checked.scale_log2))
    split = launch.kernel(SOURCE, "attention_decode_split", defines, y)
    split(
        grid,
        (THREADS,),
        (checked.q, checked.k, checked.v, *masks, state, total, y, *sizes),
    )
    if splits > 1:
        merge = launch.kernel(SOURCE, "attention_decode_merge", _defines("attention_decode_merge", D, dtype), y)
        grid = (-(-B * H * (D // 4) // THREADS),)
        merge(grid, (THREADS,), (state, total, y, np.int32(B * H), np.int32(splits)))


def _longest(key_lengths: Any, capacity: int) -> int:
    """Of the sequences. Lengths on a GPU are not asked for, which would wait for it: the capacity stands for them."""
    on_host = isinstance(key_lengths, list | tuple | np.ndarray)
    return int(max(key_lengths)) if on_host and len(key_lengths) else capacity


def _instances() -> tuple[Instance, ...]:
    """One and many heads, a whole and a broken number of lanes, the widest rows; masks where registers are scarcest."""
    found = []
    for dtype in ELEMENT_DEFINES:
        archs = TENSOR_CORE_ARCHITECTURES if dtype == "bfloat16" else ARCHITECTURES
        for head_size in (40, 64, 128, 256):
            most = heads_per_block(8, dtype)
            for heads, masked in ((1, False), (most, False), (most, True)):
                defines = _defines("attention_decode_split", head_size, dtype, heads, masked)
                note = f"D={head_size} {dtype} heads={heads}{' masked' if masked else ''}"
                found.append(Instance(SOURCE, "attention_decode_split", defines, archs, THREADS, note=note))
            defines = _defines("attention_decode_merge", head_size, dtype)
            note = f"D={head_size} {dtype}"
            found.append(Instance(SOURCE, "attention_decode_merge", defines, archs, THREADS, note=note))
    return tuple(found)


INSTANCES = _instances()
