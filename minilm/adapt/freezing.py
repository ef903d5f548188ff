"""Which parameters a fine-tuning trains: the head alone, or everything. LoRA, in between, is in `adapt/adaptation.py`.

A frozen parameter gets no gradient, and the work for it is not done; below the lowest trained layer no gradient flows
at all, so that training the head alone costs a forward and little more.
"""

from __future__ import annotations

from minilm.layers.base import Layer

HEAD = "head.*"


def head_only(model: Layer) -> list[str]:
    """Train the head, the parameters named head..., and freeze all others. Returns the trained names.

    Raises ValueError, and changes nothing, where the model has none (its output layer is tied to the embedding, say).
    """
    trained = model.unfreeze(HEAD)
    model.freeze()
    model.unfreeze(HEAD)
    return trained


def full(model: Layer) -> list[str]:
    """Train every parameter. Returns their names."""
    return model.unfreeze()


def trainable_report(model: Layer) -> tuple[int, int]:
    """How many numbers are trained, and how many the parameters hold in all. An array met twice counts once."""
    return _count(model.trainable().values()), _count(model.parameters().values())


def _count(arrays) -> int:
    return sum({id(array): array.size for array in arrays}.values())
