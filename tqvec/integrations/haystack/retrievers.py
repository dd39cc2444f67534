"""Retrievers: components of pipelines that search a document store."""

# Without `from __future__ import annotations`: older versions of Haystack read the types of `run` from the signature.
from typing import Any, TypeVar

from tqvec._present import import_optional

import_optional("haystack", "tqvec.integrations.haystack", "haystack")  # the package imports this module first

from haystack import component, default_from_dict, default_to_dict  # noqa: E402
from haystack.dataclasses import Document  # noqa: E402
from haystack.document_stores.types import FilterPolicy  # noqa: E402
from haystack.document_stores.types.filter_policy import apply_filter_policy  # noqa: E402

from tqvec._validate import instance  # noqa: E402
from tqvec.integrations.haystack.awaiting import in_thread  # noqa: E402
from tqvec.integrations.haystack.search import Options, check_top_k, search_both, search_embeddings, search_words  # noqa: E402
from tqvec.integrations.haystack.store import Filters, TqvecDocumentStore  # noqa: E402

Self = TypeVar("Self", bound="_Retriever")


class _Retriever:
    """What retrievers have in common.

    Parameters
    ----------
    document_store : TqvecDocumentStore
    filters : dict, optional
        Haystack's filters on ``id``, ``content`` and ``meta.<name>``.
    top_k : int
        Most documents that are returned, at least 1.
    return_embedding : bool
        Whether documents have their embeddings.
    filter_policy : FilterPolicy or str
        Whether filters of a run replace those above, or are merged with them.

    Raises
    ------
    InputError
        An argument has a wrong type, or `top_k` is less than 1.
    """

    def __init__(
        self,
        document_store: TqvecDocumentStore,
        *,
        filters: Filters | None = None,
        top_k: int = 10,
        return_embedding: bool = False,
        filter_policy: str | FilterPolicy = FilterPolicy.REPLACE,
    ) -> None:
        self.document_store = instance(document_store, "document_store", TqvecDocumentStore)
        self.filters = filters
        self.top_k = check_top_k(top_k)
        self.return_embedding = return_embedding
        self.filter_policy = FilterPolicy.from_str(filter_policy) if isinstance(filter_policy, str) else filter_policy

    def to_dict(self) -> dict[str, Any]:
        """Return the arguments of the retriever and of its document store."""
        return default_to_dict(
            self,
            document_store=self.document_store.to_dict(),
            filters=self.filters,
            top_k=self.top_k,
            return_embedding=self.return_embedding,
            filter_policy=self.filter_policy.value,
        )

    @classmethod
    def from_dict(cls: type[Self], data: dict[str, Any]) -> Self:
        """Return a retriever with the arguments that `to_dict` gave; its document store opens the same folder."""
        arguments = dict(data["init_parameters"])
        arguments["document_store"] = TqvecDocumentStore.from_dict(arguments["document_store"])
        return default_from_dict(cls, {**data, "init_parameters": arguments})

    def _options(self, filters: Filters | None, top_k: int | None) -> Options:
        """Return the options of a run, of which some may be of this run alone."""
        return Options(
            apply_filter_policy(self.filter_policy, self.filters, filters),
            self.top_k if top_k is None else top_k,
            self.return_embedding,
        )


@component
class TqvecEmbeddingRetriever(_Retriever):
    """Retrieves the documents whose embeddings are nearest to that of a query.

    Its arguments are `document_store`, a `TqvecDocumentStore`, and by name `filters`, `top_k` (10), `return_embedding`
    (False) and `filter_policy` (REPLACE), with the meaning that they have in Haystack's own retrievers.
    """

    @component.output_types(documents=list[Document])
    def run(
        self, query_embedding: list[float], filters: Filters | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """Return the nearest documents, best first.

        Parameters
        ----------
        query_embedding : list of float
        filters, top_k : optional
            Of this run alone.

        Returns
        -------
        dict
            ``{"documents": [...]}``, with scores.
        """
        documents = search_embeddings(self.document_store.collection, query_embedding, self._options(filters, top_k))
        return {"documents": documents}

    run_async = in_thread(run)


@component
class TqvecBM25Retriever(_Retriever):
    """Retrieves the documents that have words of a query, by BM25; arguments are as of `TqvecEmbeddingRetriever`."""

    @component.output_types(documents=list[Document])
    def run(self, query: str, filters: Filters | None = None, top_k: int | None = None) -> dict[str, list[Document]]:
        """Return documents with words of the query, best first.

        Parameters
        ----------
        query : str
        filters, top_k : optional
            Of this run alone.

        Returns
        -------
        dict
            ``{"documents": [...]}``, with scores.
        """
        documents = search_words(self.document_store.collection, query, self._options(filters, top_k))
        return {"documents": documents}

    run_async = in_thread(run)


@component
class TqvecHybridRetriever(_Retriever):
    """Retrieves the documents that are best by words and embeddings; arguments are as of `TqvecEmbeddingRetriever`."""

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, query_embedding: list[float], filters: Filters | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """Return documents, best first.

        Parameters
        ----------
        query : str
        query_embedding : list of float
        filters, top_k : optional
            Of this run alone.

        Returns
        -------
        dict
            ``{"documents": [...]}``, with scores from 0 to 1.
        """
        options = self._options(filters, top_k)
        return {"documents": search_both(self.document_store.collection, query, query_embedding, options)}

    run_async = in_thread(run)
