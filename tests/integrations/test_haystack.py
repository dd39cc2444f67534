"""The document store and the retrievers of Haystack, where its own suites ask nothing."""

import asyncio
import inspect
import operator as op
import os
import re
import subprocess
import sys
from dataclasses import fields, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"  # read when Haystack is imported
pytest.importorskip("haystack")

import numpy as np
from dateutil.parser import isoparse
from haystack import Document, Pipeline
from haystack.dataclasses import ByteStream, SparseEmbedding
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy, FilterPolicy
from haystack.errors import FilterError
from haystack.utils.filters import document_matches_filter
from hypothesis import given, settings
from hypothesis import strategies as st

import tqvec
from tqvec.errors import InputError
from tqvec.integrations.haystack import (
    TqvecBM25Retriever,
    TqvecDocumentStore,
    TqvecEmbeddingRetriever,
    TqvecHybridRetriever,
)

UTC, CET = timezone.utc, timezone(timedelta(hours=1))


@pytest.fixture
def store():
    with_d_4 = TqvecDocumentStore(embedding_dim=4)
    yield with_d_4
    with_d_4.close()


def retrieve(store, query=None, query_embedding=None, top_k=10, filters=None, return_embedding=False):
    given = {"query": query, "query_embedding": query_embedding}
    given = {name: value for name, value in given.items() if value is not None}
    cls = {1: TqvecBM25Retriever if query is not None else TqvecEmbeddingRetriever, 2: TqvecHybridRetriever}[len(given)]
    retriever = cls(store, return_embedding=return_embedding)
    return retriever.run(**given, top_k=top_k, filters=filters)["documents"]


def ids_of(documents):
    return [document.id for document in documents]


# What documents have comes back


WHOLE = Document(
    id="whole",
    content="Größe 東京 🙂\n\0",
    blob=ByteStream(data=bytes(range(256)), meta={"page": 3}, mime_type="image/png"),
    meta={
        "nested": {"a": {"b": [1, None, {"c": "d"}]}},
        "none": None,
        "wall.x": "a name of the store's own",
        "a.b": 1,
        "": 0.1,
        "$x": -0.0,
        "ü": True,
        "date": "2024-02-29T12:00:00+01:00",
        "naive": datetime(2024, 2, 29, 12, 0, 0, 7),
        "aware": datetime(2024, 2, 29, tzinfo=CET),
        "large": 2**63 - 1,
    },
    score=0.25,
    embedding=[1.0, 2.0, 0.5, -3.0],
    sparse_embedding=SparseEmbedding(indices=[1, 7], values=[0.1, 0.2]),
)


def test_everything_comes_back_as_it_was(store):
    assert {field.name for field in fields(Document)} == {
        "id", "content", "blob", "meta", "score", "embedding", "sparse_embedding",
    }  # fmt: skip
    documents = [WHOLE, Document(id="empty"), Document(id="no text", content="", meta={"x": None})]
    assert store.write_documents(documents) == 3
    assert store.filter_documents() == documents
    meta = store.filter_documents()[0].meta
    assert {name: type(value) for name, value in meta.items()} == {
        name: type(value) for name, value in WHOLE.meta.items()
    }
    assert meta["aware"].utcoffset() == timedelta(hours=1)


