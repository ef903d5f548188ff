"""The right gradient passes, both mistakes are named, and the layer learns."""

from __future__ import annotations

import numpy as np
import pytest

from minilm.gradcheck import LawViolation, check_laws, check_layer, gradcheck
from tests.examples import load

example = load("gradient_of_your_own")


def arguments():
    rng = np.random.default_rng(0)
    return rng.normal(size=(3, 6)), rng.normal(size=(4, 6))


def test_the_right_gradient_passes():
    report = gradcheck(example.cosine, example.cosine_backward, arguments(), method="complex-step", mode="full")
    assert report.passed and report.max_rel_error < 1e-13
    check_laws(example.cosine, example.cosine_backward, arguments())


def test_the_wrong_one_fails_at_x_alone():
    report = gradcheck(example.cosine, example.cosine_backward_wrong, arguments())
    assert {row.argument for row in report.failures} == {"x"}
    assert "FAIL cosine x" in str(report) and "repeat with: gradcheck(" in str(report)


def test_writing_to_the_cache_breaks_a_law_that_numbers_do_not_show():
    assert gradcheck(example.cosine, example.cosine_backward_in_place, arguments()).passed
    with pytest.raises(LawViolation, match=r"cache kept.*writes to cache\.x_unit"):
        check_laws(example.cosine, example.cosine_backward_in_place, arguments())


def test_the_layer_passes_with_freezing():
    layer = example.Cosine(6, 4, 5.0, np.random.default_rng(0))
    report = check_layer(layer, arguments()[0])
    assert report.passed and {row.argument for row in report.rows} == {"x", "weight"}


def test_it_learns_to_tell_the_books(capsys):
    assert example.main(steps=200) > 0.75  # the most frequent book alone gives 0.58
    text = capsys.readouterr().out
    assert text.count("gradcheck passed") == 2 and text.count("gradcheck FAILED") == 1
    assert "cache kept" in text
    psalms = next(line for line in text.splitlines() if line.startswith("Psalms "))
    assert "lord" in psalms.split()
