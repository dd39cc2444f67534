"""Known mistakes: each changes the oracle into what a broken port computes, so the oracle can say why a port fails."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tqvec.oracle import tables
from tqvec.oracle.arithmetic import norms
from tqvec.oracle.families import scalar
from tqvec.oracle.instance import Instance
from tqvec.oracle.layouts import LAYOUTS
from tqvec.reference import trellis

Condition = Callable[[Instance], bool]
Change = Callable[[Instance], Instance]


class Mistake(NamedTuple):
    """A way to be wrong.

    Attributes
    ----------
    name : str
    says : str
        The reason, as a report gives it.
    stages : tuple of str
        Where it shows first, in a port that has all stages; several, since it may show in the second of them only.
    applies : callable
        Whether a codec can have the mistake.
    change : callable
        Returns the codec with the mistake in it.
    """

    name: str
    says: str
    stages: tuple[str, ...]
    applies: Condition
    change: Change


# Conditions.


def _always(codec: Instance) -> bool:
    return True


def _has(table: str) -> Condition:
    return lambda codec: table in codec.tables


def _has_minus_signs(codec: Instance) -> bool:
    return "signs" in codec.tables and bool((codec.tables["signs"] < 0).any())


def _is_not_its_own_inverse(codec: Instance) -> bool:
    """Return whether the rotation is more than one transform without signs."""
    return codec.profile.rotation != "signed_wht" or _has_minus_signs(codec)


def _has_family(family: str) -> Condition:
    return lambda codec: codec.profile.family == family


def _has_wide_codebook(codec: Instance) -> bool:
    """Return whether there are more than two levels: two are equally spaced in any codebook."""
    return "centroids" in codec.tables and len(codec.tables["centroids"]) > 2


def _has_other_scale(rule: str) -> Condition:
    return lambda codec: codec.profile.scale not in (rule, "corrected")


def _has_other_layout(layout: str, least: int = 2) -> Condition:
    """Return a condition; codes of less than `least` bits look alike in both layouts."""
    return lambda codec: codec.profile.layout in {*LAYOUTS} - {layout} and codec.profile.nbits >= least


# Changes.


def _change_tables(**functions: Callable[[NDArray], NDArray]) -> Change:
    """Return a change that applies a function to each of some tables."""
    return lambda codec: codec.with_tables(**{name: f(codec.tables[name]) for name, f in functions.items()})


def _change_profile(**fields: Any) -> Change:
    return lambda codec: codec.with_profile(**fields)


def _change_stages(**functions: Callable[..., Any]) -> Change:
    """Return a change that gives some stages another function."""

    def change(codec: Instance) -> Instance:
        for stage, function in functions.items():
            codec = codec.with_stage(stage, function)
        return codec

    return change


def _change_centroids(make: Callable[[int, int], NDArray[np.float64]]) -> Change:
    """Return a change of the codebook to the one that `make` returns for a dimension and a width."""

    def change(codec: Instance) -> Instance:
        nbits = len(codec.tables["centroids"]).bit_length() - 1
        return codec.with_tables(**tables.levels(make(codec.profile.group or codec.d, nbits)))

    return change


def _change_input(stage: str, position: int, value: Callable[[NDArray], NDArray]) -> Change:
    """Return a change that lets a stage see one of its inputs changed."""

    def change(codec: Instance) -> Instance:
        function = codec.stages[stage].function

        def changed(c: Instance, dtype: DTypeLike, *inputs: NDArray) -> Any:
            return function(c, dtype, *inputs[:position], value(inputs[position]), *inputs[position + 1 :])

        return codec.with_stage(stage, changed)

    return change


def _change_output(stage: str, value: Callable[[Instance, Any], Any]) -> Change:
    """Return a change that applies `value` to what a stage gives."""

    def change(codec: Instance) -> Instance:
        function = codec.stages[stage].function
        return codec.with_stage(stage, lambda c, dtype, *inputs: value(codec, function(c, dtype, *inputs)))

    return change


def _change_within(stages: tuple[str, ...], inner: Change) -> Change:
    """Return a change that only some stages see; the stage that `inner` changes stays right by itself."""

    def change(codec: Instance) -> Instance:
        wrong = codec
        for stage in stages:
            function = codec.stages[stage].function
            wrong = wrong.with_stage(stage, lambda c, dtype, *inputs, f=function: f(inner(c), dtype, *inputs))
        return wrong

    return change


# Wrong stages and tables.


def _cast(_: Instance, dtype: DTypeLike, v: NDArray) -> NDArray:
    """Change nothing."""
    return v.astype(dtype)


def _constant(value: float) -> Callable[..., NDArray]:
    """Return a stage that gives `value` for each row of its input."""
    return lambda _, dtype, v: np.full(len(v), value, dtype)


def _reverse(rows: NDArray) -> NDArray:
    return rows[:, ::-1]


def _reverse_order(rows: NDArray) -> NDArray:
    return rows[::-1]


def _permute_signs(codec: Instance) -> Instance:
    return codec.with_tables(signs=np.take_along_axis(codec.tables["signs"], codec.tables["permutation"], axis=1))


def _unscale_levels(codec: Instance) -> Instance:
    if "centroids" not in codec.tables:
        return codec.with_tables(levels=codec.tables["levels"] * np.float32(math.sqrt(codec.d)))
    return codec.with_tables(**tables.levels(codec.tables["centroids"].astype(np.float64) * math.sqrt(codec.d)))


def _shift_levels(codec: Instance) -> Instance:
    c = codec.tables["centroids"].astype(np.float64)
    return codec.with_tables(**tables.levels(c + 0.1 * (c[-1] - c[-2])))


def _reverse_windows(levels: NDArray) -> NDArray:
    width = levels.shape[1].bit_length() - 1
    return levels[:, [int(f"{w:0{width}b}"[::-1], 2) for w in range(levels.shape[1])]]


def _dequantize_open_path(codec: Instance, dtype: DTypeLike, codes: NDArray) -> NDArray:
    table = codec.tables["levels"].astype(dtype)
    nu = table.shape[1].bit_length() - 2
    padded = np.pad(codes.astype(np.int64), ((0, 0), (nu, 0)))
    return table[padded >> 1, trellis.windows(padded & 1, nu)][:, nu:]


def _quantize_greedily(codec: Instance, dtype: DTypeLike, rotated: NDArray) -> NDArray:
    table, y = codec.tables["levels"].astype(dtype), rotated.astype(dtype)
    count = table.shape[1] // 2
    state, rows, codes = np.zeros(len(y), np.int64), np.arange(len(y)), []
    for value in y.T:
        windows = (2 * state[:, None] + np.arange(2)) % (2 * count)
        error = np.abs(value[:, None, None] - table.T[windows])
        best = error.reshape(len(y), -1).argmin(axis=1)
        path, subset = best // len(table), best % len(table)
        codes.append(2 * subset + path)
        state = windows[rows, path] % count
    return np.array(codes, np.uint8).T


def _scale_without_correction(codec: Instance, dtype: DTypeLike, x: NDArray, codes: NDArray) -> NDArray:
    norm = norms(x.reshape(-1, codec.profile.group), codec.norm_type(dtype)).reshape(len(x), -1)
    return np.repeat(norm, codec.profile.group // codec.profile.block, axis=1)


def _residual_of_rotated(codec: Instance, dtype: DTypeLike, unit: NDArray, codes: NDArray) -> NDArray:
    return codec("rotate", dtype, unit) - codec("dequantize", dtype, codes)


def _ignore_scale(codec: Instance) -> Instance:
    if "scale" not in codec.stages["decode"].inputs:  # it is among the packed bytes
        ones = _change_output("unpack", lambda _, parts: (parts[0], np.ones_like(parts[1]), *parts[2:]))
        return _change_within(("decode", "score"), ones)(codec)
    at = codec.stages["decode"].inputs.index("scale")
    return _change_input("score", at + 1, np.ones_like)(_change_input("decode", at, np.ones_like)(codec))


def _swap_low_and_high_bits(codec: Instance, rows: NDArray) -> NDArray:
    low, high = codec.profile.block // 4, codec.profile.block // 8
    scale, low_bits, high_bits = np.split(rows.reshape(-1, 2 + low + high), [2, 2 + low], axis=1)
    return np.concatenate([scale, high_bits, low_bits], axis=1).reshape(rows.shape)


def _change_queries_of_attention(factor: Callable[[int], float]) -> Change:
    """Return a change that multiplies the queries of attention, so its scores, by a function of the dimension."""
    return lambda codec: _change_input("attention", 0, lambda q: q * np.asarray(factor(codec.d), q.dtype))(codec)


_CODEBOOK = ("quantize", "dequantize")
_LAYOUT = ("pack", "unpack")
_PROD = _has_family("prod")
_SCALAR = _has("centroids")
_TRELLIS = _has("levels")

# fmt: off
_TABLE = (
    Mistake("not normalised", "vectors are rotated without dividing by their length",
            ("normalize",), _always, _change_stages(normalize=_cast)),
    # Rotation
    Mistake("no signs", "the sign flips of the rotation are missing",
            ("rotate",), _has_minus_signs, _change_tables(signs=np.abs)),
    Mistake("sign order", "signs are flipped before the permutation, not after it",
            ("rotate",), _has("permutation"), _permute_signs),
    Mistake("signs reversed", "the sign bits are read in the opposite order",
            ("rotate",), _has_minus_signs, _change_tables(signs=_reverse)),
    Mistake("rounds reversed", "the rounds of the rotation run backwards",
            ("rotate",), _has("permutation"), _change_tables(permutation=_reverse_order, signs=_reverse_order)),
    Mistake("no permutation", "the permutations of the rotation are missing",
            ("rotate",), _has("permutation"), _change_tables(permutation=lambda p: np.sort(p, axis=1))),
    Mistake("permutation inverted", "coordinate j goes to π(j), where it should come from π(j)",
            ("rotate",), _has("permutation"), _change_tables(permutation=lambda p: np.argsort(p, axis=1))),
    Mistake("rotation ignored", "vectors are not rotated",
            ("rotate",), _always, _change_stages(rotate=_cast, unrotate=_cast)),
    Mistake("rotation transposed", "the rotation is transposed: Πᵀu for Πu",
            ("rotate",), _is_not_its_own_inverse,
            _change_stages(rotate=scalar.unrotate, unrotate=scalar.rotate)),
    Mistake("rotation not undone", "decoding leaves vectors in the rotated basis",
            ("unrotate",), _always, _change_stages(unrotate=_cast)),
    Mistake("rotation done twice", "decoding rotates forwards: Πc for Πᵀc",
            ("unrotate",), _is_not_its_own_inverse, _change_stages(unrotate=scalar.rotate)),
    # Codebook
    Mistake("ties flipped", "a value on a threshold (and so zero) gets the code on the other side",
            ("quantize",), _SCALAR, lambda c: c.with_profile(ties="up" if c.profile.ties == "down" else "down")),
    Mistake("gaussian codebook", "levels are those of the normal density, not of the Beta density",
            _CODEBOOK, lambda c: c.profile.codebook == "beta", _change_centroids(tables.gaussian_centroids)),
    Mistake("uniform levels", "levels are equally spaced",
            _CODEBOOK, _has_wide_codebook, _change_centroids(tables.uniform_centroids)),
    Mistake("equal-mass levels", "cells have equal probability; they are not Lloyd-Max's",
            _CODEBOOK, _SCALAR, _change_centroids(tables.equal_mass_centroids)),
    Mistake("levels not scaled", "levels are for variance 1: a factor 1/√d is missing",
            _CODEBOOK, _always, _unscale_levels),
    Mistake("levels biased", "all levels are shifted",
            _CODEBOOK, _SCALAR, _shift_levels),
    Mistake("levels reversed", "levels are in descending order",
            ("dequantize",), _SCALAR, _change_tables(centroids=_reverse_order)),
    Mistake("levels as thresholds", "values are rounded down to a level, not to the nearest",
            ("quantize",), _SCALAR, lambda c: c.with_tables(thresholds=c.tables["centroids"][1:])),
    Mistake("window reversed", "state windows have their path bits in the opposite order",
            _CODEBOOK, _TRELLIS, _change_tables(levels=_reverse_windows)),
    Mistake("path not tail-biting", "path bits before the first coordinate are taken for zero, not for the last ones",
            ("dequantize",), _TRELLIS, _change_stages(dequantize=_dequantize_open_path)),
    Mistake("greedy path", "each coordinate takes its best level, without Viterbi's search",
            ("quantize",), _TRELLIS, _change_stages(quantize=_quantize_greedily)),
    # Scale
    Mistake("length for scale", "the scale is ‖x‖, not corrected by what the codes lose",
            ("scale",), _has_other_scale("norm"), _change_profile(scale="norm")),
    Mistake("unbiased for scale", "the scale is ‖x‖/⟨y, c⟩",
            ("scale",), _has_other_scale("unbiased"), _change_profile(scale="unbiased")),
    Mistake("least squares for scale", "the scale is ‖x‖⟨y, c⟩/‖c‖²",
            ("scale",), _has_other_scale("least squares"), _change_profile(scale="least squares")),
    Mistake("length not corrected", "the scale is ‖x‖, not ‖x‖/‖c‖: what the codes lose of the length stays lost",
            ("scale",), lambda c: c.profile.scale == "corrected", _change_stages(scale=_scale_without_correction)),
    Mistake("scale squared", "the scale is squared: a square root is missing",
            ("scale",), _always, _change_output("scale", lambda _, scale: scale**2)),
    Mistake("scale in half precision", "the scale is rounded to float16",
            ("scale",), lambda c: c.profile.scale_dtype != "float16", _change_profile(scale_dtype="float16")),
    # Second stage of Algorithm 2
    Mistake("residual in the rotated basis", "the residual is y − c, not u − Πᵀc, but S is for the latter",
            ("residual",), _PROD, _change_stages(residual=_residual_of_rotated)),
    Mistake("QJL reuses the rotation", "S is the rotation itself, so it is not independent of it",
            ("project",), _PROD, lambda c: c.with_tables(projection=c.tables["matrix"] * np.float32(math.sqrt(c.d)))),
    Mistake("S transposed", "S is transposed: Sᵀr for S r",
            ("project",), _PROD, _change_tables(projection=np.transpose)),
    Mistake("QJL dead", "all signs are equal: the second stage codes nothing",
            ("sign",), _PROD, _change_stages(sign=lambda _, dtype, v: np.zeros(v.shape, np.uint8))),
    Mistake("sign of zero", "a projection of zero counts as positive",
            ("sign",), _PROD, _change_stages(sign=lambda _, dtype, v: np.asarray(v.astype(dtype) >= 0, np.uint8))),
    Mistake("signs inverted", "a set bit means a negative projection",
            ("sign",), _PROD, _change_stages(sign=lambda _, dtype, v: np.asarray(v.astype(dtype) <= 0, np.uint8))),
    Mistake("residual length missing", "γ is 1 (or left uninitialised), not the length of the residual",
            ("gamma",), _PROD, _change_stages(gamma=_constant(1.0))),
    Mistake("residual length zero", "γ is 0: the second stage has no effect",
            ("gamma",), _PROD, _change_stages(gamma=_constant(0.0))),
    Mistake("QJL omitted", "decoding leaves out the correction by the second stage",
            ("correct",), _PROD, _change_tables(qjl_factor=np.zeros_like)),
    Mistake("QJL constant √(2/π)", "the correction has √(2/π)/d for √(π/2)/d",
            ("correct",), _PROD, _change_tables(qjl_factor=lambda factor: factor * np.float32(2 / math.pi))),
    Mistake("QJL constant 1/√d", "the correction has √(π/2)/√d for √(π/2)/d",
            ("correct",), _PROD,
            lambda c: c.with_tables(qjl_factor=c.tables["qjl_factor"] * np.float32(math.sqrt(c.d)))),
    # Layout
    Mistake("planes swapped", "bit planes are in the opposite order: the least significant first",
            _LAYOUT, _has_other_layout("planes, low first"), _change_profile(layout="planes, low first")),
    Mistake("bits of a byte reversed", "bytes are filled from the highest bit",
            _LAYOUT, _has_other_layout("planes, high bit first", least=1),
            _change_profile(layout="planes, high bit first")),
    Mistake("planes for fields", "codes are packed as bit planes, not one after the other",
            _LAYOUT, _has_other_layout("planes"), _change_profile(layout="planes")),
    Mistake("fields for planes", "codes are packed one after the other, not as bit planes",
            _LAYOUT, _has_other_layout("fields"), _change_profile(layout="fields")),
    Mistake("fields from the high bit", "codes are packed one after the other, from the highest bit",
            _LAYOUT, _has_other_layout("fields, high first"), _change_profile(layout="fields, high first")),
    Mistake("high bits first", "blocks have the high bits of 3-bit codes before the low ones",
            ("pack",), lambda c: (c.profile.layout, c.profile.nbits) == ("turbo", 3),
            _change_output("pack", _swap_low_and_high_bits)),
    # Decoding, scores and attention
    Mistake("length not restored", "decoded vectors and scores lack the factor of the stored scale",
            ("decode",), _always, _ignore_scale),
    Mistake("norm correction missing", "levels are not divided by their length before the key's length is restored",
            ("renormalize",), _has_family("cache"), _change_stages(renormalize=_cast)),
    Mistake("values rounded down", "values are rounded down to a step, not to the nearest",
            ("value_codes",), _has_family("cache"), _change_profile(rounding=0.0)),
    Mistake("not shrunk", "decoded vectors lack the factor 1 − D",
            ("decode",), _has("shrink"), _change_tables(shrink=np.ones_like)),
    Mistake("query not rotated", "queries are not rotated before they meet codes",
            ("score",), _always, _change_within(("score",), _change_stages(rotate=_cast))),
    Mistake("scores not divided", "attention lacks the factor 1/√d before the softmax",
            ("attention",), _always, _change_queries_of_attention(math.sqrt)),
    Mistake("scores divided twice", "attention has 1/d for 1/√d before the softmax",
            ("attention",), _always, _change_queries_of_attention(lambda d: 1 / math.sqrt(d))),
    Mistake("softmax omitted", "attention averages the values with equal weights",
            ("attention",), _always, _change_input("attention", 0, np.zeros_like)),
)
# fmt: on
MISTAKES: dict[str, Mistake] = {mistake.name: mistake for mistake in _TABLE}
"""All mistakes by name; of several that explain a fault, the earlier is the likelier."""
