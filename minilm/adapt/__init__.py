"""Light fine-tuning: freezing by name, and low-rank adaptation (LoRA) with hand-written gradients."""

from minilm.adapt.adaptation import apply_lora, lora_config, lora_state, merge_lora, unmerge_lora
from minilm.adapt.freezing import full, head_only, trainable_report
from minilm.adapt.lora import LoRALinear, LoRAWeights

__all__ = [
    "LoRALinear",
    "LoRAWeights",
    "apply_lora",
    "full",
    "head_only",
    "lora_config",
    "lora_state",
    "merge_lora",
    "trainable_report",
    "unmerge_lora",
]
