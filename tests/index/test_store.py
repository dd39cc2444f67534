"""An `Index` after every kind of change, against a naive one (tests/naive_index.py); blocks are of 100 rows."""

import copy
import pickle
import threading
from functools import cache, partial

import numpy as np
import pytest
import strategies as sts
from naive_index import NaiveIndex, same

import tqvec
from tqvec.errors import InputError
from tqvec.index.blocks import Block
from tqvec.index.rows import encode_rows

D = 40
KINDS = (
    *(("scalar", metric, False) for metric in ("ip", "cosine", "l2")),
    *(("trellis", metric, False) for metric in ("ip", "l2")),
    *(("scalar", metric, True) for metric in ("ip", "cosine", "l2")),
    ("trellis", "cosine", True),
)
pytestmark = pytest.mark.usefixtures("small_blocks")
kinds = pytest.mark.parametrize(("codebook", "metric", "trained"), KINDS)


@cache
def empty(codebook, metric, trained):
    index = tqvec.Index(D, nbits=3, metric=metric, codebook=codebook, seed=3)
    if trained:
        assert index.train(vectors(3000, seed=77)).accepted
    return index


def made(codebook="scalar", metric="ip", trained=False):
    """An empty index, and the naive one to compare with."""
    index = copy.copy(empty(codebook, metric, trained))
    return index, NaiveIndex(index)


def vectors(n, seed=0):
    """Rows of falling spreads around a common point, of different lengths."""
    x = sts.normal(n, D, seed) / np.arange(1, D + 1) + np.float32(0.1)
    return (x * sts.rng(seed + 500).uniform(0.5, 2, (n, 1))).astype(np.float32)


def filled(n=450, **kind):
    """An index of `n` vectors in blocks of unequal sizes, and the naive one."""
    index, naive = made(**kind)
    x = vectors(n)
    for start, stop in ((0, 30), (30, 210), (210, 211), (211, 390), (390, n)):
        index.add(x[start:stop])
        naive.add(x[start:stop])
    return index, naive


def compare(index, naive, keep=None, filter=None, queries=None):
    """Everything that can be asked of an index."""
    queries = vectors(3, seed=900) if queries is None else queries
    assert index.ntotal == len(index) == len(naive.ids)
    assert index.ids.tolist() == naive.ids
    assert index.ids.dtype == np.int64
    for k in (1, 10, len(naive.ids) + 3):
        found = index.search(queries, k=k, filter=filter, threads=1)
        naive.check(queries, k, found, keep)
        again = index.search(queries, k=k, filter=filter, threads=3)
        assert np.array_equal(found[0], again[0])
        assert np.array_equal(found[1], again[1])
    assert all(i in index for i in naive.ids[:5])


@kinds
def test_adding_in_pieces(codebook, metric, trained):
    index, naive = filled(codebook=codebook, metric=metric, trained=trained)
    compare(index, naive)
    assert len(index._core.store.blocks) > 2


