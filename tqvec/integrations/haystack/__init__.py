"""Haystack: a document store on a collection, and its retrievers.

It needs haystack-ai: ``pip install 'tqvec[haystack]'``. See the "Haystack" page.
"""

from __future__ import annotations

from tqvec._present import import_optional

import_optional("haystack", "tqvec.integrations.haystack", "haystack")

from tqvec.integrations.haystack.retrievers import (  # noqa: E402
    TqvecBM25Retriever,
    TqvecEmbeddingRetriever,
    TqvecHybridRetriever,
)
from tqvec.integrations.haystack.store import TqvecDocumentStore  # noqa: E402

__all__ = ["TqvecBM25Retriever", "TqvecDocumentStore", "TqvecEmbeddingRetriever", "TqvecHybridRetriever"]
