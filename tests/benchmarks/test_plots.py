"""The pictures: each kind is drawn from results, as PNG and SVG, and says what it shows."""

from __future__ import annotations

import importlib.util

import pytest

from benchmarks import plots
from tests.benchmarks import toy

pytestmark = pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed")


def test_bars_overview_and_roofline(tmp_path):
    runs = [
        toy.TimedRun(
            toy.environment(count), toy.rows(threads=count) + toy.rows("gpt-step", threads=count, phases=("call",)), []
        )
        for count in (1, 2)
    ]
    written = plots.write_all(runs, tmp_path)
    expected = {"overview", "bars-softmax", "bars-gpt-step", "roofline-1t", "roofline-2t"}
    assert {path.stem for path in written} == expected
    assert all(path.stat().st_size > 1000 for path in written)
    assert {path.suffix for path in written} == {".png", ".svg"}


def test_several_sizes_become_a_scaling_plot():
    run = toy.TimedRun(toy.environment(), [row for n in (4, 8, 16) for row in toy.rows(size=f"{n} x 16")], [])
    assert [name for name, _ in plots.figures([run])] == ["overview", "scaling-softmax", "roofline-1t"]


def test_no_roofline_without_bytes_and_operations():
    rows = [row._replace(gigabytes_per_second=None) for row in toy.rows()]
    names = [name for name, _ in plots.figures([toy.TimedRun(toy.environment(), rows, [])])]
    assert "roofline-1t" not in names


def test_a_picture_in_a_page_takes_the_colour_of_its_text():
    _, figure = next(plots.figures([toy.run()]))
    text = plots.inline(figure)
    assert text.startswith("<svg")
    assert "currentColor" in text
    assert plots.INK not in text


def test_a_peer_has_one_colour():
    colours = plots.colours(["torch", "definition", "cpu.blocked", "cpu.other"])
    assert colours["torch"] == plots.COLOURS["torch"]
    assert len(set(colours.values())) == 4


def test_the_headline_is_our_fastest_variant_of_the_whole():
    rows = toy.rows(milliseconds={"torch": 1.0, "definition": 3.0, "cpu.blocked": 5.0})
    (row,) = plots.headline(rows)
    assert (row.phase, row.variant) == ("both", "definition")
