"""`Index.nbytes`: every byte that an index holds, by what it is for."""

import copy
import pickle
import tracemalloc

import numpy as np
import pytest
import strategies as sts
from index_cases import anisotropic, build_index

import tqvec
from tqvec.index.metrics import METRICS
from tqvec.kernels.dispatch import available


def test_an_empty_index_holds_its_rotation():
    sizes = tqvec.Index(64).nbytes
    assert sizes == sizes.rotation > 0
    assert (sizes.codes, sizes.scales, sizes.ids, sizes.prefixes, sizes.spare, sizes.mapped) == (0,) * 6
    index = tqvec.Index(64, nbits=1)
    assert index.train(anisotropic(3000, 64)).accepted
    assert index.nbytes.rotation >= 64 * 64  # bytes of the matrix


@pytest.mark.parametrize("metric", METRICS)
def test_codes_and_scales_are_those_of_the_vectors_that_are_left(metric):
    index = build_index(sts.normal(3000, 64), 3, metric)
    for removed in (0, 100):
        index.remove_ids(range(removed))
        sizes = index.nbytes
        assert sizes.codes == index.ntotal * 24
        assert sizes.codes + sizes.scales == index.ntotal * index.code_size
        assert sizes.ids == 0
        assert sizes == sum(sizes.items().values())
        assert sizes.spare >= (removed + 64) * index.code_size


def test_the_sum_is_what_was_allocated():
    """Up to the objects around the arrays; copies share what they hold."""
    x, ids = sts.normal(20_000, 64), sts.rng(1).permutation(20_000)
    for part in (slice(1), slice(5000), slice(5000, 9000)):  # every kernel is loaded before anything is counted
        index = tqvec.Index(64, nbits=4, metric="l2")
        index.add(x[part], threads=1)
        index.add(x[part], ids=ids[part] + 50_000, threads=1)
        index.reset()
    empty = index.nbytes
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for start in range(0, 20_000, 3000):
            index.add(x[start : start + 3000], ids=ids[start : start + 3000], threads=1)
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    sizes = index.nbytes
    assert sizes - empty == pytest.approx(held, abs=20_000)
    assert sizes.ids >= 20_000 * (8 + 32)
    assert copy.copy(index).nbytes.codes == sizes.codes


@pytest.mark.skipif(not available("search_few"), reason="no staged search at this level")
def test_prefixes_count_once_they_are_made():
    index = build_index(sts.normal(2000, 64), 4)
    assert index.nbytes.prefixes == 0
    index.search(sts.normal(1, 64, seed=1), k=1)
    assert index.nbytes.prefixes >= 2000 * 64 // 8


def test_a_mapped_file_is_counted_apart(tmp_path):
    path = tmp_path / "a.tqv"
    build_index(sts.normal(2000, 64), 4).save(path)
    mapped, read = tqvec.Index.load(path, mmap=True).nbytes, tqvec.Index.load(path).nbytes
    assert mapped.mapped == path.stat().st_size
    assert mapped < read.codes / 2
    assert read.mapped == 0
    assert read.codes == 2000 * 32


def test_it_is_an_int_that_can_be_pickled():
    sizes = build_index(sts.normal(10, 8)).nbytes
    again = pickle.loads(pickle.dumps(sizes))
    assert again == sizes == int(sizes)
    assert again.items() == sizes.items()
    assert repr(sizes).startswith(f"IndexBytes({int(sizes)}: codes 20, scales 40, ids 0, ")
    assert np.array([sizes]).dtype == np.int64