def test_numbers_of_numpy_become_plain_ones(store):
    store.write_documents([Document(id="a", meta={"x": np.float32(0.1), "y": np.int64(3)}, score=np.float64(0.5))])
    (document,) = store.filter_documents()
    assert (document.meta, document.score) == ({"x": float(np.float32(0.1)), "y": 3}, 0.5)
    assert [type(value) for value in document.meta.values()] == [float, int]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ((1, 2), r"documents row 1: meta.x can't be kept exactly, as it would come back as \[1, 2\]"),
        ({1, 2}, "documents row 1: field 'meta.x' must be a str"),
        (float("nan"), "documents row 1: meta.x can't be kept exactly"),
        (float("inf"), "documents row 1: field 'meta.x' must be finite"),
        ([float("nan")], "documents row 1"),
        (2**63, "documents row 1: field 'meta.x' must be within int64"),
        ({1: 2}, "documents row 1: field 'meta.x' must be"),
        (b"bytes", "documents row 1: field 'meta.x' must be"),
        ([datetime(2024, 1, 1)], "documents row 1: .* use isoformat"),
        (datetime(2024, 1, 1, tzinfo=ZoneInfo("Europe/Berlin")), "documents row 1: .* use isoformat"),
        (datetime(2024, 1, 1).date(), "documents row 1: .* use isoformat"),
        (np.arange(2), "documents row 1: meta.x can't be kept exactly"),
        ("\ud800", "documents row 1: field 'meta.x' is no valid Unicode"),
    ],
)
def test_what_cannot_be_kept_is_refused(store, value, reason):
    bad = Document(id="bad", content="b", meta={"x": value})
    with pytest.raises(ValueError, match=reason):
        store.write_documents([Document(id="good", content="a"), bad])
    assert store.count_documents() == 0
    store.write_documents([Document(id="good", content="a", meta={"x": 1})])
    with pytest.raises(ValueError, match="^meta"):
        store.update_by_filter({"field": "id", "operator": "==", "value": "good"}, {"x": value})
    assert store.filter_documents()[0].meta == {"x": 1}


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (Document(id="b", meta={1: 2}), "documents row 1: meta must have str as names, got 1"),
        (Document(id="b", meta={'a"b': 2}), "documents row 1: no field can have the name"),
        (Document(id="b", embedding=[1.0, 2.0]), "documents row 1: the embedding must be 4 finite numbers"),
        (Document(id="b", embedding=[]), "documents row 1: the embedding must be 4 finite numbers"),
        (Document(id="b", embedding=[1.0, 2.0, 3.0, float("nan")]), "documents row 1: the embedding"),
        (Document(id="b", embedding=["a", "b", "c", "d"]), "documents row 1: the embedding"),
        (Document(id="b", blob=ByteStream(b"", meta={"t": (1,)})), "documents row 1: blob can't be kept exactly"),
        (Document(id="b", score=float("nan")), "documents row 1: score can't be kept exactly"),
        ("text", r"documents\[1\] must be a Document, got str"),
        (Document(id=7), "ids row 1 must be a str"),
    ],
)
def test_bad_documents_are_refused_by_row_and_nothing_is_written(store, document, reason):
    with pytest.raises(ValueError, match=reason):
        store.write_documents([Document(id="a", content="a"), document])
    assert store.count_documents() == 0


def test_rows_of_messages_count_what_was_skipped(store):
    store.write_documents([Document(id="a")])
    with pytest.raises(InputError, match="documents row 2"):
        store.write_documents(
            [Document(id="a"), Document(id="b"), Document(id="c", meta={"x": (1,)})], DuplicatePolicy.SKIP
        )


@pytest.mark.parametrize("keep", ["float16", "int8"])
def test_embeddings_come_back_in_the_type_that_is_kept(keep):
    store = TqvecDocumentStore(embedding_dim=4, keep=keep)
    store.write_documents([Document(id="a", embedding=[1.0, 2.0, 0.5, -3.001])])
    np.testing.assert_allclose(store.filter_documents()[0].embedding, [1.0, 2.0, 0.5, -3.001], atol=0.02)


# Duplicates


def test_ids_given_twice_in_one_call(store):
    one, two = Document(id="1", content="one"), Document(id="1", content="two")
    for policy in (DuplicatePolicy.NONE, DuplicatePolicy.FAIL):
        with pytest.raises(DuplicateDocumentError, match="documents row 1: there is a document '1' already"):
            store.write_documents([one, two], policy)
        assert store.count_documents() == 0
    assert store.write_documents([one, two], DuplicatePolicy.SKIP) == 1
    assert store.filter_documents() == [one]
    assert store.write_documents([one, two], DuplicatePolicy.OVERWRITE) == 2
    assert store.filter_documents() == [two]


def test_an_overwritten_document_keeps_nothing_of_the_old_one(store):
    store.write_documents([replace(WHOLE, id="a")])
    store.write_documents([Document(id="a", content="new")], DuplicatePolicy.OVERWRITE)
    assert store.filter_documents() == [Document(id="a", content="new")]
    assert retrieve(store, None, [1.0, 2.0, 0.5, -3.0]) == []
    assert retrieve(store, "Größe") == []


