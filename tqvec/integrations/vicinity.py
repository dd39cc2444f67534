"""Use tqvec in vicinity: `TqvecVicinity` is a `vicinity.Vicinity` of compressed vectors."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqvec._present import import_optional
from tqvec._types import CodebookName, Doubles, Ids, MetricName
from tqvec.codec.bands import Width
from tqvec.errors import FormatError, InputError, UnsupportedError
from tqvec.index.index import Index

import_optional("vicinity", "tqvec.integrations.vicinity", "vicinity")

from vicinity import Metric, Vicinity  # noqa: E402
from vicinity.backends import AbstractBackend, BasicVectorStore  # noqa: E402
from vicinity.backends.base import BaseArgs  # noqa: E402

__all__ = ["TqvecBackend", "TqvecVicinity"]

_METRICS: dict[Metric, MetricName] = {Metric.COSINE: "cosine", Metric.EUCLIDEAN: "l2", Metric.L2_SQUARED: "l2"}
_FILE, _ARGUMENTS = "index.tqv", "arguments.json"


class _BackendType(str, Enum):
    """The name of the backend in files: vicinity's own enum can't be extended."""

    TQVEC = "tqvec"


class TqvecBackend(AbstractBackend[BaseArgs]):
    """A backend of vicinity that keeps vectors in 1 to 8 bits per coordinate; make it with `from_vectors`.

    Parameters
    ----------
    index : Index
        Of metric "cosine" or "l2". It may be partitioned.
    arguments : BaseArgs
        The metric.
    """

    argument_class = BaseArgs
    supported_metrics = frozenset(_METRICS)

    def __init__(self, index: Index, arguments: BaseArgs):
        super().__init__(arguments)
        self.index = index
        self._ids = np.sort(index.ids)  # vicinity counts vectors in the order of their insertion, without gaps

    @classmethod
    def from_vectors(
        cls,
        vectors: NDArray,
        metric: str | Metric = Metric.COSINE,
        nbits: Width = 4,
        codebook: CodebookName = "scalar",
        seed: int = 0,
    ) -> TqvecBackend:
        """Compress vectors.

        Parameters
        ----------
        vectors : (n, d) array
        metric : Metric or str
            Cosine, Euclidean or squared Euclidean distance.
        nbits, codebook, seed
            As in `tqvec.Index`.

        Raises
        ------
        InputError
            An argument is out of its range, or vectors are bad.
        """
        kind = Metric.from_string(metric)
        if kind not in _METRICS:
            raise InputError(f"metric must be one of {', '.join(one.value for one in _METRICS)}, got {kind.value!r}")
        if vectors.ndim != 2:
            raise InputError(f"vectors must have shape (n, d), got {vectors.shape}")
        index = Index(vectors.shape[1], nbits, _METRICS[kind], codebook, seed)
        index.add(vectors)
        return cls(index, BaseArgs(kind))

    def __len__(self) -> int:
        return self.index.ntotal

    @property
    def backend_type(self) -> _BackendType:
        """The name of the backend in files."""
        return _BackendType.TQVEC

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return self.index.d

    def query(self, vectors: NDArray, k: int) -> list[tuple[Ids, Doubles]]:
        """Return numbers and distances of the nearest vectors for each query, nearest first; at most `k`."""
        results = []
        for scores, ids in zip(*self.index.search(vectors, k), strict=True):
            there = ids >= 0
            values = scores[there].astype(np.float64)
            if self.arguments.metric is Metric.COSINE:
                values = 1 - values
            elif self.arguments.metric is Metric.EUCLIDEAN:
                values = np.sqrt(values)
            results.append((np.searchsorted(self._ids, ids[there]), values))
        return results

    def threshold(self, vectors: NDArray, threshold: float, max_k: int) -> list[tuple[Ids, Doubles]]:
        """Return those of the `max_k` nearest vectors whose distance is at most `threshold`."""
        results = self.query(vectors, max_k)
        return [(numbers[values <= threshold], values[values <= threshold]) for numbers, values in results]

    def insert(self, vectors: NDArray) -> None:
        """Compress more vectors, numbered after the others; nothing is added if a row is bad."""
        self.index.add(vectors)
        self._ids = np.sort(self.index.ids)

    def delete(self, indices: Sequence[int]) -> None:
        """Remove vectors by number; later ones move up."""
        self.index.remove_ids(self._ids[np.asarray(indices, np.int64)])
        self._ids = np.sort(self.index.ids)

    def save(self, path: Path) -> None:
        """Write an index file of tqvec and the metric to a folder; files of these names are replaced."""
        self.index.save(path / _FILE, overwrite=True)
        self.arguments.dump(path / _ARGUMENTS)

    @classmethod
    def load(cls, path: Path) -> TqvecBackend:
        """Read what `save` wrote to a folder.

        Raises
        ------
        FormatError
            The index is damaged, or of another metric than the arguments.
        """
        index, arguments = Index.load(path / _FILE), BaseArgs.load(path / _ARGUMENTS)
        if _METRICS.get(arguments.metric) != index.metric:
            raise FormatError(f"{path}: {_ARGUMENTS} has metric {arguments.metric.value}, but {_FILE} {index.metric}")
        return cls(index, arguments)


class TqvecVicinity(Vicinity):
    """A `vicinity.Vicinity` on a `TqvecBackend`.

    vicinity makes and loads its own backends by name alone, so both go through this class. Everything else is
    inherited.
    """

    @classmethod
    def from_vectors_and_items(
        cls, vectors: NDArray, items: Sequence[Any], *, store_vectors: bool = False, **kwargs: Any
    ) -> TqvecVicinity:
        """Compress vectors that belong to items.

        Parameters
        ----------
        vectors : (n, d) array
        items : sequence
            One for each vector.
        store_vectors : bool
            Keep the vectors themselves too.
        **kwargs
            See `TqvecBackend.from_vectors`.
        """
        backend = TqvecBackend.from_vectors(vectors, **kwargs)
        return cls(items, backend, vector_store=BasicVectorStore(vectors=vectors) if store_vectors else None)

    @classmethod
    def load(cls, filename: str | os.PathLike[str]) -> TqvecVicinity:
        """Read a folder that `save` wrote.

        Raises
        ------
        InputError
            It is of another backend.
        """
        folder = Path(filename)
        data = json.loads((folder / "data.json").read_text(encoding="utf-8"))
        if data["backend_type"] != _BackendType.TQVEC.value:
            raise InputError(f"{folder} is of the backend {data['backend_type']!r}: load it with vicinity.Vicinity")
        store = folder / "store"
        vectors = BasicVectorStore.load(store) if store.exists() else None
        return cls(data["items"], TqvecBackend.load(folder), metadata=data["metadata"], vector_store=vectors)

    def insert(self, tokens: Sequence[Any], vectors: NDArray) -> None:
        """Insert items and their vectors; nothing is changed if a row is bad."""
        n = len(self.items)
        try:
            super().insert(tokens, vectors)
        except BaseException:
            del self.items[n:]  # vicinity adds them before it asks the backend
            raise

    def push_to_hub(self, *args: Any, **kwargs: Any) -> None:
        """Raise `UnsupportedError`: vicinity can't load other backends than its own from the Hub."""
        raise UnsupportedError("vicinity can't load this backend from the Hub; upload the folder that save writes")
