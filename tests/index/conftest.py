"""Settings of the tests of `Index`."""

import pytest

from tqvec.index import blocks, scan, store


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 100 rows, so that few vectors make many, and compaction and threads begin early."""
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 100)
    monkeypatch.setattr(store, "BLOCK_ROWS", 100)
    monkeypatch.setattr(store, "_PART", 32)
    monkeypatch.setattr(scan, "_GRAIN", 64)
