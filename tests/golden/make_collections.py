"""Make the golden collection of the current version: `python tests/golden/make_collections.py`.

A version's folder never changes. A new version gets a new one, and the old ones must stay readable.
"""

import sys
from pathlib import Path

import numpy as np

import tqvec
from tqvec.store import catalog, change

FOLDER = Path(__file__).parent / "collections"
D, N = 8, 24


def golden_vectors():
    """Numbers that no generator had a part in."""
    return ((np.arange(N * D) * 7919 % 509 - 254).reshape(N, D) / 64).astype(np.float32)


def main():
    path = FOLDER / f"v{catalog.VERSION}"
    if path.exists():
        sys.exit(f"{path} exists; the files of a version never change")
    change._TAIL = 10
    x = golden_vectors()
    with tqvec.Collection(path, d=D, keep="float16", indexed=["year"], seed=3) as collection:
        for first in range(0, N, 6):
            collection.upsert(
                ids=[f"r{i}" for i in range(first, first + 6)],
                vectors=x[first : first + 6],
                documents=[f"text number {i}" if i % 4 else None for i in range(first, first + 6)],
                metadatas=[{"year": 2000 + i, "tags": ["a", "é"][: i % 3]} for i in range(first, first + 6)],
            )
        collection.delete(["r2", "r20"])
        collection.update("r3", metadatas=[{"year": None, "changed": True}])
    (path / catalog.WRITER).unlink()


if __name__ == "__main__":
    main()
