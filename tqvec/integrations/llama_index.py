"""A vector store of LlamaIndex: nodes are records of a collection, found by vectors, words and metadata."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqvec import _validate
from tqvec._present import import_optional
from tqvec.errors import InputError, UnsupportedError
from tqvec.store.collection import Collection
from tqvec.store.ranking import SMOOTHING, default_candidates

import_optional("llama_index.core", "tqvec.integrations.llama_index", "llama-index")

from fsspec.implementations.local import LocalFileSystem  # noqa: E402
from llama_index.core.bridge.pydantic import PrivateAttr  # noqa: E402
from llama_index.core.schema import BaseNode, MetadataMode  # noqa: E402
from llama_index.core.vector_stores import types  # noqa: E402

from tqvec.integrations._llama_index_records import SOURCE, fields_of, node_of, where_of  # noqa: E402

_VECTOR, _WORDS = "query_embedding", "query_str"
_NEEDS = {"default": (_VECTOR,), "mmr": (_VECTOR,), "text_search": (_WORDS,), "hybrid": (_VECTOR, _WORDS)}


class TqvecVectorStore(types.BasePydanticVectorStore):
    """A vector store of LlamaIndex whose nodes are the records of a `Collection`.

    Every call that changes nodes is one transaction. Wrong arguments raise `InputError`, and nothing is changed then.

    Parameters
    ----------
    path : path, optional
        Folder of the collection, created or opened. Default: a temporary folder, which goes with the store.
    d : int, optional
        Dimension of the embeddings. It must be given to create a collection.
    indexed : list of str, optional
        Fields of the metadata that filters find fast.
    **settings
        As of `Collection`: ``metric``, ``nbits``, ``codebook``, ``seed``, ``keep``, ``timeout``, ``threads``.
    """

    stores_text: bool = True
    _collection: Collection = PrivateAttr()

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        d: int | None = None,
        *,
        indexed: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        super().__init__(stores_text=True)
        if not isinstance(indexed, str) and (indexed or path is None or not Collection.exists(path)):
            indexed = (SOURCE, *indexed)
        self._collection = Collection(path, d, indexed=indexed, **settings)

    @classmethod
    def class_name(cls) -> str:
        """Return the name by which LlamaIndex knows the class."""
        return "TqvecVectorStore"

    @property
    def client(self) -> Collection:
        """The collection, for `train`, `partition`, `compact`, `check` and `close`."""
        return self._collection

    def __getstate__(self) -> dict[str, Any]:
        raise UnsupportedError("a vector store can't be copied or pickled: hand over its path, and open it there")

    @classmethod
    def from_persist_path(cls, persist_path: str, fs: Any = None) -> TqvecVectorStore:
        """Open a folder that `persist` wrote; changes go to this folder."""
        _require_local(fs)
        if not Collection.exists(persist_path):
            raise InputError(f"persist_path: there is no collection in {persist_path}")
        return cls(persist_path)

    def persist(self, persist_path: str, fs: Any = None) -> None:
        """Write a snapshot to a folder, in place of a collection that is there; nothing to do for its own folder."""
        _require_local(fs)
        target = Path(persist_path).resolve()
        if target == self._collection.path.resolve():
            return
        if not Collection.exists(target):
            self._collection.snapshot(target)
            return
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
            new = Path(folder, "new")
            self._collection.snapshot(new)
            target.rename(Path(folder, "old"))
            new.rename(target)

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Add nodes with embeddings, in place of those with the same ids, and return their ids."""
        _refuse(kwargs)
        d = self._collection.settings.d
        for row, node in enumerate(nodes):
            if node.embedding is None or len(node.embedding) != d:
                has = "none" if node.embedding is None else f"one of {len(node.embedding)}"
                raise InputError(f"nodes row {row} must have an embedding of {d} numbers, but has {has}")
        ids = [node.node_id for node in nodes]
        self._collection.upsert(
            ids=ids,
            vectors=[node.get_embedding() for node in nodes],
            documents=[node.get_content(metadata_mode=MetadataMode.NONE) for node in nodes],
            metadatas=[fields_of(node, row) for row, node in enumerate(nodes)],
        )
        return ids

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete the nodes of a source document."""
        _refuse(delete_kwargs)
        self._collection.delete(where={SOURCE: {"$eq": ref_doc_id}})

    def delete_nodes(
        self, node_ids: list[str] | None = None, filters: types.MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Delete nodes by id, or those that pass the filters; of both, those to which both apply."""
        _refuse(delete_kwargs)
        where = where_of(filters, node_ids)
        if not where:
            raise InputError("hand over node_ids or filters; clear() deletes all nodes")
        self._collection.delete(where=where)

    def clear(self) -> None:
        """Delete all nodes."""
        self._collection.delete(where={})

    def get_nodes(
        self, node_ids: list[str] | None = None, filters: types.MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Return nodes by id, in this order, or all, if they pass the filters; without their embeddings."""
        return [node_of(record) for record in self._collection.get(node_ids, where=where_of(filters)).to_records()]

    def query(self, query: types.VectorStoreQuery, **kwargs: Any) -> types.VectorStoreQueryResult:
        """Return the best nodes, best first; larger similarities are better.

        Similarities are those of the metric, or 1 / (1 + squared distance) for l2. TEXT_SEARCH has scores of BM25, and
        HYBRID has sums of ``alpha / (60 + rank)`` by vectors and ``(1 - alpha) / (60 + rank)`` by words.

        Parameters
        ----------
        query : VectorStoreQuery
            Its mode is DEFAULT, MMR, TEXT_SEARCH or HYBRID. An empty list of `node_ids` means all nodes.
        **kwargs
            ``mmr_threshold``, in place of that of the query; ``rerank`` and ``recall``, as of `Collection.search`.
        """
        threshold = _share(kwargs.pop("mmr_threshold", query.mmr_threshold), "mmr_threshold")
        options: dict[str, Any] = {name: kwargs.pop(name) for name in ("rerank", "recall") if name in kwargs}
        _refuse(kwargs)
        mode, k = _mode_of(query), query.similarity_top_k
        where = where_of(query.filters, query.node_ids or None, query.doc_ids)  # an index hands [] over for all nodes
        if mode == "mmr":
            options["diversity"] = 1 - threshold
        if mode == "hybrid":
            return _result_of(self._search_both(query, where, options))
        if mode == "text_search":
            return _result_of(self._collection.search(text=query.query_str, k=k, where=where)[0].to_records())
        hits = self._collection.search(query.query_embedding, k, where=where, **options)[0]
        return _result_of(hits.to_records(), self._collection.settings.metric == "l2")

    def _search_both(
        self, query: types.VectorStoreQuery, where: dict[str, Any], options: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Join the best records by vectors and the best by words."""
        k, alpha = query.hybrid_top_k or query.similarity_top_k, _share(query.alpha, "alpha")
        most = default_candidates(k)
        k_near = query.similarity_top_k if query.hybrid_top_k else most
        near = self._collection.search(query.query_embedding, k_near, where=where, **options)[0]
        worded = self._collection.search(text=query.query_str, k=query.sparse_top_k or most, where=where)[0]
        records: dict[str, dict[str, Any]] = {}
        for hits, weight in ((near, alpha), (worded, 1 - alpha)):
            for rank, record in enumerate(hits.to_records() if weight else (), 1):
                records.setdefault(record["id"], {**record, "score": 0.0})["score"] += weight / (SMOOTHING + rank)
        return sorted(records.values(), key=lambda record: -record["score"])[:k]

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Await `add` in a thread; so do the other methods with an ``a`` before their name."""
        return await asyncio.to_thread(self.add, nodes, **kwargs)

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Await `delete`."""
        await asyncio.to_thread(self.delete, ref_doc_id, **delete_kwargs)

    async def adelete_nodes(self, *args: Any, **named: Any) -> None:
        """Await `delete_nodes`."""
        await asyncio.to_thread(self.delete_nodes, *args, **named)

    async def aclear(self) -> None:
        """Await `clear`."""
        await asyncio.to_thread(self.clear)

    async def aget_nodes(self, *args: Any, **named: Any) -> list[BaseNode]:
        """Await `get_nodes`."""
        return await asyncio.to_thread(self.get_nodes, *args, **named)

    async def aquery(self, query: types.VectorStoreQuery, **kwargs: Any) -> types.VectorStoreQueryResult:
        """Await `query`."""
        return await asyncio.to_thread(self.query, query, **kwargs)


def _refuse(arguments: dict[str, Any]) -> None:
    if arguments:
        raise InputError(f"TqvecVectorStore has no argument {', '.join(arguments)}")


def _require_local(fs: Any) -> None:
    if fs is not None and not isinstance(fs, LocalFileSystem):
        raise InputError(f"fs must be None or a local file system, got a {type(fs).__name__}; copy the folder yourself")


def _share(value: float | None, name: str) -> float:
    """Return a number from 0 to 1; 0.5 in place of None."""
    share = 0.5 if value is None else _validate.number(value, name)
    if not 0 <= share <= 1:
        raise InputError(f"{name} must be from 0 to 1, got {value}")
    return share


def _mode_of(query: types.VectorStoreQuery) -> str:
    """Return the mode of a query, after a check that it is supported and has what it needs."""
    mode = types.VectorStoreQueryMode(query.mode).value
    if mode not in _NEEDS:
        raise InputError(f"mode {mode!r} is not supported; use one of {', '.join(_NEEDS)}")
    for name in _NEEDS[mode]:
        if getattr(query, name) is None:
            raise InputError(f"a query in mode {mode!r} needs {name}; get_nodes finds nodes by filters alone")
    for name in ("similarity_top_k", "sparse_top_k", "hybrid_top_k"):
        if getattr(query, name) is not None:
            _validate.integer(getattr(query, name), name, 1, 2**31 - 1)
    for name in ("output_fields", "embedding_field"):
        if getattr(query, name) is not None:
            raise InputError(f"{name} is not supported; a node has one embedding, and comes whole")
    return mode


def _result_of(records: Sequence[dict[str, Any]], is_distance: bool = False) -> types.VectorStoreQueryResult:
    scores = [float(record["score"]) for record in records]
    return types.VectorStoreQueryResult(
        nodes=[node_of(record) for record in records],
        similarities=[1 / (1 + score) for score in scores] if is_distance else scores,
        ids=[record["id"] for record in records],
    )