def test_of_threads_that_write_one_id_one_succeeds(store):
    async def write():
        calls = [store.write_documents_async([Document(id="a", content=str(i))]) for i in range(8)]
        return await asyncio.gather(*calls, return_exceptions=True)

    results = asyncio.run(write())
    assert sum(result == 1 for result in results) == 1
    assert sum(isinstance(result, DuplicateDocumentError) for result in results) == 7


# Filters, against Haystack's own evaluation in Python


VALUES = [
    0, 1, 2, -1.5, 1.0, True, False, None, "", "1", "a", "A", "ä", "2024-01-01", "2024-01-01T00:00:00",
    "2024-01-01 00:00:00", "2024-01-01T01:00:00+01:00", "2024-01-01T00:00:00Z", "2023-12-31T23:59:59.999999",
    "2024-01-01T00:00:00.000001-12:00", "2024-1-1", "2024-13-01", "20240101", "1969-12-31T23:00:00",
    datetime(2024, 1, 1), datetime(2024, 1, 1, tzinfo=UTC), [1, 2], {"b": 1}, [],
]  # fmt: skip
DOCUMENTS = [
    Document(id=f"d{i}", content=None if i % 5 == 0 else f"text {i % 3}", meta={"x": value, "number": i % 4})
    for i, value in enumerate(VALUES)
] + [Document(id="no field", content="text 1")]
DATES = [
    value
    for value in VALUES
    if isinstance(value, datetime) or (isinstance(value, str) and re.match(r"\d{4}-[01][0-2]-", value))
]
# Older versions of Haystack compare dates by == as texts; the store compares moments always.
DAY = {"field": "meta.x", "operator": "==", "value": "2024-01-01"}
AS_MOMENTS = document_matches_filter(DAY, Document(meta={"x": "2024-01-01T00:00:00"}))
SCALARS = [v for v in VALUES if not isinstance(v, (list, dict)) and (AS_MOMENTS or v not in DATES)]
OPERATORS = {">": op.gt, ">=": op.ge, "<": op.lt, "<=": op.le, "==": op.eq, "!=": op.ne}


@pytest.fixture(scope="module")
def full():
    store = TqvecDocumentStore(embedding_dim=4)
    store.write_documents(DOCUMENTS)
    yield store
    store.close()


def expected(filters, documents=DOCUMENTS):
    return [document.id for document in documents if document_matches_filter(filters, document)]


