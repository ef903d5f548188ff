"""The choice of a configuration by timing: the logic, with a timer that is made up; no GPU is needed."""

from __future__ import annotations

import json

import numpy as np
import pytest

from minilm.kernels.cuda import autotune
from minilm.kernels.cuda.autotune import REPEATS, active, autotuning, bucket, choose, gpu_timer

X = np.zeros(1, np.float32)
KEY = {"dtype": "float32", "keys": 1024}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "choices.json"


class Bench:
    """Candidates that take a given time, and what was run."""

    def __init__(self, **milliseconds):
        self.milliseconds, self.ran = milliseconds, []

    def run(self, candidate):
        self.ran.append(candidate)

    def timer(self, run):
        run()
        return self.milliseconds[str(self.ran[-1])]

    def choose(self, path, candidates=("a", "b", "c"), key=KEY):
        with autotuning(timer=self.timer, path=path):
            return choose("kernel", key, candidates, self.run, like=X)


def test_the_fastest_is_chosen_and_every_candidate_is_run(path):
    bench = Bench(a=2.0, b=1.0, c=3.0)
    assert bench.choose(path) == "b"
    assert bench.ran == ["a", "b", "c"]


def test_the_default_wins_a_tie(path):
    assert Bench(a=1.0, b=1.0, c=1.0).choose(path) == "a"


def test_off_by_default(path, monkeypatch):
    monkeypatch.delenv("MINILM_AUTOTUNE", raising=False)
    bench = Bench()
    assert choose("kernel", KEY, ["a", "b"], bench.run, like=X) == "a"
    assert not active(X) and bench.ran == [] and not path.exists()


def test_numpy_arrays_get_the_default_unless_a_timer_is_given(path, monkeypatch):
    monkeypatch.setenv("MINILM_AUTOTUNE", "1")
    monkeypatch.setenv("MINILM_CACHE", str(path.parent))
    bench = Bench()
    assert choose("kernel", KEY, ["a", "b"], bench.run, like=X) == "a"
    with autotuning(path=path):
        assert not active(X)
        assert choose("kernel", KEY, ["a", "b"], bench.run, like=X) == "a"
    assert bench.ran == [] and not path.parent.exists()


def test_the_block_ends_with_an_exception(path):
    with pytest.raises(KeyError), autotuning(timer=Bench().timer, path=path):
        assert active(X)
        raise KeyError
    assert not active(X)


def test_a_single_candidate_is_not_timed(path):
    bench = Bench()
    assert bench.choose(path, candidates=["only"]) == "only"
    assert bench.ran == []


def test_no_candidates():
    with pytest.raises(ValueError, match="kernel: no candidates"):
        choose("kernel", KEY, [], print, like=X)


def test_choices_are_kept_by_key(path):
    assert Bench(a=2.0, b=1.0, c=3.0).choose(path) == "b"
    again = Bench()
    assert again.choose(path) == "b" and again.ran == []
    assert Bench(a=1.0, b=2.0, c=3.0).choose(path, key={**KEY, "keys": 2048}) == "a"
    assert again.choose(path) == "b" and again.ran == []


def test_choices_are_read_from_the_file(path, monkeypatch):
    Bench(a=2.0, b=1.0, c=3.0).choose(path)
    monkeypatch.setattr(autotune, "_known", {})  # as in another process
    again = Bench()
    assert again.choose(path) == "b" and again.ran == []
    (entry,) = json.loads(path.read_text()).items()
    assert json.loads(entry[0]) == {"kernel": "kernel", "device": "host", **KEY}
    assert entry[1] == {"candidates": ["a", "b", "c"], "milliseconds": [2.0, 1.0, 3.0], "choice": 1}
    assert [p.name for p in path.parent.iterdir()] == ["choices.json"]


def test_two_processes_keep_each_other_s_choices(path, monkeypatch):
    Bench(a=2.0, b=1.0, c=3.0).choose(path, key={"keys": 1})
    monkeypatch.setattr(autotune, "_known", {path: {}})  # read before the other one wrote
    Bench(a=1.0, b=2.0, c=3.0).choose(path, key={"keys": 2})
    assert len(json.loads(path.read_text())) == 2


def test_other_candidates_are_timed_again(path):
    Bench(a=2.0, b=1.0, c=3.0).choose(path)
    bench = Bench(a=2.0, b=1.0, d=0.5)
    assert bench.choose(path, candidates=["a", "b", "d"]) == "d"
    assert bench.ran == ["a", "b", "d"]


def test_candidates_may_be_numbers_and_tuples(path, monkeypatch):
    tiles = [(64, 64), (128, 32)]
    times = {str(tiles[0]): 2.0, str(tiles[1]): 1.0}
    assert Bench(**times).choose(path, candidates=tiles) == (128, 32)
    monkeypatch.setattr(autotune, "_known", {})
    assert Bench().choose(path, candidates=tiles) == (128, 32)  # a tuple again, not JSON's list


def test_an_error_of_a_candidate_is_not_hidden(path):
    def run(candidate):
        raise RuntimeError("too many resources requested")

    with autotuning(timer=lambda run: run(), path=path), pytest.raises(RuntimeError, match="too many resources"):
        choose("kernel", KEY, ["a", "b"], run, like=X)
    assert not path.exists()


BROKEN = ["", "[]", "{", '{"x": 1}', '{"x": {"candidates": ["a"], "milliseconds": [1.0], "choice": 1}}']


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_file_is_named(path, text):
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ValueError, match=r"choices\.json is no file of autotuned choices; delete it"):
        Bench().choose(path)
    assert path.read_text() == text


def test_bucket():
    assert [bucket(n) for n in (0, 1, 2, 3, 4, 5, 1000, 1024, 1025)] == [1, 1, 2, 4, 4, 8, 1024, 1024, 2048]


def test_a_gpu_s_time_is_the_median_of_runs_after_one_that_is_not_timed(monkeypatch):
    taken, log = iter(range(REPEATS)), []

    class Timer:
        def seconds(self, run):
            run()
            return next(taken) / 1e3

    monkeypatch.setattr(autotune, "DeviceTimer", lambda cupy: Timer())
    assert gpu_timer(None)(lambda: log.append("run")) == REPEATS // 2
    assert len(log) == 1 + REPEATS
