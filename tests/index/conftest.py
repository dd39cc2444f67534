"""Settings of the tests of `Index`."""

import plain
import pytest


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 100 rows."""
    plain.small_blocks(monkeypatch)
