"""Tables of `page_figures.py` about indexes: the Markdown of a block, from the results of its steps."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from _page_format import Facts, number, table, times

from tqvec.eval.leaderboard.result import Leaderboard, Row

LEVELS = {"amx": "AMX", "avx512": "AVX-512", "avx2": "AVX2", "neon": "NEON"}
RIVALS = {"tqvec": "tqvec", "FAISS `PQ384x4fs`": "faiss_pq4fs", "turbovec": "turbovec"}


def recalls(row: Facts) -> list[str]:
    return [f"{value:.3f}" for value in np.mean(row["recall"], axis=0)]


def headline(facts: Facts) -> str:
    scalar, trellis = (
        next(row for row in facts["rows"] if row["index"] == f"tqvec 2 bits, {kind}") for kind in ("scalar", "trellis")
    )
    rival = next(row for row in facts["rows"] if row["index"].startswith("PQ96x8"))
    return (
        f"**Real embeddings at 2 bits: {4 * 384 / scalar['bytes']:.0f} times smaller than float32, recall 10@10 of "
        f"{recalls(scalar)[2]} after {scalar['build_s']:.1f} s of\nindexing, {recalls(trellis)[2]} with the trellis "
        f"codebook after {trellis['build_s']:.1f} s. FAISS `PQ96x8`, trained on the same vectors for\n"
        f"{rival['build_s']:.0f} s, reaches {recalls(rival)[2]}.** (115,697 WordNet definitions, all-MiniLM-L6-v2, "
        f"d = 384, one thread, mean of\n{len(scalar['recall'])} rotation seeds; `{facts['made_by']}`.)\n"
    )


def recall(facts: Facts) -> str:
    """Bytes, recall and seconds of each index, the best first."""
    rows = sorted(facts["rows"], key=lambda row: -np.mean(row["recall"], axis=0)[2])
    cells = [[_label(row["index"]), row["bytes"], *recalls(row), f"{row['build_s']:.1f}"] for row in rows]
    full = ["float32", "1,536", "1", "1", "1", ""]
    return table(("", "bytes per vector", "recall 1@1", "1@10", "10@10", "build, s"), [full, *cells])


def recall_isotropic(facts: Facts) -> str:
    """Bytes and recall of each index."""
    cells = [[_label(row["index"]), row["bytes"], *recalls(row)] for row in facts["rows"]]
    return table(("index", "bytes", "1@1", "1@10", "10@10"), cells)


def _label(index: str) -> str:
    return f"FAISS `{index}`" if index.startswith("PQ") else index.replace("1 bits", "1 bit")


def search(*levels: Facts) -> str:
    lines = []
    for facts in levels:
        for row in facts["rows"]:
            ms, recall = row["ms_per_query"], row["recall_10_at_10"]
            lines.append(
                [facts["environment"]["level"], row["data"], row["d"], row["queries"], number(ms["tqvec"], 2)]
                + [times(ms[rival] / ms["tqvec"]) for rival in ("faiss_pq4fs", "turbovec")]
                + [f"{recall[library]:.3f}" for library in ("tqvec", "faiss_pq4fs", "turbovec")]
            )
    head = ("level", "data", "d", "queries", "tqvec, ms", "over FAISS", "over turbovec")
    return table((*head, "recall: tqvec", "FAISS", "turbovec"), lines)


def speed(*levels: Facts) -> str:
    """Embeddings alone: a batch and single queries, by level."""
    lines = []
    for facts in levels:
        for row in facts["rows"]:
            if row["data"] == "WordNet":
                ms, level = (
                    row["ms_per_query"],
                    LEVELS.get(facts["environment"]["level"], "portable"),
                )
                kind = "single query" if row["queries"] == 1 else f"batch of {row['queries']}"
                ratios = [times(ms[rival] / ms["tqvec"]) for rival in ("faiss_pq4fs", "turbovec")]
                lines.append([f"{kind}, {level}", number(ms["tqvec"], 2), *ratios])
    recall = levels[0]["rows"][0]["recall_10_at_10"]
    found = ", ".join(f"{name} {recall[key]:.3f}" for name, key in RIVALS.items())
    head = ("", "tqvec, ms per query", "times the speed of FAISS `PQ384x4fs`", "of turbovec")
    return table(head, lines) + f"\n\nRecall 10@10: {found}."


def scaling(facts: Facts) -> str:
    """Microseconds per item by threads, with the rival's ratio."""
    by: dict[int, list[Facts]] = {}
    for row in facts["rows"]:
        by.setdefault(row["threads"], []).extend(row["cells"])
    lines = []
    for cells in zip(*(by[count] for count in sorted(by)), strict=True):
        shown = [
            number(1e6 * one["tqvec"]) + (f" [{times(one['turbovec'] / one['tqvec'])}]" if "turbovec" in one else "")
            for one in cells
        ]
        lines.append([cells[0]["cell"], *shown, times(cells[0]["tqvec"] / cells[-1]["tqvec"])])
    return table(("µs per item", *(f"{n} thread{'s' * (n > 1)}" for n in sorted(by)), "gain"), lines)


