"""minilm: a mini language-model stack from scratch, every forward and backward written by hand.

`minilm.ops` is the mathematics, `minilm.layers` and `minilm.models` put it together, `minilm.gradcheck` checks it,
`minilm.kernels` holds the tuned versions. The command `minilm` trains, fine-tunes, evaluates and generates.
"""

from pathlib import Path

from minilm.selection import reference as reference, which as which

if not (Path(__file__).parent / "kernels" / "__init__.py").is_file():  # the source tree
    __path__.append(str(Path(__file__).parents[1]))

__version__ = "0.1.0"
