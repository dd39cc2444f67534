"""The vector store of LangChain: LangChain's own suite, and what it leaves out."""

import asyncio
import inspect
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("langchain_core")
suites = pytest.importorskip("langchain_tests.integration_tests")

from langchain_core.documents import Document  # noqa: E402
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings  # noqa: E402
from langchain_core.indexing import InMemoryRecordManager, index  # noqa: E402
from langchain_core.vectorstores.utils import maximal_marginal_relevance  # noqa: E402

import tqvec  # noqa: E402
from tqvec.errors import InputError  # noqa: E402
from tqvec.exact import normalize  # noqa: E402
from tqvec.integrations.langchain import TqvecVectorStore  # noqa: E402

for method in vars(suites.VectorStoreIntegrationTests).values():  # they rely on asyncio_mode = "auto"
    if inspect.iscoroutinefunction(method):
        pytest.mark.asyncio(method)

D = 32


class TestSuite(suites.VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self):
        return TqvecVectorStore(self.get_embeddings())


class TestSuiteWithFolder(suites.VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path):
        return TqvecVectorStore(self.get_embeddings(), tmp_path / "store", metric="l2", keep="float32")


class Words(Embeddings):
    """A vector per text, drawn by its hash; queries count, and so do calls that are asynchronous."""

    def __init__(self, d=D, scale=1.0):
        self.d, self.scale, self.calls = d, scale, []

    def vector(self, text):
        random = np.random.default_rng(list(text.encode()))
        return (self.scale * random.standard_normal(self.d)).tolist()

    def embed_documents(self, texts):
        self.calls.append("documents")
        return [self.vector(text) for text in texts]

    def embed_query(self, text):
        self.calls.append("query")
        return self.vector(text)

    async def aembed_documents(self, texts):
        self.calls.append("adocuments")
        return [self.vector(text) for text in texts]

    async def aembed_query(self, text):
        self.calls.append("aquery")
        return self.vector(text)


TEXTS = [f"text {i}" for i in range(60)]
FIELDS = [{"number": i, "even": i % 2 == 0, "tags": ["a", "b"][: i % 3]} for i in range(60)]
IDS = [f"id{i}" for i in range(60)]


def filled(path=None, **settings):
    return TqvecVectorStore.from_texts(TEXTS, Words(), FIELDS, ids=IDS, path=path, **settings)


def names(documents):
    return [document.id for document in documents]


def exact_cosines(query):
    words = Words()
    return normalize(np.array(words.embed_documents(TEXTS))) @ normalize(np.array([words.vector(query)]))[0]


def test_documents_come_back_whole():
    store = filled()
    (document,) = store.similarity_search("text 7", k=1)
    assert document == Document(id="id7", page_content="text 7", metadata=FIELDS[7])
    assert store.get_by_ids(["id3", "none", "id1"]) == [
        Document(id=IDS[i], page_content=TEXTS[i], metadata=FIELDS[i]) for i in (3, 1)
    ]


def test_unicode():
    text, fields = "Grüße, 世界 \N{PILE OF POO}\x00\n", {"ключ": "ценность", "nested": {"é": ["ß", None]}}
    store = TqvecVectorStore.from_texts([text], Words(), [fields], ids=["номер 1"])
    expected = Document(id="номер 1", page_content=text, metadata=fields)
    assert store.similarity_search("any", filter={"ключ": "ценность"}) == [expected]
    assert store.get_by_ids(["номер 1"]) == [expected]


def test_scores_are_those_of_vectors():
    store = filled(keep="float32")
    exact = exact_cosines("a question")
    best = np.argsort(-exact)[:5]
    found = store.similarity_search_with_score("a question", k=5, rerank=True)
    assert names(document for document, _ in found) == [IDS[i] for i in best]
    assert [type(score) for _, score in found] == [float] * 5
    np.testing.assert_allclose([score for _, score in found], exact[best], atol=1e-6)
    vector = Words().vector("a question")
    assert store.similarity_search_with_score_by_vector(vector, 5, rerank=True) == found
    assert store.similarity_search_by_vector(vector, 5, rerank=True) == [document for document, _ in found]
    assert store.similarity_search("a question", 5, rerank=True) == [document for document, _ in found]


