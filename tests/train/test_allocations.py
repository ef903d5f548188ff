"""A training step in the steady state allocates nothing large: counted in the C library, not in Python's books."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from minilm.kernels.host.builder import find_compiler

SOURCE = Path(__file__).parent.parent / "allocations.cpp"

SCRIPT = """
import ctypes, json, sys
import numpy as np
from minilm import reference, threads
from minilm.presets import build
from minilm.text.batching import LanguageBatch
from minilm.train import TrainingOptions
from tests.train.toy import FakeData
from minilm.train.loop import train
from tests.train.test_allocations import CONFIGURATIONS

counter = ctypes.CDLL(None).large_allocations
name, number, forced = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "definitions"
model_options, rows, length = CONFIGURATIONS[name]
counts = []


class Data(FakeData):
    steps_per_epoch = 100

    def batch(self, step, micro):
        counts.append(counter())  # of everything that came before this step
        ids = np.random.default_rng(step).integers(0, 65, (rows, length + 1))
        return LanguageBatch(ids[:, :-1], ids[:, 1:])


options = TrainingOptions(steps=6, log_every=1, clip=1.0)
with threads.limit(number):
    if forced:
        with reference():
            train(build("gpt", vocab_size=65, context=length, **model_options), Data(), options, progress=False)
    else:
        train(build("gpt", vocab_size=65, context=length, **model_options), Data(), options, progress=False)
print(json.dumps([after - before for before, after in zip(counts, counts[1:])]))
"""

CONFIGURATIONS = {
    "the preset's sizes": ({}, 12, 64),
    "wider than tall": ({"layers": 2, "heads": 6, "width": 384}, 4, 256),
}


@pytest.fixture(scope="module")
def counter(tmp_path_factory):
    compiler = find_compiler()
    if compiler is None or platform.libc_ver()[0] != "glibc":
        pytest.skip("counting allocations needs a C++ compiler and the GNU C library")
    library = tmp_path_factory.mktemp("allocations") / "allocations.so"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, SOURCE], check=True)
    return library


def count(library, name, number, how="tuned"):
    """The number of allocations over 1 MB between the beginnings of one step and the next."""
    command = [sys.executable, "-c", SCRIPT, name, str(number), how]
    environment = os.environ | {"LD_PRELOAD": str(library), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_after_the_warm_up_no_step_allocates_a_megabyte(counter, name, number):
    counts = count(counter, name, number)
    assert counts[2:] == [0] * len(counts[2:])


def test_the_counter_sees_the_definitions_allocate(counter):
    counts = count(counter, "the preset's sizes", 1, "definitions")
    assert min(counts) > 10
