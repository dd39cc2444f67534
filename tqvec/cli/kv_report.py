"""``tqvec kv report``: what compression costs on captured tensors, beside published figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from tqvec._present import format_value
from tqvec.cli._console import Json, progress, show, show_json, show_table
from tqvec.errors import InputError
from tqvec.kvcache import Rope, planning, quality
from tqvec.kvcache.quality.distortion import SEEDS
from tqvec.kvcache.quality.report import POLICIES, PUBLISHED, Comparison, Report, Retrieval

_HOW = (
    "--tensors is missing: a folder with queries_f16.npy, keys_f16.npy and values_f16.npy, such as datasets/qwen_kv of "
    "tqvec's repository, or a .safetensors file with layer.0.q, layer.0.k and layer.0.v; "
    "`python datasets/qwen_kv/build.py FOLDER` captures some from a model"
)
_SHOWN_RHOS = (0.4, 0.5, 0.6, 0.7, 0.8, 1.0)
_NOTES = {
    "attention": (
        "Published for another model, with a key of each head as its query. The newest keys are the queries here, too.",
        "reproduced: Algorithm 2 on these tensors. tqvec: the turbo preset of the same width.",
    ),
    "retrieval": (
        "As published, keys are random, of head_dim 128, without a shared part or near-duplicates; the query is the "
        "needle.",
        "The table of retrieval above is the harder test.",
    ),
    "memory": (
        "reproduced: as `tqvec kv plan` computes it. tqvec: the preset of the same width; of models with 128 recent "
        "tokens, sinks and means.",
        "vLLM's 3.5 and 4.9 are not its own sizes of a key and a value, which are 118 and 102 bytes.",
        "1.6 GiB follows from the ratio of head_dim 128; the model has 256.",
        "The paper's widths 2.5 and 3.5 hold the scales, as tqvec's do; split2.5 and split3.5 count them on top.",
    ),
}


def report(
    tensors: Annotated[Path | None, typer.Option(help="Captured q, k and v: a folder of .npy, or .safetensors")] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(help="Presets, or prod2 to prod4, the published method: a,b or repeated; default: ten of them"),
    ] = None,
    tokens: Annotated[
        list[str] | None,
        typer.Option(help="Keys of the retrieval test: 128k, 1M; several: a,b or repeated; default: 128k"),
    ] = None,
    rope_theta: Annotated[
        float | None,
        typer.Option(help="Base of the keys' rotary embedding; default: that of the folder's manifest.json, or none"),
    ] = None,
    json: Json = False,
) -> None:
    """Report what compression costs on captured tensors, and published figures beside it."""
    if tensors is None:
        raise InputError(_HOW)
    layers = quality.read_layers(tensors)
    rope = quality.read_rope(tensors) if rope_theta is None else Rope(rope_theta)
    counts = [planning.parse_tokens(text, "tokens") for text in split_names(tokens or ["128k"])]
    with progress() as bar:
        tasks = {n: bar.add_task(f"{n:,} keys", total=n) for n in counts}
        found = quality.measure_report(
            layers,
            policies=split_names(policy) if policy else POLICIES,
            rope=rope,
            tokens=counts,
            progress=lambda n, done: bar.update(tasks[n], completed=done),
        )
    if json:
        show_json("kv report", {"tensors": tensors, **found._asdict()})
    else:
        _show(found, tensors)


def split_names(names: Sequence[str]) -> list[str]:
    """Return the names of a repeated option, each of which may be several with commas."""
    return [name.strip() for text in names for name in text.split(",")]


def _show(found: Report, tensors: Path) -> None:
    """Print all sections."""
    n_layers, heads, n, d = found.shape
    embedding = "no rotary embedding known" if found.rope is None else f"rotary embedding: {found.rope}"
    show(f"{tensors}: {n_layers} layers, {heads} KV heads × {d}, {n:,} tokens; {embedding}")
    _show_attention(found)
    if found.retrieval:
        _show_retrieval(found.retrieval)
    _show_distortions(found)
    sources: list[str] = []
    for section, notes in _NOTES.items():
        rows = [row for row in found.comparisons if row.section == section]
        if rows:
            _show_comparisons(section, rows, sources)
            for text in notes:
                show(text)
    for number, source in enumerate(sources, start=1):
        show(f"[{number}] {source}")


def _show_attention(found: Report) -> None:
    names = {
        "score_cosine": "score cosine",
        "centred_cosine": "centred",
        "kl": "KL",
        "top_overlap": "top 32 kept",
        "top1": "top 1",
        "top1_in_5": "top 1 in 5",
        "output_error": "output error",
        "output_error_p99": "99th percentile",
        "worst_head_error": "worst head",
    }
    rows = [
        [row.policy, f"{row.bits:.3f}", *(f"{getattr(row.fidelity, name):.4f}" for name in names)]
        for row in found.attention
    ]
    headings = ["policy", "bits per value", *names.values()]
    show_table(headings, rows, title="\nattention, every token coded", right=",".join(headings[1:]))
    own = ", ".join(row.policy for row in found.attention if row.policy in PUBLISHED)
    show("means over queries, heads and layers; 99th percentile and worst head: of the worst layer.")
    if own:
        show(f"{own}: the published method, Algorithm 2 for keys and Algorithm 1 for values, without a mean.")


def _show_retrieval(retrieval: Sequence[Retrieval]) -> None:
    rows = []
    for tokens, rhos, curves in retrieval:
        for curve in curves:
            shares = [f"{100 * curve.success[rhos.index(rho)]:.1f}" for rho in _SHOWN_RHOS]
            interval = f"{curve.low:+.3f} to {curve.high:+.3f}"
            shift = [f"{curve.shift:+.3f}", interval] if curve is not curves[0] else ["", ""]
            rows.append([f"{tokens:,}", curve.name, *shares, f"{curve.half:.3f}", *shift])
    headings = ["keys", "policy", *(f"ρ = {rho:g}" for rho in _SHOWN_RHOS), "50 % at", "shift", "95 % interval"]
    right = ",".join(heading for heading in headings if heading != "policy")
    show_table(headings, rows, title="\ngeometric retrieval: % of needles found by cosine ρ with them", right=right)
    show("made keys of this head_dim, with near-duplicates of each needle. Policies with equal keys have one row.")


def _show_distortions(found: Report) -> None:
    headings = ["distortion", "of", "bits", "at least", "published", "exact", "measured", "at most", "tqvec"]
    rows = [
        [
            row.measure,
            row.side,
            str(row.nbits),
            format_value(row.lower),
            row.published.text,
            *map(format_value, (row.expected, row.measured, row.upper, row.tqvec)),
        ]
        for row in found.distortions
    ]
    show_table(headings, rows, title="\ndistortion of vectors of length 1", right=",".join(headings[2:]))
    source = found.distortions[0].published.source
    show(f"published, at least, at most: {source}; the published are for large d, in few digits.")
    show(f"exact: for d = {found.shape[3]}. measured: the paper's algorithms, mean of {SEEDS} rotations.")
    show("tqvec: the trellis codebook (D_mse), and the unbiased scale in place of Algorithm 2 (d·D_prod).")


def _show_comparisons(section: str, rows: Sequence[Comparison], sources: list[str]) -> None:
    """Print the comparisons of a section; new sources are added to the list."""
    cells = []
    for row in rows:
        if row.published.source not in sources:
            sources.append(row.published.source)
        number = sources.index(row.published.source) + 1
        unit, decimals = f" {row.unit}" if row.unit else "", row.published.decimals + 1
        reproduced = "" if row.reproduced is None else f"{row.reproduced:.{decimals}f}{unit}"
        published = f"{row.published.text}{unit} [{number}]"
        cells.append([row.what, published, reproduced, _difference(row), f"{row.tqvec:.{decimals}f}{unit}"])
    headings = ["what", "published", "reproduced", "differs", "tqvec"]
    show_table(headings, cells, title=f"\n{section}, beside published figures", right=",".join(headings[1:]))


def _difference(row: Comparison) -> str:
    """Return by how much the reproduced figure differs from the published one, beyond its rounding."""
    if row.reproduced is None:
        return ""
    if row.published.is_matched_by(row.reproduced):
        return "no"
    return f"{row.reproduced - row.published.value:+.{row.published.decimals}f}"
