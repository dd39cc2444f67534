"""The Python blocks of README.md and docs/ run, in order, in one namespace a page; so do docstring examples."""

import doctest
import re
from pathlib import Path

import numpy as np
import pytest

import tqvec.codec.turboquant
import tqvec.index.index
import tqvec.index.selectors
import tqvec.kvcache.cache
import tqvec.kvcache.planning.planner
import tqvec.kvcache.policy

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    namespace = {"np": np}
    for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        exec(compile(block, str(page), "exec"), namespace)
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


@pytest.mark.parametrize(
    "module",
    [
        tqvec.codec.turboquant,
        tqvec.index.index,
        tqvec.index.selectors,
        tqvec.kvcache.cache,
        tqvec.kvcache.planning.planner,
        tqvec.kvcache.policy,
    ],
    ids=lambda module: module.__name__,
)
def test_docstrings(module):
    assert doctest.testmod(module).failed == 0
    assert doctest.testmod(module).attempted > 0
