"""TqvecANN: what txtai asks of its backends, and embeddings on it. Its own tests of a backend are `test_a_backend`."""

import runpy
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("txtai")

from txtai import Embeddings
from txtai.ann import ANNFactory

from tqvec.errors import FormatError, InputError
from tqvec.integrations.txtai import TqvecANN

pytestmark = pytest.mark.filterwarnings("ignore:Implicitly cleaning up <TemporaryDirectory:ResourceWarning")  # archives
BACKEND = "tqvec.integrations.txtai.TqvecANN"
D = 64
TEXTS = [f"text {i} – ünïcode 汉字" for i in range(300)]


def unit_rows(n, seed, d=D):
    x = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def embed(texts):
    """A vector for each text, which is always the same."""
    return np.concatenate([unit_rows(1, list(text.encode())) for text in texts])


def make(n=500, **config):
    ann = ANNFactory.create({"backend": BACKEND, "dimensions": D} | config)
    x = unit_rows(n, 1)
    ann.index(x)
    return ann, x


def configure(**settings):
    return {"method": "external", "transform": embed, "backend": BACKEND, BACKEND: {"nbits": 8} | settings}


def check_search(ann, queries, rows):
    """The best of these rows, a dictionary by id, with their inner products, best first."""
    numbers, x = np.array(list(rows)), np.stack(list(rows.values()))
    for products, result in zip(queries @ x.T, ann.search(queries, 5), strict=True):
        found, scores = zip(*result, strict=True)
        assert all(type(one) is int and type(score) is float for one, score in result)
        assert len(set(found) & set(numbers[np.argsort(-products)[:5]])) >= 4
        assert list(scores) == sorted(scores, reverse=True)
        truth = dict(zip(numbers.tolist(), products, strict=True))
        np.testing.assert_allclose(scores, [truth[one] for one in found], atol=0.02)


def test_a_backend(tmp_path):
    """Everything that txtai's tests of dense backends ask for."""
    ann, x = make(10_000)
    assert ann.config["backend"] == BACKEND
    assert ann.count() == ann.config["offset"] == 10_000
    assert ann.search(x[:1], 1)[0][0][1] > 0
    ann.save(str(tmp_path / "embeddings"))
    ann.close()
    ann.load(str(tmp_path / "embeddings"))
    assert ann.count() == 10_000
    assert ann.search(x[:1], 1)[0][0][0] == 0
    ann.append(unit_rows(500, 2))
    assert ann.count() == ann.config["offset"] == 10_500
    ann.delete([0, 1])
    ann.delete([100_000])
    assert ann.count() == 10_498
    small, x = make(10)
    assert len(small.search(x[:1], 100)[0]) == 10
    small.delete(np.array([3, 4]))
    assert sorted(one for one, _ in small.search(x[:1], 10)[0]) == [0, 1, 2, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("mmap", [False, True])
def test_ids_stay_through_changes_and_files(mmap, tmp_path):
    ann, x = make(**{BACKEND: {"nbits": 8, "mmap": mmap}})
    rows = dict(enumerate(x))
    ann.delete([7, 499])
    more = unit_rows(20, 3)
    ann.append(more)
    rows = {i: row for i, row in (rows | dict(enumerate(more, 500))).items() if i not in (7, 499)}
    queries = unit_rows(10, 4)
    check_search(ann, queries, rows)
    path = str(tmp_path / "embeddings")
    ann.save(path)
    other = TqvecANN(dict(ann.config))
    other.load(path)
    assert (other.backend.nbytes.mapped > 0) == mmap
    assert other.search(queries, 5) == ann.search(queries, 5)
    other.append(unit_rows(2, 5))
    check_search(other, queries, rows | dict(enumerate(unit_rows(2, 5), 520)))
    other.save(path)
    assert other.count() == 520


def test_settings():
    ann, _ = make(**{BACKEND: {"nbits": 2, "codebook": "trellis", "seed": 3}})
    assert (ann.backend.nbits, ann.backend.codec.codebook, ann.backend.codec.seed) == (2, "trellis", 3)
    assert ann.config["build"]["settings"] == {"nbits": 2, "codebook": "trellis", "seed": 3}
    ann, _ = make()
    assert (ann.backend.nbits, ann.backend.codec.codebook) == (4, "scalar")
    assert ann.backend.metric == "ip"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({BACKEND: {"bits": 4}}, "'bits' is no setting of this backend; there are nbits, codebook, seed, mmap"),
        ({BACKEND: {"nbits": 9}}, "nbits"),
        ({"quantize": 1}, "quantize is for other backends; leave it out, and set nbits"),
    ],
)
def test_bad_settings(config, message):
    with pytest.raises(InputError, match=message):
        make(**config)


