"""The document store."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from haystack import default_from_dict, default_to_dict
from haystack.dataclasses import Document
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy
from haystack.errors import FilterError

from tqvec import _validate
from tqvec._types import MetricName
from tqvec.errors import InputError
from tqvec.integrations.haystack import metadata
from tqvec.integrations.haystack.awaiting import in_thread
from tqvec.integrations.haystack.filters import compile_filters, read_field
from tqvec.integrations.haystack.records import (
    WITH_VECTORS,
    index_fields,
    read_documents,
    read_meta,
    write_fields,
    write_meta,
    write_vector,
)
from tqvec.store.collection import Collection
from tqvec.store.originals import Kept

Filters = dict[str, Any]
_INDEXED = ("embedding",)


class TqvecDocumentStore:
    """Documents of Haystack in a `Collection`: a folder that processes share, where each call is one transaction.

    Retrievers read compressed embeddings, and order the best of them by exact scores.

    Parameters
    ----------
    path : path, optional
        The folder, created or opened. Default: a temporary one, which goes with the store.
    embedding_dim : int, optional
        Length of the embeddings. It must be given to create a collection.
    metric : {"cosine", "ip", "l2"}, optional
        Default: "cosine". Scores of "l2" are negative squared distances, so that larger ones are better.
    nbits : int or float, optional
        Bits per coordinate of the compressed embeddings. Default: 4.
    keep : {"float32", "float16", "int8"}, optional
        Type in which embeddings come back. Default: "float32".
    indexed : list of str
        Fields such as ``"meta.year"`` that filters find fast.

    Attributes
    ----------
    collection : Collection
        For `compact`, `partition`, `check`, `snapshot` and `info`. Write by the store alone.

    Raises
    ------
    InputError
        A setting is wrong, or differs from that of the collection; the folder has a collection of another kind.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        embedding_dim: int | None = None,
        *,
        metric: MetricName | None = None,
        nbits: int | float | None = None,
        keep: Kept | None = None,
        indexed: Sequence[str] = (),
    ) -> None:
        indexed = _validate.entries(indexed, "indexed")
        self._arguments = {
            "path": None if path is None else os.fspath(path),
            "embedding_dim": embedding_dim,
            "metric": metric,
            "nbits": nbits,
            "keep": keep,
            "indexed": indexed,
        }
        exists = path is not None and Collection.exists(path)
        if not exists and embedding_dim is None:
            raise InputError("embedding_dim, the length of the embeddings, must be given to create a collection")
        own = [field for name in indexed for field in _index(name)]
        self.collection = Collection(
            path,
            embedding_dim,
            metric=metric,
            nbits=nbits,
            keep=keep if exists else keep or "float32",
            indexed=() if exists and not own else (*_INDEXED, *own),
        )
        if self.collection.settings.indexed[: len(_INDEXED)] != _INDEXED:
            self.collection.close()
            raise InputError(f"path {path} has a collection that no TqvecDocumentStore made; take another folder")
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the collection; a temporary one is removed."""
        self.collection.close()

    def to_dict(self) -> dict[str, Any]:
        """Return the arguments that the store was made with; documents stay in the folder."""
        # A copy, as YAML writes a list that two dictionaries share by reference.
        return default_to_dict(self, **deepcopy(self._arguments))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TqvecDocumentStore:
        """Return a store with the arguments that `to_dict` gave: the same folder, or a new temporary one."""
        return default_from_dict(cls, data)

    def count_documents(self) -> int:
        """Return the number of documents."""
        return len(self.collection)

    def count_documents_by_filter(self, filters: Filters) -> int:
        """Return the number of documents that filters hold for."""
        return self.collection.count(compile_filters(filters))

    def filter_documents(self, filters: Filters | None = None) -> list[Document]:
        """Return the documents that filters hold for, in the order in which they were written.

        Parameters
        ----------
        filters : dict, optional
            Haystack's filters on ``id``, ``content`` and ``meta.<name>``.

        Raises
        ------
        FilterError
            Filters are malformed, or ask for something that a collection can't answer.
        """
        return read_documents(self.collection.get(where=compile_filters(filters), include=WITH_VECTORS))

    def write_documents(self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE) -> int:
        """Write documents, all of them or, if there is an error, none.

        Parameters
        ----------
        documents : list of Document
            Those without embedding are found by words and filters alone.
        policy : DuplicatePolicy
            What happens to a document whose id is there already or was given before. NONE is FAIL.

        Returns
        -------
        int
            Number of written documents; with OVERWRITE, of given ones.

        Raises
        ------
        DuplicateDocumentError
            An id is there already, with FAIL.
        InputError
            It isn't a list of documents, an embedding has another length, or something can't be kept as it is.
        """
        documents = _validate.sequence(documents, "documents", Document)
        with self._lock:
            known = set(self.collection.get([document.id for document in documents], include=()).ids)
            rows: dict[str, int] = {}
            for row, document in enumerate(documents):
                if policy != DuplicatePolicy.OVERWRITE and (document.id in known or document.id in rows):
                    if policy == DuplicatePolicy.SKIP:
                        continue
                    raise DuplicateDocumentError(f"documents row {row}: there is a document {document.id!r} already")
                rows[document.id] = row
            d, places = self.collection.settings.d, {row: f"documents row {row}" for row in rows.values()}
            vectors = [write_vector(documents[row], d, place) for row, place in places.items()]
            self.collection.upsert(
                ids=list(rows),
                vectors=np.array(vectors, np.float32).reshape(-1, d),
                documents=[documents[row].content for row in places],
                metadatas=[write_fields(documents[row], place) for row, place in places.items()],
            )
        return len(documents) if policy == DuplicatePolicy.OVERWRITE else len(rows)

    def update_by_filter(self, filters: Filters, meta: dict[str, Any]) -> int:
        """Set fields of the meta of the documents that filters hold for, and return the number of these.

        Raises
        ------
        FilterError
            As `filter_documents`, and if filters are empty.
        InputError
            A value of `meta` can't be kept as it is.
        """
        where = _compile_given(filters)
        write_meta(_validate.instance(meta, "meta", dict), "meta")
        with self._lock:
            hits = self.collection.get(where=where, include=("metadatas",))
            befores = [read_meta(fields) for fields in hits.metadatas or ()]
            # None removes a field of a record, so that none stays which only the old value needed.
            changes = [
                {**dict.fromkeys(write_meta(before, "meta")), **write_meta({**before, **meta}, "meta")}
                for before in befores
            ]
            self.collection.update(hits.ids, metadatas=changes)
        return len(hits.ids)

    def delete_documents(self, document_ids: list[str]) -> None:
        """Delete documents; ids that are not there are passed over."""
        self.collection.delete(document_ids)

    def delete_by_filter(self, filters: Filters) -> int:
        """Delete the documents that filters hold for, and return their number."""
        return self.collection.delete(where=_compile_given(filters))

    def delete_all_documents(self, recreate_index: bool = False) -> None:
        """Delete all documents.

        Parameters
        ----------
        recreate_index : bool
            Also write the files anew, which gives their space back at once.
        """
        self.collection.delete(where={})
        if recreate_index:
            self.collection.compact()

    def count_unique_metadata_by_filter(self, filters: Filters, metadata_fields: list[str]) -> dict[str, int]:
        """Return the number of different values of each field, in the documents that filters hold for."""
        return metadata.count_unique(self._metas(filters), metadata_fields)

    def get_metadata_fields_info(self) -> dict[str, dict[str, str]]:
        """Return the type of each field of the meta: ``{"year": {"type": "int"}}``."""
        return metadata.describe_fields(self._metas())

    def get_metadata_field_min_max(self, metadata_field: str) -> dict[str, Any]:
        """Return the smallest and the largest value of a field, as ``min`` and ``max``."""
        return metadata.find_range(self._metas(), metadata_field)

    def get_metadata_field_unique_values(
        self,
        metadata_field: str,
        search_term: str | None = None,
        from_: int = 0,
        size: int = 10,
        filters: Filters | None = None,
    ) -> tuple[list[Any], int]:
        """Return `size` of the different values of a field, sorted as texts, and the number of all.

        Parameters
        ----------
        metadata_field : str
        search_term : str, optional
            Only values with this part, in upper or lower case.
        from_ : int
            Number of values that are left out first.
        size : int
        filters : dict, optional
            Only documents that they hold for.
        """
        return metadata.find_unique(self._metas(filters), metadata_field, search_term, from_, size)

    def _metas(self, filters: Filters | None = None) -> Iterator[dict[str, Any]]:
        for hits in self.collection.scan(compile_filters(filters), include=("metadatas",)):
            yield from map(read_meta, hits.metadatas or ())

    count_documents_async = in_thread(count_documents)
    count_documents_by_filter_async = in_thread(count_documents_by_filter)
    filter_documents_async = in_thread(filter_documents)
    write_documents_async = in_thread(write_documents)
    update_by_filter_async = in_thread(update_by_filter)
    delete_documents_async = in_thread(delete_documents)
    delete_by_filter_async = in_thread(delete_by_filter)
    delete_all_documents_async = in_thread(delete_all_documents)
    count_unique_metadata_by_filter_async = in_thread(count_unique_metadata_by_filter)
    get_metadata_fields_info_async = in_thread(get_metadata_fields_info)
    get_metadata_field_min_max_async = in_thread(get_metadata_field_min_max)
    get_metadata_field_unique_values_async = in_thread(get_metadata_field_unique_values)


def _index(field: str) -> list[str]:
    """Return the fields of a record that make a field of the meta fast."""
    try:
        name = read_field(field)
    except FilterError as error:
        raise InputError(f"indexed: {error}") from None
    if not name.startswith("meta."):
        raise InputError(f"indexed must have fields of the meta, got {field!r}; {field} is fast as it is")
    return index_fields(name.removeprefix("meta."))


def _compile_given(filters: Filters) -> dict[str, Any]:
    """Return the condition of filters that a change must have, as none would mean all documents."""
    if not filters:
        raise FilterError(f"filters must have a condition, got {filters!r}; delete_all_documents() deletes all")
    return compile_filters(filters)
