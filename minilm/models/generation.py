"""Text from a language model, one token at a time.

    P(w) = softmax(logits / temperature), limited to the top_k likeliest tokens, and to the fewest tokens whose
    probabilities sum to top_p [Holtzman et al. 2020]; temperature 0 takes the likeliest token.

The model continues from its state (keys and values, or recurrent states), so each token costs one step. A model with
learned positions has a last one: from there on each token is computed anew from the last `context` tokens.
Sampling is done on the host in float64, so that a seed gives the same text on every device that gives equal logits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from minilm.backend import asarray_like, to_numpy
from minilm.checks import number, whole
from minilm.models.language_model import LanguageModel


def generate(
    model: LanguageModel,
    ids: Sequence[int] | np.ndarray,
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    rng: np.random.Generator | None = None,
    stop: int | Iterable[int] | None = None,
) -> Iterator[int]:
    """Yield up to `max_new_tokens` token ids that continue the prompt `ids`, as they are drawn.

    rng       a NumPy generator; needed unless the temperature is 0
    stop      a token id, or several: the text ends before the first of them
    Raises ValueError, before anything is yielded, for an empty prompt, one longer than the context, an id outside of
    the vocabulary, or an option out of range.
    """
    prompt = np.asarray(ids)
    if prompt.ndim != 1 or prompt.size == 0:
        raise ValueError(f"the prompt has shape {prompt.shape}, expected at least one token id in one dimension")
    if prompt.dtype.kind not in "iu":
        raise TypeError(f"the prompt has dtype {prompt.dtype}, expected integer token ids")
    vocabulary, context = model.backbone.vocab_size, model.context
    if prompt.min() < 0 or prompt.max() >= vocabulary:
        raise ValueError(
            f"the prompt has a token id outside of the vocabulary 0 … {vocabulary - 1}: "
            f"{int(prompt.min() if prompt.min() < 0 else prompt.max())}"
        )
    if context is not None and prompt.size > context:
        raise ValueError(
            f"the prompt is {prompt.size} tokens long, but the context of this model is {context}: shorten the prompt"
        )
    whole("max_new_tokens", max_new_tokens)
    sampling: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "rng": rng}
    _check_sampling(**sampling)
    ends = frozenset() if stop is None else frozenset([stop] if isinstance(stop, int | np.integer) else stop)
    return _generate(model, prompt.tolist(), max_new_tokens, ends, sampling)


def _generate(
    model: LanguageModel, tokens: list[int], max_new_tokens: int, stop: frozenset[int], sampling: dict[str, Any]
) -> Iterator[int]:
    state: Any = None
    new, seen = tokens, 0  # what the state has not seen yet, and how much it has
    for _ in range(max_new_tokens):
        if model.context is not None and seen + len(new) > model.context:
            state, new, seen = None, tokens[-model.context :], 0
        logits, state = model.next_logits(asarray_like(np.array([new], np.int64), model.array), state)  # (1, V)
        seen += len(new)
        token = sample(to_numpy(logits)[0], **sampling)
        if token in stop:
            return
        yield token
        tokens = [*tokens, token] if model.context is None else [*tokens, token][-model.context :]
        new = [token]


def sample(
    logits: np.ndarray,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    rng: np.random.Generator | None = None,
) -> int:
    """One token id from host logits (V,), with the options of `generate`. Of equal logits the lower id comes first."""
    _check_sampling(temperature, top_k, top_p, rng)
    logits = np.asarray(logits, np.float64)
    if np.isnan(logits).any() or not np.isfinite(logits.max()):
        raise ValueError("the logits hold NaN, or nothing finite: the model's weights are damaged or training diverged")
    if temperature == 0.0:
        return int(logits.argmax())
    order = np.argsort(-logits, kind="stable")[:top_k]  # likeliest first
    scores = logits[order] - logits[order[0]]
    probabilities = np.exp(scores / temperature)
    probabilities /= probabilities.sum()
    if top_p is not None:
        before = probabilities.cumsum() - probabilities  # what the likelier tokens sum to
        probabilities = np.where(before < top_p, probabilities, 0.0)  # the likeliest always stays
    cumulative = probabilities.cumsum()
    assert rng is not None  # checked above
    drawn = rng.random() * cumulative[-1]
    return int(order[min(np.searchsorted(cumulative, drawn, side="right"), np.flatnonzero(probabilities)[-1])])


def _check_sampling(
    temperature: float, top_k: int | None, top_p: float | None, rng: np.random.Generator | None
) -> None:
    number("temperature", temperature)
    if top_k is not None:
        whole("top_k", top_k, 1)
    if top_p is not None and not 0.0 < top_p <= 1.0:
        raise ValueError(f"top_p is {top_p}, expected a number in (0, 1]")
    if temperature > 0.0 and rng is None:
        raise ValueError("sampling draws random numbers: give rng=numpy.random.default_rng(seed), or temperature=0")
