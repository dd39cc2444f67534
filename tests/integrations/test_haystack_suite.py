"""Haystack's own conformance suites for document stores: all that the installed version has, synchronous and not."""

import inspect
import os
from dataclasses import replace

import pytest

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"  # read when Haystack is imported
pytest.importorskip("haystack")
pytest.importorskip("pytest_asyncio")

import numpy as np
from haystack.dataclasses import Document
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy
from haystack.testing import document_store as suite

from tqvec.integrations.haystack import TqvecDocumentStore

try:
    from haystack.testing import document_store_async as async_suite
except ImportError:  # older versions
    async_suite = None


def classes_of(module):
    """The classes of tests of a module, without those that others have as a base."""
    names = [name for name in vars(module or ()) if name.endswith(("Test", "Tests")) and name[0] != "_"]
    found = [getattr(module, name) for name in names if inspect.getmodule(getattr(module, name)) is module]
    return [one for one in found if not any(one is not other and issubclass(other, one) for other in found)]


class Overrides:
    @pytest.fixture
    def document_store(self):
        store = TqvecDocumentStore(embedding_dim=768)
        yield store
        store.close()

    @staticmethod
    def assert_documents_are_equal(received, expected):
        """Embeddings are kept as float32; the suite makes them of random float64. All else must be the same."""
        assert received == [
            replace(one, embedding=None if one.embedding is None else np.float32(one.embedding).tolist())
            for one in expected
        ]


class TestSuite(Overrides, *classes_of(suite)):
    def test_write_documents(self, document_store):
        """The suite leaves this one to the store: without a policy, an id that is there is an error."""
        documents = [Document(id="1", content="one", embedding=[0.5] * 768), Document(id="2", content="two")]
        assert document_store.write_documents(documents) == 2
        self.assert_documents_are_equal(document_store.filter_documents(), documents)
        with pytest.raises(DuplicateDocumentError):
            document_store.write_documents([Document(id="3"), Document(id="1", content="other")], DuplicatePolicy.NONE)
        self.assert_documents_are_equal(document_store.filter_documents(), documents)


if async_suite is not None:

    class TestAsyncSuite(Overrides, *classes_of(async_suite)):
        @pytest.mark.asyncio
        async def test_write_documents_async(self, document_store):
            documents = [Document(id="1", content="one"), Document(id="2", content="two")]
            assert await document_store.write_documents_async(documents) == 2
            with pytest.raises(DuplicateDocumentError):
                await document_store.write_documents_async([Document(id="1", content="other")])
            self.assert_documents_are_equal(document_store.filter_documents(), documents)


def test_the_suites_are_whole():
    """Every test of the modules is run here."""
    for module, mine in ((suite, TestSuite), *([(async_suite, TestAsyncSuite)] if async_suite else [])):
        for cls in vars(module).values():
            if inspect.isclass(cls) and inspect.getmodule(cls) is module:
                assert {name for name in dir(cls) if name.startswith("test")} <= set(dir(mine))