def filters(facts: Facts) -> str:
    rows = facts["rows"]
    names = list(dict.fromkeys(row["filter"] for row in rows))
    cases = dict.fromkeys((row["d"], row["queries"]) for row in rows)
    lines = [
        [d, "single" if count == 1 else f"batch of {count}"]
        + [number(row["tqvec_ms"], 2) for row in rows if (row["d"], row["queries"]) == (d, count)]
        for d, count in cases
    ]
    return table(("d", "queries", *names), lines)


def scale(facts: Facts) -> str:
    head = (
        "vectors",
        "",
        "added per s",
        "peak, MB",
        "file, MB",
        "load, ms",
        "single, ms",
        "batch of 64, ms",
        "own, MB",
    )
    lines, last = [], None
    for row in facts["rows"]:
        size, built = (
            f"{row['n']:,} × {row['d']}",
            [number(row[name]) for name in ("vectors_per_s", "peak_mb", "file_mb")],
        )
        library = row["library"] if row["library"] != "tqvec" else f"tqvec, {row['loaded']}"
        shown = [number(row[name]) for name in ("single_ms", "batch_ms", "own_mb")]
        again = (size, row["library"]) == last
        lines.append(
            ["" if again else size, library, *(["", "", ""] if again else built), number(1e3 * row["load_s"]), *shown]
        )
        last = size, row["library"]
    return table(head, lines)


def partition(facts: Facts) -> str:
    rows = facts["rows"]
    searches = ("recall=1.0", "recall=0.95", "recall=0.99")
    lines = []
    for n in dict.fromkeys(row["n"] for row in rows):
        own = {row["search"]: row for row in rows if row["n"] == n}
        cells = [f"{number(own[name]['single'], 2)} / {number(own[name]['batch'], 2)}" for name in searches]
        lines.append([f"{n:,}", *cells, *(f"{own[name]['kept']:.3f}" for name in searches[1:])])
    return table(("vectors", "exhaustive", "`recall=0.95`", "`recall=0.99`", "kept at 0.95", "at 0.99"), lines)


def collection(facts: Facts) -> str:
    rows = facts["rows"]
    lines = [["records added per second", *(number(row["ingest"]) for row in rows)]]
    lines += [["bytes per record", *(number(row["bytes"], 4) for row in rows)]]
    lines += [["recall 10@10", *(f"{row['recall']:.3f}" for row in rows)]]
    shares = [name for name in rows[0] if re.fullmatch(r"[\d.]+ %", name)]
    keys = {"single query, ms": "single"} | {f"filter that keeps {share}, ms": share for share in shares}
    keys |= {f"first query with a filter of {share}, ms": f"first {share}" for share in ("50 %", "1 %")}
    keys |= {"open and search once, ms": "reopen", "upsert of one record with a commit, ms": "upsert"}
    lines += [[label, *(number(row[key], 2) if key in row else "" for row in rows)] for label, key in keys.items()]
    return table(("", *(f"{row['database']}, {row['version']}" for row in rows)), lines)


