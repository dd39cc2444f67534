"""Records and collections of tests."""

import numpy as np
import strategies as sts

import tqvec

D = 16
WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]


def vectors(n, seed):
    return sts.normal(n, D, 90_000 + seed)


def fill(collection, n, seed=0, first=0):
    """Add n records: ids r0, r1, …, documents of two words, years and tags."""
    collection.upsert(
        ids=[f"r{first + i}" for i in range(n)],
        vectors=vectors(n, seed),
        documents=[f"{WORDS[i % 6]} {WORDS[i // 6 % 6]}" for i in range(n)],
        metadatas=[{"year": 2000 + i % 10, "tags": WORDS[: i % 3]} for i in range(n)],
    )


def flat(x, metric="cosine"):
    index = tqvec.Index(D, metric=metric)
    if len(x):
        index.add(np.asarray(x))
    return index
