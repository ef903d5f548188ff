"""Models that the literature names, put together from layers; `build` makes one from the name of a preset."""

from minilm.models.backbone import Backbone
from minilm.models.bag_of_words import BagOfWords
from minilm.models.classifier import Classifier, TextClassifier
from minilm.models.generation import generate
from minilm.models.language_model import LanguageModel
from minilm.models.presets import PRESETS, Preset, build, find_preset
from minilm.models.recurrent_backbone import RecurrentBackbone
from minilm.models.summary import describe, num_parameters
from minilm.models.transformer_backbone import TransformerBackbone

__all__ = [
    "PRESETS",
    "Backbone",
    "BagOfWords",
    "Classifier",
    "LanguageModel",
    "Preset",
    "RecurrentBackbone",
    "TextClassifier",
    "TransformerBackbone",
    "build",
    "describe",
    "find_preset",
    "generate",
    "num_parameters",
]
