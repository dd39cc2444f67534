"""Haystack: a document store on a collection, and its retrievers.

It needs haystack-ai: ``pip install 'tqvec[haystack]'``. See the "Haystack" page.
"""

from tqvec.integrations.haystack.retrievers import TqvecBM25Retriever, TqvecEmbeddingRetriever, TqvecHybridRetriever
from tqvec.integrations.haystack.store import TqvecDocumentStore

__all__ = ["TqvecBM25Retriever", "TqvecDocumentStore", "TqvecEmbeddingRetriever", "TqvecHybridRetriever"]
