"""Training memory: what a step of a middle-sized GPT keeps resident, measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIMIT = 1.5e9  # bytes

STEPS = """
import resource
import numpy as np
from minilm.models import build
from minilm.optim import AdamW
from minilm.text.batching import LanguageBatch

model = build("gpt", vocab_size=65, layers=6, heads=6, width=384, context=256)
optimizer = AdamW(model)
ids = np.random.default_rng(0).integers(0, 65, (8, 257))
for _ in range(2):
    loss, cache = model.loss(LanguageBatch(ids[:, :-1], ids[:, 1:]))
    optimizer.accumulate(model.backward(cache))
    optimizer.clip(1.0)
    optimizer.step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss has other units on other systems")
def test_a_gpt_of_six_layers_trains_in_little_memory():
    """6 layers, 6 heads, width 384, context 256, batches of 8: 7 MB of weights a layer, activations for the rest."""
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    assert 0.2e9 < int(done.stdout) < LIMIT
