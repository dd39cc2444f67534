"""Threads that search while another changes the index: every answer must be that of one moment.

Vectors come in groups of four ids that always change together, in one call: all get the same new vector, or all are
removed. The length of a vector tells its version, and the score of a group's own direction is that length. A search
notes which versions were complete when it began and which were begun when it ended: what it finds of a group must be
all of one version between these. Stores that are broken on purpose show that this finds what is wrong.
"""

import copy
import sys
import threading
import time

import numpy as np
import pytest
import strategies as sts
from naive_index import small_blocks

import tqvec
from tqvec.errors import InputError
from tqvec.index.rows import empty_rows
from tqvec.index.store import Store

D, GROUPS, SIZE = 64, 8, 4
DIRECTIONS = np.linalg.qr(sts.rng(1).standard_normal((D, GROUPS)))[0].T.astype(np.float32)
READERS = 3


class Torn(Store):
    """Replaces in two steps that both can be seen."""

    def append(self, rows, ids, replace, threads=None):
        if replace:
            self.remove(np.sort(ids))
            time.sleep(1e-3)
        super().append(rows, ids, replace)


class Overwriting(Store):
    """Writes new rows over the old ones, one by one."""

    def append(self, rows, ids, replace, threads=None):
        places = self.find(ids) if replace else np.array([-1])
        if (places < 0).any():
            super().append(rows, ids, replace)
            return
        starts = np.cumsum([0, *(block.n for block in self.blocks)])
        for i, place in enumerate(places):
            at = np.searchsorted(starts, place, side="right") - 1
            for name, array in rows.items():
                self.blocks[at].rows[name][place - starts[at]] = array[i]
            time.sleep(1e-3)


class Unfinished(Store):
    """Shows rows before it has removed those that they replace."""

    def append(self, rows, ids, replace, threads=None):
        if not replace or self._table is None:
            super().append(rows, ids, replace)
            return
        old = self.find(ids)
        self._table.remove(ids[old >= 0])
        super().append(rows, ids, False)
        time.sleep(1e-3)
        start = 0
        for at, block in enumerate(self.blocks):
            mine = old[(old >= start) & (old < start + block.n)] - start
            if mine.size:
                self.blocks = (*self.blocks[:at], block.without(mine), *self.blocks[at + 1 :])
            start += block.n


class Run:
    """An index, one thread that changes it, and some that search it."""

    def __init__(self, filler, store=Store):
        self.index = tqvec.Index(D, nbits=4, seed=3)
        core = self.index._core
        rows = empty_rows(core.codec, "ip")
        self.index._core = core._replace(store=store(rows, core.scanner.prefixes, self.index._block_rows))
        self.index.add(sts.normal(filler, D, seed=2) * np.float32(0.01), ids=-2 - np.arange(filler))
        self.begun, self.complete = np.zeros(GROUPS, np.int64), np.zeros(GROUPS, np.int64)
        self.stop, self.wrong, self.reads = threading.Event(), [], 0
        for group in range(GROUPS):
            self.write(group)

    def ids(self, group):
        return 100 * np.arange(SIZE) + group

    def state(self, version):
        """Length of the vectors of a version, 0 where they are removed."""
        return 0 if version % 5 == 4 else 100 + version % 64

    def write(self, group):
        version = self.begun[group] = self.begun[group] + 1
        length, ids = self.state(version), self.ids(group)
        if length:
            self.index.add(np.repeat(DIRECTIONS[group : group + 1] * length, SIZE, axis=0), ids=ids, upsert=True)
        else:
            self.index.remove_ids(ids)
        self.complete[group] = version

    def writer(self, changes, deadline):
        rng = np.random.default_rng(10_007)
        while changes and not self.stop.is_set() and time.monotonic() < deadline:
            self.write(rng.integers(GROUPS))
            changes -= 1
        self.stop.set()

    def reader(self, seed):
        rng = np.random.default_rng(10_100 + seed)
        reads = (self.filtered, self.best, self.range, self.copied, self.reconstructed, self.listed)
        try:
            while not self.stop.is_set():
                self.check(reads[rng.integers(len(reads))], rng.integers(GROUPS))
        except Exception as error:
            self.wrong.append(f"{type(error).__name__}: {error}")
            self.stop.set()

    def check(self, read, group):
        first = self.complete[group]
        lengths = read(group, self.ids(group))
        allowed = {self.state(version) for version in range(first, self.begun[group] + 1)}
        told = f"{read.__name__} found {lengths} of group {group}, allowed are {allowed}"
        assert lengths.size in (0, SIZE), told
        if lengths.size == 0:
            assert 0 in allowed, told
        elif np.isnan(lengths).all():
            assert allowed != {0}, told
        else:
            assert np.ptp(lengths) < 0.1, told
            assert round(float(lengths[0])) in allowed, told
        self.reads += 1

    def of(self, found, scores, ids):
        """Scores of a group's ids among those that were found, none of them twice."""
        real = found[found != -1]
        assert len(set(real.tolist())) == real.size, f"an id twice: {sorted(real.tolist())}"
        return scores[np.isin(found, ids)]

    def filtered(self, group, ids):
        scores, found = self.index.search(DIRECTIONS[group], k=SIZE + 2, threads=1, filter=ids)
        return self.of(found[0], scores[0], ids)

    def best(self, group, ids):
        scores, found = self.index.search(DIRECTIONS[group], k=2 * SIZE, threads=1)
        return self.of(found[0], scores[0], ids)

    def range(self, group, ids):
        _, scores, found = self.index.range_search(DIRECTIONS[group], 80, threads=1)
        return self.of(found, scores, ids)

    def copied(self, group, ids):
        scores, found = copy.copy(self.index).search(DIRECTIONS[group], k=2 * SIZE, threads=1)
        return self.of(found[0], scores[0], ids)

    def reconstructed(self, group, ids):
        try:
            vectors = self.index.reconstruct(ids, threads=1)
        except InputError:
            return np.zeros(0)
        products = vectors @ DIRECTIONS[group]
        return products / (1 - self.index.codec.distortion)

    def listed(self, group, ids):
        """Ids alone tell no version."""
        found = self.index.ids
        return self.of(found, np.full(found.size, np.nan), ids)

    def violations(self, changes, seconds):
        """What the readers found to be wrong during so many changes, in at most this time."""
        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        threads = [threading.Thread(target=self.reader, args=(seed,)) for seed in range(READERS)]
        try:
            for thread in threads:
                thread.start()
            self.writer(changes, time.monotonic() + seconds)
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()
            sys.setswitchinterval(before)
        return self.wrong


@pytest.mark.slow
@pytest.mark.parametrize("filler", [0, 2000])
def test_every_answer_is_that_of_one_moment(filler, monkeypatch):
    """Without other vectors removed rows are dropped again and again; among many the search goes in stages."""
    small_blocks(monkeypatch, rows=90)
    run = Run(filler)
    assert run.violations(changes=1500, seconds=6) == []
    assert run.reads > READERS
    assert run.index.ntotal == filler + sum(SIZE for version in run.complete if run.state(version))


@pytest.mark.parametrize("store", [Torn, Overwriting, Unfinished])
def test_broken_stores_are_found_out(store, monkeypatch):
    small_blocks(monkeypatch, rows=90)
    run = Run(0, store)
    try:
        found = run.violations(changes=10**6, seconds=60)
    except InputError as error:  # rows of one id that a compaction comes across
        found = [error]
    assert found
