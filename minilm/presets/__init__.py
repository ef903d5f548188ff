"""Named models: the sizes and settings of models from the literature, each changeable by options.

    model = build("gpt", vocab_size=65, layers=2, context=128)
    config = find_preset("gpt").configure(vocab_size=65, layers=2, context=128)      config.build() draws the same

A preset is one entry in one of the files here: sizes, tokenizer and defaults of training over an architecture.
"""

from typing import Any

from minilm.checks import one_of
from minilm.layers.base import Layer
from minilm.presets import classifiers, language_models
from minilm.presets.config import ModelConfig as ModelConfig
from minilm.presets.preset import Preset as Preset

PRESETS: dict[str, Preset] = {preset.name: preset for preset in (*language_models.PRESETS, *classifiers.PRESETS)}


def find_preset(name: str) -> Preset:
    """The preset `name`. Raises ValueError, listing all and naming the closest, where there is none."""
    return PRESETS[one_of("preset", name, PRESETS)]


def build(preset: str, **options: Any) -> Layer:
    """A new model on the host: vocab_size, seed, dtype, classes, and any option of the preset. See `Preset.configure`.

    Raises ValueError for a preset or an option that is unknown, or a value that makes no sense.
    """
    return find_preset(preset).configure(**options).build()
