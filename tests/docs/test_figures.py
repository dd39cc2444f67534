"""Figures that a page quotes are those of the results that it names."""

import json
import math
import re
from pathlib import Path

from tqvec.eval.leaderboard.result import Leaderboard, Row

ROOT = Path(__file__).parents[2]


def board(name):
    """A leaderboard that was kept as JSON."""
    facts = json.loads((ROOT / "benchmarks/results" / name).read_text(encoding="utf-8"))
    counted = ("recall_1_at", "single_ms", "batch_ms")
    rows = [
        Row(
            **{"n": facts["n"]}
            | {key: {int(k): v for k, v in value.items()} if key in counted else value for key, value in row.items()}
        )
        for row in facts["rows"]
    ]
    return Leaderboard(*(facts[name] for name in ("data", "n", "d", "queries", "machine")), tuple(rows))


def test_the_table_of_the_leaderboard():
    page = (ROOT / "docs/leaderboard.md").read_text(encoding="utf-8")
    (name,) = re.findall(r"`benchmarks/results/(leaderboard-[\w-]+\.json)`", page)
    one = board(name)
    assert len(one.rows) > 30
    assert one.to_markdown() in page
    assert one.machine["cpu"].split(" (")[0] in page


def test_the_table_of_quantizers():
    facts = json.loads((ROOT / "benchmarks/results/quantizers-avx512.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs/explanation/codebook.md").read_text(encoding="utf-8")
    lines = quantizer_lines(facts["rows"])
    assert len(lines) == 7
    assert "\n".join(lines) in page


def quantizer_lines(rows):
    """Rows of Markdown: a quantizer, and its error on the glosses at each width, with the bits that it stores."""
    own = [row for row in rows if row["data"] == "WordNet"]
    widths = sorted({row["nbits"] for row in own})
    lines = []
    for label in dict.fromkeys(row["quantizer"] for row in own):
        cells = {row["nbits"]: f"{row['D']:.3g} ({row['bits']:.2f})" for row in own if row["quantizer"] == label}
        lines.append(f"| {label} | " + " | ".join(cells.get(width, "") for width in widths) + " |")
    return lines


def test_the_tables_of_the_papers_experiment():
    page = (ROOT / "docs/leaderboard.md").read_text(encoding="utf-8")
    (name,) = re.findall(r"`benchmarks/results/(paper-[\w-]+\.json)`", page)
    facts = json.loads((ROOT / "benchmarks/results" / name).read_text(encoding="utf-8"))
    recalls, limits = paper_lines(facts["rows"])
    assert {row["nbits"] for row in facts["rows"]} >= {2, 4}
    assert "\n".join(recalls) in page
    assert "\n".join(limits) in page
    assert facts["environment"]["cpu"].split(" Processor")[0].replace("(R)", "") in page


def paper_lines(rows):
    """Rows of Markdown: recall 1@k of each method, and distortion between the limits of the theorems."""
    depths = [column for column in rows[0] if column.startswith("1@")]
    upper = {"TurboQuant mse": 3**0.5 * math.pi / 2, "TurboQuant prod": 3**0.5 * math.pi**2}
    recalls, limits = [], []
    for row in rows:
        method = ", ".join([row["method"], *([row["factory"]] if "factory" in row else [])])
        cells = [str(row["nbits"]), method, str(row["bytes"]), *(f"{row[depth]:.3f}" for depth in depths)]
        recalls.append("| " + " | ".join(cells) + " |")
        if "D" in row:
            least = 4.0 ** -row["nbits"]
            ends = f"{least:.4g}", f"{row['D']:.4g}", f"{upper[row['method']] * least:.4g}"
            limits.append("| " + " | ".join([str(row["nbits"]), method, *ends, f"{row['slope']:+.4f}"]) + " |")
    return recalls, limits
