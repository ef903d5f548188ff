"""Adapting a trained model to a task: all parameters, the head alone, or low-rank updates. See `methods.METHODS`."""

from minilm.adapt.freezing import full as full, head_only as head_only
from minilm.adapt.lora import LoRALinear as LoRALinear, LoRAWeights as LoRAWeights, apply_lora as apply_lora
from minilm.adapt.methods import DEFAULT as DEFAULT, METHODS as METHODS, SPECTRUM as SPECTRUM
from minilm.adapt.wrapping import adapter_state as adapter_state, merge as merge, unmerge as unmerge
