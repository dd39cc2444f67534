"""Figures of README and the pages are those that were measured: `make bench` writes them, with their commands."""

import importlib
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
sys.path.append(str(BENCHMARKS))
page_figures = importlib.import_module("page_figures")
run_all = importlib.import_module("run_all")

PAGES = list(page_figures.pages())
# Pages all of whose figures are in blocks. Standard errors in 95 %, and the number of the paper, are no measurements.
WHOLE = [ROOT / "README.md", ROOT / "docs/performance.md", ROOT / "docs/leaderboard.md"]
KNOWN = {"1.96", "2504.19874"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_blocks_have_the_figures_of_the_results(page):
    text = page.read_text(encoding="utf-8")
    assert page_figures.filled(text) == text, "run `python benchmarks/page_figures.py`"
    assert text.count("<!-- figures: ") == text.count("<!-- end -->")


@pytest.mark.parametrize("page", WHOLE, ids=lambda page: page.name)
def test_no_figure_stands_outside_of_a_block(page):
    text = re.sub(r"<!-- figures: .*?<!-- end -->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    prose = re.sub(r"^```.*?^```|`[^`]*`|\]\([^)]*\)", "", text, flags=re.DOTALL | re.MULTILINE)
    assert set(re.findall(r"\d+\.\d\d+", prose)) <= KNOWN


def test_every_block_and_every_step_is_used():
    used = {name for page in PAGES for name in re.findall(r"<!-- figures: ([\w-]+) -->", page.read_text("utf-8"))}
    assert used == set(page_figures.BLOCKS)
    steps = {step for block in page_figures.BLOCKS.values() for step in block.steps}
    by_hand = {path.stem for path in page_figures.RESULTS.parent.glob("*.json")}
    assert steps - by_hand == {step.name for step in run_all.STEPS}


def test_results_tell_the_command_of_their_step():
    commands = {step.name: step.command.format(data="FOLDER") for step in run_all.STEPS}
    for path in sorted(page_figures.RESULTS.iterdir()):
        facts = json.loads(path.read_text(encoding="utf-8"))
        assert facts["made_by"].endswith(commands[path.stem])
        assert facts["seconds"] > 0
        assert (BENCHMARKS / shlex.split(commands[path.stem])[0]).exists()
