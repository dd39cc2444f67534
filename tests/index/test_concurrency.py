"""Searches beside one writer: each sees one moment of the index, never half of a change."""

import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
import strategies as sts

import tqvec
from tqvec.index import blocks, store
from tqvec.index.selectors import Ids

PAIRS, D, ROUNDS = 40, 32, 60


def filled(vectors):
    """Pairs of ids 2 j and 2 j + 1 that hold one vector and always change together; and others between them."""
    index = tqvec.Index(D, nbits=8, seed=3)
    index.add(np.repeat(vectors, 2, axis=0))
    index.add(sts.normal(300, D, seed=5), ids=np.arange(1000, 1300) * 3)
    return index


def change(index, vectors, stop, errors):
    """Replace pairs by longer vectors; remove and add others, so that blocks end, and are compacted, in between."""
    try:
        for turn in range(ROUNDS):
            for j in range(PAIRS):
                if stop.is_set():
                    return
                index.update([2 * j, 2 * j + 1], np.repeat(vectors[j : j + 1] * (2 + turn), 2, axis=0))
            index.remove_ids(np.arange(3000 + 3 * turn, 3003 + 3 * turn))
            index.add(vectors[:3] + 9)
    except BaseException as error:
        errors.append(error)
    finally:
        stop.set()


def watch(index, vectors, stop, errors, seed):
    """Search pairs until the writer is done; anything but both rows of one version is an error."""
    rng = sts.rng(seed)
    try:
        while not stop.is_set():
            j = int(rng.integers(PAIRS))
            scores, ids = index.search(vectors[j], k=4, threads=1, filter=Ids([2 * j, 2 * j + 1]))
            if sorted(ids[0, :2].tolist()) != [2 * j, 2 * j + 1] or ids[0, 2] != -1:
                errors.append(f"pair {j}: found {ids[0].tolist()}")
            elif scores[0, 0] != scores[0, 1]:
                errors.append(f"pair {j}: two versions, {scores[0].tolist()}")
            if errors:
                break
    except BaseException as error:
        errors.append(error)
    finally:
        stop.set()


def violations():
    """What three searching threads see beside a writer that they must not."""
    vectors = sts.normal(PAIRS, D, seed=4)
    index, stop, errors = filled(vectors), threading.Event(), []
    watchers = [threading.Thread(target=watch, args=(index, vectors, stop, errors, seed)) for seed in (6, 7, 8)]
    writer = threading.Thread(target=change, args=(index, vectors, stop, errors))
    for thread in (*watchers, writer):
        thread.start()
    for thread in (*watchers, writer):
        thread.join()
    return errors


@contextmanager
def small(monkeypatch):
    """Blocks and compaction at sizes that a short test reaches."""
    with monkeypatch.context() as patch:
        for module in (blocks, store):
            patch.setattr(module, "BLOCK_ROWS", 128)
        patch.setattr(store, "_PART", 64)
        yield


def test_searches_see_all_of_a_change_or_nothing(monkeypatch):
    with small(monkeypatch):
        assert violations() == []


@pytest.mark.parametrize("half", ["without the old rows", "with both rows"])
def test_the_watchers_would_see_half_a_change(half, monkeypatch):
    """A store that shows replacements in two steps, or leaves the old rows, is found out."""
    vacated = store.Store._vacated

    def torn(self, ids, replace):
        left = vacated(self, ids, replace)
        if half == "with both rows":
            return self.blocks
        self.blocks = left
        time.sleep(1e-3)
        return left

    monkeypatch.setattr(store.Store, "_vacated", torn)
    with small(monkeypatch):
        assert violations()
