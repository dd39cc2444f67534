import importlib.util

import numpy as np
import pytest

from tqvec.errors import UnsupportedError
from tqvec.eval import baselines


def test_a_faiss_index(monkeypatch):
    pytest.importorskip("faiss")
    x = np.random.default_rng(1).standard_normal((2000, 16)).astype(np.float32)
    built = baselines.build_faiss("PQ4x4fs", x, threads=1)
    assert baselines.has_faiss()
    assert built.code_size == 2
    assert built.index.ntotal == 2000
    assert built.build_s > built.train_s > 0


def test_without_faiss(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not baselines.has_faiss()
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(UnsupportedError, match="pip install"):
        baselines.build_faiss("PQ4x4fs", np.zeros((1, 16), np.float32))
