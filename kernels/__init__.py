"""Tuned versions of the op pairs in `minilm.ops`, installed as `minilm.kernels`.

`selection` picks one of them, or the definition, for each call of an op; `explain` says which and why.
"""

from minilm.kernels.selection import Version, explain, reference, register, versions

__all__ = ["Version", "explain", "reference", "register", "versions"]