def test_searches_take_recall():
    store = filled()
    store.collection.partition()
    assert names(store.similarity_search("text 7", k=1, recall=1.0)) == ["id7"]
    with pytest.raises(InputError, match="recall"):
        store.similarity_search("text 7", recall=2.0)


@pytest.mark.parametrize(
    ("filter", "holds"),
    [
        ({"number": 7}, lambda fields: fields["number"] == 7),
        ({"number": {"$lt": 20}, "even": True}, lambda fields: fields["number"] < 20 and fields["even"]),
        (
            {"$or": [{"number": {"$in": [1, 2]}}, {"number": {"$gte": 55}}]},
            lambda f: f["number"] in (1, 2, *range(55, 60)),
        ),
        ({"tags": {"$contains": "b"}}, lambda fields: "b" in fields["tags"]),
        ({"$not": {"even": True}}, lambda fields: not fields["even"]),
        ({"missing": {"$exists": False}}, lambda fields: True),
        ({"number": 1000}, lambda fields: False),
        ({}, lambda fields: True),
    ],
)
def test_filters(filter, holds):
    store = filled(indexed=["number"])
    expected = {name for name, fields in zip(IDS, FIELDS, strict=True) if holds(fields)}
    assert set(names(store.similarity_search("q", k=100, filter=filter))) == expected
    assert {document.id for document, _ in store.similarity_search_with_score("q", k=100, filter=filter)} == expected
    assert set(names(store.max_marginal_relevance_search("q", k=100, filter=filter))) == expected
    retriever = store.as_retriever(search_kwargs={"k": 100, "filter": filter})
    assert set(names(retriever.invoke("q"))) == expected
    assert store.delete(filter=filter) is True
    assert set(names(store.get_by_ids(IDS))) == set(IDS) - expected


@pytest.mark.parametrize("filter", [lambda document: True, [], 0, "number", {"number": {"$near": 3}}])
@pytest.mark.parametrize("method", ["similarity_search", "max_marginal_relevance_search", "delete"])
def test_bad_filters_are_not_ignored(method, filter):
    store = filled()
    with pytest.raises(InputError):
        getattr(store, method)(**({} if method == "delete" else {"query": "q"}), filter=filter)
    assert len(store.collection) == 60


def test_unknown_options_are_not_ignored():
    with pytest.raises(TypeError, match="where"):
        filled().similarity_search("q", where={"number": 1})
    with pytest.raises(TypeError, match="score_threshold"):
        filled().similarity_search("q", score_threshold=0.5)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_relevance_scores(metric, scale):
    """They are in [0, 1], ordered as the results; the method of LangChain warns of others."""
    store = TqvecVectorStore.from_texts(TEXTS, Words(scale=scale), metric=metric)
    scored = store.similarity_search_with_score("text 3", k=60)
    relevant = store.similarity_search_with_relevance_scores("text 3", k=60)
    assert [document for document, _ in relevant] == [document for document, _ in scored]
    values = [value for _, value in relevant]
    assert all(0 <= value <= 1 for value in values)
    assert values == sorted(values, reverse=True)
    assert asyncio.run(store.asimilarity_search_with_relevance_scores("text 3", k=60)) == relevant
    for (_, score), value in zip(scored, values, strict=True):
        if metric == "cosine":
            assert value == max(0, score)
        elif metric == "l2":
            assert math.isclose(value, 1 / (1 + score))
        else:
            assert (value > 0.5) == (score > 0)
    threshold = values[10]
    retriever = store.as_retriever(
        search_type="similarity_score_threshold", search_kwargs={"k": 60, "score_threshold": threshold}
    )
    assert len(retriever.invoke("text 3")) == 11


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_relevance_is_in_order_of_any_score(metric):
    store = filled(metric=metric)
    lowest = {"cosine": -1.0, "ip": -1e12, "l2": 0.0}[metric]
    highest = {"cosine": 1.0}.get(metric, 1e12)
    scores = np.sort(np.concatenate([np.linspace(lowest, highest, 99), np.linspace(max(lowest, -3), 1, 99)]))
    values = [store._select_relevance_score_fn()(float(score)) for score in scores]
    assert min(values) >= 0
    assert max(values) <= 1
    assert values == sorted(values, reverse=metric == "l2")


