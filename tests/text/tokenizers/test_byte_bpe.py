"""Byte-level BPE: any text comes back, and training depends on the text alone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given, strategies as st

from minilm.text.tokenizers import ByteBPETokenizer
from tests.text.tokenizers.test_kinds import TEXT

BPE = ByteBPETokenizer.train([TEXT], vocab_size=300)


@given(st.text())
def test_bpe_gives_back_any_text(text):
    assert BPE.decode(BPE.encode(text)) == text


def test_bpe_size_is_what_was_asked_for_and_never_less_than_the_bytes():
    assert ByteBPETokenizer.train([TEXT], vocab_size=280).size == 280
    assert ByteBPETokenizer.train(["ab"], vocab_size=1000).size == 256
    with pytest.raises(ValueError, match=r"vocab_size .* is 255, expected a whole number of at least 256"):
        ByteBPETokenizer.train(["ab"], vocab_size=255)


def test_bpe_is_the_same_in_another_process_and_prints_nothing():
    program = (
        "from minilm.text.tokenizers import train_tokenizer\n"
        f"print(train_tokenizer('bpe', {[TEXT]!r}, vocab_size=300).fingerprint)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert (done.stdout.strip(), done.stderr) == (BPE.fingerprint, "")


def test_bpe_trains_from_a_stream():
    lines = TEXT.splitlines(keepends=True)
    assert ByteBPETokenizer.train(iter(lines), vocab_size=300).fingerprint == BPE.fingerprint


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(ValueError, match="at position 1, which is no character"):
        BPE.encode("a\udcff")


def test_decode_stream_ends_with_what_stays_incomplete():
    assert "".join(BPE.decode_stream(BPE.encode("a🙂")[:-1])).startswith("a\ufffd")