@kinds
def test_removing_updating_and_adding_again(codebook, metric, trained):
    index, naive = filled(codebook=codebook, metric=metric, trained=trained)
    compact = len(index._core.store.blocks)
    gone = sts.rng(1).choice(450, 90, replace=False)
    assert index.remove_ids(gone) == naive.remove(gone) == 90
    compare(index, naive)
    index.add(vectors(60, seed=2))
    naive.add(vectors(60, seed=2))
    compare(index, naive)
    back = gone[:20]
    index.add(vectors(20, seed=4), ids=back)
    naive.add(vectors(20, seed=4), ids=back)
    compare(index, naive)
    some = naive.ids[5:300:7]
    index.update(ids=some, x=vectors(len(some), seed=5))
    naive.add(vectors(len(some), seed=5), ids=some)
    compare(index, naive)
    mixed = [*naive.ids[3:40:9], -5, 10**15]
    index.add(vectors(len(mixed), seed=6), ids=mixed, upsert=True)
    naive.add(vectors(len(mixed), seed=6), ids=mixed)
    compare(index, naive)
    most = naive.ids[: len(naive.ids) * 3 // 4]
    assert index.remove_ids(most) == naive.remove(most)
    compare(index, naive)
    assert len(index._core.store.blocks) < compact, "no space was used again"


def test_removed_vectors_are_gone():
    index, naive = filled()
    assert index.remove_ids([7, 449, 7, 10**6, -1]) == 2
    naive.remove([7, 449])
    assert index.remove_ids([7]) == 0
    assert index.remove_ids([]) == 0
    assert 7 not in index
    compare(index, naive)
    with pytest.raises(InputError, match="^ids row 1: 7 is not in the index"):
        index.reconstruct([8, 7])
    assert index.remove_ids(naive.ids) == 448
    assert index.ntotal == 0
    assert index.search(vectors(2), k=3)[1].tolist() == [[-1] * 3] * 2
    index.add(vectors(2))
    assert index.ids.tolist() == [450, 451]


def test_ids_count_on_from_the_largest_that_ever_was():
    index, _ = made()
    index.add(vectors(3))
    index.remove_ids([2])
    index.add(vectors(1))
    assert index.ids.tolist() == [0, 1, 3]
    index.add(vectors(2), ids=[100, 50])
    index.remove_ids([100])
    index.add(vectors(2))
    assert index.ids.tolist() == [0, 1, 3, 50, 101, 102]
    index.reset()
    index.add(vectors(2))
    assert index.ids.tolist() == [0, 1]


def test_an_id_that_is_taken():
    index, naive = filled()
    with pytest.raises(InputError, match="^ids row 2: id 17 is in the index"):
        index.add(vectors(4), ids=[1000, 1001, 17, 3])
    with pytest.raises(InputError, match="^ids row 3: id 8000 is given twice"):
        index.add(vectors(4), ids=[8000, 7, 9000, 8000], upsert=True)
    with pytest.raises(InputError, match="^ids row 1: 450 is not in the index"):
        index.update(ids=[3, 450], x=vectors(2))
    compare(index, naive)


@kinds
def test_reconstruct(codebook, metric, trained):
    index, naive = filled(codebook=codebook, metric=metric, trained=trained)
    index.remove_ids(range(0, 450, 3))
    naive.remove(range(0, 450, 3))
    wanted = sts.rng(2).choice(naive.ids, 50)
    found = index.reconstruct(wanted)
    assert found.dtype == np.float32
    centre = index.codec.centre
    for vector, i in zip(found, wanted.tolist(), strict=True):
        exact = naive.vectors[i]
        if trained:  # shrunk by axis
            assert np.linalg.norm(vector - exact) < 0.4 * np.linalg.norm(exact - centre)
        else:
            np.testing.assert_allclose(vector, exact * (1 - index.codec.distortion), rtol=1e-4, atol=1e-4)
    assert np.array_equal(index.reconstruct(int(wanted[0])), found[:1])
    assert index.reconstruct([]).shape == (0, D)


@kinds
def test_search_by_id(codebook, metric, trained):
    index, naive = filled(codebook=codebook, metric=metric, trained=trained)
    gone = naive.ids[100:300:2]
    index.remove_ids(gone)
    naive.remove(gone)
    for k in (1, 7, len(naive.ids) + 2):
        for i in naive.ids[::60]:
            queries = index.reconstruct([i])
            naive.check(queries, k, index.search_by_id(i, k=k), keep=set(naive.ids) - {i})
            keep = set(naive.ids[::3])
            found = index.search_by_id([i], k=k, filter=sorted(keep))
            naive.check(queries, k, found, keep=keep - {i})


@kinds
def test_equal_scores_come_in_the_order_of_adding(codebook, metric, trained):
    index, naive = made(codebook, metric, trained)
    x = np.repeat(vectors(4), 70, axis=0)[sts.rng(3).permutation(280)]
    ids = sts.rng(4).permutation(1000)[:280]
    for start in range(0, 280, 35):
        index.add(x[start : start + 35], ids=ids[start : start + 35])
        naive.add(x[start : start + 35], ids=ids[start : start + 35])
    again = ids[::11]
    index.update(ids=again, x=x[::11])
    naive.add(x[::11], again)
    index.remove_ids(ids[::17])
    naive.remove(ids[::17])
    compare(index, naive, queries=x[[0, 1, 2]])


@kinds
def test_merging_is_building_of_both(codebook, metric, trained):
    whole, naive = filled(codebook=codebook, metric=metric, trained=trained)
    one, other = copy.copy(whole), copy.copy(whole)
    for index, part in ((one, slice(0, 170)), (other, slice(170, 450))):
        index.reset()
        index.add(np.concatenate([vectors(450)[part]]))
    one.merge_from(other)
    assert same(one, whole)
    compare(one, naive)
    assert other.ids.tolist() == list(range(280))


def test_merging_keeps_ids_of_the_user():
    one, naive = made()
    other, _ = made()
    one.add(vectors(150))
    naive.add(vectors(150))
    other.add(vectors(130, seed=1), ids=np.arange(1130, 1000, -1))
    naive.add(vectors(130, seed=1), ids=np.arange(1130, 1000, -1))
    one.merge_from(other)
    compare(one, naive)
    one.add(vectors(1, seed=2))
    assert one.ids[-1] == 1131


def test_merging_refuses_ids_of_both_and_other_codecs():
    one, naive = made()
    one.add(vectors(5), ids=[3, 1, 4, 15, 9])
    naive.add(vectors(5), ids=[3, 1, 4, 15, 9])
    other, _ = made()
    other.add(vectors(3), ids=[2, 15, 1])
    with pytest.raises(InputError, match="both indexes have id 15 and 1 more"):
        one.merge_from(other)
    with pytest.raises(InputError, match="both indexes have id 3 and 4 more"):
        one.merge_from(one)
    for stranger in (
        tqvec.Index(D, nbits=3, metric="cosine", seed=3),
        tqvec.Index(D, nbits=3, seed=4),
        tqvec.Index(D, nbits=2, seed=3),
        made(trained=True)[0],
    ):
        with pytest.raises(InputError, match="different codecs"):
            one.merge_from(stranger)
    compare(one, naive)


def test_merging_with_itself_and_with_nothing():
    index, naive = filled()
    other, _ = made()
    index.merge_from(other)
    compare(index, naive)
    other.merge_from(index)
    compare(other, naive)
    index.merge_from(index)
    naive.add(vectors(450))
    compare(index, naive)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda index: pickle.loads(pickle.dumps(index))])
