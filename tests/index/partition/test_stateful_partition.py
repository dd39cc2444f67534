"""Any sequence of calls leaves a partitioned `Index` with what a dictionary of decoded vectors has."""

import importlib.util
from pathlib import Path

import pytest
import strategies as sts
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

_spec = importlib.util.spec_from_file_location("flat_stateful", Path(__file__).parents[1] / "test_stateful.py")
flat = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(flat)


class Machine(flat.Machine):
    """Indexes that are partitioned at times; searches of all lists find what those of a flat index do."""

    def pair(self, number):
        """The order of ids is that of the lists."""
        for index, naive in self.pairs:
            if index.nlist is not None:
                ids = index.ids.tolist()
                assert len(set(ids)) == len(ids)
                naive.vectors = {i: naive.vectors[i] for i in ids}
        return super().pair(number)

    @precondition(lambda self: any(naive.ids for _, naive in self.pairs))
    @rule(number=flat.which, nlist=st.integers(1, 12))
    def partition(self, number, nlist):
        index, naive = self.pair(number)
        if len(naive.ids) >= nlist:
            index.partition(nlist)

    @rule(number=flat.which)
    def unpartition(self, number):
        index, _ = self.pair(number)
        index.unpartition()

    @rule(number=flat.which, seed=flat.seeds, k=st.sampled_from([1, 3, 10]), nprobe=st.integers(1, 3))
    def search_some_lists(self, number, seed, k, nprobe):
        """Results are as many as there can be, and their scores are those of the vectors."""
        index, naive = self.pair(number)
        if index.nlist is None:
            return
        queries = sts.normal(2, flat.D, seed + 1000)
        scores, ids = index.search(queries, k, nprobe=nprobe)
        n = min(k, len(naive.ids))
        assert (ids[:, :n] != -1).all()
        assert (ids[:, n:] == -1).all()
        for q in range(2):
            found = set(ids[q, :n].tolist())
            assert len(found) == n
            naive.check(queries[q], n or 1, (scores[q : q + 1, : n or 1], ids[q : q + 1, : n or 1]), keep=found)

    def ids_are_right(self):
        for index, naive in self.pairs:
            assert sorted(index.ids.tolist()) == sorted(naive.ids)
            assert all((i in index) == (i in naive.vectors) for i in (0, 7, 31, *flat.ENDS))


TestPartitioned = pytest.mark.slow(Machine.TestCase)
TestPartitioned.settings = settings(max_examples=40, stateful_step_count=30)
