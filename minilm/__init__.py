"""minilm: a mini language-model stack from scratch, every forward and backward written by hand.

`minilm.ops` is the mathematics, `minilm.layers` and `minilm.models` put it together, `minilm.gradcheck` proves it,
`minilm.kernels` holds the tuned versions. The command `minilm` trains, fine-tunes, evaluates and generates.
"""

import importlib.util
import sys
from pathlib import Path

_BESIDE = Path(__file__).parents[1] / "kernels" / "__init__.py"  # where the source tree has minilm.kernels
if importlib.util.find_spec("minilm.kernels") is None and _BESIDE.is_file():
    _spec = importlib.util.spec_from_file_location("minilm.kernels", _BESIDE)
    kernels = sys.modules["minilm.kernels"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(kernels)

from minilm.kernels.selection import reference  # noqa: E402  now that it can be found

__version__ = "0.1.0"
__all__ = ["__version__", "reference"]
