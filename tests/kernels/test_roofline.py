"""The rooflines: against times worked out by hand, and against each other."""

from __future__ import annotations

import pytest

from minilm.kernels import __main__ as command, roofline
from minilm.kernels.roofline import CARDS, Attention, bound

H100, A100, *_ = CARDS


@pytest.mark.parametrize(("columns", "h100", "a100"), [(1024, 10, 16), (4096, 40, 66), (32768, 321, 527)])
def test_softmax_is_bound_by_memory(columns, h100, a100):
    work = roofline.softmax(4096, columns)
    assert (round(bound(work, H100)[0] * 1e6), round(bound(work, A100)[0] * 1e6)) == (h100, a100)
    assert bound(work, H100)[1] == "memory"


@pytest.mark.parametrize(("H", "D"), [(32, 64), (16, 128)])
def test_attention_is_bound_by_arithmetic(H, D):
    size = Attention(4, H, H, 4096, 4096, D)
    forward, backward = roofline.attention_forward(size), roofline.attention_backward(size)
    assert [round(bound(forward, card)[0] * 1e6) for card in (H100, A100)] == [556, 1762]
    assert [round(bound(backward, card)[0] * 1e6) for card in (H100, A100)] == [1389, 4405]
    two_kernels = roofline.attention_backward(size, products=7)
    assert bound(two_kernels, H100)[0] == pytest.approx(1.4 * bound(backward, H100)[0])


def test_decode_is_bound_by_the_cache_and_grouped_queries_shrink_it():
    whole = roofline.attention_decode(Attention(16, 32, 32, 1, 8192, 128))
    grouped = roofline.attention_decode(Attention(16, 32, 8, 1, 8192, 128))
    assert bound(whole, H100)[1] == bound(grouped, H100)[1] == "memory"
    assert whole.bytes / grouped.bytes == pytest.approx(4, rel=1e-2)


@pytest.mark.parametrize(("TQ", "TK"), [(1, 1), (5, 5), (3, 7), (7, 3), (1, 9)])
def test_a_causal_mask_shows_the_pairs_that_it_defines(TQ, TK):
    by_hand = sum(j <= i + TK - TQ for i in range(TQ) for j in range(TK))
    assert Attention(1, 1, 1, TQ, TK, 64, causal=True).visible == by_hand


def test_half_precision_attention_alone_runs_on_tensor_cores():
    half, single = (Attention(1, 8, 8, 2048, 2048, 64, dtype=dtype) for dtype in ("float16", "float32"))
    ratio = bound(roofline.attention_forward(single), H100)[0] / bound(roofline.attention_forward(half), H100)[0]
    assert ratio == pytest.approx(H100.tensor / H100.float32)


def test_cross_entropy_moves_the_logits_twice():
    assert roofline.cross_entropy(8, 1000, "bfloat16").bytes == pytest.approx(2 * 8 * 1000 * 2, rel=0.01)


def test_the_command_says_that_it_estimates(capsys):
    assert command.main(["roofline"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Estimated, not measured")
    assert all(card.name in out and card.source in out for card in CARDS)
