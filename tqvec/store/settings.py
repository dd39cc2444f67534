"""Settings: what a collection is made with and keeps for its life."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tqvec import _validate
from tqvec._types import CodebookName, MetricName
from tqvec.errors import FormatError, InputError
from tqvec.index.index import Index
from tqvec.store.originals import KEPT, Kept

_FIELDS = ("d", "metric", "nbits", "codebook", "seed", "keep", "indexed", "embedding")
_DEFAULTS: dict[str, Any] = {
    "metric": "cosine",
    "nbits": 4,
    "codebook": "scalar",
    "seed": 0,
    "keep": None,
    "indexed": (),
    "embedding": None,
}


class Settings(NamedTuple):
    """Settings of a collection.

    Attributes
    ----------
    d : int
    metric, nbits, codebook, seed
        As of an `Index`.
    keep : {"float32", "float16", "int8"} or None
        Type of the originals.
    indexed : tuple of str
        Fields of the metadata with an index.
    embedding : str or None
        Name of the model that makes vectors of texts.
    """

    d: int
    metric: MetricName
    nbits: int | float
    codebook: CodebookName
    seed: int
    keep: Kept | None
    indexed: tuple[str, ...]
    embedding: str | None

    def make_index(self) -> Index:
        """Return an index without vectors."""
        return Index(self.d, self.nbits, self.metric, self.codebook, self.seed)

    @property
    def columns(self) -> dict[str, str]:
        """Columns of the indexed fields."""
        return {name: f"field_{i}" for i, name in enumerate(self.indexed)}


def make_settings(given: Mapping[str, Any]) -> Settings:
    """Return the settings of a new collection: those that are given, and defaults.

    Raises
    ------
    InputError
        `d` is missing, or a setting is wrong.
    """
    said = {name: value for name, value in given.items() if value is not None}
    if "d" not in said:
        raise InputError("d, the dimension of the vectors, must be given to create a collection")
    keep = said.get("keep")
    if keep is not None:
        _validate.choice(keep, "keep", KEPT)
    settings = Settings(**{**_DEFAULTS, **said})
    if not isinstance(settings.nbits, (int, float)):
        raise InputError(f"nbits of a collection must be a number, got {settings.nbits!r}")
    index = settings.make_index()
    return settings._replace(d=index.d, seed=index.codec.seed)  # of Python's own types


def read_stored(stored: Mapping[str, Any]) -> Settings:
    """Return the settings that a catalog has."""
    lacking = [name for name in _FIELDS if name not in stored]
    if lacking:
        raise FormatError(f"the catalog is damaged: it lacks the settings {', '.join(lacking)}")
    values = {name: stored[name] for name in _FIELDS}
    return Settings(**{**values, "indexed": tuple(values["indexed"])})


def check_same(settings: Settings, given: Mapping[str, Any], where: str) -> None:
    """Raise InputError if a collection that is there has another setting than was asked for."""
    for name, value in given.items():
        has = getattr(settings, name)
        unsaid = value is None or (name == "indexed" and not value) or (name == "embedding" and has is None)
        if not unsaid and _differs(value, has):
            raise InputError(
                f"{where}: the collection has {name}={has!r}, not {value!r}; leave {name} out to open it as it is, or "
                "create another one"
            )


def _differs(value: Any, has: Any) -> bool:
    try:
        return bool(value != has)
    except ValueError:  # an array
        return True
