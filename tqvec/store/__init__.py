"""Collections: records with string ids, vectors, documents and metadata, in a folder that processes share."""

from tqvec.store.collection import Collection
from tqvec.store.hits import Hits, SearchResult
from tqvec.store.info import CollectionInfo
from tqvec.store.settings import Settings

__all__ = ["Collection", "CollectionInfo", "Hits", "SearchResult", "Settings"]
