"""The demo at a tiny scale: every stage runs, and what it promises lies in its directory."""

from __future__ import annotations

import pytest

from minilm.cli import demo, main, plots

TINY = demo.Scale(
    {"layers": 1, "heads": 2, "width": 16, "context": 32},
    {"steps": 3, "batch_size": 4, "learning_rate": 1e-3, "eval_every": 3},
    examples=200,
    epochs=1,
    samples=5,
)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The directory, and what was printed."""
    import contextlib
    import io

    out, text = tmp_path_factory.mktemp("demo") / "out", io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(text):
        patch.setattr(demo, "QUICK", TINY)
        assert main(["demo", "--quick", "--out", str(out), "--device", "cpu"]) == 0
    return out, text.getvalue()


def test_the_comparison(shown):
    out, text = shown
    assert {path.name for path in out.iterdir() if path.is_dir()} == {
        "pretrained", "bag-of-words", "head", "lora", "full",
    }  # fmt: skip
    lines = {line.split("  ")[1].strip(): line.split() for line in text.splitlines() if line.count(".") >= 4}
    assert lines.keys() >= {"bag of words", "head", "lora", "full"}
    trained = {name: int(line[-2].replace(",", "")) for name, line in lines.items() if name in ("head", "lora")}
    assert trained["head"] == 17  # 16 weights and a bias
    assert trained["lora"] > 17
    for name in ("bag of words", "head", "lora", "full"):
        assert all(0 <= float(score) <= 1 for score in lines[name][-6:-2])


def test_samples_begin_with_their_prompts(shown):
    for prompt in demo.PROMPTS:
        assert prompt in shown[1]


def test_plots(shown):
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    for name in ("loss.png", "attention.png", "confusion.png"):
        picture = imread(shown[0] / name)
        assert picture.shape[0] > 200
        assert picture.std() > 0.01  # something is drawn


def test_without_matplotlib_it_says_so(shown, monkeypatch, capsys):
    monkeypatch.setattr(plots, "available", lambda: False)
    demo._draw(shown[0], None, {})
    assert "minilm[plot]" in capsys.readouterr().out


def test_a_second_demo_takes_another_directory(tmp_path):
    wanted = tmp_path / "minilm-demo"
    assert demo._free_directory(wanted) == wanted
    wanted.mkdir()
    assert demo._free_directory(wanted).name == "minilm-demo-2"