@pytest.mark.parametrize(("k", "fetch_k", "lambda_mult"), [(4, 20, 0.5), (5, 60, 0.1), (60, 20, 0.7), (3, 10, 1.0)])
def test_marginal_relevance_is_that_of_langchain(k, fetch_k, lambda_mult):
    store, query = filled(keep="float32"), Words().vector("q")
    order = np.argsort(-exact_cosines("q"))[: max(k, fetch_k)]
    vectors = Words().embed_documents([TEXTS[i] for i in order])
    chosen = maximal_marginal_relevance(np.array(query), vectors, lambda_mult, k)
    found = store.max_marginal_relevance_search("q", k, fetch_k, lambda_mult, rerank=True)
    assert names(found) == [IDS[order[i]] for i in chosen]
    by_vector = store.max_marginal_relevance_search_by_vector(query, k, fetch_k, lambda_mult, rerank=True)
    assert by_vector == found
    kwargs = {"k": k, "fetch_k": fetch_k, "lambda_mult": lambda_mult, "rerank": True}
    assert store.as_retriever(search_type="mmr", search_kwargs=kwargs).invoke("q") == found
    assert asyncio.run(store.amax_marginal_relevance_search("q", **kwargs)) == found
    assert asyncio.run(store.amax_marginal_relevance_search("q", k, fetch_k, lambda_mult, rerank=True)) == found


@pytest.mark.parametrize(
    "bad", [{"lambda_mult": 1.5}, {"lambda_mult": float("nan")}, {"k": 0}, {"fetch_k": 0}, {"k": 2.5}]
)
def test_bad_numbers_of_marginal_relevance(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        filled().max_marginal_relevance_search("q", **bad)


def test_empty_store(tmp_path):
    for store in (TqvecVectorStore(Words()), TqvecVectorStore(Words(), tmp_path / "new")):
        assert store.add_texts([]) == []
        assert store.get_by_ids(["a"]) == []
        assert store.delete(["a"]) is True
        assert store.similarity_search("q") == []
        assert store.similarity_search_with_relevance_scores("q") == []
        assert store.max_marginal_relevance_search("q") == []
        assert store.as_retriever().invoke("q") == []
        assert store.similarity_search("q", filter={"a": 1}) == []


def test_more_than_there_are():
    store = filled()
    assert len(store.similarity_search("q", k=1000)) == 60
    assert len(store.max_marginal_relevance_search("q", k=1000)) == 60
    with pytest.raises(InputError, match="k must be an integer from 1"):
        store.similarity_search("q", k=0)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"texts": ["a", "b"], "ids": ["x", "x"]}, "ids row 1 is 'x', as row 0"),
        ({"texts": ["a", "b"], "ids": ["x"]}, "ids must have an entry for each of the 2 texts, got 1"),
        ({"texts": ["a"], "ids": []}, "ids must have an entry for each of the 1 texts, got 0"),
        ({"texts": ["a", "b"], "ids": ["x", ""]}, "ids row 1 must have 1 to"),
        ({"texts": ["a", "b"], "ids": [7, 8]}, "ids row 0 must be a str"),
        ({"texts": ["a", "b"], "metadatas": [{}]}, "metadatas must have an entry for each of the 2 ids, got 1"),
        ({"texts": ["a", "b"], "metadatas": [{}, {"f": {1, 2}}]}, "metadatas row 1: field 'f' must be a str, int"),
        ({"texts": ["a"], "metadatas": [{1: 2}]}, "metadatas row 0 must have str as names of fields"),
        ({"texts": ["a"], "metadatas": [{"f": math.inf}]}, "metadatas row 0: field 'f' must be finite"),
        ({"texts": ["a"], "metadatas": [{"f": 2**70}]}, "metadatas row 0: field 'f' must be within int64"),
        ({"texts": ["a"], "metadatas": [{"$f": 1}]}, "metadatas row 0: no field can have the name"),
        ({"texts": ["a"], "metadatas": ["f"]}, "metadatas row 0 must be a dict"),
        ({"texts": "abc"}, "texts must be a list of str"),
        ({"texts": ["a", None]}, "texts[1] must be a str"),
        ({"texts": ["a", "\ud800"]}, "documents row 1 is no valid Unicode"),
    ],
)
def test_bad_records_are_refused_before_they_are_embedded(columns, message):
    embedding = Words()
    store = TqvecVectorStore(embedding)
    store.add_texts(["there"], ids=["there"])
    embedding.calls.clear()
    with pytest.raises(InputError) as error:
        store.add_texts(**columns)
    assert message in str(error.value)
    with pytest.raises(InputError):
        asyncio.run(store.aadd_texts(**columns))
    assert embedding.calls == []
    assert len(store.collection) == 1


