"""The sample of real embeddings that comes with tqvec: 10,000 WordNet glosses and 500 queries, all-MiniLM-L6-v2."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec.errors import UnsupportedError
from tqvec.eval.readers import read_vectors


class Sample(NamedTuple):
    """Embeddings and the texts they stand for.

    Attributes
    ----------
    base : (10000, 384) float16
        Unit vectors.
    queries : (500, 384) float16
    base_texts, query_texts : list of str
        The texts of the rows.
    """

    base: NDArray[np.float16]
    queries: NDArray[np.float16]
    base_texts: list[str]
    query_texts: list[str]


def sample_folder() -> Path:
    """Return the folder of the sample: in the installed package, or in ``datasets/`` of a checkout."""
    here = Path(__file__).parent
    for folder in (here / "sample", here.parents[1] / "datasets" / "wordnet_minilm" / "sample"):
        if folder.is_dir():
            return folder
    raise UnsupportedError("the sample embeddings are missing from this installation: reinstall tqvec")


def load_sample(folder: Path | None = None) -> Sample:
    """Read the sample, or another folder with the same four files.

    Raises
    ------
    FileNotFoundError
        `folder` lacks one of the files.
    """
    folder = folder or sample_folder()
    return Sample(
        read_vectors(folder / "base_f16.npy"),
        read_vectors(folder / "queries_f16.npy"),
        _texts(folder / "base_texts.txt.gz"),
        _texts(folder / "query_texts.txt.gz"),
    )


def _texts(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return file.read().splitlines()
