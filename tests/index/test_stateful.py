"""Any sequence of calls leaves an `Index` with what a dictionary of decoded vectors has (tests/naive_index.py)."""

import copy
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
import strategies as sts
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from naive_index import NaiveIndex, small_blocks

import tqvec
from tqvec.errors import InputError
from tqvec.index.selectors import Ids, Mask, Range

D = 5
LAST = 2**63 - 1  # and no id comes by itself that none could follow
ENDS = (-(2**63), LAST, LAST - 1, -2, 10**12)
seeds = st.integers(0, 20)
which = st.integers(0, 2)
sizes = st.sampled_from([1, 2, 5, 13, 30, 70])
ids = st.one_of(st.integers(-5, 300).filter(lambda i: i != -1), st.sampled_from(ENDS))
some_ids = st.lists(ids, min_size=1, max_size=25, unique=True)
filters = st.recursive(
    st.one_of(
        st.tuples(st.just("mask"), seeds, st.sampled_from([0.0, 0.1, 0.5, 1.0])),
        st.tuples(st.just("ids"), some_ids),
        st.tuples(st.just("range"), ids, ids, st.integers(1, 4)),
    ),
    lambda inner: st.one_of(st.tuples(st.sampled_from(["and", "or"]), inner, inner), st.tuples(st.just("not"), inner)),
    max_leaves=4,
)


def vectors(n, seed):
    """Few different ones, so that equal scores are common."""
    return sts.normal(8, D, seed)[sts.rng(seed).integers(0, 8, n)]


def selected(naive, recipe):
    """A filter for an index, and the ids that it means."""
    kind, *parts = recipe
    if kind == "mask":
        seed, share = parts
        mask = sts.rng(seed).random(len(naive.ids)) < share
        return Mask(mask), {i for i, chosen in zip(naive.ids, mask, strict=True) if chosen}
    if kind == "ids":
        return Ids(parts[0]), set(parts[0])
    if kind == "range":
        start, stop, step = parts
        return Range(start, stop, step), {i for i in naive.ids if i in range(start, stop, step)}
    (one, keep), *rest = (selected(naive, part) for part in parts)
    if kind == "not":
        return ~one, set(naive.ids) - keep
    other, keep_too = rest[0]
    return (one & other, keep & keep_too) if kind == "and" else (one | other, keep | keep_too)