EQUAL = st.builds(
    lambda field, operator, value: {"field": field, "operator": operator, "value": value},
    st.sampled_from(["meta.x", "meta.number", "x", "meta.missing"]),
    st.sampled_from(["==", "!="]),
    st.sampled_from(SCALARS),
)
MEMBER = st.builds(
    lambda field, operator, value: {"field": field, "operator": operator, "value": value},
    st.sampled_from(["meta.x", "meta.number", "meta.missing"]),
    st.sampled_from(["in", "not in"]),
    st.lists(st.sampled_from(SCALARS), max_size=4),
)
OTHER = st.builds(
    lambda field, operator, value: {"field": field, "operator": operator, "value": value},
    st.sampled_from(["id", "content"]),
    st.sampled_from(["==", "!="]),
    st.sampled_from(["d1", "d2", "text 1", "text 2", None, "Text 1", 5]),
)
ORDER = st.builds(
    lambda operator, value: {"field": "meta.number", "operator": operator, "value": value},
    st.sampled_from([">", ">=", "<", "<="]),
    st.sampled_from([0, 1, 2.5, None, -7]),
)
CONDITIONS = st.recursive(
    EQUAL | MEMBER | OTHER | ORDER,
    lambda inner: st.builds(
        lambda operator, conditions: {"operator": operator, "conditions": conditions},
        st.sampled_from(["AND", "OR", "NOT"]),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(filters=CONDITIONS)
def test_filters_hold_for_the_documents_that_haystack_says(full, filters):
    assert ids_of(full.filter_documents(filters)) == expected(filters)
    assert full.count_documents_by_filter(filters) == len(expected(filters))


def compare_dates(operator, stored, value):
    """The comparison of two dates in Python; one without a time zone has that of the other."""
    stored, value = (isoparse(date) if isinstance(date, str) else date for date in (stored, value))
    stored, value = (
        one if one.tzinfo else one.replace(tzinfo=other.tzinfo) for one, other in ((stored, value), (value, stored))
    )
    return OPERATORS[operator](stored, value)


@pytest.mark.parametrize("operator", OPERATORS)
def test_dates_are_compared_as_moments(full, operator):
    """With and without a time, a zone, a fraction, and as objects; other values are never earlier or later."""
    dates = [document for document in DOCUMENTS if document.meta.get("x") in DATES]
    others = [document for document in DOCUMENTS if document not in dates]
    assert len(dates) == 10
    for value in DATES:
        found = full.filter_documents({"field": "meta.x", "operator": operator, "value": value})
        wanted = [document for document in dates if compare_dates(operator, document.meta["x"], value)]
        assert [document for document in found if document in dates] == wanted
        assert [document for document in found if document in others] == (others if operator == "!=" else [])


def test_numbers_are_compared_with_numbers(full):
    filters = {"field": "meta.x", "operator": ">=", "value": 0.5}
    numbers = [document for document in DOCUMENTS if isinstance(document.meta.get("x"), (int, float))]
    assert ids_of(full.filter_documents(filters)) == expected(filters, numbers)


def test_a_long_list_of_dates(full):
    days = [(datetime(2000, 1, 1) + timedelta(days=i)).isoformat() for i in range(10_000)]
    found = full.filter_documents({"field": "meta.x", "operator": "in", "value": days})
    assert found == full.filter_documents({"field": "meta.x", "operator": "==", "value": "2024-01-01"})
    assert len(found) > 3


@pytest.mark.parametrize(
    ("filters", "reason"),
    [
        ({"field": "meta.a.b", "operator": "==", "value": 1}, "only fields at the top of the meta"),
        ({"field": "other.b", "operator": "==", "value": 1}, "only fields at the top of the meta"),
        ({"field": "embedding", "operator": "!=", "value": None}, "can't ask for the field 'embedding'"),
        ({"field": "meta", "operator": "==", "value": {}}, "can't ask for the field 'meta'"),
        ({"field": 3, "operator": "==", "value": 1}, "a field must be a str"),
        ({"field": "meta.x", "operator": "=", "value": 1}, "must be one of ==, !=, in, not in, >"),
        ({"field": "meta.x", "operator": ["=="], "value": 1}, "must be one of"),
        ({"field": "meta.x", "operator": "==", "value": [1]}, "must be a number, a str or a bool"),
        ({"field": "meta.x", "operator": "in", "value": [[1]]}, "must be a number, a str or a bool"),
        ({"field": "meta.x", "operator": "==", "value": 2**63}, "within int64"),
        ({"field": "meta.x", "operator": ">", "value": True}, "must be a number or a str"),
        ({"field": "meta.x", "operator": ">", "value": "tomorrow"}, "an ISO date"),
        ({"field": "meta.x", "operator": ">", "value": "2024"}, "an ISO date"),
        ({"field": "id", "operator": ">", "value": "2024-01-01"}, "on fields of the meta"),
        ({"field": "content", "operator": "<", "value": "b"}, "on fields of the meta"),
        ({"field": 'meta.a"b', "operator": "==", "value": 1}, "no field can have the name"),
        ({"operator": "and", "conditions": [{"field": "id", "operator": "==", "value": "a"}]}, "AND, OR or NOT"),
        ({"operator": "AND", "conditions": []}, "at least one condition"),
        ({"operator": "AND", "conditions": ["id"]}, "filters must be a dict"),
        ({"year": 2020}, "filters lack 'operator'"),
        ([], "filters must be a dict"),
        ("id == 1", "filters must be a dict"),
    ],
)
def test_what_filters_cannot_ask_is_an_error(full, filters, reason):
    for call in (full.filter_documents, full.count_documents_by_filter, full.delete_by_filter):
        if filters or call != full.delete_by_filter:
            with pytest.raises(FilterError, match=reason):
                call(filters)
    if filters:  # an empty list is that of no filters to Haystack's filter policy
        with pytest.raises(FilterError, match=reason):
            retrieve(full, "text", filters=filters)
    assert full.count_documents() == len(DOCUMENTS)


def test_filters_that_are_nested_too_deep_are_an_error(full):
    filters = {"field": "id", "operator": "==", "value": "d1"}
    for _ in range(20):
        filters = {"operator": "NOT", "conditions": [filters]}
    with pytest.raises(FilterError, match="nested more than"):
        full.filter_documents(filters)


@pytest.mark.parametrize("filters", [{}, None])
def test_empty_filters_change_nothing(full, filters):
    with pytest.raises(FilterError, match="delete_all_documents"):
        full.delete_by_filter(filters)
    with pytest.raises(FilterError, match="must have a condition"):
        full.update_by_filter(filters, {"a": 1})
    assert full.count_documents() == len(DOCUMENTS)


# Updates


def test_update_replaces_values_and_what_belongs_to_them(store):
    store.write_documents([replace(WHOLE, meta={"a": "2024-01-01", "b": None, "c": datetime(2024, 1, 1)})])
    chosen = {"field": "id", "operator": "==", "value": "whole"}
    assert store.update_by_filter(chosen, {"a": 5, "b": "2025-01-01T00:00:00Z", "c": None, "d": {"e": [None]}}) == 1
    new = replace(WHOLE, meta={"a": 5, "b": "2025-01-01T00:00:00Z", "c": None, "d": {"e": [None]}})
    assert store.filter_documents() == [new]
    for name in ("a", "c"):
        assert store.filter_documents({"field": f"meta.{name}", "operator": ">", "value": "2000-01-01"}) == []
    assert store.filter_documents({"field": "meta.b", "operator": ">", "value": "2024-01-01"}) == [new]
    assert store.filter_documents({"field": "meta.c", "operator": "==", "value": None}) == [new]
    assert retrieve(store, None, WHOLE.embedding)[0].id == "whole"
    with pytest.raises(InputError, match="meta must be a dict"):
        store.update_by_filter(chosen, [1])


# Searches


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_embeddings_are_searched_with_exact_scores(metric):
    x = np.random.default_rng(1).standard_normal((60, 16)).astype(np.float32)
    store = TqvecDocumentStore(embedding_dim=16, metric=metric)
    store.write_documents(
        [Document(id=str(i), content=f"text {i}", embedding=row, meta={"even": i % 2 == 0}) for i, row in enumerate(x)]
        + [Document(id=f"none {i}", content="without embedding") for i in range(200)]
    )
    query = x[7] + 0.1
    score = {
        "cosine": x @ query / np.linalg.norm(x, axis=1) / np.linalg.norm(query),
        "ip": x @ query,
        "l2": -((x - query) ** 2).sum(axis=1),
    }[metric]
    found = retrieve(store, None, query.tolist(), top_k=5)
    best = np.argsort(-score)
    assert ids_of(found) == [str(i) for i in best[:5]]
    np.testing.assert_allclose([document.score for document in found], score[best[:5]], rtol=1e-4)
    assert all(document.embedding is None for document in found)
    (first,) = retrieve(store, None, query.tolist(), top_k=1, return_embedding=True)
    assert first.embedding == x[best[0]].tolist()
    everything = retrieve(store, None, query.tolist(), top_k=1000)
    assert ids_of(everything) == [str(i) for i in best]
    even = {"field": "meta.even", "operator": "==", "value": True}
    assert ids_of(retrieve(store, None, query.tolist(), filters=even, top_k=1000)) == [
        str(i) for i in best if i % 2 == 0
    ]


def test_words_find_documents_without_embedding(store):
    store.write_documents(
        [
            Document(id="a", content="an apple and a pear", embedding=[1.0, 0.0, 0.0, 0.0]),
            Document(id="b", content="apple apple"),
            Document(id="c", content="boots", embedding=[0.9, 0.1, 0.0, 0.0]),
            Document(id="d"),
        ]
    )
    found = retrieve(store, "apple?")
    assert ids_of(found) == ["b", "a"]
    assert found[0].score > found[1].score > 0
    assert retrieve(store, "") == retrieve(store, "?!") == retrieve(store, "grape") == []
    both = retrieve(store, "apple", [1.0, 0.0, 0.0, 0.0])
    assert ids_of(both) == ["a", "b", "c"]
    assert both[0].score == pytest.approx(1 - (1 - 61 / 62) / 2)
    not_a = {"field": "id", "operator": "not in", "value": ["a"]}
    assert ids_of(retrieve(store, "apple", [1.0, 0.0, 0.0, 0.0], filters=not_a, top_k=2)) == ["c", "b"]


def test_an_empty_store(store):
    assert store.filter_documents() == retrieve(store, None, [0.0] * 4) == retrieve(store, "a") == []
    assert retrieve(store, "a", [0.0] * 4) == []
    assert store.write_documents([]) == 0


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda store: retrieve(store, None, [1.0]), "query_embedding must have shape"),
        (lambda store: retrieve(store, None, np.ones((2, 4))), "that of one query, got 2"),
        (lambda store: retrieve(store, None, [1.0, 2.0, 3.0, float("nan")]), "query_embedding"),
        (lambda store: retrieve(store, None, [1.0] * 4, top_k=0), "top_k must be an integer from 1"),
        (lambda store: retrieve(store, "a", top_k=-1), "top_k must be an integer from 1"),
        (lambda store: retrieve(store, "a", [1.0] * 4, top_k=2.5), "top_k must be an integer"),
        (lambda store: retrieve(store, ["a"]), "query must be a str, got a list"),
        (lambda store: TqvecBM25Retriever(store).run(None), "query must be a str, got a NoneType"),
        (lambda store: TqvecEmbeddingRetriever(store, top_k=0), "top_k must be an integer from 1"),
        (lambda store: TqvecEmbeddingRetriever("store"), "document_store must be a TqvecDocumentStore"),
    ],
)
def test_bad_searches_are_refused(store, call, reason):
    with pytest.raises(InputError, match=reason):
        call(store)


