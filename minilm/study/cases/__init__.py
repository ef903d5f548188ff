"""The cases of everything in minilm: tiny inputs, many options. One table per kind of thing.

Each table knows what is registered, and so what has no case yet. A new op, layer, preset or method of adaptation needs
one function in the module of its kind, which yields its cases:

    @OPS.of("softmax")
    def softmax(case):
        yield case("last axis", x=case.normal(2, 3, 5))
"""

from minilm.study.cases.case import Case as Case, CaseTable as CaseTable, LayerCase as LayerCase
from minilm.study.cases.layers import LAYERS as LAYERS
from minilm.study.cases.methods import METHODS as METHODS
from minilm.study.cases.models import MODELS as MODELS
from minilm.study.cases.ops import OPS as OPS

TABLES = (OPS, LAYERS, MODELS, METHODS)  # in the order of printing
