"""Write measured figures into README and the pages: ``python benchmarks/page_figures.py``.

A page marks the place of figures by comments, which no reader sees, with the name of a block:

    <!-- figures: recall -->
    <!-- end -->

Between them this program writes a table (`_page_index.py` makes it), and below it the processor, the SIMD level, the
threads, the commit and the command. Figures come from results/pages/, which `run_all.py` fills.
tests/docs/test_figures.py compares the pages with them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import _page_tables_codec as codec
import _page_tables_index as index
from _page_format import Facts

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "pages"
_MARK = re.compile(r"(<!-- figures: ([\w-]+) -->\n).*?(?=<!-- end -->)", re.DOTALL)


class Block(NamedTuple):
    """A block of figures.

    Attributes
    ----------
    render : callable
        Takes the results of the steps, returns Markdown.
    steps : tuple of str
        Of `run_all.py`, where those of a lower SIMD level may have no results; or a file of results/.
    sourced : bool
        Whether a line below says where the figures come from.
    """

    render: Callable[..., str]
    steps: tuple[str, ...]
    sourced: bool = True


# Measured by hand, with 16 threads, on a language model, beside databases, or for half an hour: their results lie one
# folder above.
LEADERBOARD = ("leaderboard-wordnet-avx512",)
LEADERBOARD_FRENCH = ("leaderboard-french_300-avx512",)
LEADERBOARD_GLOVE = ("leaderboard-glove_50-avx512",)
LEADERBOARD_16 = tuple(f"leaderboard-wordnet-{nbits}bit-16threads-amx" for nbits in (1, 2, 3, 4))
KV_PRESETS = ("kv_presets-smollm2-amx-16threads", "kv_presets-qwen2.5-coder-amx-16threads")

BLOCKS = {
    "headline": Block(index.headline, ("recall",), sourced=False),
    "search": Block(index.search, ("search", "search-avx512", "search-avx2")),
    "speed": Block(index.speed, ("search", "search-avx512", "search-avx2")),
    "leaderboard-recall": Block(index.leaderboard_recall, LEADERBOARD, sourced=False),
    "leaderboard-speed": Block(index.leaderboard_speed, LEADERBOARD, sourced=False),
    "leaderboard-equal": Block(index.leaderboard_equal, LEADERBOARD, sourced=False),
    "leaderboard": Block(index.leaderboard, LEADERBOARD),
    "leaderboard-16-equal": Block(index.leaderboard_equal, LEADERBOARD_16, sourced=False),
    "leaderboard-16-speed": Block(index.leaderboard_speed, LEADERBOARD_16),
    "leaderboard-french-recall": Block(index.leaderboard_recall, LEADERBOARD_FRENCH, sourced=False),
    "leaderboard-french-equal": Block(index.leaderboard_equal, LEADERBOARD_FRENCH),
    "leaderboard-glove-recall": Block(index.leaderboard_recall, LEADERBOARD_GLOVE, sourced=False),
    "leaderboard-glove-equal": Block(index.leaderboard_equal, LEADERBOARD_GLOVE),
    "paper": Block(index.paper, ("paper",)),
    "paper-limits": Block(index.paper_limits, ("paper",), sourced=False),
    "paper-times": Block(index.paper_times, ("paper",), sourced=False),
    "retrieval": Block(codec.retrieval, ("retrieval",)),
    "retrieval-shared": Block(codec.retrieval, ("retrieval-shared",)),
    "recall": Block(index.recall, ("recall",)),
    "recall-isotropic": Block(index.recall_isotropic, ("recall-isotropic",)),
    "scaling": Block(index.scaling, ("scaling",)),
    "filters": Block(index.filters, ("filters",)),
    "scale": Block(index.scale, ("scale",)),
    "kv-headline": Block(codec.kv_headline, KV_PRESETS, sourced=False),
    "kv-quality": Block(codec.kv_quality, KV_PRESETS),
    "kv-value-means": Block(codec.kv_value_means, ("kv_choices-amx",)),
    "kv-scales": Block(codec.kv_scales, ("kv_choices-amx",)),
    "kv-layers-qwen": Block(codec.kv_layers, ("kv_layers-captured-amx",)),
    "kv-layers-smollm2": Block(codec.kv_layers, ("kv_layers-smollm2-amx",)),
    "partition": Block(index.partition, ("partition",)),
    "collection": Block(index.collection, ("collection-115697-avx512",)),
    "mutation": Block(index.mutation, ("mutation",)),
    "attention": Block(codec.attention, ("attention",)),
    "encode": Block(codec.encode, ("encode",)),
    "encode-summary": Block(codec.encode_summary, ("encode",), sourced=False),
    "distortion": Block(codec.distortion, ("distortion",)),
    "family": Block(codec.family, ("family",)),
    "quantizers": Block(codec.quantizers, ("quantizers",)),
    "estimators": Block(codec.estimators, ("estimators",)),
    "bands": Block(codec.bands, ("bands",)),
    "simulator": Block(codec.simulator, ("simulator",)),
    "cold-start": Block(index.cold_start, ("cold_start",)),
}
EVERYTHING = tuple(dict.fromkeys(step for block in BLOCKS.values() for step in block.steps))
BLOCKS["duration"] = Block(index.duration, EVERYTHING, sourced=False)


def render(name: str) -> str:
    """Return the Markdown of a block."""
    block = BLOCKS[name]
    found = [facts for step in block.steps if (facts := read(step)) is not None]
    return block.render(*found) + "\n" + (source(found) if block.sourced else "")


def read(step: str) -> Facts | None:
    """Return the results of a step, or those that were measured by hand under this name; None if there are none."""
    for path in (RESULTS / f"{step}.json", RESULTS.parent / f"{step}.json"):
        if path.exists():
            facts: Facts = json.loads(path.read_text(encoding="utf-8"))
            return facts
    return None


def source(found: list[Facts]) -> str:
    """Return a line that says where some results come from."""
    machine = found[0].get("environment") or found[0]["machine"]
    parts = [f"{machine['cpu']}, {machine['cores']} virtual CPUs"]
    if len(found) == 1:
        parts.append(f"level {machine['level']}")
    if "threads" in machine and "threads 1 2" not in found[0].get("made_by", ""):
        parts.append("one thread" if machine["threads"] == 1 else f"{machine['threads']} threads")
    if "commit" in machine:
        parts.append(f"commit {machine['commit']}")
    commands = dict.fromkeys(one["made_by"] for one in found if "made_by" in one)
    return f"\n*{', '.join(parts)}{'; ' * bool(commands)}{', '.join(f'`{command}`' for command in commands)}*\n"


def pages() -> Iterator[Path]:
    """Pages that have blocks."""
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        if _MARK.search(path.read_text(encoding="utf-8")):
            yield path


def filled(text: str) -> str:
    """Return the text of a page with the figures of today's results."""
    return _MARK.sub(lambda match: match[1] + render(match[2]), text)


def write_pages() -> list[Path]:
    """Write the figures into all pages, and return their paths."""
    paths = list(pages())
    for path in paths:
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
    return paths


if __name__ == "__main__":
    for written in write_pages():
        print(f"written: {written}")
