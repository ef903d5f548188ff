"""The commands end to end on small texts: what a user types, what they get back, and the run it leaves behind."""

from __future__ import annotations

import json

import numpy as np
import pytest

from minilm.cli import main
from minilm.ops import softmax
from minilm.train.checkpoint import load_checkpoint

BEASTS, PLACES = ("lamb", "lion", "dove", "ox"), ("hill", "river", "city", "field", "garden", "desert")
VERSES = "".join(
    f"And the {beast} of the {place} went up by night, and it was good.\n" for beast in BEASTS for place in PLACES
)

SMALL = ["--layers", "1", "--heads", "2", "--width", "16", "--context", "16", "--device", "cpu", "--quiet"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    (folder / "text.txt").write_text(VERSES * 4)
    rows = ["text,label"]
    for number in range(60):
        good = number % 2
        film, label = ("a fine, warm film", "good") if good else ("a dull, cold film", "bad")
        rows.append(f'"{film} for {BEASTS[number % 4]} and {PLACES[number % 6]}",{label}')
    (folder / "reviews.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def language_run(folder):
    run = folder / "lm"
    arguments = ["--preset", "gpt", "--data", str(folder / "text.txt"), "--out", str(run), "--steps", "30", *SMALL]
    assert main(["train", *arguments, "--tokenizer", "char", "--batch-size", "4"]) == 0
    return run


@pytest.fixture(scope="module")
def classifier_run(folder, language_run):
    run = folder / "classifier"
    data = ["--data", str(folder / "reviews.csv"), "--out", str(run)]
    training = ["--epochs", "15", "--batch-size", "8", "--learning-rate", "0.01", "--device", "cpu", "--quiet"]
    assert main(["finetune", "lstm-classifier", *data, *training]) == 0
    return run


@pytest.fixture
def verses_csv(tmp_path):
    """Labelled texts in the characters that the language model knows."""
    rows = [f"And the {beast} of the {place},{beast in BEASTS[:2]}" for beast in BEASTS for place in PLACES]
    path = tmp_path / "verses.csv"
    path.write_text("\n".join(["text,label", *rows]) + "\n")
    return path


def test_a_run_holds_all_that_is_needed(language_run):
    names = {path.name for path in language_run.iterdir()}
    assert {"config.json", "tokenizer.json", "metrics.jsonl", "last.safetensors", "best.safetensors"} <= names
    rows = [json.loads(line) for line in (language_run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 30
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_generate_streams_the_same_text_for_the_same_seed(language_run, capsys):
    texts = []
    for seed in ("1", "1", "2"):
        arguments = ["--prompt", "And the ", "--tokens", "40", "--seed", seed, "--device", "cpu"]
        assert main(["generate", str(language_run), *arguments]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith("And the ")
    assert len(texts[0]) == len("And the ") + 40 + 1  # characters, and the line's end


def test_evaluate_a_language_model(language_run, folder, capsys):
    assert main(["evaluate", str(language_run), "--json", "--device", "cpu"]) == 0
    held_out = json.loads(capsys.readouterr().out)
    assert 0 < held_out["loss"] < 4
    assert held_out["perplexity"] == pytest.approx(2.718281828 ** held_out["loss"], rel=1e-6)
    assert main(["evaluate", str(language_run), "--data", str(folder / "text.txt"), "--device", "cpu"]) == 0
    assert "perplexity" in capsys.readouterr().out


def test_classifier_learns_evaluates_and_predicts(classifier_run, folder, capsys):
    data = ["--data", str(folder / "reviews.csv"), "--device", "cpu"]
    assert main(["evaluate", str(classifier_run), *data, "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores.keys() >= {"accuracy", "precision", "recall", "f1"}
    assert scores["accuracy"] > 0.9
    assert main(["predict", str(classifier_run), "a fine, warm film", "a dull, cold film", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["good", "bad"]


@pytest.mark.parametrize("method", ["full", "head", "lora"])
def test_finetune_from_a_pretrained_run(method, language_run, verses_csv, tmp_path):
    data = ["--data", str(verses_csv), "--out", str(tmp_path / "run"), "--method", method]
    training = ["--epochs", "2", "--batch-size", "4", "--device", "cpu", "--quiet"]
    training += ["--rank", "2"] if method == "lora" else []
    assert main(["finetune", str(language_run), *data, *training]) == 0
    before = load_checkpoint(language_run / "best.safetensors").model_tensors()
    after = load_checkpoint(tmp_path / "run" / "last.safetensors").model_tensors()
    backbone = {name.replace(".base.", "."): array for name, array in after.items() if ".lora" not in name}
    backbone = {name: array for name, array in backbone.items() if name.startswith("backbone.")}
    assert backbone.keys() == {name for name in before if name.startswith("backbone.")}
    same = [np.array_equal(array, before[name]) for name, array in backbone.items()]
    assert all(same) if method != "full" else not any(same)


def test_info_of_a_run_of_a_preset_and_of_nothing(language_run, capsys):
    assert main(["info", str(language_run)]) == 0
    assert "parameters" in capsys.readouterr().out
    assert main(["info", "gpt"]) == 0
    assert "context" in capsys.readouterr().out
    assert main(["info"]) == 0
    assert "lstm-classifier" in capsys.readouterr().out


def test_resume_of_a_finished_run_changes_nothing(language_run):
    before = (language_run / "last.safetensors").read_bytes()
    assert main(["train", "--resume", "--out", str(language_run), "--device", "cpu", "--quiet"]) == 0
    assert (language_run / "last.safetensors").read_bytes() == before


def test_gradcheck_of_one_op(capsys):
    assert main(["gradcheck", "softmax", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows
    assert all(row.keys() >= {"op", "argument", "method", "max_rel_error", "passed"} for row in rows)
    assert all(row["passed"] and row["max_rel_error"] <= 1e-11 for row in rows)


def test_gradcheck_exits_1_when_a_gradient_is_wrong(monkeypatch, capsys):
    right = softmax.backward
    monkeypatch.setattr(softmax, "backward", lambda dy, cache: 1.001 * right(dy, cache))
    assert main(["gradcheck", "softmax"]) == 1
    assert "softmax" in capsys.readouterr().out
