"""The registry of methods of adaptation: one file per method, and one line here."""

from minilm.adapt.freezing import FULL, HEAD_ONLY
from minilm.adapt.lora import LORA
from minilm.adapt.method import Method

DEFAULT = FULL.name
SPECTRUM = (HEAD_ONLY, LORA, FULL)  # from the fewest trained parameters to all: what the demo compares

METHODS: dict[str, Method] = {method.name: method for method in (FULL, HEAD_ONLY, LORA)}
