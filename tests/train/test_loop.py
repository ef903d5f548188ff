"""The loop: it learns, logs, validates, keeps the best, adds micro-batches up, stops at NaN, waits for no device."""

from __future__ import annotations

import json
import math
import threading

import numpy as np
import pytest

from minilm.backend import to_numpy
from minilm.text.batching import IGNORED, LanguageBatch
from minilm.train import Metric
from minilm.train.checkpoint import load_checkpoint
from minilm.train.loop import TrainingDiverged, TrainingOptions, train
from tests.train.toy import FakeData, Toy, toy_data

FEW = {"steps": 12, "eval_every": 4, "checkpoint_every": 4, "log_every": 2}


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_learns(optimizer, xp):
    model = Toy(dropout=0.1).to(xp.module)
    options = TrainingOptions(steps=60, optimizer=optimizer, learning_rate=0.1, warmup=5, seed=1)
    result = train(model, toy_data(), options, progress=False)
    assert result.history[0]["loss"] > 1.5
    assert result.best["value"] < 1.2
    assert result.step == 60
    assert result.best["step"] == result.history[-1]["step"] == 60
    assert all(p.dtype == np.float32 for p in model.parameters().values())


def test_same_on_both_libraries(xp):
    """The same data and the same dropout, so the same weights but for rounding."""
    models = [Toy(), Toy().to(xp.module)]
    results = [train(model, toy_data(2), TrainingOptions(**FEW, micro_batches=2), progress=False) for model in models]
    assert results[0].best["value"] == pytest.approx(results[1].best["value"], rel=1e-5)
    for name, tensor in models[1].state().items():
        np.testing.assert_allclose(to_numpy(tensor), models[0].state()[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_waits_for_the_device_only_to_log(xp):
    if xp.name != "strict":
        pytest.skip("only the stand-in sees a synchronisation")
    from tests import strict_cupy

    model, data, seen = Toy(norm=False).to(xp.module), toy_data(), []
    loss = model.loss

    def counted(batch, **options):
        seen.append(sum(kind == "sync" for kind, *_ in strict_cupy.events))
        return loss(batch, **options)

    model.loss = counted
    options = TrainingOptions(steps=9, log_every=4, eval_every=0, checkpoint_every=0, clip=1.0)
    train(model, data, options, progress=False)
    assert len(set(seen[:4])) == len(set(seen[4:8])) == 1  # nothing is read back within steps 1–4, and 5–8
    assert seen[4] - seen[3] == 1  # one transfer for all numbers of a log line


def test_files_and_metrics(tmp_path, capsys):
    result = train(Toy(), toy_data(), TrainingOptions(**FEW), tmp_path, progress=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.safetensors", "last.safetensors", "metrics.jsonl"]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == result.history
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
    assert all(line.keys() >= {"loss", "learning_rate", "grad_norm", "tokens_per_second"} for line in lines)
    assert [line["step"] for line in lines if "val_loss" in line] == [4, 8, 12]

    best, last = (load_checkpoint(tmp_path / f"{name}.safetensors") for name in ("best", "last"))
    assert last.info["step"] == 12
    assert last.info["best"] == result.best == {"name": "val_loss", **best_of(lines)}
    assert best.info["step"] == result.best["step"]
    assert not best.optimizer_tensors() and last.optimizer_tensors()

    out, err = capsys.readouterr()
    assert out == ""
    assert "loss=" in err and "tokens/s=" in err and "12/12" in err


def best_of(lines):
    line = min((line for line in lines if "val_loss" in line), key=lambda line: line["val_loss"])
    return {"value": line["val_loss"], "step": line["step"]}


def test_quiet(capsys):
    train(Toy(), toy_data(), TrainingOptions(**FEW), progress=False)
    assert capsys.readouterr() == ("", "")


def test_the_logged_loss_is_the_mean_since_the_last_line():
    one, many = (train(Toy(), toy_data(), TrainingOptions(**FEW | {"log_every": n}), progress=False) for n in (1, 4))
    losses = [line["loss"] for line in one.history]
    np.testing.assert_allclose(
        [line["loss"] for line in many.history], np.reshape(losses, (3, 4)).mean(axis=1), rtol=1e-6
    )


class Given(FakeData):
    """Batches of the test's own, the same at every step."""

    def __init__(self, *batches):
        self.batches, self.micro_batches = batches, len(batches)

    def batch(self, step, micro):
        return self.batches[micro]


@pytest.mark.parametrize("first", [3, 1, 5])
def test_micro_batches_equal_one_large_batch(first, rng):
    """Also where they are not equally large: the mean is over all tokens."""
    ids = rng.integers(0, 7, (6, 5))
    whole = LanguageBatch(ids, (ids + 1) % 7)
    parts = [LanguageBatch(*(array[rows] for array in whole)) for rows in (slice(first), slice(first, None))]
    models = [Toy(dropout=0.0, norm=False, dtype="float64") for _ in range(2)]
    results = [
        train(model, Given(*batches), TrainingOptions(steps=5, micro_batches=len(batches), log_every=1), progress=False)
        for model, batches in zip(models, ([whole], parts), strict=True)
    ]
    for line, other in zip(results[0].history, results[1].history, strict=True):
        assert line["loss"] == pytest.approx(other["loss"], rel=1e-12)
        assert line["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-10)
    for name, array in models[0].parameters().items():
        np.testing.assert_allclose(array, models[1].parameters()[name], rtol=1e-9, atol=1e-12)


def test_micro_batches_draw_different_dropout():
    """Twice the same batch in one step must not be dropped out twice in the same way."""
    model, seen = Toy(), []
    loss = model.loss

    def spied(batch, *, train=True, cache=True, rng=None):
        if train:
            seen.append(rng.bit_generator.state["state"]["state"])
        return loss(batch, train=train, cache=cache, rng=rng)

    model.loss = spied
    train(model, toy_data(2), TrainingOptions(**FEW, micro_batches=2), progress=False)
    assert len(seen) == len(set(seen)) == 24
    with pytest.raises(ValueError, match="2 micro-batches"):
        train(Toy(), toy_data(2), TrainingOptions(**FEW), progress=False)


# ---- numbers that are not finite


class Poisoned(Toy):
    """The gradient of `name` becomes `value` at the step number `step`."""

    def __init__(self, step, name, value, **options):
        super().__init__(**options)
        self.step, self.name, self.value, self.calls = step, name, value, 0

    def loss_backward(self, dloss, cache):
        self.calls += 1
        grads = super().loss_backward(dloss, cache)
        if self.calls == self.step:
            grads[self.name].reshape(-1)[:1] = self.value
        return grads


@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["embedding.weight", "head.bias"])
def test_stops_at_a_gradient_that_is_not_finite(name, value, clip, tmp_path):
    model = Poisoned(7, name, value)
    with pytest.raises(TrainingDiverged, match=rf"^step 7: .*gradient of {name}.* is of step 4$"):
        train(model, toy_data(), TrainingOptions(**FEW, clip=clip), tmp_path, progress=False)
    assert load_checkpoint(tmp_path / "last.safetensors").info["step"] == 4
    assert all(np.isfinite(p).all() for p in model.parameters().values())  # the bad step was not taken
    # and the run can be continued
    assert train(Toy(), toy_data(), TrainingOptions(**FEW, clip=clip), tmp_path, resume=True, progress=False).step == 12


def test_stops_at_a_parameter_that_is_not_finite():
    model = Toy(norm=False)
    model.head.weight[0, 0] = np.nan
    with pytest.raises(TrainingDiverged, match=r"^step 1: the loss is nan, .*parameter head\.weight itself"):
        train(model, toy_data(), TrainingOptions(**FEW), progress=False)


def test_stops_where_the_device_is_read(xp, tmp_path):
    """On a GPU the step is known exactly, though only when the next line is logged; no checkpoint holds NaN."""
    model = Poisoned(6, "head.bias", np.nan).to(xp.module)
    options = TrainingOptions(steps=12, eval_every=0, checkpoint_every=4, log_every=100)
    with pytest.raises(TrainingDiverged, match=r"^step 6: .*of step 4$"):
        train(model, toy_data(), options, tmp_path, progress=False)
    assert all(np.isfinite(tensor).all() for tensor in load_checkpoint(tmp_path / "last.safetensors").tensors.values())


def test_a_learning_rate_far_too_large_is_one_error(tmp_path):
    """Overflow inside the model makes no warnings (they are errors here) but ends in the one message."""
    options = TrainingOptions(**FEW, optimizer="sgd", learning_rate=1e30, momentum=0.0, clip=0.0)
    with pytest.raises(TrainingDiverged, match=r"Lower the learning rate \(now 1e\+30\)|validation gives"):
        train(Toy(norm=False), toy_data(), options, tmp_path, progress=False)


# ---- options


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("steps", -5),
        ("steps", 2.5),
        ("micro_batches", 0),
        ("log_every", 0),
        ("eval_every", -1),
        ("checkpoint_every", -1),
        ("warmup", -1),
        ("seed", -1),
        ("learning_rate", -0.1),
        ("learning_rate", float("nan")),
        ("learning_rate", "fast"),
        ("weight_decay", float("inf")),
        ("clip", -1.0),
        ("momentum", -1.0),
        ("min_lr_ratio", 1.5),
        ("optimizer", "lion"),
        ("schedule", "step"),
        ("betas", (0.9, 1.0)),
        ("betas", 0.9),
    ],
)
def test_impossible_options(name, value):
    with pytest.raises(ValueError, match=f"^{name} ") as error:
        TrainingOptions(**{name: value})
    assert repr(value) in str(error.value)


def test_the_best_of_a_score_that_rises_is_the_highest(tmp_path):
    data, scores = toy_data(), iter([0.5, 0.7, 0.6])
    data.metric = Metric("val_accuracy", higher_is_better=True)
    data.validate = lambda model: {"val_loss": 1.0, "val_accuracy": next(scores)}
    result = train(Toy(), data, TrainingOptions(**FEW), tmp_path, progress=False)
    assert result.best == {"name": "val_accuracy", "value": 0.7, "step": 8}
    assert load_checkpoint(tmp_path / "best.safetensors").info["step"] == 8


def test_steps_or_epochs():
    data = toy_data()
    assert TrainingOptions().steps == 1000
    options = TrainingOptions(epochs=2.5).for_data(data)
    assert options.steps == math.ceil(2.5 * data.steps_per_epoch) and options.epochs is None
    assert options.eval_every == data.eval_every
    assert TrainingOptions(steps=3, eval_every=0).for_data(data).eval_every == 0
    with pytest.raises(ValueError, match=r"steps 3 and epochs 2\.0 both say how long"):
        TrainingOptions(steps=3, epochs=2)


def test_a_micro_batch_with_nothing_to_predict_counts_for_nothing():
    """Its own mean is of no terms, NaN; the step is that of the others alone."""
    ids = np.array([[1, 2, 3], [3, 4, 5]])
    some, none = LanguageBatch(ids, ids + 1), LanguageBatch(ids, np.full_like(ids, IGNORED))
    options = {"steps": 2, "log_every": 1, "warmup": 0}
    one, other = Toy(0.0, norm=False), Toy(0.0, norm=False)
    alone = train(one, Given(some), TrainingOptions(**options), progress=False)
    both = train(other, Given(some, none), TrainingOptions(**options, micro_batches=2), progress=False)
    assert [line["loss"] for line in both.history] == [line["loss"] for line in alone.history]
    with pytest.raises(ValueError, match="step 1: the batch has nothing to predict"):
        train(Toy(0.0, norm=False), Given(none), TrainingOptions(**options), progress=False)


def test_runs_in_a_thread(tmp_path):
    """Outside of the main thread no signal handler can be installed; training works all the same."""
    done = []
    thread = threading.Thread(
        target=lambda: done.append(train(Toy(), toy_data(), TrainingOptions(**FEW), tmp_path, progress=False))
    )
    thread.start()
    thread.join()
    assert done[0].step == 12


def test_frozen_parameters_do_not_move():
    model = Toy()
    model.freeze("embedding.*")
    before = model.embedding.weight.copy()
    train(model, toy_data(), TrainingOptions(**FEW), progress=False)
    np.testing.assert_array_equal(model.embedding.weight, before)
