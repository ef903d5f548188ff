"""Whole jobs on small texts: what a run holds, what it starts from, and what is refused before anything is written."""

from __future__ import annotations

import json

import numpy as np
import pytest

from minilm import runs
from minilm.adapt.wrapping import merge, wrappers
from minilm.runs.config import RunConfig
from minilm.train.checkpoint import load_checkpoint

BEASTS, PLACES = ("lamb", "lion", "dove", "ox"), ("hill", "river", "city", "field", "garden", "desert")
TEXT = "".join(f"And the {b} of the {p} went up by night, and it was good.\n" for b in BEASTS for p in PLACES) * 4
SMALL = {"layers": 1, "heads": 2, "width": 16, "context": 16}
QUIET = {"device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text.txt").write_text(TEXT)
    rows = [f'"the {b} of the {p}",{"tame" if b in ("lamb", "ox") else "wild"}' for b in BEASTS for p in PLACES] * 2
    rows = [row.replace("the", f"the {number}", 1) for number, row in enumerate(rows)]
    (folder / "beasts.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    options = {"model": SMALL, "training": {"steps": 4, "batch_size": 4}}
    runs.pretrain("gpt", folder / "text.txt", folder / "lm", vocabulary={"unknown": True}, **options, **QUIET)
    return folder


def finetune(folder, out, base="lm", **options):
    start = folder / base if (folder / base).exists() else base
    given = {"training": {"epochs": 1, "batch_size": 8}} | options
    return runs.finetune(start, folder / "beasts.csv", out, **given, **QUIET)


@pytest.fixture(scope="module")
def adapted(folder):
    """A run with adapters that have moved."""
    training = {"epochs": 3, "batch_size": 8, "learning_rate": 0.05}
    return finetune(folder, folder / "adapted", method="lora", adaptation={"rank": 2}, training=training).run


def test_the_configuration_comes_back(folder, adapted):
    for directory in (folder / "lm", folder / "adapted"):
        config = RunConfig.load(directory)
        assert config == runs.open_run(directory, device="cpu").config
    assert adapted.config.adaptation.rank == 2 and adapted.config.model.head.labels == ("tame", "wild")


def test_a_run_of_the_version_before_is_refused_with_what_to_do(folder, tmp_path):
    old = {"minilm": "0.1.0", "task": "language-model", "model": {"preset": "gpt"}, "head": None, "method": "full"}
    (tmp_path / "config.json").write_text(json.dumps(old))
    with pytest.raises(
        ValueError, match=r"config.json is of minilm 0.1.0, in another format .*; use it with that version"
    ):
        runs.open_run(tmp_path)


@pytest.mark.parametrize(
    "path, value, message",
    [
        (("model", "task"), "divination", "task 'divination' is unknown"),
        (("model", "options", "colour"), 3, "option of transformer 'colour' is unknown"),
        (("model", "options", "layers"), -1, "layers is -1"),
        (("method",), "magic", "method 'magic' is unknown"),
        (("training", "clip"), "high", "clip is 'high'"),
        (("more",), 1, "expected .*, got .*more"),
    ],
)
def test_a_damaged_configuration_is_told(path, value, message, folder, tmp_path):
    config = json.loads((folder / "lm" / "config.json").read_text())
    place = config
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"config.json is damaged .*{message}"):
        RunConfig.load(tmp_path)


def test_finetuning_starts_from_the_weights_of_the_base(folder, tmp_path):
    run = finetune(folder, tmp_path / "run", method="head").run
    base = load_checkpoint(folder / "lm" / "best.safetensors").model_tensors()
    state = run.model.state()
    for name, tensor in base.items():
        if name.startswith("backbone."):
            np.testing.assert_array_equal(state[name], tensor)


def test_finetuning_an_adapted_run_starts_from_its_merged_weights(folder, adapted, tmp_path):
    run = finetune(folder, tmp_path / "run", base="adapted", method="head").run
    model = runs.open_run(folder / "adapted", device="cpu").model
    assert wrappers(model)
    merge(model)
    want, state = model.state(), run.model.state()
    moved = load_checkpoint(folder / "lm" / "best.safetensors").model_tensors()
    names = [name for name in want if name.startswith("backbone.")]
    assert any((want[name] != moved[name]).any() for name in names)
    for name in names:
        np.testing.assert_array_equal(state[name], want[name])


def test_a_language_model_is_tuned_on_other_text(folder, tmp_path):
    (tmp_path / "more.txt").write_text(TEXT.replace("good", "great"))
    options = {"task": "language-modelling", "training": {"steps": 3, "batch_size": 4}}
    trained = runs.finetune(folder / "lm", tmp_path / "more.txt", tmp_path / "run", **options, **QUIET)
    assert trained.scores["perplexity"] > 1 and trained.run.config.model.options.context == 16


@pytest.mark.parametrize(
    "base, options, message",
    [
        ("lm", {"model": {"layers": 2}}, "the base is trained already: its layers can't be changed"),
        ("lm", {"vocabulary": {"vocab_size": 9}}, "has a vocabulary already"),
        ("lm", {"method": "full", "adaptation": {"rank": 2}}, "method full has no option 'rank'"),
        (
            "lm",
            {"method": "lora", "adaptation": {"ranc": 2}},
            "option of method lora 'ranc' is unknown; did you mean rank",
        ),
        ("lm", {"method": "lora", "adaptation": {"rank": 99}}, "rank 99 does not fit"),
        ("lm", {"data": {"validation": 0.2}}, "option of classification 'validation' is unknown"),
        ("lm", {"task": "divination"}, "task 'divination' is unknown"),
        ("lm", {"training": {"steps": 2, "epochs": 1}}, "both say how long"),
        ("lm", {"training": {"learning_rat": 1}}, "did you mean learning_rate"),
        ("gpt", {"model": {"tied": True}}, "tied is an option of language-modelling, not of classification"),
        ("bag-of-words", {"model": {"pooling": "max"}}, "no hidden vectors for max pooling"),
        ("gtp", {}, "gtp is no run directory; preset 'gtp' is unknown; did you mean gpt"),
    ],
)
def test_what_is_refused_leaves_nothing(base, options, message, folder, tmp_path):
    with pytest.raises(ValueError, match=message):
        finetune(folder, tmp_path / "run", base=base, **options)
    assert not (tmp_path / "run").exists()


def test_a_start_that_fails_late_leaves_what_was_there(folder, tmp_path):
    (tmp_path / "short.txt").write_text("In the beginning.")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="context"):
        runs.pretrain("gpt", tmp_path / "short.txt", tmp_path / "run", model=SMALL, **QUIET)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


def test_options_of_an_evaluation_act_or_are_refused(folder, adapted):
    whole = runs.evaluate(adapted)
    assert runs.evaluate(adapted, max_length=1)["loss"] != whole["loss"]
    with pytest.raises(ValueError, match="option of classification 'validation' is unknown"):
        runs.evaluate(adapted, validation=0.2)
    with pytest.raises(ValueError, match="max_examples says how many texts are trained on"):
        runs.evaluate(adapted, max_examples=3)
    with pytest.raises(ValueError, match="text_column says nothing about text"):
        runs.evaluate(runs.open_run(folder / "lm", device="cpu"), text_column="text")
