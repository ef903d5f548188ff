"""minilm: a mini language-model stack from scratch, every forward and backward written by hand.

`minilm.ops` is the mathematics, `minilm.layers` and `minilm.models` put it together, `minilm.gradcheck` proves it,
`minilm.kernels` holds the tuned versions. The command `minilm` trains, fine-tunes, evaluates and generates.
"""

from pathlib import Path

if not (Path(__file__).parent / "kernels").is_dir():  # in the source tree kernels/ lies beside this package
    __path__.append(str(Path(__file__).parents[1]))

from minilm.kernels.selection import reference

__version__ = "0.1.0"
__all__ = ["__version__", "reference"]
