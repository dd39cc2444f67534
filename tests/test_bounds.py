"""Versions of dependencies: each has both ends, and the lower ones are those that `make bounds` installs."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_lowest_versions_are_the_ones_tested():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(r"^dependencies = \[\n(.*?)^\]", project, re.MULTILINE | re.DOTALL)[1]
    required = dict(re.findall(r'^    "(\w+)>=([\d.]+),<[\d.]+",', block, re.MULTILINE))
    assert len(required) == block.count('"') // 2
    lowest = dict(re.findall(r"^(\w+)==([\d.]+)$", (ROOT / "tests" / "lowest.txt").read_text(), re.MULTILINE))
    assert lowest.pop("click") == "8.0.0"  # the lowest that typer allows
    assert {name: f"{version}.0.0"[: len(lowest[name])] for name, version in required.items()} == lowest
