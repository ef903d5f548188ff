"""The instances of the compile gate: each launcher module declares those of its kernels in a tuple `INSTANCES`.

    INSTANCES = (Instance("softmax.cu", "softmax_forward", {"ELEMENT_F32": 1}, threads=256),)

An instance is one entry point with one set of defines, exactly as the launcher would give them. Instances that differ
only in their entry point are compiled once, together. `minilm.kernels.gate` reads them all; nothing here compiles.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import NamedTuple

ARCHITECTURES = (75, 80, 90, 100)  # compute capability times ten: Turing, Ampere, Hopper, Blackwell
TENSOR_CORE_ARCHITECTURES = (80, 90, 100)  # those with mma.m16n8k16, cp.async and bfloat16


class Instance(NamedTuple):
    """One entry point of one source with one set of defines."""

    file: str  # in kernels/cuda/, e.g. "softmax.cu" or "ladder/softmax_naive.cu"
    entry: str  # the name of the extern "C" function
    defines: Mapping[str, int | str] = {}
    archs: tuple[int, ...] = ARCHITECTURES  # those it claims to compile for
    threads: int = 128  # of one block, as it is launched
    shared_memory: int = 0  # dynamic bytes of one block, as it is launched; static ones are read from the binary
    note: str = ""  # a few words for the table, e.g. "D=64 f16 causal"

    @property
    def name(self) -> str:
        """file:entry[defines], unique among all instances: the key of the budget."""
        defines = ",".join(f"{key}={value}" for key, value in sorted(self.defines.items()))
        return f"{self.file.removesuffix('.cu')}:{self.entry}[{defines}]"


def all_instances() -> tuple[Instance, ...]:
    """The instances that the modules of `minilm.kernels.cuda` and its ladder declare, in the order of their files."""
    import minilm.kernels.cuda as package

    found: dict[str, Instance] = {}
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        for instance in getattr(importlib.import_module(module.name), "INSTANCES", ()):
            found.setdefault(instance.name, instance)  # a module may show another's
    return tuple(sorted(found.values(), key=lambda instance: (instance.file, instance.entry, instance.name)))
