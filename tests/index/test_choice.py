"""The choice of a search by what it costs."""

import pytest
import strategies as sts

import tqvec
from tqvec.index.choice import Work, choose_search
from tqvec.kernels import features
from tqvec.kernels.dispatch import available

pytestmark = pytest.mark.skipif(not available("search_few"), reason="no staged search at this level")


def choose(nq, share=None, allowed=100_000, rows=100_000, threads=1):
    def survivors():
        assert share is not None, "measured in vain"
        return share

    return choose_search(Work(nq=nq, allowed=allowed, rows=rows, prefix_bytes=48, words=6, threads=threads), survivors)


def test_one_query_is_searched_alone():
    assert choose(1) == "few"
    assert choose(2) == "few"


@pytest.mark.skipif(features.level() == "amx", reason="byte products of AMX are faster than lookups")
def test_batches():
    assert choose(8, share=0.002) == "prefixes"
    assert choose(8, share=0.15) == "few"
    for nq in (20, 200, 2000):
        assert choose(nq, share=0.002) == "prefixes"
        assert choose(nq, share=0.15) != "prefixes"
    for nq in (200, 2000):
        assert choose(nq, share=0.15) == "products"


@pytest.mark.skipif(features.level() == "amx", reason="byte products of AMX are faster than lookups")
def test_many_threads():
    """They divide the rows into parts, each of which costs a query of a small batch a start."""
    assert choose(20, share=0.002, threads=64) == "few"
    assert choose(4000, share=0.002, threads=64) == "prefixes"


def test_small_searches_measure_nothing():
    assert choose(8, allowed=5_000, rows=5_000) == "few"


def test_filters():
    """Prefixes of all rows are read, byte products only of those that are let in."""
    assert choose(200, share=0.002, allowed=5_000, rows=96_000) == "products"


def test_copies_in_the_sample_do_not_hide_survivors(monkeypatch):
    """Queries near the first rows meet their copies in the sample, and other rows survive there all the same."""
    shares = []

    def choose(work, survivors):
        shares.append(survivors())
        return "prefixes"

    monkeypatch.setattr("tqvec.index.scanner.choose_search", choose)
    x = sts.normal(50_000, 64, 1)
    for queries in (x[:100] + 0.5 * sts.normal(100, 64, 2), sts.normal(100, 64, 3)):
        index = tqvec.Index(64, nbits=4, metric="cosine")
        index.add(x)
        index.search(queries, k=10)
    copies, strangers = shares
    assert strangers > 0.05
    assert copies > strangers / 4