def test_bad_metadata_of_documents_has_its_row():
    documents = [Document(page_content="a", metadata={}), Document(page_content="b", metadata={"when": object()})]
    with pytest.raises(InputError, match="metadatas row 1: field 'when'"):
        TqvecVectorStore.from_documents(documents, Words())


def test_ids_are_made_where_none_are_given():
    store = TqvecVectorStore(Words())
    documents = [Document(page_content="a", id="own"), Document(page_content="b")]
    own, made = store.add_documents(documents)
    assert own == "own"
    assert len(made) == 36
    assert names(store.get_by_ids([made])) == [made]
    assert len(set(store.add_texts(iter(["c", "c"])))) == 2
    assert len(store.collection) == 4


def test_an_embedding_that_fails_changes_nothing():
    class Failing(Words):
        def embed_documents(self, texts):
            return super().embed_documents(texts)[:-1]

    store = TqvecVectorStore(Failing())
    with pytest.raises(InputError, match="vectors must have a row for each of the 2 ids, got 1"):
        store.add_texts(["a", "b"])
    assert len(store.collection) == 0


def test_delete_needs_to_know_what():
    store = filled()
    for arguments in ({}, {"ids": ["id1"], "filter": {}}):
        with pytest.raises(InputError, match="either ids or filter"):
            store.delete(**arguments)
    assert store.delete([]) is True
    assert len(store.collection) == 60
    assert store.delete(["id1", "unknown"]) is True
    assert store.get_by_ids(["id1", "id2"]) == store.get_by_ids(["id2"])
    assert asyncio.run(store.adelete(filter={"even": True})) is True
    assert len(store.collection) == 29
    store.delete(filter={})
    assert len(store.collection) == 0


def test_close_and_reopen(tmp_path):
    store = filled(tmp_path / "store", metric="ip", indexed=["number"], keep="float16")
    before = store.similarity_search_with_score("q", k=10, filter={"number": {"$gt": 10}})
    store.collection.close()
    with pytest.raises(InputError, match="closed"):
        store.similarity_search("q")
    embedding = Words()
    again = TqvecVectorStore(embedding, tmp_path / "store")
    assert again.get_by_ids(["id1"])[0].page_content == "text 1"
    assert embedding.calls == []  # the dimension is on the disk
    assert again.similarity_search_with_score("q", k=10, filter={"number": {"$gt": 10}}) == before
    assert again.add_texts(["more"], ids=["more"]) == ["more"]
    assert again.collection.settings.metric == "ip"
    with pytest.raises(InputError, match="metric='ip', not 'cosine'"):
        TqvecVectorStore(Words(), tmp_path / "store", metric="cosine")
    with pytest.raises(InputError, match=f"shape .n, {D}."):
        TqvecVectorStore(Words(8), tmp_path / "store").similarity_search("q")
    with pytest.raises(InputError, match=f"shape .n, {D}."):
        TqvecVectorStore(Words(8), tmp_path / "store").add_texts(["a"])


def test_temporary_folder_is_removed():
    store = filled()
    folder = Path(store.collection.path)
    assert folder.exists()
    del store
    assert not folder.exists()


