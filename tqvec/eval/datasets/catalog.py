"""The data sets that can be loaded by name: ``catalog.json``, and the folders of their files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from tqvec.errors import InputError
from tqvec.eval.sample import sample_folder

VARIABLE = "TQVEC_DATASETS"
"""Environment variable that names the folder of all data sets."""
SAMPLE = "wordnet-sample"


class File(NamedTuple):
    """A file of a data set.

    Attributes
    ----------
    name : str
    url : str or None
        None for a file that is not published, but built or part of tqvec.
    sha256 : str or None
        None if the publisher states none.
    """

    name: str
    url: str | None
    sha256: str | None


class Entry(NamedTuple):
    """A data set of the catalogue, as its publisher describes it.

    Attributes
    ----------
    name : str
    n, d : int
        Number of base vectors, and their dimension.
    metric : str
        ``ip``, ``cosine`` or ``l2``.
    nbytes : int or None
        Bytes of all files; rounded where the publisher rounds, None where none are stated.
    licence : str or None
        Of the vectors; None where none is stated.
    page : str
        Where the publisher describes it.
    files : tuple of File
    column : str or None
        The column of the vectors in Parquet files.
    build : str or None
        Folder of tqvec's source that has the builder of what is not published.
    """

    name: str
    n: int
    d: int
    metric: str
    nbytes: int | None
    licence: str | None
    page: str
    files: tuple[File, ...]
    column: str | None = None
    build: str | None = None

    @property
    def folder(self) -> Path:
        """The folder of the files, which need not be there."""
        return sample_folder() if self.name == SAMPLE else cache_folder() / self.name

    @property
    def missing(self) -> tuple[File, ...]:
        """The files that are not there."""
        return tuple(file for file in self.files if not (self.folder / file.name).is_file())


def cache_folder() -> Path:
    """Return ``TQVEC_DATASETS``, or ``tqvec/datasets`` in the user's cache folder.

    Raises
    ------
    OSError
        The user has no home folder.
    """
    if named := os.environ.get(VARIABLE):
        return Path(named)
    user = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(user) if os.path.isabs(user) else Path.home() / ".cache") / "tqvec" / "datasets"
    except RuntimeError:
        raise FileNotFoundError(f"there is no home folder: set {VARIABLE} to the folder of the data sets") from None


def iter_entries() -> Iterator[Entry]:
    """Yield all data sets, those that need no network first."""
    for name, fields in _read_catalog().items():
        yield Entry(**fields | {"name": name, "files": tuple(File(**file) for file in fields["files"])})


def find(name: str) -> Entry:
    """Return the data set of a name.

    Raises
    ------
    InputError
        There is none.
    """
    for entry in iter_entries():
        if entry.name == name:
            return entry
    raise InputError(f"name must be one that `tqvec datasets list` shows, got {name!r}")


@lru_cache(maxsize=1)
def _read_catalog() -> dict[str, dict[str, Any]]:
    catalog: dict[str, dict[str, Any]] = json.loads(
        files("tqvec.eval.datasets").joinpath("catalog.json").read_text(encoding="utf-8")
    )
    return catalog
