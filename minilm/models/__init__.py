"""Models that the literature names, put together from layers: architectures, and heads that stand on them.

An architecture is one file, with its options as a dataclass beside it, and one line in `ARCHITECTURES`. Named models,
with sizes and training, are in `minilm.presets`.
"""

from minilm.models.backbone import Architecture as Architecture, Backbone as Backbone
from minilm.models.bag_of_words import BagOfWords as BagOfWords, BagOfWordsOptions, WordCounts as WordCounts
from minilm.models.classifier import Classifier as Classifier, TextClassifier as TextClassifier
from minilm.models.generation import generate as generate
from minilm.models.language_model import LanguageModel as LanguageModel
from minilm.models.recurrent_backbone import RecurrentBackbone as RecurrentBackbone, RecurrentOptions
from minilm.models.summary import describe as describe, num_parameters as num_parameters
from minilm.models.transformer_backbone import TransformerBackbone as TransformerBackbone, TransformerOptions

ARCHITECTURES: dict[str, Architecture] = {
    "transformer": Architecture(TransformerOptions, TransformerBackbone),
    "recurrent": Architecture(RecurrentOptions, RecurrentBackbone),
    "bag-of-words": Architecture(BagOfWordsOptions, WordCounts),
}
