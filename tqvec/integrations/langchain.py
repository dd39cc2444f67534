"""TqvecVectorStore: a vector store of LangChain over a collection."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tqvec import _validate
from tqvec._locks import ForkLock
from tqvec._present import import_optional
from tqvec._types import CodebookName, MetricName
from tqvec.errors import InputError
from tqvec.store.collection import Collection
from tqvec.store.hits import Hits
from tqvec.store.originals import Kept
from tqvec.store.records import read_columns
from tqvec.store.settings import make_settings

import_optional("langchain_core", "tqvec.integrations.langchain", "langchain")

from langchain_core.documents import Document  # noqa: E402
from langchain_core.embeddings import Embeddings  # noqa: E402
from langchain_core.runnables.config import run_in_executor  # noqa: E402
from langchain_core.vectorstores import VectorStore  # noqa: E402

Scored = list[tuple[Document, float]]
Metadatas = list[dict[str, Any]] | None
Names = Sequence[str | None] | None
_INCLUDE = ("documents", "metadatas")


class TqvecVectorStore(VectorStore):
    """A vector store of LangChain over a `Collection`: documents with vectors of 1 to 8 bits per coordinate.

    All searches take ``filter=``, which is `where` of `Collection.search`, and its other options, such as ``rerank=``.

    Parameters
    ----------
    embedding : Embeddings
        Makes the vectors. A new collection gets its dimension from the first of them.
    path : path, Collection or None
        The folder of the collection, which is created if it is not there. None: a temporary one, which is removed with
        the store.
    metric, nbits, codebook, keep, indexed, threads : optional
        As of `Collection`; beside one they are refused.
    """

    def __init__(
        self,
        embedding: Embeddings,
        path: str | os.PathLike[str] | Collection | None = None,
        *,
        metric: MetricName | None = None,
        nbits: int | float | None = None,
        codebook: CodebookName | None = None,
        keep: Kept | None = None,
        indexed: Sequence[str] = (),
        threads: int | None = None,
    ) -> None:
        self._embedding = _validate.instance(embedding, "embedding", Embeddings)
        codec = {"metric": metric, "nbits": nbits, "codebook": codebook, "keep": keep}
        self._settings: dict[str, Any] = {**codec, "indexed": indexed, "threads": threads}
        self._lock = ForkLock()  # two threads must not make two temporary folders
        self._path: Any = path
        self._collection = path if isinstance(path, Collection) else None
        if isinstance(path, Collection):
            if given := [name for name, value in self._settings.items() if value]:
                raise InputError(f"{given[0]} is a setting of a new collection, but path is one already: leave it out")
        elif path is not None and Collection.exists(path):
            self._collection = Collection(path, **self._settings)
        else:
            make_settings({"d": 64, **codec})  # any d: a wrong one shall be told before texts are embedded

    @classmethod
    def from_texts(
        cls, texts: list[str], embedding: Embeddings, metadatas: Metadatas = None, *, ids: Names = None, **settings: Any
    ) -> TqvecVectorStore:
        """Return a store with texts; `settings` are those of the constructor, `path` among them."""
        store = cls(embedding, **settings)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    @classmethod
    async def afrom_texts(
        cls, texts: list[str], embedding: Embeddings, metadatas: Metadatas = None, *, ids: Names = None, **settings: Any
    ) -> TqvecVectorStore:
        """Await `from_texts`, with the embedding's own asynchronous calls."""
        store = await run_in_executor(None, cls, embedding, **settings)
        await store.aadd_texts(texts, metadatas, ids=ids)
        return store

    @property
    def embeddings(self) -> Embeddings:
        """The embedding."""
        return self._embedding

    @property
    def collection(self) -> Collection:
        """The collection, for all that LangChain has no name for; the first use may create it."""
        return self._open(None)

    def add_texts(
        self, texts: Iterable[str], metadatas: Metadatas = None, *, ids: Names = None, batch_size: int | None = None
    ) -> list[str]:
        """Add texts in one transaction, in place of those with the same ids, and return the ids.

        Bad ids or metadata raise `InputError`, before anything is embedded or written.

        Parameters
        ----------
        metadatas : list of dict, optional
            As of `Collection.upsert`: a value None means that there is no such field.
        ids : list of (str or None), optional
            In place of None, and by default, random ones.
        batch_size : int, optional
            Not used; LangChain's `index` hands it over.
        """
        names, texts, metadatas = _check_columns(ids, texts, metadatas)
        return self._write(names, texts, metadatas, self._embedding.embed_documents(texts) if texts else [])

    async def aadd_texts(
        self, texts: Iterable[str], metadatas: Metadatas = None, *, ids: Names = None, batch_size: int | None = None
    ) -> list[str]:
        """Await `add_texts`, with the embedding's own asynchronous call."""
        names, texts, metadatas = _check_columns(ids, texts, metadatas)
        vectors = await self._embedding.aembed_documents(texts) if texts else []
        return await run_in_executor(None, self._write, names, texts, metadatas, vectors)

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return documents by id, in this order; ids that are not there are left out."""
        return _documents(self.collection.get(ids))

    def delete(self, ids: list[str] | None = None, *, filter: Mapping[str, Any] | None = None) -> bool:
        """Delete documents by id, or those of a condition, and return True; ids that are not there are passed over."""
        if (ids is None) == (filter is None):
            raise InputError("hand over either ids or filter; filter={} deletes all documents")
        self.collection.delete(ids, where=filter)
        return True

    def similarity_search(self, query: str, k: int = 4, **options: Any) -> list[Document]:
        """Return the `k` documents most similar to a text, best first."""
        return [document for document, _ in self.similarity_search_with_score(query, k, **options)]

    async def asimilarity_search(self, query: str, k: int = 4, **options: Any) -> list[Document]:
        """Await `similarity_search`, with the embedding's own asynchronous call."""
        return [document for document, _ in await self.asimilarity_search_with_score(query, k, **options)]

    def similarity_search_by_vector(self, embedding: list[float], k: int = 4, **options: Any) -> list[Document]:
        """Return the `k` documents most similar to a vector, best first."""
        return _documents(self._search(embedding, k, _INCLUDE, **options))

    def similarity_search_with_score(self, query: str, k: int = 4, **options: Any) -> Scored:
        """Return the `k` documents most similar to a text, and their scores as of `Index.search`."""
        return self.similarity_search_with_score_by_vector(self._embedding.embed_query(query), k, **options)

    async def asimilarity_search_with_score(self, query: str, k: int = 4, **options: Any) -> Scored:
        """Await `similarity_search_with_score`, with the embedding's own asynchronous call."""
        vector = await self._embedding.aembed_query(query)
        return await run_in_executor(None, self.similarity_search_with_score_by_vector, vector, k, **options)

    def similarity_search_with_score_by_vector(self, embedding: list[float], k: int = 4, **options: Any) -> Scored:
        """Return the `k` documents most similar to a vector, and their scores."""
        hits = self._search(embedding, k, _INCLUDE, **options)
        return list(zip(_documents(hits), np.asarray(hits.scores).tolist(), strict=True))

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **options: Any
    ) -> list[Document]:
        """Return documents that are similar to a text and differ from each other.

        They are chosen from the `fetch_k` most similar ones, of which there are at least `k`. `lambda_mult` is from 0,
        which prefers documents that differ, to 1, which prefers similar ones.
        """
        vector = self._embedding.embed_query(query)
        return self.max_marginal_relevance_search_by_vector(vector, k, fetch_k, lambda_mult, **options)

    async def amax_marginal_relevance_search(self, query: str, *numbers: Any, **options: Any) -> list[Document]:
        """Await `max_marginal_relevance_search`, with the embedding's own asynchronous call."""
        vector = await self._embedding.aembed_query(query)
        return await self.amax_marginal_relevance_search_by_vector(vector, *numbers, **options)

    def max_marginal_relevance_search_by_vector(
        self, embedding: list[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **options: Any
    ) -> list[Document]:
        """Return documents that are similar to a vector and differ from each other."""
        k = _validate.integer(k, "k", 1, 2**31 - 1)
        fetch_k = _validate.integer(fetch_k, "fetch_k", 1, 2**31 - 1)
        if not 0 <= _validate.number(lambda_mult, "lambda_mult") <= 1:
            raise InputError(f"lambda_mult must be from 0 to 1, got {lambda_mult}")
        few = {"diversity": 1 - lambda_mult, "candidates": max(k, fetch_k)}
        return _documents(self._search(embedding, k, _INCLUDE, **few, **options))

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return self._relevance

    def _relevance(self, score: float) -> float:
        """Return a score's relevance from 0 to 1: a cosine itself, if not negative; others by their order alone."""
        size = 1 + abs(score)
        by_metric = {"cosine": max(score, 0.0), "ip": 0.5 + 0.5 * score / size, "l2": 1 / size}
        return by_metric[self.collection.settings.metric]

    def _open(self, vectors: Any) -> Collection:
        """Return the collection; make it for vectors of this dimension, or of that of a word's, if it is not there."""
        with self._lock:
            if self._collection is None:
                example = self._embedding.embed_query("dimension") if vectors is None else vectors
                self._collection = Collection(self._path, np.shape(example)[-1], **self._settings)
            return self._collection

    def _write(self, names: list[str], texts: list[str], metadatas: Metadatas, vectors: list[list[float]]) -> list[str]:
        if names:
            self._open(vectors).upsert(ids=names, vectors=vectors, documents=texts, metadatas=metadatas)
        return names

    def _search(self, vector: Any, k: int, include: Any, *, filter: Any = None, **options: Any) -> Hits:
        if filter is not None and not isinstance(filter, Mapping):  # a function, as InMemoryVectorStore takes it
            raise InputError(f"filter must be a dict of conditions, as where of a Collection, got {filter!r}")
        return self._open(vector).search(vector, k, where=filter, include=include, **options)[0]


def _check_columns(
    ids: Sequence[str | None] | None, texts: Iterable[str], metadatas: Metadatas
) -> tuple[list[str], list[str], Metadatas]:
    """Return ids, texts and metadata that a collection takes, before anybody pays for embeddings."""
    if isinstance(texts, str):
        raise InputError("texts must be a list of str, got a str")
    entries = _validate.sequence(texts, "texts", str)
    given = [None] * len(entries) if ids is None else _validate.entries(ids, "ids")
    if len(given) != len(entries):
        raise InputError(f"ids must have an entry for each of the {len(entries)} texts, got {len(given)}")
    names = [str(uuid.uuid4()) if name is None else name for name in given]
    fields = None if metadatas is None else _validate.entries(metadatas, "metadatas")
    read_columns(names, None, entries, fields)
    return names, entries, fields


def _documents(hits: Hits) -> list[Document]:
    """Return records as documents; those without a text have an empty one."""
    records = zip(hits.ids, hits.documents or (), hits.metadatas or (), strict=True)
    return [Document(id=name, page_content=text or "", metadata=fields) for name, text, fields in records]
