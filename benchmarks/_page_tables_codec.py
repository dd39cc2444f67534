"""Tables of `page_figures.py` about codecs and KV caches: the Markdown of a block, from the results of its steps."""

from __future__ import annotations

import statistics

from _page_format import Facts, number, percent, table, times


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
