"""Adapting a trained model to a task: all parameters, the head alone, or low-rank updates. See `methods.METHODS`."""

from minilm.adapt.freezing import full, head_only, trainable_report
from minilm.adapt.lora import LoRALinear, LoRAOptions, LoRAWeights, apply_lora
from minilm.adapt.method import Method
from minilm.adapt.methods import DEFAULT, METHODS, SPECTRUM
from minilm.adapt.wrapping import Wrapper, adapter_state, merge, unmerge, wrap

__all__ = [
    "DEFAULT",
    "METHODS",
    "SPECTRUM",
    "LoRALinear",
    "LoRAOptions",
    "LoRAWeights",
    "Method",
    "Wrapper",
    "adapter_state",
    "apply_lora",
    "full",
    "head_only",
    "merge",
    "trainable_report",
    "unmerge",
    "wrap",
]
