"""minilm: a mini language-model stack from scratch, every forward and backward written by hand.

`minilm.ops` is the mathematics, `minilm.layers` and `minilm.models` put it together, `minilm.gradcheck` proves it,
`minilm.kernels` holds the tuned versions. The command `minilm` trains, fine-tunes, evaluates and generates.
"""

import importlib.util
import sys
from pathlib import Path

_HERE = Path(__file__).parent
if not (_HERE / "kernels" / "__init__.py").is_file():  # the source tree: its own kernels/, whatever else is installed
    _spec = importlib.util.spec_from_file_location("minilm.kernels", _HERE.parent / "kernels" / "__init__.py")
    kernels = sys.modules["minilm.kernels"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(kernels)

from minilm.kernels.selection import reference  # noqa: E402  now that it can be found

__version__ = "0.1.0"
__all__ = ["__version__", "reference"]
