"""Workloads, the settings they run in, and the variants made from op pairs."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np

from benchmarks.inputs import Inputs
from minilm import reference
from minilm.memory import MemoryPool
from minilm.selection import which

DRAWN_ON_DEVICE = 1 << 22  # numbers: from here on the host takes seconds

Op = Callable[..., Any]
Part = Callable[[np.random.Generator], tuple[slice, ...]]


class LeftOut(ValueError):
    """The reason why a workload can't run in a setting: it is left out with this note, and nothing has failed."""


class Variant(NamedTuple):
    """One way to compute a workload. What is compared is what the timed calls gave: results have no other source."""

    forward: Callable[[], Any]  # its value: what backward needs, and what `outputs` looks at
    backward: Callable[[Any], Any] | None  # of forward's value; None where there is nothing, or all is one call
    outputs: Callable[[Any], Any]  # of forward's value: the arrays to compare
    comparable: bool = True  # False where a library draws its own random numbers: only its time says something
    reset: Callable[[], None] | None = None  # where calls go on from a state: back to its start
    calls: int = 1  # from there on, whose outcome is compared

    def value(self) -> Any:
        """Forward's value that is compared."""
        if self.reset:
            self.reset()
        for _ in range(self.calls - 1):
            self.forward()
        return self.forward()


class Reference(NamedTuple):
    """The results that the variants must give."""

    index: tuple[slice, ...]  # the part of each array that was computed; () is all
    outputs: list[Any]  # arrays of the setting's library
    gradients: list[Any]


class Workload(NamedTuple):
    """Variants on one set of inputs, and what they move and compute at least."""

    name: str
    size: str  # the shapes, as text
    variants: dict[str, Variant]
    bytes_forward: float  # inputs read once and outputs written once
    flops_forward: float
    tolerance: float
    bytes_both: float = 0.0  # with ∂L/∂output read once and gradients written once; 0 where it is one call
    flops_both: float = 0.0
    reference: Callable[[np.random.Generator], Reference] | None = None  # None: the first variant's results
    on_host: bool = False  # timed on the host's clock, from an idle device to an idle one: what a user waits for
    notes: tuple[str, ...] = ()  # variants that are left out, and why

    def amounts(self, phase: str) -> tuple[float, float]:
        """Bytes moved and operations of a phase, at least; 0 where nothing is stated, as of a backward alone."""
        if phase == "both":
            return self.bytes_both, self.flops_both
        return (0.0, 0.0) if phase == "backward" else (self.bytes_forward, self.flops_forward)


