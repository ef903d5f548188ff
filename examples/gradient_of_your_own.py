"""A function of your own: forward, backward, the check of both, two mistakes and what they look like, then a layer.

    python examples/gradient_of_your_own.py          # a few seconds

The function is the cosine between each row of x and each row of w, from which a classifier by prototypes is made:

    y = x̂ ŵᵀ        x̂ = x / |x|, ŵ = w / |w|        x (N, C), w (K, C), y (N, K)

One input reaches the loss on two ways, through the numerator and through |x|. With g = ∂L/∂x̂ = dy ŵ,

    ∂L/∂x = (g − x̂ ⟨g, x̂⟩) / |x|        ⟨·, ·⟩ over the C channels

and the same for w, whose g is dyᵀ x̂: only the part of g across x counts, as stretching x changes no angle.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from minilm.gradcheck import LawViolation, check_laws, check_layer, gradcheck
from minilm.layers.base import Layer
from minilm.ops import cross_entropy
from minilm.optim import AdamW
from minilm.text.kjv import kjv_verses

# ---- the function


class CosineCache(NamedTuple):
    """What the backward reads. The unit vectors are kept rather than made again: two passes less."""

    x_unit: Any  # (N, C)
    w_unit: Any  # (K, C)
    x_length: Any  # (N, 1)
    w_length: Any  # (K, 1)


def length(x: Any) -> Any:
    return np.sqrt((x * x).sum(axis=-1, keepdims=True))  # (N, 1)  without abs, so that the complex step passes


def cosine(x: Any, w: Any) -> tuple[Any, CosineCache]:
    """The cosine of each row of x (N, C) with each row of w (K, C): y (N, K). No row may be zero."""
    x_length, w_length = length(x), length(w)
    x_unit, w_unit = x / x_length, w / w_length
    return x_unit @ w_unit.T, CosineCache(x_unit, w_unit, x_length, w_length)


def cosine_backward(dy: Any, cache: CosineCache) -> tuple[Any, Any]:
    """The gradients of x and w."""
    x_unit, w_unit, x_length, w_length = cache
    dx_unit = dy @ w_unit  # (N, C)
    dw_unit = dy.T @ x_unit  # (K, C)
    dx = (dx_unit - x_unit * (dx_unit * x_unit).sum(axis=-1, keepdims=True)) / x_length
    dw = (dw_unit - w_unit * (dw_unit * w_unit).sum(axis=-1, keepdims=True)) / w_length
    return dx, dw


# ---- two mistakes


def cosine_backward_wrong(dy: Any, cache: CosineCache) -> tuple[Any, Any]:
    """Wrong: as if |x| did not depend on x. Training would go on, and learn less."""
    _, dw = cosine_backward(dy, cache)
    return dy @ cache.w_unit / cache.x_length, dw


def cosine_backward_in_place(dy: Any, cache: CosineCache) -> tuple[Any, Any]:
    """Right numbers, once: it divides within the cache, so that a second call would read something else."""
    dx, dw = cosine_backward(dy, cache)
    np.divide(cache.x_unit, cache.x_length, out=cache.x_unit)
    return dx, dw


# ---- as a layer


class Cosine(Layer):
    """Logits s · cos(x, w) for K prototypes w, which it owns. x (N, C), y (N, K)."""

    def __init__(self, C: int, K: int, scale: float, rng: np.random.Generator) -> None:
        super().__init__()
        self.params["weight"] = rng.normal(size=(K, C))
        self.scale = scale

    def forward(self, x: Any, *, train: bool = True, cache: bool = True, rng: Any = None) -> tuple[Any, Any]:
        y, made = cosine(x, self.weight)
        return self.scale * y, made if cache else None

    def backward(self, dy: Any, cache: CosineCache, *, need_dx: bool = True) -> tuple[Any, dict[str, Any]]:
        dx, dw = cosine_backward(self.scale * dy, cache)
        return dx if need_dx else None, self.grads(weight=dw)  # no entry for a frozen weight


# ---- a small task: from which book is a verse?


def verses_as_counts(books: tuple[str, ...], words: int) -> tuple[Any, Any, list[str]]:
    """How often each of the most frequent words stands in a verse (N, C), the book (N,), and the words."""
    verses = [(v.text.lower().replace(",", "").replace(".", "").split(), v.book) for v in kjv_verses()]
    verses = [(text, books.index(book)) for text, book in verses if book in books]
    frequent = [word for word, _ in Counter(word for text, _ in verses for word in text).most_common(words)]
    column = {word: number for number, word in enumerate(frequent)}
    counts = np.full((len(verses), words), 0.05)  # no row may be zero
    for row, (text, _) in zip(counts, verses, strict=True):
        for word in text:
            if word in column:
                row[column[word]] += 1
    return counts, np.array([book for _, book in verses]), frequent


def train(layer: Layer, x: Any, books: Any, steps: int, rng: np.random.Generator) -> None:
    optimizer = AdamW(layer, lr=3e-2, weight_decay=0.0)
    for _ in range(steps):
        rows = rng.integers(0, len(x), 256)
        logits, cache = layer.forward(x[rows])
        _, entropy = cross_entropy(logits, books[rows])
        optimizer.accumulate(layer.backward(cross_entropy.backward(1.0, entropy), cache, need_dx=False)[1])
        optimizer.step()


def main(steps: int = 300) -> float:
    """Check, show both mistakes, train. Returns the accuracy on verses that were not trained on."""
    rng = np.random.default_rng(0)
    args = rng.normal(size=(3, 6)), rng.normal(size=(4, 6))
    print(gradcheck(cosine, cosine_backward, args, mode="full"))
    check_laws(cosine, cosine_backward, args)
    print("\nOne way forgotten:\n")
    print(gradcheck(cosine, cosine_backward_wrong, args))
    try:
        check_laws(cosine, cosine_backward_in_place, args)
    except LawViolation as violation:
        print(f"\nThe cache written to:\n\n{violation}")
    print("\nAs a layer, laws and freezing included:\n")
    print(check_layer(Cosine(6, 4, 5.0, rng), args[0]))

    names = "Genesis", "Psalms", "Romans"
    x, books, words = verses_as_counts(names, words=500)
    shuffled = rng.permutation(len(x))
    tested, trained = shuffled[:500], shuffled[500:]
    layer = Cosine(x.shape[1], len(names), 10.0, rng)
    train(layer, x[trained], books[trained], steps, rng)
    logits, _ = layer.forward(x[tested], train=False, cache=False)
    accuracy = float((logits.argmax(axis=-1) == books[tested]).mean())
    common = float(np.bincount(books[tested]).max() / len(tested))
    print(f"\n{accuracy:.1%} of {len(tested)} verses put into the right book, where {common:.1%} are Psalms")
    print("Words that tell:\n")
    unit = layer.weight / length(layer.weight)
    for name, own in zip(names, unit - unit.mean(axis=0), strict=True):
        print(f"{name:8} {' '.join(words[i] for i in (-own).argsort()[:10])}")
    return accuracy


if __name__ == "__main__":
    main()
