"""The Python blocks of README.md and docs/ run, in order, in one namespace a page; so do docstring examples.

What stands directly below a block must be what it prints, and what stands below a command, what that prints.
"""

import contextlib
import doctest
import importlib
import io
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from command import run

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


def check_printed(printed, shown):
    """Compare what was printed with what a page shows, where a line of "…" stands for any lines."""
    pattern = ".*".join(re.escape(part) for part in re.split(r"^…$", shown.strip(), flags=re.MULTILINE))
    lines = "\n".join(line.rstrip() for line in printed.strip().splitlines())
    assert re.fullmatch(pattern, lines, re.DOTALL), f"the page shows\n{shown}\nbut it prints\n{lines}"


def iter_blocks(text):
    """Blocks of Python and shown output, in order: (code or command, output that directly follows, or None)."""
    output = r"(?:\n```\n(?!\$ )(.*?)^```)?"
    for match in re.finditer(
        rf"^```python\n(.*?)^```\n{output}|^```\n\$ (.*?)\n(.*?)^```", text, re.MULTILINE | re.DOTALL
    ):
        code, printed, command, shown = match.groups()
        yield ("python", code, printed) if code is not None else ("command", command, shown)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_page(page, tmp_path, monkeypatch):
    """Code runs, and prints what stands below it; so do commands after a dollar sign."""
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    namespace = {"np": np}
    for kind, code, shown in iter_blocks(text):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            if kind == "python":
                try:
                    exec(compile(code, str(page), "exec"), namespace)
                except UnsupportedError as error:  # an extra that is not installed
                    pytest.skip(str(error))
        if shown is not None:
            output = printed.getvalue() if kind == "python" else run(*shlex.split(code)[1:]).output
            check_printed(output, shown)
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
