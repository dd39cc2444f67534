"""One report of what compression costs on captured tensors, beside published figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from tqvec import _validate
from tqvec._types import Floats
from tqvec.codec.turboquant import TurboQuant
from tqvec.errors import InputError
from tqvec.kvcache import checks
from tqvec.kvcache.byte_model import bits_per_value
from tqvec.kvcache.cache import KVCache
from tqvec.kvcache.planning.formats import FORMATS
from tqvec.kvcache.planning.planner import plan
from tqvec.kvcache.policy import PRESETS, Policy
from tqvec.kvcache.quality.captured import CapturedLayer, check_layers
from tqvec.kvcache.quality.distortion import Distortion, measure_distortions
from tqvec.kvcache.quality.fidelity import Fidelity, measure_fidelity
from tqvec.kvcache.quality.needle import RHOS, Curve, Haystack, measure_retrieval
from tqvec.kvcache.quality.published import ATTENTION, NEEDLES, RATIOS, SIZES, Figure
from tqvec.kvcache.rope import Rope

PUBLISHED = ("prod4", "prod3", "prod2")
"""Names of the published method, Algorithm 2 for keys and Algorithm 1 for values, beside those of `PRESETS`."""
POLICIES = ("quality", "turbo4", "prod4", "balanced", "turbo3", "prod3", "k4v2", "tiny", "turbo2", "prod2")
"""The policies of a report, unless others are asked for."""

_GIB = 2**30
_SHARED = 1.1  # length of the part that keys of the retrieval test share, as in made tensors
_FEW_RHOS = (0.2, 0.6, 1.0)  # float32 finds half of the needles between the first two
_NAMES = {"score_cosine": "score cosine", "top1": "top 1", "top1_in_5": "top 1 in 5"}
_WORST = 2  # last fields of a `Fidelity` that the worst layer decides


class PolicyFidelity(NamedTuple):
    """The fidelity of attention under a policy that codes every token, and the bits per value.

    Means are over layers. `output_error_p99` and `worst_head_error` are those of the worst layer.
    """

    policy: str
    bits: float
    fidelity: Fidelity


class Retrieval(NamedTuple):
    """Geometric retrieval among `tokens` keys: the values of ρ, and a curve per policy, float32 first."""

    tokens: int
    rhos: tuple[float, ...]
    curves: tuple[Curve, ...]


class Comparison(NamedTuple):
    """A published figure, and what is measured here.

    Attributes
    ----------
    section : str
        "attention", "retrieval" or "memory".
    what : str
    unit : str
    published : Figure
    reproduced : float or None
        The same quantity of the published method, measured or computed here. None: the method is not here.
    tqvec : float
        The same quantity of tqvec's own cache, at the same bits.
    """

    section: str
    what: str
    unit: str
    published: Figure
    reproduced: float | None
    tqvec: float


class Report(NamedTuple):
    """What compression costs on captured tensors.

    Attributes
    ----------
    shape : tuple of int
        Layers, KV heads, tokens and head_dim of the tensors.
    rope : Rope or None
    attention : tuple of PolicyFidelity
    retrieval : tuple of Retrieval
    distortions : tuple of Distortion
    comparisons : tuple of Comparison
    """

    shape: tuple[int, int, int, int]
    rope: Rope | None
    attention: tuple[PolicyFidelity, ...]
    retrieval: tuple[Retrieval, ...]
    distortions: tuple[Distortion, ...]
    comparisons: tuple[Comparison, ...]


def measure_report(
    layers: Sequence[CapturedLayer],
    *,
    policies: Sequence[str] = POLICIES,
    rope: Rope | None = None,
    tokens: Sequence[int] = (131_072,),
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Measure attention, retrieval and distortion on captured tensors, and compare with published figures.

    Every token of the tensors is coded, sinks and the newest included, which is harder than what a cache does by
    default. Retrieval uses made keys (see `Haystack`) of the same head_dim and rope.

    Parameters
    ----------
    layers : sequence of CapturedLayer
    policies : sequence of str
        Names of presets that code tokens, and of `PUBLISHED`.
    rope : Rope, optional
        The rotary position embedding of the keys, which caches are told. Default: they are told of none.
    tokens : sequence of int
        Numbers of keys for retrieval; empty for none.
    progress : callable, optional
        Called with the number of keys of a retrieval test, and how many of them are done.

    Returns
    -------
    Report

    Raises
    ------
    InputError
        A policy is not known or codes no token, tensors don't fit, or a number is out of its range.
    """
    layers = check_layers(layers, "layers")
    heads, n, d = layers[0].k.shape
    checks.ropes([rope], 1, d)
    names = [_check_policy(name) for name in _validate.entries(policies, "policies")]
    measured = [PolicyFidelity(name, _bits(name, layers), _mean_fidelity(layers, name, rope)) for name in names]
    tokens = _validate.entries(tokens, "tokens")
    retrieval = [_measure_retrieval(count, d, rope, names, progress) for count in tokens]
    return Report(
        shape=(len(layers), heads, n, d),
        rope=rope,
        attention=tuple(measured),
        retrieval=tuple(retrieval),
        distortions=tuple(measure_distortions(layers)),
        comparisons=(*_compare_attention(layers, rope), *_compare_retrieval(tokens), *_compare_memory()),
    )


def _check_policy(name: str) -> str:
    """Return the name of a policy that codes tokens, or of the published method."""
    coding = [name for name, policy in PRESETS.items() if policy.recent is not None]
    return _validate.choice(name, "policy", [*coding, *PUBLISHED])


def _bits(name: str, layers: Sequence[CapturedLayer]) -> float:
    """Return the bits per value of a coded token, scales included."""
    heads, _, d = layers[0].k.shape
    if name in PUBLISHED:
        return 8 * FORMATS[name].nbytes(1, d, 1) / (2 * d)
    return bits_per_value(PRESETS[name], len(layers), heads, d)


