"""Semantic search with the arguments and results of sentence-transformers, on compressed vectors.

sentence-transformers need not be installed: a service that gets embeddings from elsewhere needs no PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict

from numpy.typing import ArrayLike, NDArray

from tqvec import _validate
from tqvec._types import MetricName
from tqvec._vectors import Vectors
from tqvec.errors import InputError
from tqvec.index.index import Index

_METRICS: dict[object, MetricName] = {"cosine": "cosine", "dot": "ip"}
_FUNCTIONS = {"cos_sim": "cosine", "pytorch_cos_sim": "cosine", "dot_score": "dot"}  # of the library
_NONE = -1  # id where there are fewer than top_k


class Match(TypedDict):
    """A result: the id of a vector of the corpus, and its score."""

    corpus_id: int
    score: float


def semantic_search(
    query_embeddings: ArrayLike,
    corpus_embeddings: ArrayLike | Index,
    query_chunk_size: int = 100,
    corpus_chunk_size: int = 500_000,
    top_k: int = 10,
    score_function: str | Callable[..., Any] = "cosine",
    *,
    nbits: int | float = 4,
    rerank: ArrayLike | None = None,
) -> list[list[Match]]:
    """Return the `top_k` best entries of a corpus for each query, as `sentence_transformers.util.semantic_search` does.

    The search reads compressed vectors. Where the embeddings of the corpus are at hand, scores are exact. The shortlist
    holds all of the true best with a probability of about 0.99 per query; see the "Error bars" page.

    Parameters
    ----------
    query_embeddings : (nq, d) or (d,)
        Tensors, arrays or lists.
    corpus_embeddings : (n, d), or Index
        Embeddings are compressed anew in each call. For many calls, make an `Index` of metric "cosine" or "ip" once.
    query_chunk_size, corpus_chunk_size : int
        Not used, since memory doesn't grow with chunks here. They keep the arguments those of the library.
    top_k : int
        At least 1.
    score_function : {"cosine", "dot"}, or cos_sim or dot_score of sentence_transformers.util
        It must be that of an index.
    nbits : int or float
        Bits per coordinate of embeddings that are compressed here. More bits make shorter shortlists.
    rerank : (n, d), optional
        The embeddings in an index, in the order of its ids, for exact scores. They may be a memory map.

    Returns
    -------
    list of list of dict
        For each query ``{"corpus_id": int, "score": float}``, best first; fewer than `top_k` where there are no more.
        The id is the row of the embedding, or the id in the index.

    Raises
    ------
    InputError
        Bad embeddings, with the row; another score function, or another than that of the index.

    Examples
    --------
    >>> import numpy as np
    >>> corpus = np.random.default_rng(1).standard_normal((1000, 64)).astype(np.float32)
    >>> [[best, *_]] = semantic_search(corpus[7], corpus)
    >>> best["corpus_id"], round(best["score"], 5)
    (7, 1.0)
    """
    metric = _metric_of(score_function)
    top_k = _validate.integer(top_k, "top_k", 1, 2**31 - 1)
    if isinstance(corpus_embeddings, Index):
        index = corpus_embeddings
        if index.metric != metric:
            raise InputError(f"score_function needs an index with metric={metric!r}, got one with {index.metric!r}")
    elif rerank is None:
        rerank = _validate.numbers(corpus_embeddings, "corpus_embeddings")
        index = _compress(rerank, nbits, metric)
    else:
        raise InputError(
            "rerank belongs to an index; corpus_embeddings that are vectors make scores exact by themselves"
        )
    queries = _validate.vectors(query_embeddings, index.d, "query_embeddings")
    scores, ids = index.search(queries, top_k, rerank=rerank)
    return [
        [{"corpus_id": number, "score": score} for number, score in zip(*row, strict=True) if number != _NONE]
        for row in zip(ids.tolist(), scores.tolist(), strict=True)
    ]


def _metric_of(score_function: object) -> MetricName:
    """Return the metric of a score function; those of the library are known by name, so that it need not be loaded."""
    name = score_function
    if callable(score_function) and str(getattr(score_function, "__module__", "")).startswith("sentence_transformers."):
        name = _FUNCTIONS.get(getattr(score_function, "__name__", ""))
    if isinstance(name, str) and name in _METRICS:
        return _METRICS[name]
    raise InputError(
        "score_function must be 'cosine' or 'dot', or cos_sim or dot_score of sentence_transformers.util, "
        f"got {score_function!r}"
    )


def _compress(corpus: NDArray[Any], nbits: int | float, metric: MetricName) -> Index:
    """Return an index of embeddings."""
    if corpus.ndim not in (1, 2) or not corpus.shape[-1]:
        raise InputError(f"corpus_embeddings must have shape (n, d) or (d,), got {corpus.shape}")
    d = corpus.shape[-1]
    Vectors(corpus, d, "corpus_embeddings").check()  # add would call them x
    index = Index(d, nbits=nbits, metric=metric)
    index.add(corpus)
    return index
