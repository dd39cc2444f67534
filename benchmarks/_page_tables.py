"""The tables of `page_figures.py`: each function returns the Markdown of a block, from the results of a step."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tqvec.eval.leaderboard.result import Leaderboard, Row

Facts = dict[str, Any]
RIVALS = {"tqvec": "tqvec", "FAISS `PQ384x4fs`": "faiss_pq4fs", "turbovec": "turbovec"}


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return Markdown with the first column to the left and the others to the right."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def number(value: float, digits: int = 3) -> str:
    """Return a number with so many digits that count, and commas between thousands."""
    if value == 0 or not np.isfinite(value):
        return "" if np.isnan(value) else f"{value:g}"
    decimals = max(0, digits - 1 - int(np.floor(np.log10(abs(value)))))
    return f"{value:,.{decimals}f}" if decimals < 6 else f"{value:.{digits - 1}e}"


def times(value: float) -> str:
    """Return a ratio."""
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


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
    def label(index: str) -> str:
        return f"FAISS `{index}`" if index.startswith("PQ") else index.replace("1 bits", "1 bit")

    rows = sorted(facts["rows"], key=lambda row: -np.mean(row["recall"], axis=0)[2])
    cells = [[label(row["index"]), row["bytes"], *recalls(row), f"{row['build_s']:.1f}"] for row in rows]
    full = ["float32", "1,536", "1", "1", "1", ""]
    return table(("", "bytes per vector", "recall 1@1", "1@10", "10@10", "build, s"), [full, *cells]) + "\n"


def recall_isotropic(facts: Facts) -> str:
    rows = facts["rows"]
    return table(("index", "bytes", "1@1", "1@10", "10@10"), [[r["index"], r["bytes"], *recalls(r)] for r in rows])


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
                    facts["environment"]["level"].replace("avx", "AVX").replace("amx", "AMX"),
                )
                kind = "single query" if row["queries"] == 1 else f"batch of {row['queries']}"
                ratios = [times(ms[rival] / ms["tqvec"]) for rival in ("faiss_pq4fs", "turbovec")]
                lines.append([f"{kind}, {level}", number(ms["tqvec"], 2), *ratios])
    recall = levels[0]["rows"][0]["recall_10_at_10"]
    found = ", ".join(f"{name} {recall[key]:.3f}" for name, key in RIVALS.items())
    head = ("", "tqvec, ms per query", "times the speed of FAISS `PQ384x4fs`", "of turbovec")
    return table(head, lines) + f"\n\nRecall 10@10: {found}."


def scaling(facts: Facts) -> str:
    by = {row["threads"]: row["cells"] for row in facts["rows"]}
    lines = []
    for i, cell in enumerate(by[min(by)]):
        cells = [by[count][i] for count in sorted(by)]
        shown = [
            number(1e6 * one["tqvec"]) + (f" [{times(one['turbovec'] / one['tqvec'])}]" if "turbovec" in one else "")
            for one in cells
        ]
        lines.append([cell["cell"], *shown, times(cells[0]["tqvec"] / cells[-1]["tqvec"])])
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


def attention(facts: Facts) -> str:
    rows = facts["rows"]
    rivals = list(rows[0]["ratios"])
    lines = [
        [
            row["codec"].removeprefix("tqvec ") + " bits",
            row["heads"],
            f"{row['error']:.2f}",
            number(1e3 * row["seconds"][row["codec"]]),
            *(times(row["ratios"][rival]) for rival in rivals),
        ]
        for row in rows
    ]
    return table(("codec", "query heads", "error", "ms", *(f"over {rival}" for rival in rivals)), lines)


def encode(facts: Facts) -> str:
    def rate(row: Facts, name: str) -> str:
        return f"{row['vectors_per_s'][name]:,.0f}"

    rows = [row for row in facts["rows"] if "turbovec" in row["vectors_per_s"]]
    lines = [
        [row["d"], rate(row, "tqvec"), rate(row, "trellis")]
        + [times(row["vectors_per_s"]["tqvec"] / row["vectors_per_s"][rival]) for rival in ("turbovec", "faiss")]
        for row in rows
    ]
    return table(
        ("d", "scalar, vectors/s", "trellis", "scalar over turbovec `add`", "over FAISS `PQ{d}x4fs` `add`"), lines
    )


def encode_summary(facts: Facts) -> str:
    """The extremes of the table, in a sentence."""
    rows = [row for row in facts["rows"] if "turbovec" in row["vectors_per_s"]]
    first, last = rows[0], rows[-1]

    def over(row: Facts, rival: str) -> str:
        return times(row["vectors_per_s"]["tqvec"] / row["vectors_per_s"][rival])

    rates = [f"{row['vectors_per_s']['tqvec']:,.0f} vectors per second at d = {row['d']}" for row in (first, last)]
    return (
        f"Encoding at 4 bits: {rates[0]} and {rates[1]}, {over(first, 'turbovec')} and {over(last, 'turbovec')} times\n"
        f"turbovec's rate, {over(first, 'faiss')} and {over(last, 'faiss')} times that of FAISS `PQ{{d}}x4fs`.\n"
    )


def distortion(facts: Facts) -> str:
    rows = facts["rows"]
    ratios = {(row["codebook"], row["nbits"], row["d"]): row["measured"] / row["predicted"] for row in rows}
    lines = []
    for codebook in dict.fromkeys(row["codebook"] for row in rows):
        for nbits in sorted({row["nbits"] for row in rows if row["codebook"] == codebook}):
            own = [value for (kind, width, _), value in ratios.items() if (kind, width) == (codebook, nbits)]
            lines.append([codebook, f"{nbits:g}", f"{min(own):.3f}", f"{max(own):.3f}"])
    return table(("codebook", "bits", "measured over predicted: least", "most"), lines)


def family(facts: Facts) -> str:
    rows = facts["rows"]
    widths = (1, 2, 3, 4, 5)
    value = {(row["codec"], row["nbits"]): row["error"] * 4 ** row["bits"] for row in rows}
    labels = {
        "trellis": "trellis",
        "scalar": "scalar",
        "EDEN (FAISS)": "EDEN (FAISS)",
        "RaBitQ (FAISS)": "RaBitQ (FAISS)",
    }
    labels |= {"prod, hadamard": "`prod`, Hadamard S", "prod, gaussian": "`prod`, Gaussian S, as in the paper"}
    lines = [[label, *(number(value[name, b]) for b in widths)] for name, label in labels.items()]
    return table(("times Shannon's limit, 4^−bits", *(f"{b} bit{'s' * (b > 1)}" for b in widths)), lines)


def quantizers(facts: Facts) -> str:
    own = [row for row in facts["rows"] if row["data"] == "WordNet"]
    widths = sorted({row["nbits"] for row in own})
    lines = []
    for label in dict.fromkeys(row["quantizer"] for row in own):
        cells = {row["nbits"]: f"{row['D']:.3g} ({row['bits']:.2f})" for row in own if row["quantizer"] == label}
        lines.append([label, *(cells.get(width, "") for width in widths)])
    return table(("quantizer", *(f"{b} bit{'s' * (b > 1)}" for b in widths)), lines)


def estimators(facts: Facts) -> str:
    rows = facts["rows"]
    names = list(dict.fromkeys(row["codec"] for row in rows))
    lines = []
    for cosine, nbits in dict.fromkeys((row["cosine"], row["nbits"]) for row in rows):
        cells = []
        for name in names:
            row = next(r for r in rows if (r["cosine"], r["nbits"], r["codec"]) == (cosine, nbits, name))
            bias = f", bias {row['bias']:.3f}".replace("-", "−") if abs(row["bias"]) > 0.004 else ""
            cells.append(number(row["d_variance"]) + bias)
        lines.append([f"{cosine:g}", nbits, *cells])
    return table(("cosine", "bits", *(f"`{name}`" for name in names)), lines)


def bands(facts: Facts) -> str:
    head = ("data", "nbits", "`unbiased`", "`least_squares`", "two least-squares scales, float16")
    head = (*head, "two groups, rotated apart, float16 norms", "groups by energy")
    return table(head, [[r["data"], r["nbits"], *(f"{v:.3f}" for v in r["ratios"])] for r in facts["rows"]])


def retrieval(facts: Facts) -> str:
    rows = facts["rows"]
    rhos = rows[0]["rhos"]
    chosen = [rho for rho in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9) if rho in rhos]
    lines = []
    for row in rows:
        shift = (
            "" if row is rows[0] else f"{row['shift']:.3f} ({row['low']:.3f} to {row['high']:.3f})".replace("-", "−")
        )
        shares = [f"{100 * row['success'][rhos.index(rho)]:.0f} %" for rho in chosen]
        lines.append([row["name"], *shares, f"{row['half']:.3f}", shift])
    head = ("", *(f"found at ρ = {rho}" if rho == chosen[0] else f"{rho}" for rho in chosen), "half at ρ =")
    return table((*head, "shift of the 50 % point (95 % interval)"), lines)


def loss(facts: Facts, codec: str, part: str) -> tuple[float, float, float, int]:
    """Bits per value, increase of the perplexity and KL of a codec: medians over seeds, and their number."""
    rows = [r for r in facts["rows"] if (r["codec"], r["part"], r["tokens"]) == (codec, part, 1024)]
    bits, increase, kl = (statistics.median(row[name] for row in rows) for name in ("bits", "increase", "kl"))
    return bits, increase, kl, len(rows)


def percent(value: float) -> str:
    """Return a share as a signed percentage."""
    return f"{100 * value:+.{1 if abs(value) < 0.1 else 0}f} %".replace("-", "−")


def kv_headline(*models: Facts) -> str:
    """One preset's loss on two models, in a sentence."""
    small, large = (percent(loss(facts, "turbo3", "window")[1]) for facts in models)
    return (
        "With the newest 128 tokens exact, 3 bits change the perplexity on 1,024 tokens of prose by "
        f"{small} for SmolLM2-135M,\nand by {large} for Qwen2.5-Coder-0.5B "
        "([figures, and rivals beside](docs/explanation/kv-quality.md)).\n"
    )