class Setting(NamedTuple):
    """Where and how."""

    xp: Any
    dtype: str
    peers: tuple[str, ...]
    interpret: bool = False  # NumPy arrays, and Triton's interpreter: to check its kernels where no GPU is
    inputs: Inputs | None = None  # where they are listed, so that they can be changed between calls

    @property
    def tolerance(self) -> float:
        """The largest difference between results, relative to the largest number: by the precision of the arrays."""
        return {"float64": 1e-9, "float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}[self.dtype]

    @property
    def sixteen_bits(self) -> bool:
        return self.dtype in ("float16", "bfloat16")

    def require_long(self, name: str) -> None:
        """LeftOut in 16 bits: `name` is defined in float32 and float64."""
        if self.sixteen_bits:
            raise LeftOut(f"{name}: its definition takes float32 and float64, and no version takes {self.dtype}")

    def share(self, array: Any) -> Any:
        """The array, listed as an input that all variants read."""
        return self.inputs.share(array) if self.inputs else array

    def draw(self, *shape: int, scale: float = 1.0) -> Any:
        """Normal numbers, an input. Many of them are drawn on the device, where that is a GPU."""
        if self.dtype == "bfloat16":
            import ml_dtypes  # noqa: F401  NumPy knows the name from here on
        if self.xp is not np and math.prod(shape) >= DRAWN_ON_DEVICE:
            drawn = self.xp.random.default_rng(len(shape)).standard_normal(shape, dtype=np.float32)
            drawn *= np.float32(scale)
            return self.share(drawn.astype(np.dtype(self.dtype), copy=False))
        rng = np.random.default_rng((0, *shape))
        return self.share(self.xp.asarray((scale * rng.standard_normal(shape)).astype(self.dtype)))

    def integers(self, high: int, *shape: int) -> Any:
        return self.share(self.xp.asarray(np.random.default_rng(1).integers(0, high, shape)))

    def adopt(self, array: Any) -> Any:
        """An array of any library as one of `xp`, where it lies; bfloat16 as float32, which holds all its numbers."""
        if hasattr(array, "detach"):
            array = array.detach()
            array = array.float() if str(array.dtype) == "torch.bfloat16" else array
            array = self.xp.asarray(array.numpy() if array.device.type == "cpu" else array)
        elif type(array).__module__.startswith("jax") or np.isscalar(array):
            array = self.xp.asarray(np.asarray(array))
        return array.astype(np.float32) if array.dtype.name == "bfloat16" else array

    def torch(self) -> Any:
        """PyTorch, or None where it is not asked for, not installed, or has no device beside CuPy's arrays.

        On a GPU it works on the default stream, as CuPy does: the events around a call enclose its kernels too.
        """
        return self._pytorch() if "torch" in self.peers else None

    def _pytorch(self) -> Any:
        try:
            import torch
        except ImportError:
            return None
        if self.xp is not np and not torch.cuda.is_available():
            return None
        torch.backends.cudnn.allow_tf32 = False  # float32 means float32, as in CuPy; products have this default
        return torch

    def triton(self) -> Any:
        """Triton's variants, or None: it serves a GPU, on PyTorch's tensors, in float32 and shorter types.

        `interpret` puts its interpreter, on NumPy's arrays, in the GPU's place; the environment must hold
        TRITON_INTERPRET=1 before Triton is imported.
        """
        asked = "triton" in self.peers and (self.xp is np) == self.interpret and self.dtype != "float64"
        if not asked or self._pytorch() is None:
            return None
        try:
            from benchmarks.peers import triton_functions
        except ImportError:
            return None
        return triton_functions

    def tensor(self, torch: Any, array: Any) -> Any:
        """A copy of an array where PyTorch is to work on it; it changes with the array."""
        bfloat16 = array.dtype.name == "bfloat16"  # a type of ml_dtypes, which PyTorch can't read
        if self.xp is np:
            tensor = torch.tensor(array.astype(np.float32) if bfloat16 else array)
            tensor = tensor.to(torch.bfloat16) if bfloat16 else tensor
        else:  # on the device, without a way through the host
            tensor = torch.as_tensor(array.view("int16") if bfloat16 else array, device=self.torch_device).clone()
            tensor = tensor.view(torch.bfloat16) if bfloat16 else tensor
        return self.inputs.follow_torch(torch, array, tensor) if self.inputs else tensor

    @property
    def torch_device(self) -> str:
        return "cpu" if self.xp is np else "cuda"

    def on_the_cpu(self, peer: str) -> Any:
        """The library `peer`, JAX or gensim, or None: they are compared in float32 on the CPU."""
        if peer not in self.peers or self.xp is not np or self.dtype != "float32":
            return None
        try:
            return importlib.import_module(peer)
        except ImportError:
            return None


def arrays_in(value: Any) -> list[Any]:
    """All arrays in a nested result."""
    if value is None:
        return []
    if isinstance(value, tuple | list):
        return [array for item in value for array in arrays_in(item)]
    return [value]


def pair(forward: Callable[[], tuple[Any, Any]], backward: Callable[[Any, Any], Any], dy: Any) -> Variant:
    """A variant from an op pair: forward() -> (y, cache), backward(dy, cache)."""
    return Variant(forward, lambda value: backward(dy, value[1]), lambda value: value[0])


def call(function: Callable[[], Any], outputs: Callable[[Any], Any] = lambda value: value) -> Variant:
    """A variant without a backward; what it returns is compared, unless `outputs` makes something else of it."""
    return Variant(function, None, outputs)


def updating(
    step: Callable[[], Any],
    arrays: list[Any],
    start: list[Any],
    calls: int = 1,
    restart: Callable[[], None] | None = None,
) -> Variant:
    """A variant whose steps change `arrays` and go on from there; compared are the changes of `calls` from `start`."""

    def reset() -> None:
        if restart:
            restart()
        for array, first in zip(arrays, start, strict=True):
            array[...] = first

    def changes(_: Any) -> list[Any]:
        return [array - first for array, first in zip(arrays, start, strict=True)]

    return Variant(step, None, changes, reset=reset, calls=calls)


def whole(variant: Variant) -> Callable[[], Any]:
    """One forward, and backward where there is one."""
    forward, backward = variant.forward, variant.backward
    return forward if backward is None else lambda: backward(forward())


def preset_model(name: str, **options: Any) -> Any:
    """A model of minilm's, for the workloads that have one: the others need nothing but NumPy."""
    from minilm.presets import build

    return build(name, **options)


def definition(variant: Variant) -> Variant:
    """The same calls, forced to run the definitions."""
    return _within(reference, variant)


def recycling(variant: Variant) -> Variant:
    """The same calls in recycled memory, as in a training step."""
    pool = MemoryPool()
    return _within(lambda: pool, variant)


def _within(context: Callable[[], AbstractContextManager], variant: Variant) -> Variant:
    def entering(function: Callable[..., Any] | None) -> Any:
        def run(*args: Any) -> Any:
            with context():
                return function(*args)

        return None if function is None else run

    return variant._replace(forward=entering(variant.forward), backward=entering(variant.backward))


def with_tuned(variant: Variant, op: str, *args: Any, **options: Any) -> dict[str, Variant]:
    """`variant` as the definition, and by the name of the version that is chosen, where that is another.

    There is no definition in 16 bits: NumPy's functions don't take bfloat16, and in float16 its errors are as large as
    what is tolerated. LeftOut where no other version serves them.
    """
    chosen = which(op, *args, **options).splitlines()[0].partition(": ")[2]
    floating = next(array for array in args if array.dtype.kind != "i")
    dtype, defined = floating.dtype.name, chosen.startswith("definition")
    if defined and floating.dtype.itemsize == 2:
        raise LeftOut(f"{op}: no version takes {dtype} on {'the CPU' if isinstance(floating, np.ndarray) else 'a GPU'}")
    variants = {} if floating.dtype.itemsize == 2 else {"definition": definition(variant)}
    return variants if defined else {**variants, chosen: recycling(variant)}


def reference_of(
    setting: Setting, op: Op, backward: Op | None, dy: Any, args: Sequence[Any], part: Part | None = None, **given: Any
) -> Callable[[np.random.Generator], Reference] | None:
    """The results of the definition in float32 for the same, rounded, inputs in 16 bits; None for longer types.

    With `part`, in any type, and of one part of the inputs only, which `part` draws.
    """
    if not setting.sixteen_bits and part is None:
        return None

    def computed(random: np.random.Generator) -> Reference:
        index = part(random) if part else ()

        def exact(array: Any) -> Any:
            if getattr(array, "dtype", np.dtype("int")).kind == "i" or not hasattr(array, "shape"):
                return array
            array = array[index] if index else array
            return array.astype(np.float32) if setting.sixteen_bits else array

        with reference():
            y, cache = op(*map(exact, args), **given)
            gradients = backward(exact(dy), cache) if backward else ()
        return Reference(index, arrays_in(y), arrays_in(gradients))

    return computed
