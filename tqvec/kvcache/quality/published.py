"""Published figures of TurboQuant caches, as they were printed, each with its source. Data, to compare with."""

from __future__ import annotations

from typing import NamedTuple

from tqvec.kvcache.planning.formats import FORMATS

_PAPER = "TurboQuant (arXiv 2504.19874), Theorems 1 to 3"
_README = "turboQuantDC, README.md of commit 51feb24 (github.com/dhawalc/turboQuantDC)"
_ESSAY = "turboQuantDC, docs/IMPOSSIBLE_INFERENCE.md of commit 3c8c27b"
_PAGE = "turboQuantDC, dhawalc.github.io/turboQuantDC"
_BLOCKS = "turboquant_plus, docs/papers/block-size-experiment.md (of a llama.cpp fork)"
_VLLM = "vLLM, vllm/model_executor/layers/quantization/turboquant/config.py"


class Figure(NamedTuple):
    """A published figure.

    Attributes
    ----------
    text : str
        The number as it was printed, without its unit.
    source : str
        Where it was printed.
    """

    text: str
    source: str

    @property
    def value(self) -> float:
        """The number."""
        return float(self.text)

    @property
    def decimals(self) -> int:
        """Decimals that were printed."""
        return len(self.text.partition(".")[2])

    def is_matched_by(self, value: float) -> bool:
        """Return whether a number rounds to the figure, to as many decimals as were printed."""
        return f"{value:.{self.decimals}f}" == self.text


class PublishedAttention(NamedTuple):
    """Figures of a model whose keys have Algorithm 2 with `nbits` bits; `top1` and `top1_in_5` in percent."""

    model: str
    nbits: int
    score_cosine: Figure
    top1: Figure
    top1_in_5: Figure


class PublishedRatio(NamedTuple):
    """How many times smaller a format is than 16 bits per value, and the widths of a policy with equal bits."""

    format: str
    head_dim: int
    widths: tuple[float, float]
    times: Figure


class PublishedSize(NamedTuple):
    """The size of a model's cache in GiB, in a format, and the preset of tqvec with equal bits."""

    model: str
    context: str
    format: str
    preset: str
    gib: Figure


def _attention(model: str, nbits: int, *texts: str, source: str = _ESSAY) -> PublishedAttention:
    return PublishedAttention(model, nbits, *(Figure(text, source) for text in texts))


def _ratio(name: str, widths: tuple[float, float], text: str, source: str = "", head_dim: int = 128) -> PublishedRatio:
    return PublishedRatio(name, head_dim, widths, Figure(text, source or FORMATS[name].source))


def _size(model: str, context: str, form: str, preset: str, text: str, source: str) -> PublishedSize:
    return PublishedSize(model=model, context=context, format=form, preset=preset, gib=Figure(text, source))


ATTENTION = (
    _attention("Qwen2.5-3B", 4, "0.9987", "89.0", "94.0"),
    _attention("Qwen2.5-3B", 3, "0.9959", "80.0", "91.7"),
    _attention("Qwen2.5-3B", 2, "0.9886", "69.0", "84.0"),
    _attention("Qwen2.5-14B", 3, "0.9964", "78.0", "95.3"),
    _attention("Qwen3.5-27B", 3, "0.9932", "98.4", "100.0"),
)
SQUARED_ERROR = tuple(Figure(text, _PAPER) for text in ("0.36", "0.117", "0.03", "0.009"))
"""D_mse of unit vectors at 1 to 4 bits: E‖x − x̃‖²."""
PRODUCT_ERROR = tuple(Figure(text, _PAPER) for text in ("1.57", "0.56", "0.18", "0.047"))
"""d·D_prod of unit vectors at 1 to 4 bits: d·E(⟨y, x̃⟩ − ⟨y, x⟩)²."""
NEEDLES = {n << 10: Figure("100", _PAGE) for n in (128, 512, 1024)}
"""Percent of planted keys found among so many tokens at 2 bits."""
RATIOS = (
    _ratio("turbo4@128", (4, 4), "3.76"),
    _ratio("turbo3@128", (3, 3), "5.12", _BLOCKS),
    _ratio("turbo3@32", (3, 3), "4.57", _BLOCKS),
    _ratio("turbo2@128", (2, 2), "7.53"),
    _ratio("turbo2@32", (2, 2), "6.4"),
    _ratio("prod4", (4, 4), "3.8", _ESSAY),
    _ratio("prod3", (3, 3), "5.02", _README),
    _ratio("prod3", (3, 3), "5.2", _README, head_dim=256),
    _ratio("prod2", (2, 2), "7.3", _ESSAY),
    _ratio("split3.5", (3.5, 3.5), "4.13", _ESSAY),
    _ratio("split2.5", (2.5, 2.5), "5.56", _ESSAY),
    _ratio("vllm-k8v4", (8, 4), "2.6", _VLLM),
    _ratio("vllm-4bit_nc", (4, 4), "3.8", _VLLM),
    _ratio("vllm-k3v4_nc", (3, 4), "3.5", _VLLM),
    _ratio("vllm-3bit_nc", (3, 3), "4.9", _VLLM),
)
SIZES = (
    _size("qwen2.5-14b", "32k", "fp16", "exact", "6.0", _README),
    _size("qwen2.5-14b", "32k", "prod3", "turbo3", "1.2", _README),
    _size("qwen3.5-27b", "128k", "fp16", "exact", "8.0", _README),
    _size("qwen3.5-27b", "128k", "prod3", "turbo3", "1.6", _README),
    _size("qwen3.5-27b", "256k", "fp16", "exact", "16.0", _README),
    _size("qwen3.5-27b", "256k", "prod3", "turbo3", "3.1", _README),
    _size("qwen2.5-3b", "128k", "prod2", "turbo2", "0.62", _PAGE),
    _size("qwen2.5-3b", "512k", "prod2", "turbo2", "2.46", _PAGE),
    _size("qwen2.5-3b", "1M", "fp16", "exact", "36.00", _PAGE),
    _size("qwen2.5-3b", "1M", "prod2", "turbo2", "4.92", _PAGE),
)
"""Sizes that were printed as GB are GiB: 2³⁰ bytes."""
