"""The profile names our functions, the costliest first, for the variant that is the fastest."""

from __future__ import annotations

import time

import pytest

from benchmarks import __main__ as command, profile
from benchmarks.variants import Variant, Workload


def inner():
    total = 0
    for number in range(20_000):
        total += number
    return total


def test_the_fastest_of_ours_is_profiled():
    def twice():
        return inner(), inner()

    def waiting():
        time.sleep(0.05)

    times = {"torch": inner, "definition": waiting, "cpu": twice}
    variants = {name: Variant(run, None, list) for name, run in times.items()}
    name, seconds, rows = profile.profiled(Workload("toy", "1", variants, 0, 0, 0), 0.1)
    assert name == "cpu"
    assert seconds > 0
    shares = [int(share.rstrip("%")) for share, *_ in rows]
    assert shares == sorted(shares, reverse=True)
    _, _, calls, title = rows[0]
    assert (calls, title) == ("2", f"tests/benchmarks/test_profile.py:{inner.__code__.co_firstlineno} inner")


def test_the_command_shows_a_table(capsys):
    assert (
        command.main(
            ["profile", "softmax", "--sizes", "64", "512", "--seconds", "0.05", "--threads", "2", "--top", "1"]
        )
        == 0
    )
    first, second, empty, head, row, *_ = capsys.readouterr().out.splitlines()
    assert first == "softmax  64 x 512  float32, 2 threads"
    assert second.startswith(("cpu.blocked: ", "definition: "))
    assert empty == ""
    assert head.split() == ["share", "ms", "calls", "function"]
    assert "%" in row


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["softmax", "--threads", "0"], "--threads is 0, expected a whole number"),
        (["softmax", "--top", "0"], "--top is 0, expected a whole number"),
        (["nothing"], "nothing"),
        (["softmax", "--sizes", "1", "2", "3"], "takes at most"),
    ],
)
def test_wrong_use(options, words, capsys):
    assert command.main(["profile", *options]) == 2
    assert words in capsys.readouterr().err