def kv_quality(*models: Facts) -> str:
    """Presets and other libraries' formats on two models, without and with recent tokens that are not coded."""
    codecs = [name for name in dict.fromkeys(row["codec"] for row in models[0]["rows"]) if not name.endswith("of 64")]
    lines = []
    for codec in codecs:
        cells = [loss(facts, codec, part) for facts in models for part in ("sinks", "window")]
        bits = ", ".join(dict.fromkeys(f"{cell[0]:.2f}" for cell in cells))
        shown = [f"{percent(increase)} ({number(kl, 2)})" for _, increase, kl, _ in cells]
        lines.append([codec, cells[0][3], bits, *shown])
    head = ("preset or format", "seeds", "bits", "SmolLM2, nothing recent", "SmolLM2, window")
    return table((*head, "Qwen, nothing recent", "Qwen, window"), lines)


def kv_value_means(facts: Facts) -> str:
    """Errors of values in 3 bits by layer, with and without their mean."""
    rows = {r["mean"]: r for r in facts["rows"] if (r["nbits"], r["side"], r["scale"]) == (3, "values", "unbiased")}
    labels = {False: "nothing subtracted", True: "mean of 64 tokens"}
    lines = [[label, *(f"{error:.3f}" for error in rows[mean]["by layer"])] for mean, label in labels.items()]
    return table(("layer", *(3 * i for i in range(len(lines[0]) - 1))), lines)


