"""Search: the documents of a collection that are best for a query, by embeddings, by words, or by both."""

from __future__ import annotations

from typing import Any, NamedTuple

from haystack.components.joiners import DocumentJoiner
from haystack.dataclasses import Document

from tqvec import _validate
from tqvec.errors import InputError
from tqvec.integrations.haystack.filters import compile_filters
from tqvec.integrations.haystack.records import HAS_EMBEDDING, WITH_VECTORS, WITHOUT_VECTORS, read_documents
from tqvec.store.collection import Collection
from tqvec.store.ranking import default_candidates


class Options(NamedTuple):
    """What is common to all searches.

    Attributes
    ----------
    filters : dict or None
    top_k : int
        Most documents that are returned.
    return_embedding : bool
        Whether they have their embeddings.
    """

    filters: dict[str, Any] | None
    top_k: int
    return_embedding: bool

    def checked(self) -> dict[str, Any]:
        """Return them as arguments of `Collection.search`."""
        return {
            "k": check_top_k(self.top_k),
            "where": compile_filters(self.filters),
            "include": WITH_VECTORS if self.return_embedding else WITHOUT_VECTORS,
        }


def check_top_k(top_k: int) -> int:
    """Return `top_k`, or raise InputError unless it is a number from 1."""
    return _validate.integer(top_k, "top_k", 1, 2**31 - 1)


def search_embeddings(collection: Collection, query_embedding: list[float], options: Options) -> list[Document]:
    """Return the documents whose embeddings are nearest to that of a query, with exact scores.

    Raises
    ------
    InputError
        The embedding has another length, or `top_k` is wrong.
    FilterError
        As `compile_filters`.
    """
    query = _validate.vectors(query_embedding, collection.settings.d, "query_embedding")
    if len(query) != 1:
        raise InputError(f"query_embedding must be that of one query, got {len(query)}")
    arguments = options.checked()
    arguments["where"] = {**arguments["where"], **HAS_EMBEDDING}
    (hits,) = collection.search(query, rerank=True, **arguments)
    return read_documents(hits, smaller_is_better=collection.settings.metric == "l2")


def search_words(collection: Collection, query: str, options: Options) -> list[Document]:
    """Return the documents that have words of a query, with their scores by BM25; errors are as above."""
    if not isinstance(query, str):
        raise InputError(f"query must be a str, got a {type(query).__name__}")
    (hits,) = collection.search(text=query, **options.checked())
    return read_documents(hits)


def search_both(collection: Collection, query: str, query_embedding: list[float], options: Options) -> list[Document]:
    """Return the documents that are best by words and embeddings, with scores from 0 to 1; errors are as above.

    Both rankings are joined by reciprocal ranks, as Haystack's `DocumentJoiner` does it.
    """
    # The collection's own search by both would leave documents without embedding out of the ranking by words, too.
    most = options._replace(top_k=default_candidates(check_top_k(options.top_k)))
    rankings = [search_embeddings(collection, query_embedding, most), search_words(collection, query, most)]
    joiner = DocumentJoiner(join_mode="reciprocal_rank_fusion", top_k=options.top_k)
    joined: list[Document] = joiner.run(rankings)["documents"]
    return joined
