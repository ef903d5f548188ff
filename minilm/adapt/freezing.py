"""Which parameters a fine-tuning trains: the head alone, or everything.

A frozen parameter gets no gradient, and the work for it is not done; below the lowest trained layer no gradient flows
at all, so that training the head alone costs a forward and little more.
"""

from __future__ import annotations

from minilm.adapt.method import HEAD, Method
from minilm.layers.base import Layer


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


FULL = Method("full", "all parameters", lambda model, options, rng: full(model), learning_rate=1e-3)
HEAD_ONLY = Method("head", "the head alone", lambda model, options, rng: head_only(model), learning_rate=2e-2)