# Folders


def test_a_store_is_opened_again(tmp_path):
    documents = [WHOLE, Document(id="b", content="text", meta={"year": 2020})]
    store = TqvecDocumentStore(tmp_path / "docs", 4, nbits=2, metric="ip", indexed=["meta.year", "date"])
    store.write_documents(documents)
    data = store.to_dict()
    store.close()
    for again in (TqvecDocumentStore(str(tmp_path / "docs")), TqvecDocumentStore.from_dict(data)):
        assert again.filter_documents() == documents
        assert again.to_dict()["init_parameters"]["path"] == str(tmp_path / "docs")
        settings = again.collection.settings
        assert (settings.d, settings.nbits, settings.metric, settings.keep) == (4, 2, "ip", "float32")
        assert "wall.date" in settings.indexed
        filters = {"field": "meta.date", "operator": "<", "value": "2025-01-01"}
        assert again.filter_documents(filters) == [WHOLE]
        assert again.collection.check() == []
        again.close()


def test_settings_are_checked(tmp_path):
    TqvecDocumentStore(tmp_path / "docs", 4).close()
    with pytest.raises(InputError, match="the collection has d=4, not 5"):
        TqvecDocumentStore(tmp_path / "docs", 5)
    with pytest.raises(InputError, match="keep='float32', not 'int8'"):
        TqvecDocumentStore(tmp_path / "docs", keep="int8")
    with pytest.raises(InputError, match="indexed"):
        TqvecDocumentStore(tmp_path / "docs", indexed=["meta.year"])
    with pytest.raises(InputError, match="embedding_dim, the length of the embeddings, must be given"):
        TqvecDocumentStore(tmp_path / "new")
    with pytest.raises(InputError, match="indexed: .* only fields at the top"):
        TqvecDocumentStore(embedding_dim=4, indexed=["meta.a.b"])
    with pytest.raises(InputError, match="id is fast as it is"):
        TqvecDocumentStore(embedding_dim=4, indexed=["id"])
    assert not (tmp_path / "new").exists()
    tqvec.Collection(tmp_path / "other", 4).close()
    with pytest.raises(InputError, match="a collection that no TqvecDocumentStore made"):
        TqvecDocumentStore(tmp_path / "other")


