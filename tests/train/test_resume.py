"""A run that is stopped in any way continues to the weights, bit for bit, of one that is not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minilm import files
from minilm.train.checkpoint import load_checkpoint
from minilm.train.loop import TrainingOptions, train
from tests.train.toy import Toy, toy_data

ROOT = Path(__file__).parents[2]
OPTIONS = {"steps": 23, "warmup": 5, "eval_every": 6, "checkpoint_every": 4, "log_every": 3, "seed": 11}
VARIANTS = {
    "adamw, two micro-batches, clipped": {"micro_batches": 2, "clip": 0.2, "schedule": "cosine"},
    "sgd with momentum": {"optimizer": "sgd", "learning_rate": 0.1, "nesterov": True, "schedule": "linear"},
}


def start(run, options, pause=-1):
    command = [sys.executable, "-m", "tests.train.worker", str(run), json.dumps(options), str(pause)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, cwd=ROOT, text=True, **pipes)


def finish(process):
    out, err = process.communicate("\n", timeout=60)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def assert_same(run, other):
    """Weights, buffers, optimizer, best value and metrics are equal; only the speed may differ."""
    for name in ("last.safetensors", "best.safetensors"):
        one, two = load_checkpoint(run / name), load_checkpoint(other / name)
        assert one.info == two.info
        assert one.tensors.keys() == two.tensors.keys()
        for key, tensor in one.tensors.items():
            assert tensor.tobytes() == two.tensors[key].tobytes(), key
    assert [without_speed(line) for line in lines(run)] == [without_speed(line) for line in lines(other)]


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def without_speed(line):
    return {name: value for name, value in line.items() if name != "tokens_per_second"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_sigkill(variant, tmp_path):
    """Killed in the middle of step 14, two steps after a checkpoint and a log line, then resumed elsewhere."""
    options = OPTIONS | VARIANTS[variant]
    train(
        Toy(), toy_data(options.get("micro_batches", 1)), TrainingOptions(**options), tmp_path / "whole", progress=False
    )

    process = start(tmp_path / "killed", options, pause=14)
    assert process.stdout.readline() == "paused\n"
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert load_checkpoint(tmp_path / "killed/last.safetensors").info["step"] == 12

    assert finish(start(tmp_path / "killed", options)) == {"step": 23, "interrupted": False}
    assert_same(tmp_path / "whole", tmp_path / "killed")


class Killed(BaseException):
    """Stands for the end of the process: nothing in the loop may catch it for good."""


@pytest.mark.parametrize("moment", range(1, 11))
def test_death_while_writing(moment, tmp_path, monkeypatch):
    """The process dies at the n-th rename, having written the temporary file: the old checkpoint still stands."""
    options = TrainingOptions(**OPTIONS)
    train(Toy(), toy_data(), options, tmp_path / "whole", progress=False)
    calls, replace = [], os.replace

    def dies(source, target):
        calls.append(target)
        if len(calls) == moment:
            raise Killed
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", dies)
        with pytest.raises(Killed):
            train(Toy(), toy_data(), options, tmp_path / "dead", resume=True, progress=False)
    with open(tmp_path / "dead/last.safetensors.tmp", "wb") as left:
        left.write(b"half a file")
    if (tmp_path / "dead/metrics.jsonl").exists():
        with open(tmp_path / "dead/metrics.jsonl", "a") as metrics:
            metrics.write('{"step": 22, "lo')  # a line that was cut off
    train(Toy(), toy_data(), options, tmp_path / "dead", resume=True, progress=False)
    assert_same(tmp_path / "whole", tmp_path / "dead")


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_ctrl_c(tmp_path):
    """Ctrl-C finishes the step, writes a checkpoint and leaves with exit code 0."""
    train(Toy(), toy_data(), TrainingOptions(**OPTIONS), tmp_path / "whole", progress=False)
    process = start(tmp_path / "stopped", OPTIONS, pause=9)
    assert process.stdout.readline() == "paused\n"
    process.send_signal(signal.SIGINT)
    assert finish(process) == {"step": 10, "interrupted": True}
    assert load_checkpoint(tmp_path / "stopped/last.safetensors").info["step"] == 10
    assert lines(tmp_path / "stopped")[-1]["step"] == 10
    assert finish(start(tmp_path / "stopped", OPTIONS)) == {"step": 23, "interrupted": False}
    one, two = (load_checkpoint(tmp_path / run / "last.safetensors") for run in ("whole", "stopped"))
    assert one.info == two.info
    assert all(tensor.tobytes() == two.tensors[key].tobytes() for key, tensor in one.tensors.items())


def test_second_ctrl_c_stops_at_once_and_the_handler_comes_back(capfd):
    data, before = toy_data(), signal.getsignal(signal.SIGINT)
    draw = data.batch

    def batch(step, micro):
        if step == 2:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return draw(step, micro)

    data.batch = batch
    with pytest.raises(KeyboardInterrupt):
        train(Toy(), data, TrainingOptions(**OPTIONS), progress=False)
    assert signal.getsignal(signal.SIGINT) is before
    assert "ctrl-C again" in capfd.readouterr().err


def test_resume_refuses_other_options(tmp_path):
    train(Toy(), toy_data(), TrainingOptions(**OPTIONS), tmp_path, progress=False)
    for name, value in {"seed": 12, "learning_rate": 0.5, "optimizer": "sgd", "betas": (0.8, 0.9)}.items():
        with pytest.raises(ValueError, match=f"{name} was .* now it is"):
            train(Toy(), toy_data(), TrainingOptions(**OPTIONS | {name: value}), tmp_path, resume=True, progress=False)


def test_more_steps(tmp_path):
    """A finished run goes on with a larger number of steps, and does nothing with the same."""
    done = train(Toy(), toy_data(), TrainingOptions(**OPTIONS), tmp_path, progress=False)
    again = train(Toy(), toy_data(), TrainingOptions(**OPTIONS), tmp_path, resume=True, progress=False)
    assert (again.step, again.history, again.best) == (23, done.history, done.best)
    assert not again.interrupted
    more = train(Toy(), toy_data(), TrainingOptions(**OPTIONS | {"steps": 30}), tmp_path, resume=True, progress=False)
    assert more.step == 30
    assert [line["step"] for line in more.history] == sorted({line["step"] for line in more.history})


def test_an_existing_run_is_not_overwritten(tmp_path):
    train(Toy(), toy_data(), TrainingOptions(**OPTIONS), tmp_path, progress=False)
    before = (tmp_path / "last.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"last\.safetensors exists already"):
        train(Toy(), toy_data(), TrainingOptions(**OPTIONS), tmp_path, progress=False)
    assert (tmp_path / "last.safetensors").read_bytes() == before


def test_resume_without_a_checkpoint_starts(tmp_path):
    result = train(Toy(), toy_data(), TrainingOptions(**OPTIONS), tmp_path / "new", resume=True, progress=False)
    assert result.step == 23
    with pytest.raises(ValueError, match="directory"):
        train(Toy(), toy_data(), TrainingOptions(**OPTIONS), resume=True, progress=False)


def test_numpy_seed_state_plays_no_part(tmp_path):
    """Nothing draws from a generator that lives longer than a step: two runs in one process are equal."""
    models = [Toy(), Toy()]
    for model in models:
        train(model, toy_data(), TrainingOptions(**OPTIONS), progress=False)
    for name, tensor in models[0].state().items():
        np.testing.assert_array_equal(tensor, models[1].state()[name], err_msg=name)
