"""Use tqvec as the vector index of txtai: ``Embeddings(backend="tqvec.integrations.txtai.TqvecANN")``."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tqvec._present import import_optional
from tqvec._types import Floats, Ids
from tqvec.errors import InputError
from tqvec.index.index import Index

import_optional("txtai", "tqvec.integrations.txtai", "txtai")

from txtai.ann import ANN  # noqa: E402

__all__ = ["TqvecANN"]

_DEFAULTS = {"nbits": 4, "codebook": "scalar", "seed": 0, "mmap": False}


class TqvecANN(ANN):
    """A backend of txtai that keeps vectors in 1 to 8 bits per coordinate and searches them by inner product.

    txtai makes it from the configuration of `txtai.Embeddings`, and normalizes vectors unless told otherwise. Scores
    are cosines then. Settings stand under the name of the backend, as for other backends::

        name = "tqvec.integrations.txtai.TqvecANN"
        embeddings = Embeddings({"backend": name, name: {"nbits": 2, "codebook": "trellis"}, ...})

    The settings ``nbits``, ``codebook`` and ``seed`` are those of `tqvec.Index`. With ``mmap`` the file of a loaded
    index is mapped, not read.

    Other Parameters
    ----------------
    config : dict
        The configuration of the embeddings. ``offset`` in it is the id of the next vector.
    """

    def index(self, embeddings: NDArray[np.float32]) -> None:
        """Compress vectors (n, d), with the ids 0 to n − 1; earlier ones are dropped.

        Raises
        ------
        InputError
            A setting that there is not, or is out of its range; ``quantize`` in the configuration; bad vectors.
        """
        if self.config.get("quantize"):
            raise InputError("quantize is for other backends; leave it out, and set nbits of this one")
        settings = self.config.get(self.config["backend"]) or {}
        unknown = sorted(set(settings) - set(_DEFAULTS))
        if unknown:
            raise InputError(f"{unknown[0]!r} is no setting of this backend; there are {', '.join(_DEFAULTS)}")
        used = {name: self.setting(name, _DEFAULTS[name]) for name in ("nbits", "codebook", "seed")}
        index = Index(embeddings.shape[1], metric="ip", **used)
        index.add(embeddings)
        self.backend, self.config["offset"] = index, len(embeddings)
        self.metadata(used)

    def append(self, embeddings: NDArray[np.float32]) -> None:
        """Compress more vectors, with the next ids."""
        first = self.config["offset"]
        self.backend.add(embeddings, np.arange(first, first + len(embeddings)))
        self.config["offset"] = first + len(embeddings)
        self.metadata()

    def delete(self, ids: Sequence[int] | Ids) -> None:
        """Remove vectors; ids that are not there are passed over."""
        self.backend.remove_ids(np.asarray(ids, np.int64))

    def search(self, queries: Floats, limit: int) -> list[list[tuple[int, float]]]:
        """Return (id, score) of the best vectors for each query, best first; fewer than `limit` if there are fewer."""
        scores, ids = self.backend.search(queries, limit)
        return [
            [(one, score) for one, score in zip(*row, strict=True) if one >= 0]
            for row in zip(ids.tolist(), scores.tolist(), strict=True)
        ]

    def count(self) -> int:
        """Return the number of vectors."""
        return self.backend.ntotal

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an index file of tqvec, in place of a file of any backend."""
        self.backend.save(path, overwrite=True)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Read the file that `save` wrote.

        Raises
        ------
        FormatError
            The file is damaged, or of another backend.
        """
        self.backend = Index.load(path, mmap=bool(self.setting("mmap", False)))
