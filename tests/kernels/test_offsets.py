"""From head to head, and from row to row of all heads, pointers move by `offset_of` alone, which counts in 64 bits.

The rule on the sources: nowhere else is a head's number multiplied by a size. What moves within a head, or within the
query heads of a group, does so in 32 bits, which spares registers: the launchers refuse one of 2^31 numbers.
"""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from minilm.kernels.cuda.launch import FOLDER

SOURCES = sorted(path for pattern in ("*.cu", "*.cuh") for path in FOLDER.glob(pattern) if path.name != "offsets.cuh")

# What counts heads, or rows of all heads; by file, where the same letter means a row of one head elsewhere.
HEADS = r"\w*head|blockIdx\.[yz]|b|out_row|place|split"
MORE_HEADS = {
    "attention.cu": "row|i",
    "attention_decode.cu": "row|s",
    "attention_tensor_core_backward.cu": "row",
    "cross_entropy.cu": "row",
    "softmax.cu": "row",
}
SIZES = r"T[QqKk]|D|HEAD|N|V|rows|cols|capacity|padded|all_heads|stride"
OPERAND = r"[\w§]+(?:(?:\.|->|::)[\w§]+)*"
CHAIN = re.compile(rf"{OPERAND}(?:\s*\*\s*{OPERAND})+")
NAME = re.compile(r"blockIdx\.[yz]|[A-Za-z_]\w*(?!\w*(?:\.|->|::))")  # x.Tk counts as Tk


def products(text):
    """(text, names of each operand) of each chain a * b * c of a source."""
    brackets = []

    def fold(match):
        brackets.append(match[0])
        return f"§{len(brackets) - 1}§"

    def unfold(text):
        while "§" in text:
            text = re.sub(r"§(\d+)§", lambda match: brackets[int(match[1])], text)
        return text

    text, folded = "", re.sub(r"//[^\n]*|/\*.*?\*/", " ", text, flags=re.DOTALL)
    while text != folded:
        text, folded = folded, re.sub(r"\s*[(\[][^()\[\]]*[)\]]\s*", fold, folded)
    for piece in (folded, *brackets):
        for chain in CHAIN.findall(piece):
            operands = [re.sub(r"offset_of§\d+§", "", operand) for operand in chain.split("*")]
            yield unfold(chain), [set(NAME.findall(unfold(operand))) for operand in operands]


def violations(name, text):
    """Products of a head's number and a size, outside of offset_of."""
    heads = re.compile("|".join((HEADS, MORE_HEADS[name])) if name in MORE_HEADS else HEADS)
    sizes = re.compile(SIZES)
    found = set()
    for chain, operands in products(text):
        counting = [any(heads.fullmatch(name) for name in names) for names in operands]
        sized = [any(sizes.fullmatch(name) for name in names) for names in operands]
        if any(a and any(sized[:i] + sized[i + 1 :]) for i, a in enumerate(counting)):
            found.add(chain)
    return found


def calls(text):
    """(start, end, arguments) of each call of offset_of that holds no other."""
    for match in re.finditer(r"offset_of\(", text):
        depth, end, cuts = 1, match.end(), [match.end()]
        while depth:
            depth += (text[end] == "(") - (text[end] == ")")
            if (text[end] == "," and depth == 1) or not depth:
                cuts.append(end)
            end += 1
        yield match.start(), end, [text[a:b].strip(" ,") for a, b in itertools.pairwise(cuts)]


@pytest.mark.parametrize("path", SOURCES, ids=[path.name for path in SOURCES])
def test_heads_are_reached_in_64_bits(path):
    assert not violations(path.name, path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", SOURCES, ids=[path.name for path in SOURCES])
def test_the_rule_finds_each_offset_that_is_made_by_hand(path):
    text = path.read_text(encoding="utf-8")
    for start, end, (index, *sizes) in calls(text):
        by_hand = " * ".join([f"({index})" if " " in index else index, *sizes])
        for planted in (by_hand, f"(long long){by_hand}"):
            assert violations(path.name, text[:start] + planted + text[end:]), f"{path.name}: {planted}"


def test_every_kernel_with_heads_or_rows_uses_it():
    users = {path.name for path in SOURCES if "offset_of(" in path.read_text(encoding="utf-8")}
    assert users >= {"attention.cu", "attention_tensor_core.cu", "attention_tensor_core_backward.cu"}
    assert users >= {"attention_decode.cu", "softmax.cu", "cross_entropy.cu"}


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("q += head * TQ * D;", True),
        ("q += TQ * (b * H + kv_head) * 4;", True),
        ("y[(head * TQ + row) * 8] = 0;", True),
        ("lse[blockIdx.y * o.rows + i] = 0;", True),
        ("x = first.row_head * 2 * D;", True),
        ("const int kv_head = b * HKV + h / (H / HKV);", False),  # a head's number itself
        ("y += (row0 + row) * D + chunk * 8;", False),  # within a head
        ("i = heads * D; row0 = blockIdx.x * QUERIES; head_size * D;", False),
        ("q += offset_of((long long)b * H + h, TQ, D) + lane * D;", False),
        ("p = 4 * offset_of(head, TQ) * D;", False),
        ("const element* head; float *D;", False),
        ("// head * TQ * D\n/* b * D */", False),
    ],
)
def test_what_the_rule_finds(code, found):
    assert bool(violations("attention_tensor_core.cu", code)) == found, violations("attention_tensor_core.cu", code)


def test_offsets_beyond_32_bits(toy, host_run):
    k = toy(
        "y[threadIdx.x] = threadIdx.x < n ? offset_of(x[threadIdx.x], 4096, 64) : offset_of(x[threadIdx.x], 4096);",
        "const int* x, long long* y, int n",
        before='#include "offsets.cuh"',
    )
    heads, y = np.array([1, 2**13 - 1, 2**13, 65535, 2**19, 2**31 - 1], np.int32), np.zeros(6, np.int64)
    k((1,), (6,), (heads, y, np.int32(4)))
    sizes = [4096 * 64] * 4 + [4096] * 2
    assert y.tolist() == [int(head) * size for head, size in zip(heads, sizes, strict=True)]
    assert y[2] == 2**31 and y[4] == 2**31
