"""Checkpoints: one safetensors file with weights, optimizer and progress, replaced as a whole or not at all.

    tensors    model.*       parameters and buffers by name
               optimizer.*   moments, step count
    metadata   "minilm"      one JSON object: format version, model config, step, best value, ...

A file is written under a temporary name in the same directory, flushed to the disk, and renamed over the old one: a
process that is killed at any moment leaves the old file or the new one. Reading trusts nothing: there is no pickle, and
a file that is truncated, foreign or of another version is one ValueError.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from minilm.backend import Array, to_numpy
from minilm.files import parse_json, replacing
from minilm.layers.base import Layer
from minilm.optim.optimizer import Optimizer

FORMAT = 1
KEY = "minilm"  # the entry of the safetensors metadata, which may hold strings only


class Checkpoint(NamedTuple):
    """What a file held: host arrays by full name, and the JSON object."""

    tensors: dict[str, np.ndarray]
    info: dict[str, Any]

    def model_tensors(self) -> dict[str, np.ndarray]:
        """Parameters and buffers, as `Layer.load_state` takes them."""
        return self._part("model.")

    def optimizer_tensors(self) -> dict[str, np.ndarray]:
        """As `Optimizer.load_state` takes them; empty where none was saved."""
        return self._part("optimizer.")

    def _part(self, prefix: str) -> dict[str, np.ndarray]:
        return {key.removeprefix(prefix): array for key, array in self.tensors.items() if key.startswith(prefix)}

    def restore(self, model: Layer, optimizer: Optimizer | None = None) -> None:
        """Copy the tensors into `model`, and into `optimizer` if given. ValueError where they do not fit."""
        state = self.optimizer_tensors()
        if optimizer is not None and not state:
            raise ValueError(
                "this checkpoint holds no optimizer, so training cannot continue from it; take the last one"
            )
        model.load_state(self.model_tensors())
        if optimizer is not None:
            optimizer.load_state(state)


def save_checkpoint(
    path: str | Path, model: Layer, optimizer: Optimizer | None = None, info: dict[str, Any] | None = None
) -> None:
    """Write model, optimizer and `info` (anything that JSON can say) to `path`, replacing it in one move."""
    tensors = _on_host("model.", model.state())
    if optimizer is not None:
        tensors |= _on_host("optimizer.", optimizer.state())
    text = json.dumps({**(info or {}), "format": FORMAT}, allow_nan=False)
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={KEY: text})


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read `path`. Raises ValueError, naming the file, where it is missing, damaged, foreign or of another version."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: there is no such checkpoint; is the name right, and did training write one yet?")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if KEY not in metadata:
                raise ValueError(
                    f"{path}: not a checkpoint of minilm, but another safetensors file; choose one made by it"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
    except (SafetensorError, OSError) as problem:
        raise ValueError(
            f"{path}: damaged, or not a checkpoint ({problem}); take another checkpoint of the run, or train again"
        ) from None
    info = parse_json(metadata[KEY], path)
    version = info.get("format") if isinstance(info, dict) else None
    if version != FORMAT:
        raise ValueError(
            f"{path}: checkpoint format {version!r}, this minilm reads format {FORMAT}; use the version that wrote it"
        )
    return Checkpoint(tensors, info)


def _on_host(prefix: str, arrays: dict[str, Array]) -> dict[str, np.ndarray]:
    # safetensors writes the bytes in memory order, so a transposed array must be laid out anew
    return {prefix + name: np.asarray(to_numpy(array), order="C") for name, array in arrays.items()}
