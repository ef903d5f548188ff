"""What the tests of layers share: a gradient check, and the laws about libraries, precision and freezing."""

from __future__ import annotations

import contextlib
import itertools

import numpy as np

from minilm import gradcheck
from tests import strict_cupy

COMPLEX_STEP = 1e-11  # worst relative error of a gradient


def check_gradients(layer, x, **options):
    """Every gradient by complex step, and the laws, in float64: as the layer trains and as it infers."""
    for train in (True, False):
        report = gradcheck.check_layer(layer, x, method="complex-step", train=train, **options)
        assert report.passed, report
        assert report.max_rel_error <= COMPLEX_STEP, report


def leaves(tree):
    """The arrays of nested tuples and dictionaries, None left out."""
    if isinstance(tree, dict):
        return [leaf for key in sorted(tree) for leaf in leaves(tree[key])]
    if isinstance(tree, tuple | list):
        return [leaf for part in tree for leaf in leaves(part)]
    return [] if tree is None else [tree]


def check_library(make, x, xp, **options):
    """float32 in, float32 out, in the library of the input, forward and backward, with no wait for the device.

    `make()` gives the layer in float32; `x` and `options` are host arrays. The values must be NumPy's.
    """

    def run(library):
        layer = make().to(library.module)
        given = {name: library.asarray(value) for name, value in options.items()}
        quiet = strict_cupy.no_sync() if library.name == "strict" else contextlib.nullcontext()
        with quiet:
            y, cache = layer.forward(library.asarray(x), **given)
            dy = y * 0.5 if not isinstance(y, tuple) else (y[0] * 0.5, None)
            dx, grads = layer.backward(dy, cache)
            dry, no_cache = layer.forward(library.asarray(x), cache=False, **given)
            inference, none = layer.forward(library.asarray(x), train=False, cache=False, **given)
        assert none is no_cache is None
        for got, want in zip(leaves(dry), leaves(y), strict=True):
            np.testing.assert_array_equal(library.to_numpy(got), library.to_numpy(want))
        assert grads.keys() == layer.trainable().keys()
        results = leaves((y, dx, grads, inference))
        assert all(type(a) is type(library.asarray(np.zeros(1))) for a in results)
        assert all(a.dtype == np.float32 for a in results)
        return [library.to_numpy(a) for a in results]

    host = type("Host", (), {"module": np, "name": "numpy", "asarray": staticmethod(lambda a: a),
                             "to_numpy": staticmethod(np.asarray)})  # fmt: skip
    for got, want in zip(run(xp), run(host), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def check_freezing(layer, backward, below=()):
    """Whatever is frozen, the gradients of the rest stay as they were, and what is frozen has none.

    `backward()` gives the gradients. Each parameter is frozen alone, each is trained alone, and all pairs of groups by
    first name are frozen together.
    """
    everything = backward()
    assert everything.keys() == layer.parameters().keys()
    names = list(everything)
    groups = sorted({name.rpartition(".")[0] + "*" for name in names} | {name.split(".")[0] + "*" for name in names})
    chosen = [[name] for name in names] + [list(pair) for pair in itertools.combinations(groups, 2)]
    chosen += [[other for other in names if other != name] for name in names]
    for patterns in chosen:
        layer.freeze(*patterns)
        grads = backward()
        assert grads.keys() == layer.trainable().keys()
        for name, gradient in grads.items():
            np.testing.assert_array_equal(gradient, everything[name])
        layer.unfreeze("*")