@kinds
def test_copies_are_independent(duplicate, codebook, metric, trained):
    index, naive = filled(codebook=codebook, metric=metric, trained=trained)
    index.remove_ids(range(40, 60))
    naive.remove(range(40, 60))
    other, others = duplicate(index), naive.copy()
    assert same(index, other)
    assert (other.metric, other.d, other.nbits) == (index.metric, index.d, index.nbits)
    assert other.codec.fingerprint == index.codec.fingerprint
    index.add(vectors(30, seed=1))
    naive.add(vectors(30, seed=1))
    other.add(vectors(140, seed=2))
    others.add(vectors(140, seed=2))
    index.remove_ids(range(100))
    naive.remove(range(100))
    other.update(ids=[100, 449], x=vectors(2, seed=3))
    others.add(vectors(2, seed=3), ids=[100, 449])
    compare(index, naive)
    compare(other, others)


def test_a_pickled_index_remembers_which_ids_were_used():
    index, _ = made()
    index.add(vectors(5))
    index.remove_ids([3, 4])
    other = pickle.loads(pickle.dumps(index))
    index.add(vectors(1))
    other.add(vectors(1))
    assert other.ids.tolist() == index.ids.tolist() == [0, 1, 2, 5]
    other = pickle.loads(pickle.dumps(made()[0]))
    other.add(vectors(2))
    assert other.ids.tolist() == [0, 1]


