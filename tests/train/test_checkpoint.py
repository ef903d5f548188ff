"""Checkpoints: what goes in comes out; damage anywhere is one clear error; a failed write leaves the old file."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from safetensors.numpy import save_file

from minilm import files
from minilm.layers.linear import Linear
from minilm.layers.normalization import BatchNorm
from minilm.optim.adam import AdamW
from minilm.train.checkpoint import load_checkpoint, save_checkpoint


def tiny(seed=0):
    return Linear(2, 3, rng=np.random.default_rng(seed))


def test_round_trip(tmp_path, xp, rng):
    layer = tiny().to(xp.module)
    optimizer = AdamW(layer)
    for _ in range(2):
        optimizer.accumulate({n: xp.asarray(rng.normal(size=p.shape).astype("f4")) for n, p in layer.params.items()})
        optimizer.step()
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, layer, optimizer, {"step": 2, "text": "Ω", "best": None})
    assert os.listdir(tmp_path) == ["last.safetensors"]  # no temporary file is left

    checkpoint = load_checkpoint(path)
    assert checkpoint.info == {"step": 2, "text": "Ω", "best": None, "format": 1}
    assert {name.split(".")[0] for name in checkpoint.tensors} == {"model", "optimizer"}
    other = tiny(1).to(xp.module)
    restored = AdamW(other)
    checkpoint.restore(other, restored)
    assert restored.steps == 2
    for name, array in {**layer.state(), **optimizer.state()}.items():
        got = {**other.state(), **restored.state()}[name]
        np.testing.assert_array_equal(xp.to_numpy(got), xp.to_numpy(array), err_msg=name)
    assert other.weight is restored.flat.slots["weight"].value


def test_buffers_and_odd_layouts(tmp_path):
    """Running statistics are saved, and so is a transposed array in its own order."""
    layer = BatchNorm(3)
    layer.buffers["running_mean"] = np.arange(3.0, dtype="f4")[::-1]
    layer.params["weight"] = np.arange(6.0, dtype="f4").reshape(2, 3).T
    save_checkpoint(tmp_path / "x", layer)
    tensors = load_checkpoint(tmp_path / "x").model_tensors()
    np.testing.assert_array_equal(tensors["running_mean"], [2, 1, 0])
    np.testing.assert_array_equal(tensors["weight"], [[0, 3], [1, 4], [2, 5]])


def test_truncated_at_any_byte(tmp_path):
    layer = tiny()
    save_checkpoint(tmp_path / "whole", layer, AdamW(layer), {"step": 1})
    data = (tmp_path / "whole").read_bytes()
    path = tmp_path / "cut"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"cut: damaged, or not a checkpoint.*take another"):
            load_checkpoint(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(ValueError, match="damaged"):
        load_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n" * 9, b"{}", b"\x80\x04K\x01.", b"\xff" * 64], ids=repr)
def test_foreign_files(content, tmp_path):
    path = tmp_path / "foreign.bin"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"foreign\.bin: damaged, or not a checkpoint"):
        load_checkpoint(path)


def test_foreign_safetensors_and_versions(tmp_path):
    path = tmp_path / "other.safetensors"
    tensors = {"weight": np.zeros(2, "f4")}
    for metadata, problem in (
        (None, "another safetensors file"),
        ({"format": "pt"}, "another safetensors file"),
        ({"minilm": "{"}, "not valid JSON"),
        ({"minilm": "[]"}, "format None"),
        ({"minilm": json.dumps({"format": 2})}, "format 2, this minilm reads format 1"),
    ):
        save_file(tensors, path, metadata=metadata)
        with pytest.raises(ValueError, match=rf"other\.safetensors: .*{problem}"):
            load_checkpoint(path)


def test_missing(tmp_path):
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(ValueError, match="no such checkpoint"):
            load_checkpoint(path)


def test_does_not_fit(tmp_path):
    path = tmp_path / "x"
    save_checkpoint(path, tiny())
    with pytest.raises(ValueError, match="shape"):
        load_checkpoint(path).restore(Linear(3, 3, rng=np.random.default_rng(0)))
    other = tiny(1)
    before = other.weight.copy()
    with pytest.raises(ValueError, match="no optimizer"):
        load_checkpoint(path).restore(other, AdamW(other))
    np.testing.assert_array_equal(other.weight, before)  # nothing was changed


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(step, tmp_path, monkeypatch):
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, tiny(), info={"step": 1})

    def fails(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(files.os, step, fails)
    with pytest.raises(OSError, match="disk is full"):
        save_checkpoint(path, tiny(1), info={"step": 2})
    assert load_checkpoint(path).info["step"] == 1
    assert os.listdir(tmp_path) == ["last.safetensors"]


def test_not_a_number_is_no_json(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        save_checkpoint(tmp_path / "x", tiny(), info={"best": float("nan")})
    assert not os.listdir(tmp_path)
