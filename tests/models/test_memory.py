"""Training memory: what a step of a middle-sized GPT keeps resident, measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIMIT = 1.5e9  # bytes

STEPS = """
import resource, sys
import numpy as np
from minilm import threads
from minilm.presets import build
from minilm.optim import AdamW
from minilm.text.batching import LanguageBatch
from minilm.train.gradients import BatchGradients

model = build("gpt", vocab_size=65, layers=6, heads=6, width=384, context=256)
optimizer = AdamW(model)
ids = np.random.default_rng(0).integers(0, 65, (8, 257))
differentiate = BatchGradients(model)
with threads.limit(int(sys.argv[1])):
    for _ in range(3):
        loss, gradients = differentiate(LanguageBatch(ids[:, :-1], ids[:, 1:]))
        optimizer.accumulate(*gradients)
        optimizer.clip(1.0)
        optimizer.step()
        del gradients
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss has other units on other systems")
@pytest.mark.parametrize("number", [1, 2])
def test_a_gpt_of_six_layers_trains_in_little_memory(number):
    """6 layers, 6 heads, width 384, context 256, batches of 8: 7 MB of weights a layer, activations for the rest."""
    done = subprocess.run([sys.executable, "-c", STEPS, str(number)], capture_output=True, text=True, check=True)
    assert 0.2e9 < int(done.stdout) < LIMIT, done.stdout