def test_existing_collection():
    with tqvec.Collection(None, d=D) as collection:
        collection.upsert(ids=["plain"], vectors=[Words().vector("plain")])
        store = TqvecVectorStore(Words(), collection)
        assert store.collection is collection
        store.add_texts(["a text"], ids=["text"])
        assert store.similarity_search("plain", k=1) == [Document(id="plain", page_content="", metadata={})]
        assert set(collection.get(where={}).ids) == {"plain", "text"}
        with pytest.raises(InputError, match="nbits is a setting of a new collection"):
            TqvecVectorStore(Words(), collection, nbits=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "euclidean"}, "metric must be one of"),
        ({"nbits": 9}, "nbits"),
        ({"keep": "float64"}, "keep must be one of"),
        ({"embedding": "model"}, "embedding must be a Embeddings, got str"),
    ],
)
def test_wrong_settings_are_told_before_texts_are_embedded(arguments, message):
    embedding = Words()
    with pytest.raises(InputError, match=message):
        TqvecVectorStore.from_texts(TEXTS, **{"embedding": embedding, **arguments})
    assert embedding.calls == []


def test_settings_reach_the_collection(tmp_path):
    given = {"metric": "l2", "nbits": 2, "codebook": "trellis", "keep": "int8", "indexed": ["number"]}
    settings = filled(tmp_path / "store", threads=1, **given).collection.settings
    assert settings._asdict() == {**settings._asdict(), **given, "indexed": ("number",), "d": D}


def test_asynchronous_calls_use_those_of_the_embedding():
    async def use():
        embedding = Words()
        store = await TqvecVectorStore.afrom_texts(TEXTS, embedding, FIELDS, ids=IDS)
        await store.aadd_documents([Document(page_content="one", id="one")])
        searches = (
            store.asimilarity_search("one", k=1),
            store.amax_marginal_relevance_search("one", k=1),
            store.as_retriever(search_kwargs={"k": 1}).ainvoke("one"),
        )
        assert [names(found) for found in await asyncio.gather(*searches)] == [["one"]] * 3
        assert names(await store.asimilarity_search_by_vector(embedding.vector("one"), k=1)) == ["one"]
        ((document, score),) = await store.asimilarity_search_with_score("one", 1, filter={"number": 3})
        assert document.id == "id3"
        ((document, relevance),) = await store.asimilarity_search_with_relevance_scores("one", 1, filter={"number": 3})
        assert (document.id, relevance) == ("id3", max(score, 0))
        assert names(await store.aget_by_ids(["id5"])) == ["id5"]
        assert set(embedding.calls) == {"adocuments", "aquery"}
        created = await TqvecVectorStore.afrom_documents([Document(page_content="x", id="x")], Words())
        assert names(created.get_by_ids(["x"])) == ["x"]

    asyncio.run(use())


def test_threads_share_one_temporary_folder():
    store = TqvecVectorStore(Words())
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: store.add_texts([f"text {i}"], ids=[str(i)]), range(16)))
    assert len(store.collection) == 16


def test_indexing_of_langchain():
    store, records = TqvecVectorStore(Words()), InMemoryRecordManager("test")
    records.create_schema()
    documents = [Document(page_content=f"page {i}", metadata={"source": str(i // 5)}) for i in range(10)]
    options = {"cleanup": "full", "source_id_key": "source", "key_encoder": "sha256", "batch_size": 4}
    assert index(documents, records, store, **options)["num_added"] == 10
    assert index(documents[:6], records, store, **options) == {
        "num_added": 0,
        "num_updated": 0,
        "num_skipped": 6,
        "num_deleted": 4,
    }
    assert {document.page_content for document in store.similarity_search("q", k=99)} == {f"page {i}" for i in range(6)}


def test_retriever_has_tags():
    retriever = TqvecVectorStore(DeterministicFakeEmbedding(size=6)).as_retriever()
    assert retriever.tags == ["TqvecVectorStore", "DeterministicFakeEmbedding"]


@pytest.mark.slow
def test_example():
    path = Path(__file__).parents[2] / "examples" / "langchain_store.py"
    result = subprocess.run([sys.executable, path], capture_output=True, text=True, check=True)
    question, best, *_ = result.stdout.splitlines()
    assert question.startswith("Question: savory dressings for salads")
    assert best.endswith(
        "w2833  a finely chopped salad with tomatoes and parsley and mint and scallions and bulgur wheat"
    )
    assert all(len(line.split(maxsplit=1)[1]) < 40 for line in result.stdout.splitlines()[-3:])
