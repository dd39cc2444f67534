"""A small index, also cut into shards, and searches of them that go on while something else happens."""

import threading
import time

import numpy as np
import pyarrow as pa
import strategies as sts

N, D, SIZES = 400, 24, [100, 1, 63, 200, 36]
OBJECT_STORE = 80 << 20  # bytes, of a node
QUERIES = sts.normal(5, D, 2)
RECORDS = pa.table({"name": [f"n{i}" for i in range(N)], "year": [1990 + i % 30 for i in range(N)]})


def assert_same(sharded, index, *arguments, method="search", **options):
    wanted, got = (getattr(each, method)(*arguments, **options) for each in (index, sharded))
    assert len(got) == len(wanted)
    for ours, theirs in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


class Load:
    """Searches that go on in another thread, each compared with those of one index, or of one of several."""

    def __init__(self, sharded, *indexes, recall=1.0):
        self._wanted = [index.search(QUERIES, 10, recall=recall)[1].tolist() for index in indexes]
        self._sharded, self._recall, self._over = sharded, recall, threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.found, self.longest, self._error = [], 0.0, None

    def __enter__(self):
        self._thread.start()
        return self

    def _run(self):
        try:
            while not self._over.is_set():
                start = time.monotonic()
                ids = self._sharded.search(QUERIES, 10, recall=self._recall)[1].tolist()
                self.longest = max(self.longest, time.monotonic() - start)
                self.found.append(self._wanted.index(ids))
        except Exception as error:
            self._error = error

    def wait(self, more):
        """Wait until so many more searches are done."""
        until, end = len(self.found) + more, time.monotonic() + 60
        while len(self.found) < until and self._thread.is_alive() and time.monotonic() < end:
            time.sleep(0.01)
        assert self._error is None, self._error
        assert len(self.found) >= until

    def __exit__(self, kind, error, trace):
        self._over.set()
        self._thread.join()
        if kind is None:
            assert self._error is None, self._error
