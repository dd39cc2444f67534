"""The charts of the page, as images that need no file."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import Any

from tqvec import _present
from tqvec.cli.page.cache_plans import Growth
from tqvec.cli.page.comparing import INTERVAL, Comparison, Hit
from tqvec.kvcache.planning import format_bytes

_LABEL = 52  # characters of a text at an axis
_EXACT, _COMMON, _OTHER = "#111111", "#2a78b5", "#d1601f"
_GIB = 2**30


def draw_scores(comparison: Comparison) -> str:
    """Draw the compressed results with error bars and exact cosines, and the true best that are not among them.

    Returns
    -------
    str
        HTML of an image.
    """
    hits = comparison.compressed
    missed = [hit for hit in comparison.exact if not hit.common]
    labels = [*map(_label, hits), *(_label(hit) for hit in missed)]
    figure, axes = _subplots(9, 1.3 + 0.27 * len(labels))
    for found, color, label in (
        (True, _COMMON, f"estimate from the codes ± {INTERVAL} standard errors"),
        (False, _OTHER, f"the same, not among the true best {comparison.k}"),
    ):
        rows = [i for i, hit in enumerate(hits) if hit.common is found]
        if rows:
            scores, bars = [hits[i].score for i in rows], [hits[i].half_width for i in rows]
            axes.errorbar(scores, rows, xerr=bars, fmt="s", color=color, capsize=4, elinewidth=2.5, label=label)
    axes.plot([hit.exact for hit in hits], range(len(hits)), "o", color=_EXACT, ms=5, label="exact cosine", zorder=3)
    if missed:
        rows = list(range(len(hits), len(labels)))
        axes.plot(
            [hit.exact for hit in missed], rows, "o", mfc="white", color=_EXACT, ms=6, label="exact cosine, missed"
        )
        axes.axhline(len(hits) - 0.5, color="0.6", lw=0.8)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set(xlabel="cosine", title=f"{comparison.name}: {comparison.code_size} bytes per vector")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    common = sum(hit.common for hit in hits)
    return _image(
        figure,
        f"Chart of {comparison.k} results at {comparison.name}: estimated cosines with error bars and exact cosines; "
        f"{common} of them are among the true best {comparison.k}",
    )


def draw_growth(growth: Growth) -> str:
    """Draw the bytes of a cache against the tokens of its sequence, a curve per policy, and the memory.

    Returns
    -------
    str
        HTML of an image.
    """
    first = growth.plans[0]
    figure, axes = _subplots(9, 4.6)
    for plan, nbytes in zip(growth.plans, growth.nbytes, strict=True):
        axes.plot(growth.tokens, [size / _GIB for size in nbytes], lw=2, label=plan.policy)
    axes.axvline(first.context, color="0.5", ls=":", label=f"{first.context:,} tokens")
    about = f"{first.model.name}: bytes of the KV cache against the tokens of a sequence"
    if first.memory is not None:
        axes.axhline(first.memory / _GIB, color=_EXACT, ls="--", label=f"memory: {format_bytes(first.memory)}")
        about += f", with a line at {format_bytes(first.memory)} of memory"
    axes.set_xlim(0, growth.tokens[-1])
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(lambda n, _: f"{n:,.0f}")
    axes.set(xlabel="tokens of a sequence", ylabel="GiB", title=f"{first.model.name}: bytes of the KV cache")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    return _image(figure, about)


def _subplots(width: float, height: float) -> tuple[Any, Any]:
    """Return a figure of its own and its axes: the figures of pyplot are those of one thread."""
    figure = _present.import_optional("matplotlib.figure", "--page", "page").Figure(
        (width, height), layout="constrained"
    )
    return figure, figure.subplots()


def _label(hit: Hit) -> str:
    text = hit.text if len(hit.text) <= _LABEL else hit.text[: _LABEL - 1] + "…"
    return text.replace("$", r"\$")  # no mathematics


def _image(figure: Any, about: str) -> str:
    """Return a figure as an image of HTML, with a description for those who don't see it."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img src="data:image/svg+xml;base64,{data}" alt="{escape(about)}">'