def test_a_temporary_store_leaves_nothing():
    store = TqvecDocumentStore(embedding_dim=4)
    folder = store.collection.path
    assert folder.exists()
    store.close()
    assert not folder.exists()


def test_delete_all_gives_the_space_back(store):
    store.write_documents([Document(content=f"text {i}", embedding=[float(i)] * 4) for i in range(10)])
    store.delete_all_documents(recreate_index=True)
    assert store.count_documents() == 0
    assert store.collection.check() == []


# Pipelines


def make_pipeline(store):
    pipeline = Pipeline()
    filters = {"field": "meta.year", "operator": ">=", "value": "2020-01-01"}
    pipeline.add_component("words", TqvecBM25Retriever(store, top_k=3))
    pipeline.add_component("vectors", TqvecEmbeddingRetriever(store, filters=filters, return_embedding=True))
    pipeline.add_component("both", TqvecHybridRetriever(store, filter_policy=FilterPolicy.MERGE, top_k=2))
    return pipeline


INPUTS = {
    "words": {"query": "pear"},
    "vectors": {"query_embedding": [0.0, 1.0, 0.0, 0.0], "top_k": 1},
    "both": {"query": "apple", "query_embedding": [0.0, 1.0, 0.0, 0.0]},
}


def test_a_pipeline_comes_back_from_yaml_and_runs(tmp_path):
    store = TqvecDocumentStore(tmp_path / "docs", 4)
    store.write_documents(
        [
            Document(id="a", content="apple pear", embedding=[1.0, 0.0, 0.0, 0.0], meta={"year": "2019-05-01"}),
            Document(id="b", content="pear", embedding=[0.0, 1.0, 0.0, 0.0], meta={"year": "2020-05-01"}),
        ]
    )
    pipeline = make_pipeline(store)
    text = pipeline.dumps()
    results = pipeline.run(INPUTS)
    assert {name: ids_of(result["documents"]) for name, result in results.items()} == {
        "words": ["b", "a"], "vectors": ["b"], "both": ["a", "b"],
    }  # fmt: skip
    guarded = "allowed_modules" in inspect.signature(Pipeline.loads).parameters  # since Haystack 3
    options = {"allowed_modules": ["tqvec.*"]} if guarded else {}
    again = Pipeline.loads(text, **options)
    assert again.dumps() == text
    assert again.run(INPUTS) == results


