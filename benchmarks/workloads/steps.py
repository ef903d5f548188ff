"""Whole training steps: loss, gradients and AdamW update, as `minilm train` does them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.peers import jax_models, pytorch
from benchmarks.variants import Setting, Variant, Workload, call, definition, preset_model
from minilm.optim import AdamW
from minilm.text.batching import ClassificationBatch, LanguageBatch

Peer = Callable[..., Variant]


def _step(
    name: str, size: str, setting: Setting, model: Any, batch: Any, flops: float, peer: Peer, jax_peer: Any = None
) -> Workload:
    """A step of a model, with tuned versions and without; the peers make theirs. Compared: loss and all gradients.

    The learning rate is 0, so that the weights stay, and every run is the same.
    """
    from minilm.train.gradients import BatchGradients  # here: the other workloads need nothing but NumPy

    batch = batch._replace(**{key: setting.share(setting.xp.array(value)) for key, value in batch._asdict().items()})
    peers = {}  # they copy the weights, while these are on the host
    if torch := setting.torch():
        tensors = batch._replace(**{key: setting.tensor(torch, value) for key, value in batch._asdict().items()})
        peers["torch"] = peer(torch, model, tensors, setting.torch_device)
    if jax_peer and setting.on_the_cpu("jax"):
        peers["jax"] = jax_peer(setting, model, batch)
    optimizer = AdamW(model.to(setting.xp), lr=0.0, weight_decay=0.0)
    recycling = BatchGradients(model)  # recycled memory; rows shared out to threads
    order = list(model.parameters())

    def plain_step() -> Any:
        loss, cache = model.loss(batch)
        optimizer.accumulate(model.loss_backward(1.0, cache))
        return loss

    def training_step() -> Any:
        loss, gradients = recycling(batch)
        optimizer.accumulate(*gradients)
        return loss

    def updated(differentiate: Callable[[], Any]) -> Any:
        loss = differentiate()
        optimizer.step()
        return loss

    def outputs(loss: Any) -> list[Any]:
        gradients = optimizer.flat.gradients()
        return [loss, *(gradients[name] for name in order)]

    plain, tuned = (call(partial(updated, each), outputs) for each in (plain_step, training_step))
    ours = {"definition": definition(plain), "tuned where served": tuned}
    return Workload(name, size, ours | peers, 0.0, flops, 10 * setting.tolerance, on_host=True)


def _gpt(name: str, setting: Setting, layers: int, width: int, T: int, B: int) -> Workload:
    setting.require_long(name)
    model = preset_model("gpt", vocab_size=65, layers=layers, heads=layers, width=width, context=T, dtype=setting.dtype)
    ids = np.random.default_rng(0).integers(0, 65, (B, T + 1))
    parameters = sum(array.size for array in model.parameters().values())
    flops = 6 * parameters * B * T + 6 * layers * width * T * T * B  # attention: half of all pairs is seen
    size = f"{layers} x {layers} x {width}, T{T}, B{B}"
    batch = LanguageBatch(ids[:, :-1], ids[:, 1:])
    return _step(name, size, setting, model, batch, flops, pytorch.gpt_step, jax_models.gpt_step)


def gpt_step(setting: Setting, layers: int = 4, width: int = 128, T: int = 64, B: int = 12) -> Workload:
    return _gpt("gpt-step", setting, layers, width, T, B)


def gpt_step_large(setting: Setting, layers: int = 6, width: int = 384, T: int = 256, B: int = 8) -> Workload:
    return _gpt("gpt-step-large", setting, layers, width, T, B)


def classifier_step(setting: Setting, B: int = 32, T: int = 100) -> Workload:
    setting.require_long("classifier-step")
    model = preset_model("conv-lstm-classifier", vocab_size=10000, dropout=0.0, dtype=setting.dtype)
    rng = np.random.default_rng(0)
    batch = ClassificationBatch(rng.integers(0, 10000, (B, T)), np.full(B, T), rng.integers(0, 2, B))
    flops = 3 * 2 * B * T * (64 * 64 * 3 + 4 * 64 * 128)
    return _step("classifier-step", f"B{B} T{T}", setting, model, batch, flops, pytorch.classifier_step)
