"""Settings of the tests of `Index`."""

import naive_index
import pytest


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 100 rows."""
    naive_index.small_blocks(monkeypatch)
