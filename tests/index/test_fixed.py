"""What an index was made with can't be changed, and what it returns does not reach inside."""

import numpy as np
import pytest
import strategies as sts

import tqvec
from tqvec.errors import InputError

D = 24
X = sts.normal(300, D, 12_100)


@pytest.fixture
def index():
    index = tqvec.Index(D, metric="l2")
    index.add(X)
    return index


NAMES = ["d", "nbits", "metric", "codec", "ntotal", "ids", "nbytes", "code_size", "_metric", "_lock"]


@pytest.mark.parametrize("name", NAMES)
def test_no_attribute_can_be_changed(index, name):
    before = index.search(X[:3])
    for change in (lambda: setattr(index, name, 32), lambda: delattr(index, name)):
        with pytest.raises(AttributeError, match=rf"Index\.{name} can't be changed; make a new Index instead"):
            change()
    assert (index.d, index.nbits, index.metric, index.codec.nbits) == (D, 4, "l2", 4)
    for one, two in zip(index.search(X[:3]), before, strict=True):
        assert np.array_equal(one, two)


def test_a_constructor_is_called_once(index):
    with pytest.raises(AttributeError, match="can't be changed"):
        index.__init__(8)
    assert (index.d, index.ntotal) == (D, 300)


def test_other_attributes_are_free(index):
    index.label = "a"
    index.label = "b"
    assert index.label == "b"
    del index.label
    assert not hasattr(index, "label")


@pytest.mark.parametrize("d", [8, 32])
def test_sizes_come_from_the_tables(d):
    """A subclass that says another dimension, or one bent by force, gives an error at most."""
    claiming = type("Claiming", (tqvec.Index,), {"d": property(lambda self: d)})(D)
    forced = tqvec.Index(D)
    vars(forced.codec)["d"] = d
    wrong = sts.normal(300, d, 12_101)
    for index in (claiming, forced):
        index.add(X)
        for call in (
            lambda: index.add(wrong),  # noqa: B023
            lambda: index.search(wrong[:2]),  # noqa: B023
            lambda: index.search(np.tile(wrong, (4, 1))),  # noqa: B023
            lambda: index.search(wrong[:2], k=200),  # noqa: B023
            lambda: index.search(wrong[:2], return_error=True),  # noqa: B023
            lambda: index.search(wrong[:2], confidence=0.9),  # noqa: B023
            lambda: index.search(wrong[:2], rerank=wrong),  # noqa: B023
            lambda: index.range_search(wrong[:2], 0.5),  # noqa: B023
            lambda: index.train(wrong),  # noqa: B023
            lambda: index.diagnose(sample=wrong),  # noqa: B023
        ):
            with pytest.raises(InputError):
                call()
        assert index.reconstruct([3]).shape == (1, D)
        assert index.ntotal == 300


def test_indexes_without_their_constructor_say_so():
    broken = [tqvec.Index.__new__(tqvec.Index), type("Mine", (tqvec.Index,), {"__init__": lambda self: None})()]
    for index in broken:
        for call in (
            lambda: index.search(X),  # noqa: B023
            lambda: index.add(X),  # noqa: B023
            lambda: index.d,  # noqa: B023
            index.reset,
        ):
            with pytest.raises(AttributeError):
                call()


def test_returned_arrays_are_the_users(index):
    expected = index.search(X[:3], k=4)
    index.ids[:] = 7
    index.reconstruct([0, 1])[:] = 7
    for array in index.search(X[:3], k=4):
        array[:] = 7
    with pytest.raises(ValueError, match="read-only"):
        index.codec.centre[:] = 7
    for one, two in zip(index.search(X[:3], k=4), expected, strict=True):
        assert np.array_equal(one, two)


def test_arrays_given_are_the_users():
    x, ids = X.copy(), np.arange(300)[::-1].copy()
    index = tqvec.Index(D)
    index.add(x, ids)
    expected = index.search(X[:3])
    x[:] = ids[:] = 0
    for one, two in zip(index.search(X[:3]), expected, strict=True):
        assert np.array_equal(one, two)
