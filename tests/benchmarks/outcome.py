"""The outputs and gradients of a variant, as host arrays."""

from __future__ import annotations

import numpy as np

from benchmarks.variants import Setting, arrays_in
from minilm.backend import to_numpy


def results(variant):
    value = variant.value()
    gradients = variant.backward(value) if variant.backward else None
    adopt = Setting(np, "float32", ()).adopt
    return [to_numpy(adopt(array)) for array in arrays_in([variant.outputs(value), gradients])]
