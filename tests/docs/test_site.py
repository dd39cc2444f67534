"""Links of the site lead to headings that are there, and newcomers' questions are answered on the front page."""

import importlib.util
import re
import unicodedata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def slugify(heading):
    """The anchor that mkdocs gives a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", ascii_text).strip().lower())


def anchors(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return {slugify(heading) for heading in re.findall(r"^#+ +(.*)$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_anchors_are_there(page):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
        other = page.parent / target if target else page
        assert anchor in anchors(other), f"{page.name} links to {target}#{anchor}, which is not there"


def test_ten_questions():
    """Each has an answer that a link leads to; that the links lead somewhere is tested above and with the examples."""
    front = (DOCS / "index.md").read_text(encoding="utf-8")
    table = front.split("## Ten questions")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", table, re.MULTILINE)[1:]
    assert len(rows) == 10
    assert all(question.endswith("?") and "](" in answer for question, answer in rows)


def test_notebooks_are_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    notebooks = list((DOCS / "notebooks").glob("*.ipynb"))
    assert len(notebooks) == 2
    for notebook in notebooks:
        assert f"notebooks/{notebook.stem}.md" in navigation


@pytest.mark.slow
def test_figures_are_drawn(tmp_path):
    """Each figure of docs/figures.py is on a page, and is drawn anew."""
    spec = importlib.util.spec_from_file_location("figures", DOCS / "figures.py")
    figures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(figures)
    figures.main(tmp_path)
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name in figures.FIGURES:
        assert f"images/{name})" in pages
        assert 10_000 < (tmp_path / name).stat().st_size < 60_000
