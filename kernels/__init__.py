"""Tuned versions of the op pairs in `minilm.ops`, installed as `minilm.kernels`. Importing it registers them all.

`minilm.selection` picks one of them, or the definition, for each call of an op; `minilm.which` says which and why.
"""

import minilm.kernels.cpu
import minilm.kernels.cuda.register  # noqa: F401