def test_bad_vectors_change_nothing():
    ann, x = make()
    before, bad = ann.search(x, 3), unit_rows(3, 5)
    bad[1, 2] = np.inf
    with pytest.raises(InputError, match="x row 1"):
        ann.append(bad)
    with pytest.raises(InputError, match="x row 1"):
        ann.index(bad)
    with pytest.raises(InputError, match="queries must have shape"):
        ann.search(x[:, 1:], 3)
    assert ann.config["offset"] == ann.count() == 500
    assert ann.search(x, 3) == before


def test_files_of_other_backends(tmp_path):
    path = tmp_path / "embeddings"
    np.save(path.with_suffix(".npy"), np.eye(3))
    path.with_suffix(".npy").rename(path)
    ann, x = make()
    with pytest.raises(FormatError):
        TqvecANN(dict(ann.config)).load(str(path))
    ann.save(str(path))  # as each backend of txtai does
    assert ann.search(x[:1], 1)[0][0][0] == 0


@pytest.mark.parametrize("content", [False, True])
@pytest.mark.parametrize("name", ["words", "words.tar.gz"])
def test_embeddings(content, name, tmp_path):
    with Embeddings(configure() | {"content": content}) as embeddings:
        embeddings.index((f"id {i}", text, None) for i, text in enumerate(TEXTS))
        embeddings.upsert([("id 3", "another text", None), ("new", "a new text", None)])
        embeddings.delete(["id 5", "nobody"])
        embeddings.save(str(tmp_path / name))
    with Embeddings() as embeddings:
        embeddings.load(str(tmp_path / name), config={"transform": embed})
        assert type(embeddings.ann) is TqvecANN
        assert embeddings.count() == 300

        def best(text):
            result = embeddings.search(text, 1)[0]
            return (result["id"], result["score"]) if content else result

        for text, expected in ((TEXTS[0], "id 0"), ("another text", "id 3"), ("a new text", "new")):
            found, score = best(text)
            assert found == expected
            assert score == pytest.approx(1, abs=0.01)
        assert best(TEXTS[3])[1] < 0.9
        assert best(TEXTS[5])[1] < 0.9
        embeddings.upsert([("id 5", TEXTS[5], None)])
        assert best(TEXTS[5])[0] == "id 5"
        if content:
            found = embeddings.search("select id, text, score from txtai where similar(:q) and id != 'id 0'", 3,
                                      parameters={"q": TEXTS[0]})  # fmt: skip
            assert len(found) == 3
            assert all(row["id"] != "id 0" for row in found)


def test_nothing_is_left():
    with Embeddings(configure()) as embeddings:
        embeddings.index(TEXTS[:3])
        embeddings.delete([0, 1, 2])
        assert embeddings.count() == 0
        assert embeddings.ann.search(embed(TEXTS[:2]), 3) == [[], []]


@pytest.mark.slow
def test_example(capsys):
    runpy.run_path(str(Path(__file__).parents[2] / "examples" / "txtai_search.py"))
    assert "a finely chopped salad" in capsys.readouterr().out