def _mean_fidelity(
    layers: Sequence[CapturedLayer], name: str, rope: Rope | None, queries: Sequence[Floats] | None = None
) -> Fidelity:
    """Measure attention with all tokens coded: means over layers, but the worst layer's of the last fields."""
    decoded = _decode_published(layers, name) if name in PUBLISHED else _decode_cached(layers, name, rope)
    queries = [layer.q for layer in layers] if queries is None else queries
    rows = np.array(
        [measure_fidelity(q, (x.k, x.v), pair) for q, x, pair in zip(queries, layers, decoded, strict=True)]
    )
    return Fidelity._make([*rows[:, :-_WORST].mean(axis=0).tolist(), *rows[:, -_WORST:].max(axis=0).tolist()])


def _decode_cached(layers: Sequence[CapturedLayer], name: str, rope: Rope | None) -> list[tuple[Floats, Floats]]:
    """Return keys and values as a cache gives them back."""
    _, k, _ = layers[0]
    policy = replace(PRESETS[name], recent=0, sinks=0, chunk=1)
    cache = KVCache(len(layers), k.shape[0], k.shape[2], policy, rope)
    for number, layer in enumerate(layers):
        cache.append(number, layer.k, layer.v)
        if cache.token_counts(number).recent:
            raise InputError(f"layers must have {policy.mean_tokens} tokens or more to be coded, got {k.shape[1]}")
    return [(cache.keys(number), cache.values(number)) for number in range(len(layers))]


def _decode_published(layers: Sequence[CapturedLayer], name: str) -> list[tuple[Floats, Floats]]:
    """Return keys as Algorithm 2 gives them back, and values as Algorithm 1 does."""
    d, nbits = layers[0].k.shape[2], int(name.removeprefix("prod"))
    codecs = [TurboQuant(d, nbits, mode=mode, rotation="haar", scale="norm") for mode in ("prod", "mse")]

    def through(codec: TurboQuant, x: Floats) -> Floats:
        return codec.decode(codec.encode(x.reshape(-1, d))).reshape(x.shape)

    return [(through(codecs[0], layer.k), through(codecs[1], layer.v)) for layer in layers]


def _measure_retrieval(
    n: int, d: int, rope: Rope | None, names: Sequence[str], progress: Callable[[int, int], None] | None
) -> Retrieval:
    """Measure retrieval with the keys of each policy, once where several have the same."""
    haystack = Haystack(n, d, shared=0.0 if rope is None else _SHARED, rope=rope)
    policies: dict[tuple[object, str], tuple[str, Policy]] = {}
    for name in names:
        if name not in PUBLISHED:
            policy = PRESETS[name]
            policies.setdefault((policy.key_nbits, policy.codebook), (name, policy))
    rhos = (*RHOS, 1.0)
    advance = None if progress is None else partial(progress, n)
    return Retrieval(n, rhos, tuple(measure_retrieval(haystack, dict(policies.values()), rhos=rhos, progress=advance)))


def _compare_attention(layers: Sequence[CapturedLayer], rope: Rope | None) -> list[Comparison]:
    """Compare with published figures of attention, for which keys stood in for queries: so they do here."""
    newest = [layer.k[:, -layer.q.shape[1] :] for layer in layers]
    names = {f"{name}{each.nbits}" for each in ATTENTION for name in ("prod", "turbo")}
    measured = {name: _mean_fidelity(layers, name, rope, newest) for name in sorted(names)}
    rows = []
    for each in ATTENTION:
        theirs, ours = (measured[f"{name}{each.nbits}"] for name in ("prod", "turbo"))
        for field, factor, unit in (("score_cosine", 1, ""), ("top1", 100, "%"), ("top1_in_5", 100, "%")):
            row = Comparison(
                section="attention",
                what=f"{_NAMES[field]}, {each.nbits} bits, {each.model}",
                unit=unit,
                published=getattr(each, field),
                reproduced=factor * getattr(theirs, field),
                tqvec=factor * getattr(ours, field),
            )
            rows.append(row)
    return rows


def _compare_retrieval(tokens: Sequence[int]) -> list[Comparison]:
    """Compare with published tests whose query is the needle itself, among random keys of head_dim 128."""
    rows = []
    for n in tokens:
        if n in NEEDLES:
            haystack = Haystack(n, 128, duplicates=0)
            _, curve = measure_retrieval(haystack, {"turbo2": PRESETS["turbo2"]}, rhos=_FEW_RHOS)
            row = Comparison(
                section="retrieval",
                what=f"needles found among {n:,} keys at ρ = 1, 2 bits",
                unit="%",
                published=NEEDLES[n],
                reproduced=None,
                tqvec=100 * curve.success[-1],
            )
            rows.append(row)
    return rows


def _compare_memory() -> list[Comparison]:
    """Compare published sizes with those of the planner."""
    rows = []
    for form, d, widths, times in RATIOS:
        row = Comparison(
            section="memory",
            what=f"{form}, head_dim {d}",
            unit="×",
            published=times,
            reproduced=4 * d / FORMATS[form].nbytes(1, d, 1),
            tqvec=16 / bits_per_value(Policy(*widths), 1, 1, d),
        )
        rows.append(row)
    for model, context, form, preset, gib in SIZES:
        theirs, ours = (plan(model, context=context, policy=policy).nbytes / _GIB for policy in (form, preset))
        row = Comparison(
            section="memory",
            what=f"{model} at {context} tokens, {form}",
            unit="GiB",
            published=gib,
            reproduced=theirs,
            tqvec=ours,
        )
        rows.append(row)
    return rows
