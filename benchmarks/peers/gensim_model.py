"""An epoch of gensim's Word2Vec, compiled C with BLAS, over the same texts: skip-gram with one worker."""

from __future__ import annotations

from typing import Any

from benchmarks.variants import Variant

EVERY_WORD = {"sample": 0, "shrink_windows": False, "epochs": 1}


def epoch(gensim: Any, ids: Any, vocabulary: int, width: int, window: int, negatives: int) -> Variant:
    """Full windows and every word, as ours: no smaller windows at random, no subsampling of frequent words."""
    model = gensim.models.Word2Vec(
        vector_size=width, window=window, negative=negatives, sg=1, min_count=1, workers=1, **EVERY_WORD
    )
    texts = [[str(word) for word in text] for text in ids]
    model.build_vocab([*texts, *([str(word)] for word in range(vocabulary))])

    def train() -> None:
        model.train(texts, total_examples=len(texts), epochs=1)

    return Variant(train, None, lambda _: [], comparable=False)