@pytest.mark.parametrize("cls", [TqvecBM25Retriever, TqvecEmbeddingRetriever, TqvecHybridRetriever])
def test_a_retriever_comes_back_from_its_dictionary(cls, store):
    filters = {"field": "meta.year", "operator": "==", "value": 1}
    retriever = cls(store, filters=filters, top_k=3, return_embedding=True, filter_policy="merge")
    data = retriever.to_dict()
    again = cls.from_dict(data)
    assert again.to_dict() == data == retriever.to_dict()
    assert (again.filter_policy, again.top_k, again.filters) == (FilterPolicy.MERGE, 3, filters)


def test_retrievers_apply_their_filter_policy(full):
    one = {"field": "meta.number", "operator": "==", "value": 1}
    text = {"field": "content", "operator": "==", "value": "text 2"}
    both = {"operator": "AND", "conditions": [one, text]}
    for policy, filters in (("replace", text), ("merge", both)):
        retriever = TqvecBM25Retriever(full, filters=one, top_k=100, filter_policy=policy)
        assert sorted(ids_of(retriever.run("text", filters=text)["documents"])) == sorted(expected(filters))


def test_retrievers_run_in_asyncio(full):
    async def run():
        words, vectors, both = TqvecBM25Retriever(full), TqvecEmbeddingRetriever(full), TqvecHybridRetriever(full)
        return await asyncio.gather(
            words.run_async(query="text", top_k=2),
            vectors.run_async([1.0] * 4),
            both.run_async("text", query_embedding=[1.0] * 4, filters={"field": "id", "operator": "==", "value": "d1"}),
        )

    words, vectors, both = asyncio.run(run())
    assert words == TqvecBM25Retriever(full).run("text", top_k=2)
    assert vectors == {"documents": []}
    assert ids_of(both["documents"]) == ["d1"]


def test_the_example_runs():
    path = Path(__file__).parents[2] / "examples" / "haystack_pipeline.py"
    result = subprocess.run([sys.executable, path], capture_output=True, text=True, check=True)
    assert "salad composed primarily of chopped chicken meat" in result.stdout
