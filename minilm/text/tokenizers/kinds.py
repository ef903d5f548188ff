"""The table of the kinds of tokenizers: training one, and reading one from its file."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from minilm.checks import one_of
from minilm.text.tokenizers.base import FORMAT, Tokenizer
from minilm.text.tokenizers.byte_bpe import ByteBPETokenizer
from minilm.text.tokenizers.characters import CharTokenizer
from minilm.text.tokenizers.words import WordTokenizer

_KINDS: dict[str, type[Tokenizer]] = {kind.kind: kind for kind in (CharTokenizer, WordTokenizer, ByteBPETokenizer)}
KINDS = tuple(_KINDS)


def train_tokenizer(kind: str, texts: Iterable[str], **options: Any) -> Tokenizer:
    """Train a tokenizer of `kind` "char", "word" or "bpe" on texts, which are read once, one by one.

    Options are those of the kind's `train`: char `unknown`; word `min_frequency`, `vocab_size`, `lower`; bpe
    `vocab_size`, `min_frequency`. Raises ValueError for an unknown kind or option, and for empty text.
    """
    train = _KINDS[one_of("tokenizer", kind, KINDS)].train
    known = [name for name in inspect.signature(train).parameters if name != "texts"]
    for name in options:
        if name not in known:
            raise ValueError(f"a {kind} tokenizer has no option {name}; it has {', '.join(known)}")
    return train(texts, **options)


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer in a file that `save` wrote. Raises FileNotFoundError, or ValueError for any other content."""
    path = Path(path)
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such tokenizer file") from None
    except ValueError:  # malformed JSON, or bytes that are no text
        raise ValueError(
            f"{path} is no tokenizer file, or it is cut off; expected the JSON that Tokenizer.save writes"
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("version") != 1:
        raise ValueError(f"{path} is no tokenizer file of minilm; expected the JSON that Tokenizer.save writes")
    kind = one_of(f"{path}: tokenizer kind", content.get("kind"), KINDS)
    try:
        return _KINDS[kind].from_fields(content)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is a damaged tokenizer file: {error}") from None
