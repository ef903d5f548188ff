"""SGD, Adam, AdamW and clipping follow PyTorch's to 1e-6 over 50 steps with random gradients."""

from __future__ import annotations

import numpy as np
import pytest

from minilm.layers.base import Layer
from minilm.optim.adam import Adam, AdamW
from minilm.optim.sgd import SGD

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

SHAPES = {"weight": (17, 9), "bias": (17,), "table": (300, 130)}  # the last is longer than one block
ALL_DECAY = {"no_decay": lambda name, array: False}

CASES = {
    "sgd": (SGD, torch.optim.SGD, {"lr": 0.1}),
    "sgd weight decay": (SGD, torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.1}),
    "sgd momentum": (SGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    "sgd nesterov": (SGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.8, "nesterov": True, "weight_decay": 0.05}),
    "adam": (Adam, torch.optim.Adam, {"lr": 1e-2}),
    "adam decay": (Adam, torch.optim.Adam, {"lr": 1e-3, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}),
    "adamw": (AdamW, torch.optim.AdamW, {"lr": 1e-2, "weight_decay": 0.1}),
    "adamw betas": (AdamW, torch.optim.AdamW, {"lr": 3e-3, "betas": (0.5, 0.99), "eps": 1e-5, "weight_decay": 0.3}),
    "adamw no decay": (AdamW, torch.optim.AdamW, {"lr": 1e-2, "weight_decay": 0.0}),
}


@pytest.mark.parametrize("clip", [None, 5.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES)
def test_follows_pytorch(case, dtype, clip, rng):
    ours, theirs, options = CASES[case]
    layer = Layer()
    layer.params = {name: rng.normal(size=shape).astype(dtype) for name, shape in SHAPES.items()}
    peers = {name: torch.nn.Parameter(torch.tensor(array)) for name, array in layer.params.items()}
    peer = theirs(peers.values(), **options)
    optimizer = ours(layer, **options, **(ALL_DECAY if ours is AdamW else {}))
    for step in range(50):
        scale = 10.0 ** rng.uniform(-3, 1)  # clipping acts in some steps only
        grads = {name: (scale * rng.normal(size=shape)).astype(dtype) for name, shape in SHAPES.items()}
        for name, parameter in peers.items():
            parameter.grad = torch.tensor(grads[name])
        optimizer.accumulate(grads)
        if clip:
            norm = torch.nn.utils.clip_grad_norm_(peers.values(), clip)
            assert float(optimizer.clip(clip)) == pytest.approx(float(norm), rel=1e-6)
        lr = options["lr"] * (1 - step / 100)  # a schedule
        peer.param_groups[0]["lr"] = lr
        optimizer.step(lr)
        peer.step()
        for name, array in layer.params.items():
            np.testing.assert_allclose(
                array, peers[name].detach().numpy(), rtol=1e-6, atol=1e-6, err_msg=f"{name} {step}"
            )
