"""backend: whose arrays these are, which device is meant, where random numbers come from."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from minilm import backend
from tests import strict_cupy


@pytest.fixture
def device_array(monkeypatch):
    """An array of the stand-in for CuPy, whatever library the test itself is about."""
    monkeypatch.setitem(sys.modules, "cupy", strict_cupy.strict)
    return strict_cupy.strict.ones((2, 3), dtype="float32")


HOST = np.ones((2, 3), "float32")


# ---- namespaces


def test_namespace_is_the_arrays_library(xp):
    array = xp.asarray(HOST)
    assert backend.array_namespace(array, None, array) is xp.module
    assert backend.floating_namespace(None, array) is xp.module


def test_numpy_scalars_are_host_arrays():
    assert backend.array_namespace(np.float32(1)) is np


@pytest.mark.parametrize("host_at", [0, 1, 2])
def test_mixed_libraries_are_refused_with_the_way_out(device_array, host_at):
    arrays = [device_array] * 3
    arrays[host_at] = HOST
    with pytest.raises(TypeError, match=rf"array argument {host_at + 1} is a numpy.ndarray.* cupy.asarray\(array\)"):
        backend.array_namespace(*arrays)


def test_mixing_is_seen_behind_absent_arguments(device_array):
    with pytest.raises(TypeError, match="array argument 3 is a numpy"):
        backend.floating_namespace(device_array, None, HOST)


@pytest.mark.parametrize("given", [[1.0, 2.0], 1.0, "text"])
def test_what_is_no_array_is_refused(given):
    with pytest.raises(TypeError, match=f"expected a NumPy or CuPy array, got builtins.{type(given).__name__}"):
        backend.array_namespace(HOST, given)


def test_no_array_at_all_is_refused():
    with pytest.raises(TypeError, match="expected at least one array"):
        backend.array_namespace(None, None)


@pytest.mark.parametrize("dtype", ["int32", "int64", "bool"])
def test_floating_namespace_refuses_integers(xp, dtype):
    with pytest.raises(TypeError, match=f"array argument 2 has dtype {dtype}, expected a floating dtype"):
        backend.floating_namespace(xp.asarray(HOST), xp.asarray(HOST.astype(dtype)))


@pytest.mark.parametrize("other", ["float64", "complex128", "float16"])
def test_floating_namespace_refuses_two_precisions(xp, other):
    with pytest.raises(TypeError, match=r"different precision in one call: float32 \(argument 1\) and float"):
        backend.floating_namespace(xp.asarray(HOST), xp.asarray(HOST.astype(other)))


def test_complex_step_is_one_precision(xp):
    """float64 beside complex128 is legal: the complex-step gradient check perturbs one argument at a time."""
    real = HOST.astype("float64")
    assert backend.floating_namespace(xp.asarray(real), xp.asarray(real + 1e-30j)) is xp.module


# ---- moving


def test_arrays_move_there_and_back(xp):
    moved = backend.asarray_like(HOST, xp.asarray(HOST))
    assert backend.array_namespace(moved) is xp.module
    back = backend.to_numpy(moved)
    assert type(back) is np.ndarray and np.array_equal(back, HOST)


def test_host_arrays_are_not_copied():
    assert backend.asarray_like(HOST, HOST) is HOST
    assert backend.to_numpy(HOST) is HOST


# ---- devices


def test_cpu_is_numpy():
    assert backend.resolve_device("cpu") is np


def test_unknown_device():
    with pytest.raises(ValueError, match="device 'gpu' is unknown; choose auto, cpu or cuda"):
        backend.resolve_device("gpu")


def test_without_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # import raises ImportError
    assert backend.resolve_device("auto") is np
    with pytest.raises(ValueError, match=r"CuPy is not installed; install minilm\[cuda12\] or minilm\[cuda13\]"):
        backend.resolve_device("cuda")


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_with_a_gpu(monkeypatch, device_array, device):
    assert backend.resolve_device(device) is strict_cupy.strict


def test_cupy_without_a_device(monkeypatch, device_array):
    monkeypatch.setitem(strict_cupy.strict.__dict__, "is_available", lambda: False)
    assert backend.resolve_device("auto") is np
    with pytest.raises(ValueError, match="CuPy is installed but sees no CUDA device"):
        backend.resolve_device("cuda")


def test_cupy_is_not_imported_on_import():
    """A machine with CuPy pays for it, and for its driver, only when asked to."""
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "cupy":
            sys.exit("cupy was imported")
sys.meta_path.insert(0, Refuse())
import minilm.adapt, minilm.gradcheck, minilm.kernels.cpu, minilm.presets
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- random numbers


def test_generator_depends_on_every_number():
    def draw(*seed):
        return backend.generator(*seed).random(4).tolist()

    assert draw(1, 2, 3) == draw(1, 2, 3)
    assert len({tuple(draw(*seed)) for seed in [(1,), (1, 2), (1, 2, 3), (1, 3, 2), (2, 1, 3)]}) == 5


def test_a_name_is_the_number_that_its_bytes_spell():
    """What the splits of a data set rest on: which texts are test texts follows from this number."""
    drawn = backend.generator(3, "TEST", 1).random(4)
    assert np.array_equal(drawn, backend.generator(3, 0x54455354, 1).random(4))
    assert not np.array_equal(drawn, backend.generator(3, "tests", 1).random(4))
    assert np.array_equal(backend.generator("é").random(4), backend.generator(0xC3A9).random(4))


def test_uniform(xp):
    """The same numbers on every library: a host generator draws them on the host."""
    like = xp.asarray(HOST)
    drawn = backend.uniform(backend.generator(7), (200, 3), like)
    assert backend.array_namespace(drawn) is xp.module
    assert drawn.shape == (200, 3) and drawn.dtype == np.float32
    host = xp.to_numpy(drawn)
    assert np.array_equal(host, backend.generator(7).random((200, 3), dtype=np.float32))
    assert host.min() >= 0 and host.max() < 1


def test_uniform_from_a_generator_of_the_device(device_array):
    with strict_cupy.no_sync(("sync", "upload")):
        drawn = backend.uniform(strict_cupy.strict.random.default_rng(0), (5,), device_array)
    assert type(drawn) is type(device_array) and drawn.dtype == np.float32