def test_a_reset_index_keeps_its_training():
    index, _ = filled(trained=True)
    before = index.codec.fingerprint
    index.reset()
    assert index.codec.fingerprint == before
    assert index.ntotal == index.nbytes.codes == index.nbytes.spare == 0
    assert index.ids.tolist() == []


def test_training_a_filled_index_keeps_ids_and_order():
    index, _ = filled()
    index.remove_ids(range(0, 100, 2))
    ids = index.ids
    assert index.train(vectors(3000, seed=77), vectors=vectors(450)[ids]).accepted
    naive = NaiveIndex(index)
    naive.add(vectors(450)[ids], ids=ids)
    compare(index, naive)
    index.add(vectors(1, seed=8))
    assert index.ids[-1] == 450


def test_the_users_arrays_are_copied():
    index, naive = made()
    x, ids = vectors(5), np.array([5, 3, 8, 1, 0])
    index.add(x, ids=ids)
    naive.add(x, ids=ids)
    x[:], ids[:] = 0, 0
    index.ids[:] = 77
    compare(index, naive)


def test_removal_touches_one_block_only():
    index, _ = filled()
    before = index._core.store.blocks
    index.remove_ids([250])
    after = index._core.store.blocks
    changed = [one is not other for one, other in zip(before, after, strict=True)]
    assert sum(changed) == 1
    assert all(one.rows is other.rows for one, other in zip(before, after, strict=True))


def test_snapshots_stay_as_they_were():
    """What a search took at its start answers the same after every kind of change."""
    index, _ = filled()
    snapshot, queries = index._snapshot(threads=1), vectors(3, seed=900)
    before = snapshot.best(queries, 450)
    index.add(vectors(80, seed=1))
    index.add(vectors(10, seed=2), ids=range(5, 15), upsert=True)
    index.remove_ids(range(100, 200))
    index.search(queries, k=9)
    index.remove_ids(range(440))
    index.reset()
    after = snapshot.best(queries, 450)
    assert np.array_equal(before[0], after[0])
    assert np.array_equal(before[1], after[1])


def test_ids_at_the_ends_of_int64():
    index, naive = made()
    ends = [2**63 - 1, -(2**63), 0, -2, 2**63 - 2]
    index.add(vectors(5), ids=ends)
    naive.add(vectors(5), ids=ends)
    compare(index, naive)
    index.update(ids=[2**63 - 1, -(2**63)], x=vectors(2, seed=1))
    naive.add(vectors(2, seed=1), ids=[2**63 - 1, -(2**63)])
    compare(index, naive)
    with pytest.raises(InputError, match="no 1 ids are left"):
        index.add(vectors(1))
    compare(index, naive)
    assert index.remove_ids(ends) == 5


def test_the_last_ids_in_a_row():
    index, naive = made()
    for ids in ([2**63 - 3], [2**63 - 2, 2**63 - 1], [-(2**63)], [-(2**63) + 1]):
        index.add(vectors(len(ids), seed=len(naive.ids)), ids=ids)
        naive.add(vectors(len(ids), seed=len(naive.ids)), ids=ids)
    compare(index, naive)


def test_the_last_id_can_be_replaced():
    index, naive = made()
    for seed in (1, 2, 3):
        index.add(vectors(1, seed), ids=[2**63 - 1], upsert=True)
        naive.add(vectors(1, seed), ids=[2**63 - 1])
        compare(index, naive)


def test_reconstruct_nothing_from_an_empty_index():
    index, _ = made()
    assert index.reconstruct([]).shape == (0, D)
    assert [part.shape for part in index.search_by_id([], k=4)] == [(0, 4), (0, 4)]


