"""CITATION.cff: the keys that CFF 1.2 requires, and the paper."""

import re
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[1]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def test_required_keys():
    assert {"cff-version", "message", "title", "authors"} <= set(CITATION)
    assert CITATION["cff-version"] == "1.2.0"
    for reference in CITATION["references"]:
        assert {"type", "title", "authors"} <= set(reference)


def test_it_says_what_the_package_says():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert CITATION["license"] == re.search('^license = "(.*)"$', project, re.MULTILINE)[1]
    assert CITATION["title"] == re.search('^name = "(.*)"$', project, re.MULTILINE)[1]
    assert f"(c) 2026 {CITATION['authors'][0]['name']}" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "version" not in CITATION  # it is written in the package alone


def test_the_paper():
    (number,) = set(re.findall(r"arXiv (\d{4}\.\d{5})", (ROOT / "README.md").read_text(encoding="utf-8")))
    (paper,) = CITATION["references"]
    assert paper["url"] == f"https://arxiv.org/abs/{number}"
    assert [one["value"] for one in paper["identifiers"]] == [f"arXiv:{number}"]