def kv_scales(facts: Facts) -> str:
    """Errors by scale, keys with their mean subtracted and values as they are."""
    lines = []
    for side, mean in (("keys", True), ("values", False)):
        for scale in ("unbiased", "least_squares"):
            own = [r for r in facts["rows"] if (r["side"], r["mean"], r["scale"]) == (side, mean, scale)]
            lines.append([f"{side}, `{scale}`", *(f"{r['error']:.3f}" for r in sorted(own, key=lambda r: r["nbits"]))])
    return table(("bits, codebook scalar", 2, 3, 4), lines)


def kv_layers(facts: Facts) -> str:
    """Energy and squared error of each prediction from the layer below, and the error of attention with it."""
    lines = []
    rows = [row for row in facts["rows"] if "prediction" in row]
    for kind in dict.fromkeys(row["prediction"] for row in rows):
        own = {(row["side"], row["nbits"]): row for row in rows if row["prediction"] == kind}
        residuals = [own.get((side, 3)) for side in ("keys", "values")]
        cells = [f"{row[name]:.2f}" if row else "" for row in residuals for name in ("energy", "error")]
        lines.append([kind, *cells, *(f"{own['attention', nbits]['output_error']:.3f}" for nbits in (4, 3, 2))])
    head = ("", "keys: energy", "error", "values: energy", "error", "attention, 4 bits", "3 bits", "2 bits")
    return table(head, lines)


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


def simulator(facts: Facts) -> str:
    rows = [row for row in facts["rows"] if "measured_s" in row]
    lines = []
    for row in rows:
        off = f"{100 * (row['simulated_s'] / row['measured_s'] - 1):+.1f} %".replace("-", "−")
        lines.append(
            [
                f"`{row['policy']}`",
                f"{row['context']:,}",
                *(number(1e3 * row[k]) for k in ("simulated_s", "measured_s")),
                off,
            ]
        )
    return table(("", "tokens", "simulated, ms", "measured, ms", "off"), lines)


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
    counted = ("recall_1_at", "single_ms", "batch_ms")
    rows = [
        Row(**{key: {int(k): v for k, v in value.items()} if key in counted else value for key, value in row.items()})
        for row in facts["rows"]
    ]
    return Leaderboard(*(facts[name] for name in ("data", "n", "d", "queries", "machine")), tuple(rows)).to_markdown()