def test_search_by_an_id_that_looks_like_no_result():
    """`add` refuses it, but a file of an earlier version may hold it."""
    index, naive = made()
    with pytest.raises(InputError, match="^ids row 0: -1 can't be an id"):
        index.add(vectors(4), ids=[-1, 5, 6, 7])
    index._core.store.append(encode_rows(index.codec, index.metric, vectors(4)), np.array([-1, 5, 6, 7]), False)
    naive.add(vectors(4), ids=[-1, 5, 6, 7])
    naive.check(index.reconstruct(-1), 8, index.search_by_id(-1, k=8), keep={5, 6, 7})


@pytest.mark.parametrize("through", [copy.copy, lambda index: pickle.loads(pickle.dumps(index))])
@pytest.mark.parametrize(("removed", "clash"), [([449], "0 and 2 more"), ([0], "1 and 1 more"), (range(440), None)])
def test_merging_does_not_depend_on_what_was_compacted(removed, clash, through):
    """Once a vector was removed all keep their ids, whether its row is still there or not."""
    other, _ = filled()
    other.remove_ids(removed)
    other = through(other)
    index, naive = made()
    index.add(vectors(3, seed=1))
    naive.add(vectors(3, seed=1))
    if clash:
        with pytest.raises(InputError, match=f"both indexes have id {clash}"):
            index.merge_from(other)
    else:
        index.merge_from(other)
        naive.add(vectors(450)[440:], ids=range(440, 450))
    compare(index, naive)


def test_merging_when_no_ids_are_left():
    index, naive = made()
    index.add(vectors(2), ids=[2**63 - 1, 4])
    naive.add(vectors(2), ids=[2**63 - 1, 4])
    other, _ = filled()
    with pytest.raises(InputError, match="no 450 ids are left"):
        index.merge_from(other)
    compare(index, naive)


def test_a_merge_is_seen_as_a_whole(monkeypatch):
    """It is added in parts of 25 rows; none of them shows before the last is there."""
    index, _ = filled()
    other, _ = made()
    other.add(vectors(300, seed=1))
    seen = []
    extended = Block.extended
    monkeypatch.setattr(Block, "extended", lambda *given: seen.append(index.ntotal) or extended(*given))
    index.merge_from(other)
    assert len(seen) > 5
    assert set(seen) == {450}
    assert index.ntotal == 750


@pytest.mark.parametrize("change", ["next ids", "own ids", "upsert"])
def test_a_change_that_fails_midway_leaves_no_trace(change, monkeypatch):
    """As when memory runs out: neither ids nor rows of it are found later."""
    index, naive = filled()
    other, _ = made()
    if change != "next ids":
        index.add(vectors(5, seed=3), ids=[-5, -9, -2, -3, -7])
        naive.add(vectors(5, seed=3), ids=[-5, -9, -2, -3, -7])
    other.add(vectors(300, seed=1), ids=None if change == "next ids" else np.arange(300) * 7 + 1000)
    extended, calls = Block.extended, []

    def fail(*given):
        calls.append(None)
        if len(calls) == 6 or change == "upsert":
            raise MemoryError
        return extended(*given)

    calling = partial(index.merge_from, other)
    if change == "upsert":
        calling = partial(index.add, vectors(4, seed=8), [-5, 3, 200, 9999], upsert=True)
    with monkeypatch.context() as patch:
        patch.setattr(Block, "extended", fail)
        with pytest.raises(MemoryError):
            calling()
    compare(index, naive)
    assert 9999 not in index
    assert 1007 not in index
    for more, seed in ((None, 11), ([-5, 3, 77, 9999], 12)):
        index.add(vectors(4, seed), ids=more, upsert=True)
        naive.add(vectors(4, seed), ids=more)
        compare(index, naive)
    index.remove_ids([-5, 9999])
    naive.remove([-5, 9999])
    compare(index, naive)