def mutation(facts: Facts) -> str:
    rows = facts["rows"]
    sizes = sorted({row["n"] for row in rows})
    ms = {(row["change"], row["n"]): row["ms"] for row in rows}
    names = dict.fromkeys(row["change"] for row in rows)
    lines = [[name, *(number(ms[name, n], 2) for n in sizes)] for name in names]
    return table(("ms", *(f"{n:,} vectors" for n in sizes)), lines)


def leaderboard_recall(*runs: Facts) -> str:
    """Recall of searches of all vectors, tqvec beside the best of the others with as many bits."""
    measured = _measured(runs)
    lines = []
    for nbits in sorted({row["nbits"] for row in measured if row["library"] == "tqvec"}):
        rows = [row for row in measured if row["nbits"] == nbits and not row["sublinear"]]
        ours, others = ([r for r in rows if (r["library"] == "tqvec") is mine] for mine in (True, False))
        best = max(others, key=lambda row: row["recall_10_at_10"])
        cells = [_range([row[key] for row in ours], digits) for key, digits in (("recall_10_at_10", 3), ("bytes", 0))]
        lines.append([f"{nbits:g}", *cells, best["name"], f"{best['recall_10_at_10']:.3f}", f"{best['bytes']:.0f}"])
    return table(("bits", "tqvec: 10@10", "bytes", "best other", "10@10", "bytes"), lines)


def leaderboard_equal(*runs: Facts) -> str:
    """For each width the rival of about its bytes that comes nearest to tqvec's speed at the rival's recall."""
    rows = _measured(runs)
    ours = [row for row in rows if row["library"] == "tqvec"]
    lines, least = [], 0.0
    for nbits in sorted({row["nbits"] for row in ours}):
        most = max(row["bytes"] for row in ours if row["nbits"] == nbits and not row["sublinear"])
        own = [row for row in ours if row["bytes"] <= most]
        others = [row for row in rows if row["library"] != "tqvec" and least < row["bytes"] <= most]
        for threads, kind in _timings(rows) if others else []:
            pairs = [(row, _fastest(own, kind, threads, row["recall_10_at_10"])) for row in others]
            gains = [row[kind][threads] / one[kind][threads] if one else 0.0 for row, one in pairs]
            cells = [_shown(each, kind, threads) for each in pairs[int(np.argmin(gains))]]
            span = f"{least:.0f} to {most:.0f}"
            lines.append([f"{nbits:g}", span, threads, _kind(kind), *cells, times(min(gains))])
        least = most
    head = ("bits", "bytes", "threads", "queries", "rival that comes nearest", "tqvec", "times as fast")
    return table(head, lines)


def leaderboard_speed(*runs: Facts) -> str:
    """Engine that is fastest at a recall: of any, of those that take a quarter of float32, and of tqvec."""
    rows, d = _measured(runs), runs[0]["d"]
    small = [row for row in rows if row["bytes"] <= d]
    ours = [row for row in rows if row["library"] == "tqvec"]
    lines = []
    for threads, kind in _timings(rows):
        for recall in (0.85, 0.9, 0.95):
            found = [_fastest(some, kind, threads, recall) for some in (ours, small, rows)]
            lines.append([threads, _kind(kind), f"{recall:.2f}", *(_shown(one, kind, threads) for one in found)])
    head = ("threads", "queries", "10@10 at least", "fastest of tqvec")
    return table((*head, f"of all in at most {d} bytes", "of all"), lines)


def _measured(runs: Sequence[Facts]) -> list[Facts]:
    """Return the rows of some runs that have figures, without exact search; of equal rows the first."""
    rows = {row["name"]: row for run in reversed(runs) for row in run["rows"]}
    return [row for row in rows.values() if row["library"] != "exact" and not row["failure"]]


def _timings(rows: Sequence[Facts]) -> list[tuple[str, str]]:
    return [(count, kind) for count in sorted(rows[0]["batch_ms"], key=int) for kind in ("single_ms", "batch_ms")]


