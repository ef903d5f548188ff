"""Models that the literature names, put together from layers: architectures, and heads that stand on them.

An architecture is one file, with its options as a dataclass beside it, and one line in `ARCHITECTURES`. Named models,
with sizes and training, are in `minilm.presets`.
"""

from minilm.models.backbone import Architecture, Backbone
from minilm.models.bag_of_words import BagOfWords, BagOfWordsOptions, WordCounts
from minilm.models.classifier import Classifier, ClassifierOptions, TextClassifier
from minilm.models.generation import generate
from minilm.models.language_model import LanguageModel, LanguageModelOptions
from minilm.models.recurrent_backbone import RecurrentBackbone, RecurrentOptions
from minilm.models.summary import describe, num_parameters
from minilm.models.transformer_backbone import TransformerBackbone, TransformerOptions

ARCHITECTURES: dict[str, Architecture] = {
    "transformer": Architecture(TransformerOptions, TransformerBackbone),
    "recurrent": Architecture(RecurrentOptions, RecurrentBackbone),
    "bag-of-words": Architecture(BagOfWordsOptions, WordCounts),
}

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Backbone",
    "BagOfWords",
    "BagOfWordsOptions",
    "Classifier",
    "ClassifierOptions",
    "LanguageModel",
    "LanguageModelOptions",
    "RecurrentBackbone",
    "RecurrentOptions",
    "TextClassifier",
    "TransformerBackbone",
    "TransformerOptions",
    "WordCounts",
    "describe",
    "generate",
    "num_parameters",
]