def test_what_is_in_an_index():
    index, _ = made()
    index.add(vectors(3), ids=[1, -7, 2**63 - 1])
    assert all(one in index for one in (1, -7, 2**63 - 1, np.int8(-7), np.uint64(2**63 - 1)))
    strangers = (0, 2**63, -(2**63) - 1, 2**70, np.uint64(2**63), 1.0, "1", None, [1], (1,), np.array([1]))
    assert not any(one in index for one in strangers)


class Reading:
    """Vectors during whose reading something else happens."""

    def __init__(self, x, happens):
        self.x, self.happens = x, happens

    def __array__(self, dtype=None, copy=None):
        self.happens()
        return self.x


def test_an_update_can_not_bring_back_what_is_removed_meanwhile():
    index, naive = filled()
    other = threading.Thread(target=index.remove_ids, args=([7],))

    def remove():
        if not other.ident:
            other.start()
        other.join(0.2)

    index.update(ids=[7], x=Reading(vectors(1, seed=1), remove))
    other.join()
    naive.remove([7])
    compare(index, naive)


def test_a_copy_taken_while_an_index_is_trained():
    """Its codec and its rows belong together."""
    index, _ = filled()
    trained, _ = filled(trained=True)
    codecs = []

    class Torn(tqvec.Index):
        """Trained by another thread whenever its codec has been read."""

        @property
        def codec(self):
            codec = self._core.codec
            codecs.append(codec)
            self._core = trained._core
            return codec

    index.__class__ = Torn
    other = copy.copy(index)
    other.__class__ = tqvec.Index
    found = other.search(vectors(3, seed=900), k=20)
    untorn = trained if other.codec is trained.codec else filled()[0]
    assert np.array_equal(found[0], untorn.search(vectors(3, seed=900), k=20)[0])


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("ids", [[-2, -(2**63)], [2**63 - 1, 5], [-7, 3, 0], [2**63 - 2]])
def test_all_ids_can_be_saved(tmp_path, ids, mmap):
    index, naive = made()
    index.add(vectors(len(ids)), ids=ids)
    naive.add(vectors(len(ids)), ids=ids)
    index.save(tmp_path / "a.tqv")
    other = tqvec.Index.load(tmp_path / "a.tqv", mmap=mmap, verify=True)
    compare(other, naive)
    if max(ids) < 2**63 - 2:
        other.add(vectors(1, seed=1))
        naive.add(vectors(1, seed=1))
        compare(other, naive)
    else:
        with pytest.raises(InputError, match="no 1 ids are left"):
            other.add(vectors(1))


def test_an_emptied_index_can_be_saved(tmp_path):
    for ids in ([3, 4], [2**63 - 1], [-4]):
        index, naive = made()
        index.add(vectors(len(ids)), ids=ids)
        index.remove_ids(ids)
        index.save(tmp_path / "a.tqv")
        other = tqvec.Index.load(tmp_path / "a.tqv")
        compare(other, naive)
        other.add(vectors(1), ids=[7])
        assert other.ids.tolist() == [7]


@pytest.mark.parametrize("again", ["pickle", "file", "map"])
def test_ids_jump_where_the_last_were_removed(tmp_path, again):
    """What was read anew goes on after ids that are gone, and still finds those before and after."""
    index, naive = filled(n=130)
    index.remove_ids(range(120, 130))
    naive.remove(range(120, 130))
    if again == "pickle":
        index = pickle.loads(pickle.dumps(index))
    else:
        index.save(tmp_path / "a.tqv")
        index = tqvec.Index.load(tmp_path / "a.tqv", mmap=again == "map")
    for seed in (1, 2):
        index.add(vectors(7, seed))
        naive.add(vectors(7, seed))
        compare(index, naive)
    assert [i in index for i in (119, 120, 129, 130, 143, 144)] == [True, False, False, True, True, False]
    assert index.remove_ids([3, 125, 131]) == naive.remove([3, 125, 131]) == 2
    compare(index, naive)