def _fastest(rows: Sequence[Facts], kind: str, threads: str, recall: float) -> Facts | None:
    able = [row for row in rows if row["recall_10_at_10"] >= recall]
    return min(able, key=lambda row: row[kind][threads], default=None)


def _shown(row: Facts | None, kind: str, threads: str) -> str:
    if row is None:
        return "none"
    facts = f"{row['bytes']:.0f} bytes, {row['recall_10_at_10']:.3f}"
    return f"{number(row[kind][threads], 2)} ms: {row['name']} ({facts})"


def _kind(kind: str) -> str:
    return kind.removesuffix("_ms")


def _range(values: list[float], digits: int) -> str:
    ends = [f"{end(values):.{digits}f}" for end in (min, max)]
    return " to ".join(dict.fromkeys(ends))


def paper(facts: Facts) -> str:
    """Recall 1@k of each method of the paper's experiment."""
    depths = [column for column in facts["rows"][0] if column.startswith("1@")]
    lines = [[row["nbits"], _method(row), row["bytes"], *(f"{row[k]:.3f}" for k in depths)] for row in facts["rows"]]
    return table(("bits", "method", "bytes", *depths), lines)


def paper_limits(facts: Facts) -> str:
    """Distortion of the paper's algorithms between the limits of its theorems."""
    upper = {"TurboQuant mse": 3**0.5 * np.pi / 2, "TurboQuant prod": 3**0.5 * np.pi**2}
    lines = []
    for row in (row for row in facts["rows"] if "D" in row):
        least = 4.0 ** -row["nbits"]
        ends = f"{least:.4g}", f"{row['D']:.4g}", f"{upper[row['method']] * least:.4g}"
        lines.append([row["nbits"], _method(row), *ends, f"{row['slope']:+.4f}".replace("-", "−")])
    return table(("bits", "method", "at least", "measured", "at most", "slope"), lines)


def paper_times(facts: Facts) -> str:
    """Seconds of training and encoding of each method."""
    lines = [
        [row["nbits"], _method(row), number(row["train_s"], 2), number(row["seconds"], 2)] for row in facts["rows"]
    ]
    return table(("bits", "method", "training, s", "encoding, s"), lines)


def _method(row: Facts) -> str:
    return ", ".join([row["method"], *([f"`{row['factory']}`"] if "factory" in row else [])])


def cold_start(facts: Facts) -> str:
    names = {
        "import": "`import tqvec` with NumPy",
        "add": "first `add` of 10,000",
        "search": "first `search`, one query",
    }
    names |= {
        "batch": "first batch of 200",
        "train": "first `train`, 4,000 vectors",
        "trellis add": "first trellis `add` of 1,000",
    }
    rows = facts["rows"]
    modes = {row["mode"]: row for row in rows if "import" in row}
    lines = [[label, *(f"{row[key]:.2f}" for row in modes.values())] for key, label in names.items()]
    head = ["seconds", *(f"`{mode}`" if " " not in mode else "filled cache" for mode in modes)]
    speed = next(row for row in rows if "full speed" in row["mode"])
    warm = next(row["all"] for row in rows if "all" in row)
    after = ", ".join(f"`{name}` after {speed[name]:.1f} s" for name in ("add", "search", "batch", "train"))
    return (
        table(head, lines) + f"\n\nIn `background`, compiled kernels serve {after}. `tqvec warmup` takes {warm:.0f} s."
    )


def leaderboard(facts: Facts) -> str:
    """All engines, by bytes."""
    counted = ("recall_1_at", "single_ms", "batch_ms")
    rows = []
    for row in facts["rows"]:
        by_number = {key: {int(number): value for number, value in row[key].items()} for key in counted}
        rows.append(Row(**{"n": facts["n"]} | row | by_number))
    return Leaderboard(*(facts[name] for name in ("data", "n", "d", "queries", "machine")), tuple(rows)).to_markdown()


def duration(*steps: Facts) -> str:
    """Return how long all steps took."""
    seconds = sum(facts.get("seconds", 0.0) for facts in steps)
    return f"The steps of `make bench` took {seconds / 60:.0f} minutes in all.\n"
