"""What a workload is, where it runs, and how variants are made from op pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np

from minilm import reference
from minilm.arena import Arena
from minilm.backend import to_numpy
from minilm.kernels import explain


class Variant(NamedTuple):
    """One way to compute a workload."""

    forward: Callable[[], Any]  # the state that backward needs
    backward: Callable[[Any], Any] | None  # None where there is nothing to differentiate, or all is one call
    results: Callable[[], Sequence[Any]]  # outputs and gradients, as host arrays, for the comparison
    comparable: bool = True  # False where a library draws its own random numbers: only its time says something


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


class Setting(NamedTuple):
    """Where and how."""

    xp: Any
    dtype: str
    peers: tuple[str, ...]
    seed: int = 0
    interpret: bool = False  # NumPy arrays, and Triton's interpreter: to check its kernels where no GPU is

    @property
    def tolerance(self) -> float:
        """What results may differ by, relative to the largest number: by the precision of the arrays."""
        return {"float64": 1e-9, "float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}[self.dtype]

    def draw(self, *shape: int, scale: float = 1.0) -> Any:
        rng = np.random.default_rng((self.seed, *shape))
        if self.dtype == "bfloat16":
            import ml_dtypes  # noqa: F401  NumPy knows the name from here on
        return self.xp.asarray((scale * rng.standard_normal(shape)).astype(self.dtype))

    def integers(self, high: int, *shape: int) -> Any:
        return self.xp.asarray(np.random.default_rng(self.seed + 1).integers(0, high, shape))

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
        """Triton, or None: it serves a GPU, on PyTorch's tensors, in float32 and shorter types.

        `interpret` puts its interpreter, on NumPy's arrays, in the GPU's place; the environment must hold
        TRITON_INTERPRET=1 before Triton is imported.
        """
        if "triton" not in self.peers or (self.xp is np) != self.interpret or self.dtype == "float64":
            return None
        try:
            import triton
        except ImportError:
            return None
        return triton if self._pytorch() else None

    def tensor(self, torch: Any, array: Any) -> Any:
        """A copy of an array where PyTorch is to work on it."""
        host = to_numpy(array)
        if host.dtype.name == "bfloat16":  # a type of ml_dtypes, which PyTorch can't read
            return torch.tensor(host.astype(np.float32), device=self.torch_device).to(torch.bfloat16)
        return torch.tensor(host, device=self.torch_device)

    @property
    def torch_device(self) -> str:
        return "cpu" if self.xp is np else "cuda"

    def jax(self) -> Any:
        """JAX, or None: it is compared in float32 on the CPU."""
        if "jax" not in self.peers or self.xp is not np or self.dtype != "float32":
            return None
        try:
            import jax
        except ImportError:
            return None
        return jax

    def gensim(self) -> Any:
        """gensim, or None; its arithmetic is float32 on the CPU."""
        if "gensim" not in self.peers or self.xp is not np or self.dtype != "float32":
            return None
        try:
            import gensim
        except ImportError:
            return None
        return gensim


def host(value: Any) -> list[np.ndarray]:
    """All arrays in a nested result, on the host."""
    if value is None:
        return []
    if isinstance(value, tuple | list):
        return [array for item in value for array in host(item)]
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        return [(value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()]
    if type(value).__module__.startswith("jax"):
        return [np.asarray(value)]
    return [to_numpy(np.asarray(value) if np.isscalar(value) else value)]


def pair(forward: Callable[[], tuple[Any, Any]], backward: Callable[[Any, Any], Any], dy: Any) -> Variant:
    """A variant from an op pair: forward() -> (y, cache), backward(dy, cache)."""

    def results() -> list[np.ndarray]:
        y, cache = forward()
        return host(y) + host(backward(dy, cache))

    return Variant(lambda: forward()[1], lambda cache: backward(dy, cache), results)


def call(function: Callable[[], Any], results: Callable[[], Any] | None = None) -> Variant:
    """A variant without a backward; the results are what it returns, unless given."""
    return Variant(function, None, lambda: host((results or function)()))


def whole(variant: Variant) -> Callable[[], Any]:
    """One forward, and backward where there is one."""
    forward, backward = variant.forward, variant.backward
    return forward if backward is None else lambda: backward(forward())


def definition(variant: Variant) -> Variant:
    """The same calls, forced to run the definitions."""
    return _within(reference, variant)


def recycling(variant: Variant) -> Variant:
    """The same calls in recycled memory, as in a training step."""
    arena = Arena()
    return _within(lambda: arena, variant)


def _within(context: Callable[[], AbstractContextManager], variant: Variant) -> Variant:
    def entering(function: Callable[..., Any] | None) -> Any:
        def run(*args: Any) -> Any:
            with context():
                return function(*args)

        return None if function is None else run

    return Variant(entering(variant.forward), entering(variant.backward), entering(variant.results))


def op_variants(
    op: str, forward: Callable[[], Any], backward: Callable[..., Any], dy: Any, *args: Any, **options: Any
) -> dict[str, Variant]:
    """The definition, and the tuned version where one serves these arguments."""
    variant = pair(forward, backward, dy)
    return with_tuned(variant, op, *args, **options)


def with_tuned(variant: Variant, op: str, *args: Any, **options: Any) -> dict[str, Variant]:
    """`variant` as the definition, and by the name of the version that is chosen, where that is another."""
    chosen = explain(op, *args, **options).splitlines()[0].partition(": ")[2]
    variants = {"definition": definition(variant)}
    return variants if chosen.startswith("definition") else {**variants, chosen: recycling(variant)}
