"""Embedding: a function or model of the user's that makes vectors of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import ArrayLike

from tqvec.errors import InputError

Embed = Callable[[Sequence[str]], ArrayLike]


def as_function(embed: Any) -> Embed:
    """Return the function of a model: ``encode`` of a model of sentence-transformers, or itself.

    Raises
    ------
    InputError
        It can't be called.
    """
    encode = getattr(embed, "encode", None)
    if callable(encode):
        return lambda texts: encode(list(texts))  # type: ignore[no-any-return]
    if not callable(embed):
        raise InputError(f"embed must be a function of a list of str, or a model with encode(), got {embed!r}")
    return lambda texts: embed(list(texts))  # type: ignore[no-any-return]


def name_of(embed: Any) -> str:
    """Return the name of a model or function, which the collection keeps: of a model its ``name``, if it has one."""
    card = getattr(embed, "model_card_data", None)
    for owner, attribute in ((embed, "name"), (embed, "model_name"), (card, "base_model"), (embed, "__qualname__")):
        value = getattr(owner, attribute, None)
        if isinstance(value, str) and value:
            return value
    return type(embed).__qualname__