class Machine(RuleBasedStateMachine):
    """Up to three indexes of one codec, and for each the dictionary that it should agree with."""

    def __init__(self):
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.folder = tempfile.TemporaryDirectory()
        self.pairs = []
        self.files = 0

    def teardown(self):
        self.patch.undo()
        self.folder.cleanup()

    @initialize(
        metric=st.sampled_from(["ip", "cosine", "l2"]),
        rows=st.sampled_from([24, 150]),
        counting=st.booleans(),
        n=st.sampled_from([50, 200, 0]),
    )
    def begin(self, metric, rows, counting, n):
        small_blocks(self.patch, rows)
        index = tqvec.Index(D, nbits=2, metric=metric, seed=3)
        naive = NaiveIndex(index)
        for start in range(0, n, 20):
            given = None if counting else sts.rng(start).permutation(20) + 3 * start
            index.add(vectors(20, start), ids=given)
            naive.add(vectors(20, start), ids=given)
        self.pairs = [(index, naive), (copy.copy(index), naive.copy())]
        self.counting = counting  # ids are never given, so that they need no table for long

    def pair(self, number):
        return self.pairs[number % len(self.pairs)]

    def refused(self, message, call):
        with pytest.raises(InputError, match=message):
            call()

    @rule(number=which, n=sizes, seed=seeds)
    def add(self, number, n, seed):
        index, naive = self.pair(number)
        if naive.next_id + n > LAST:
            self.refused("ids are left", lambda: index.add(vectors(n, seed)))
        else:
            index.add(vectors(n, seed))
            naive.add(vectors(n, seed))

    @precondition(lambda self: not self.counting)
    @rule(number=which, ids=some_ids, seed=seeds, upsert=st.booleans())
    def add_with_ids(self, number, ids, seed, upsert):
        index, naive = self.pair(number)
        x = vectors(len(ids), seed)
        taken = [i for i in ids if i in naive.vectors]
        if taken and not upsert:
            self.refused(f"id {taken[0]} is in the index", lambda: index.add(x, ids=ids))
        else:
            index.add(x, ids=ids, upsert=upsert)
            naive.add(x, ids=ids)

    @precondition(lambda self: not self.counting)
    @rule(number=which, seed=seeds, share=st.floats(0, 0.5), stranger=st.one_of(st.none(), ids))
    def update(self, number, seed, share, stranger):
        index, naive = self.pair(number)
        chosen = [i for i in naive.ids if sts.rng(seed + i % 7).random() < share]
        chosen = sts.rng(seed).permutation(np.array(chosen, np.int64)).tolist()
        if stranger is not None and stranger not in naive.vectors:
            chosen.append(stranger)
            self.refused(
                f"{stranger} is not in the index", lambda: index.update(ids=chosen, x=vectors(len(chosen), seed))
            )
        elif chosen:
            index.update(ids=chosen, x=vectors(len(chosen), seed))
            naive.add(vectors(len(chosen), seed), ids=chosen)

    @rule(number=which, ids=some_ids)
    def remove(self, number, ids):
        index, naive = self.pair(number)
        assert index.remove_ids(ids) == naive.remove(ids)

    @rule(number=which, n=sizes, newest=st.booleans())
    def remove_at_an_end(self, number, n, newest):
        index, naive = self.pair(number)
        ids = naive.ids[-n:] if newest else naive.ids[:n]
        assert index.remove_ids(ids) == naive.remove(ids)

    @rule(number=which, seed=seeds, share=st.sampled_from([0.1, 0.5, 0.9, 1.0]))
    def remove_many(self, number, seed, share):
        """So that most rows are dead and the index is compacted."""
        index, naive = self.pair(number)
        ids = [i for i, lot in zip(naive.ids, sts.rng(seed).random(len(naive.ids)), strict=True) if lot < share]
        assert index.remove_ids(ids) == naive.remove(ids) == len(ids)

    @rule(number=which, seed=seeds, k=st.sampled_from([1, 3, 10, 200]), recipe=st.none() | filters)
    def search(self, number, seed, k, recipe):
        index, naive = self.pair(number)
        filter, keep = (None, None) if recipe is None else selected(naive, recipe)
        queries = sts.normal(2, D, seed + 1000)
        for threads in (1, 2):
            naive.check(queries, k, index.search(queries, k, threads=threads, filter=filter), keep)

    @rule(number=which, seed=seeds, radius=st.floats(-3, 12), recipe=st.none() | filters)
    def range_search(self, number, seed, radius, recipe):
        index, naive = self.pair(number)
        filter, keep = (None, None) if recipe is None else selected(naive, recipe)
        queries = sts.normal(2, D, seed + 1000)
        naive.check_range(queries, radius, index.range_search(queries, radius, filter=filter), keep)

    @precondition(lambda self: any(naive.ids for _, naive in self.pairs))
    @rule(number=which, seed=seeds, k=st.sampled_from([1, 4, 100]))
    def search_by_id_and_reconstruct(self, number, seed, k):
        index, naive = self.pair(number)
        if naive.ids:
            one = naive.ids[seed % len(naive.ids)]
            vector = index.reconstruct([one])
            np.testing.assert_allclose(vector[0], naive.vectors[one] * (1 - index.codec.distortion), 1e-3, 1e-4)
            naive.check(vector, k, index.search_by_id(one, k), keep=set(naive.ids) - {one})

    @rule(number=which, other=which)
    def merge(self, number, other):
        (index, naive), (source, its) = self.pair(number), self.pair(other)
        pairs = list(its.vectors.items())
        if its.next_id == len(its.ids) and its.ids == list(range(its.next_id)):
            first = naive.next_id
            if first + len(pairs) > LAST:
                self.refused("ids are left", lambda: index.merge_from(source))
                return
            moved = {i: first + i for i in its.ids}
        else:
            clash = [i for i in its.ids if i in naive.vectors]
            if clash:
                self.refused(f"both indexes have id {clash[0]}", lambda: index.merge_from(source))
                return
            moved = {i: i for i in its.ids}
        index.merge_from(source)
        for i, vector in pairs:
            naive.vectors[moved[i]], naive.sizes[moved[i]] = vector, its.sizes[i]
        naive.next_id = max([naive.next_id, *(i + 1 for i in moved.values())])

    @rule(number=which, place=which, how=st.sampled_from(["copy", "deepcopy", "pickle", "file", "map"]))
    def duplicate(self, number, place, how):
        """A copy by any way takes the place of an index, or comes in addition."""
        index, naive = self.pair(number)
        if how in ("file", "map"):
            self.files += 1
            path = Path(self.folder.name) / f"{self.files}.tqv"
            index.save(path)
            other = tqvec.Index.load(path, mmap=how == "map", verify=True)
        else:
            other = pickle.loads(pickle.dumps(index)) if how == "pickle" else getattr(copy, how)(index)
        assert (other.metric, other.codec.fingerprint) == (index.metric, index.codec.fingerprint)
        self.pairs[place : place + 1] = [(other, naive.copy())]
        del self.pairs[3:]

    @rule(number=which)
    def reset(self, number):
        index, naive = self.pair(number)
        index.reset()
        naive.remove(naive.ids)
        naive.next_id = 0

    @invariant()
    def ids_are_right(self):
        for index, naive in self.pairs:
            assert index.ids.tolist() == naive.ids
            assert index.ntotal == len(naive.ids)
            assert all((i in index) == (i in naive.vectors) for i in (0, 7, 31, *ENDS))


TestIndex = pytest.mark.slow(Machine.TestCase)
TestIndex.settings = settings(max_examples=40, stateful_step_count=40)
