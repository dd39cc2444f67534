"""The Python blocks of README.md and docs/ run, in order, in one namespace a page; so do docstring examples."""

import doctest
import importlib
import re
from pathlib import Path

import numpy as np
import pytest

import tqvec
from tqvec.errors import UnsupportedError

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PACKAGE = Path(tqvec.__file__).parent
MODULES_WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if re.search(r"^ *>>> ", path.read_text(encoding="utf-8"), re.MULTILINE)
)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    namespace = {"np": np}
    for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        exec(compile(block, str(page), "exec"), namespace)
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


@pytest.mark.parametrize("name", MODULES_WITH_EXAMPLES)
def test_docstrings(name):
    try:
        module = importlib.import_module(name.removesuffix(".__init__"))
    except UnsupportedError as error:  # an extra that is not installed
        pytest.skip(str(error))
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0


def test_every_page_is_on_the_front_page():
    front = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in PAGES[1:]:
        name = page.relative_to(ROOT / "docs").as_posix()
        assert name in navigation, f"mkdocs.yml lacks {name}"
        if name != "index.md" and not name.startswith("spec/"):
            assert f"({name})" in front, f"docs/index.md lacks {name}"


def test_docstrings_name_pages_by_their_titles():
    titles = {page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ").split(":")[0] for page in PAGES[1:]}
    named = {
        (path.name, " ".join(title.split()))
        for path in PACKAGE.rglob("*.py")
        for title in re.findall(r'"([^"]+)"\s+page\b', path.read_text(encoding="utf-8"))
    }
    assert len(named) > 10
    assert {(name, title) for name, title in named if title not in titles} == set()
