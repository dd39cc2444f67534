"""Known mistakes: each changes the oracle into what a broken port computes, so it can say why a port fails."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tqvec.oracle import stages, tables
from tqvec.oracle.layouts import LAYOUTS
from tqvec.oracle.setup import Setup
from tqvec.reference import trellis

Change = Callable[[Setup], Setup | None]


@dataclass(frozen=True)
class Mistake:
    """One way to be wrong.

    Attributes
    ----------
    name : str
    says : str
        The reason, as a report gives it.
    stages : tuple of str
        Where it shows first, in a port that has all stages; several, since it may show in the second of them only.
    change : callable
        The oracle with the mistake in it; None where there is no such mistake.
    """

    name: str
    says: str
    stages: tuple[str, ...]
    change: Change


MISTAKES: dict[str, Mistake] = {}


def _mistake(name: str, says: str, *where: str) -> Callable[[Change], Change]:
    def register(change: Change) -> Change:
        MISTAKES[name] = Mistake(name, says, where, change)
        return change

    return register


def _hadamard(s: Setup) -> bool:
    return "signs" in s.tables


@_mistake("not normalised", "vectors are rotated without dividing by their length", "normalize")
def _not_normalised(s: Setup) -> Setup:
    return s.with_stage("normalize", lambda _, dtype, x: x.astype(dtype))


@_mistake("no signs", "the sign flips of the rotation are missing", "rotate")
def _no_signs(s: Setup) -> Setup | None:
    return s.with_tables(signs=np.abs(s.tables["signs"])) if _hadamard(s) else None


@_mistake("sign order", "signs are flipped before the permutation, not after it", "rotate")
def _sign_order(s: Setup) -> Setup | None:
    if not _hadamard(s) or "permutation" not in s.tables:
        return None
    return s.with_tables(signs=np.take_along_axis(s.tables["signs"], s.tables["permutation"], axis=1))


@_mistake("signs reversed", "the sign bits are read in the opposite order", "rotate")
def _signs_reversed(s: Setup) -> Setup | None:
    return s.with_tables(signs=s.tables["signs"][:, ::-1]) if _hadamard(s) else None


@_mistake("rounds reversed", "the rounds of the rotation run backwards", "rotate")
def _rounds_reversed(s: Setup) -> Setup | None:
    if not _hadamard(s) or len(s.tables["signs"]) < 2:
        return None
    return s.with_tables(permutation=s.tables["permutation"][::-1], signs=s.tables["signs"][::-1])


@_mistake("no permutation", "the permutations of the rotation are missing", "rotate")
def _no_permutation(s: Setup) -> Setup | None:
    if "permutation" not in s.tables:
        return None
    return s.with_tables(permutation=np.broadcast_to(np.arange(s.d), s.tables["permutation"].shape))


@_mistake("permutation inverted", "coordinate j goes to π(j), where it should come from π(j)", "rotate")
def _permutation_inverted(s: Setup) -> Setup | None:
    if "permutation" not in s.tables:
        return None
    return s.with_tables(permutation=np.argsort(s.tables["permutation"], axis=1))


def _identity(_: Setup, dtype: DTypeLike, v: NDArray) -> NDArray:
    return v.astype(dtype)


@_mistake("rotation ignored", "vectors are not rotated", "rotate")
def _rotation_ignored(s: Setup) -> Setup:
    return s.with_stage("rotate", _identity).with_stage("unrotate", _identity)


@_mistake("rotation transposed", "the rotation is transposed: Πᵀu for Πu", "rotate")
def _transposed(s: Setup) -> Setup:
    return s.with_stage("rotate", stages.unrotate).with_stage("unrotate", stages.rotate)


@_mistake("rotation not undone", "decoding leaves vectors in the rotated basis", "unrotate")
def _not_undone(s: Setup) -> Setup:
    return s.with_stage("unrotate", _identity)


@_mistake("rotation done twice", "decoding rotates forwards: Πc for Πᵀc", "unrotate")
def _twice(s: Setup) -> Setup:
    return s.with_stage("unrotate", stages.rotate)


@_mistake("ties flipped", "a value on a threshold (and so zero) gets the code on the other side", "quantize")
def _ties(s: Setup) -> Setup | None:
    if s.profile.codebook == "trellis":
        return None
    return replace(s, profile=replace(s.profile, ties="up" if s.profile.ties == "down" else "down"))


def _with_levels(s: Setup, centroids: NDArray[np.float64]) -> Setup:
    return s.with_tables(**tables.levels(centroids))


def _first_bits(s: Setup) -> int:
    """Width of the scalar codebook; 0 for a trellis."""
    return 0 if "centroids" not in s.tables else len(s.tables["centroids"]).bit_length() - 1


def _codebook(name: str, says: str, make: Callable[[int, int], NDArray[np.float64]], least: int = 1) -> None:
    """Register a wrong codebook; narrower than `least` bits it would be the right one."""

    def change(s: Setup) -> Setup | None:
        return _with_levels(s, make(s.d, _first_bits(s))) if _first_bits(s) >= least else None

    MISTAKES[name] = Mistake(name, says, ("quantize", "dequantize"), change)


_codebook(
    "gaussian codebook", "levels are those of the normal density, not of the Beta density", tables.gaussian_centroids
)
_codebook("uniform levels", "levels are equally spaced", tables.uniform_centroids, 2)
_codebook("equal-mass levels", "cells have equal probability; they are not Lloyd-Max's", tables.equal_mass_centroids)


@_mistake("levels not scaled", "levels are for variance 1: a factor 1/√d is missing", "quantize", "dequantize")
def _unscaled(s: Setup) -> Setup | None:
    if not _first_bits(s):
        return s.with_tables(levels=s.tables["levels"] * np.float32(math.sqrt(s.d)))
    return _with_levels(s, s.tables["centroids"].astype(np.float64) * math.sqrt(s.d))


@_mistake("levels biased", "all levels are shifted", "quantize", "dequantize")
def _biased(s: Setup) -> Setup | None:
    if not _first_bits(s):
        return None
    c = s.tables["centroids"].astype(np.float64)
    return _with_levels(s, c + 0.1 * (c[-1] - c[-2]))


@_mistake("levels reversed", "levels are in descending order", "dequantize")
def _reversed_levels(s: Setup) -> Setup | None:
    return s.with_tables(centroids=s.tables["centroids"][::-1]) if _first_bits(s) else None


@_mistake("levels as thresholds", "values are rounded down to a level, not to the nearest", "quantize")
def _floor(s: Setup) -> Setup | None:
    return s.with_tables(thresholds=s.tables["centroids"][1:]) if _first_bits(s) else None


@_mistake("window reversed", "windows have their path bits in the opposite order", "quantize", "dequantize")
def _window(s: Setup) -> Setup | None:
    if _first_bits(s):
        return None
    table = s.tables["levels"]
    width = table.shape[1].bit_length() - 1
    order = [int(f"{w:0{width}b}"[::-1], 2) for w in range(table.shape[1])]
    return s.with_tables(levels=table[:, order])


@_mistake("open seam", "path bits before the first coordinate are taken for zero, not for the last ones", "dequantize")
def _seam(s: Setup) -> Setup | None:
    if _first_bits(s):
        return None

    def dequantize(t: Setup, dtype: DTypeLike, codes: NDArray) -> NDArray:
        table = t.tables["levels"].astype(dtype)
        nu = table.shape[1].bit_length() - 2
        padded = np.pad(codes.astype(np.int64), ((0, 0), (nu, 0)))
        return table[padded >> 1, trellis.windows(padded & 1, nu)][:, nu:]

    return s.with_stage("dequantize", dequantize)


@_mistake("greedy path", "each coordinate takes its best level, without Viterbi's search", "quantize")
def _greedy(s: Setup) -> Setup | None:
    if _first_bits(s):
        return None

    def quantize(t: Setup, dtype: DTypeLike, rotated: NDArray) -> NDArray:
        table, y = t.tables["levels"].astype(dtype), rotated.astype(dtype)
        count = table.shape[1] // 2
        state, rows, found = np.zeros(len(y), np.int64), np.arange(len(y)), []
        for value in y.T:
            windows = (2 * state[:, None] + np.arange(2)) % (2 * count)
            error = np.abs(value[:, None, None] - table.T[windows])
            best = error.reshape(len(y), -1).argmin(axis=1)
            path, subset = best // len(table), best % len(table)
            found.append(2 * subset + path)
            state = windows[rows, path] % count
        return np.array(found, np.uint8).T

    return s.with_stage("quantize", quantize)


def _scale_rule(name: str, says: str, rule: str) -> None:
    def change(s: Setup) -> Setup | None:
        return None if s.profile.scale == rule else replace(s, profile=replace(s.profile, scale=rule))

    MISTAKES[name] = Mistake(name, says, ("scale",), change)


_scale_rule("length for scale", "the scale is ‖x‖, not corrected by what the codes lose", "norm")
_scale_rule("unbiased for scale", "the scale is ‖x‖/⟨y, c⟩", "unbiased")
_scale_rule("least squares for scale", "the scale is ‖x‖⟨y, c⟩/‖c‖²", "least squares")


@_mistake("scale squared", "the scale is squared: a square root is missing", "scale")
def _squared(s: Setup) -> Setup:
    return s.with_stage("scale", lambda t, dtype, *inputs: stages.scale(t, dtype, *inputs) ** 2)


@_mistake("scale in half precision", "the scale is rounded to float16", "scale")
def _half(s: Setup) -> Setup | None:
    if s.profile.scale_dtype == "float16":
        return None
    return replace(s, profile=replace(s.profile, scale_dtype="float16"))


@_mistake("residual in the rotated basis", "the residual is y − c, not u − Πᵀc, but S is for the latter", "residual")
def _basis(s: Setup) -> Setup | None:
    if s.profile.family != "prod":
        return None

    def rotated(t: Setup, dtype: DTypeLike, unit: NDArray, codes: NDArray) -> NDArray:
        return t("rotate", dtype, unit) - t("dequantize", dtype, codes)

    return s.with_stage("residual", rotated)


def _prod(name: str, says: str, stage: str, change: Callable[[Setup], Setup]) -> None:
    """Register a mistake of the second stage of Algorithm 2."""
    MISTAKES[name] = Mistake(name, says, (stage,), lambda s: change(s) if s.profile.family == "prod" else None)


def _constant(value: float) -> Callable[..., NDArray]:
    """A stage that gives `value` for each row or element of its input."""
    return lambda _, dtype, v: np.full(len(v), value, dtype)


_prod(
    "QJL reuses the rotation",
    "S is the rotation itself, so it is not independent of it",
    "project",
    lambda s: s.with_tables(projection=s.tables["matrix"] * np.float32(math.sqrt(s.d))),
)
_prod(
    "S transposed",
    "S is transposed: Sᵀr for S r",
    "project",
    lambda s: s.with_tables(projection=s.tables["projection"].T),
)
_prod(
    "QJL dead",
    "all signs are equal: the second stage codes nothing",
    "sign",
    lambda s: s.with_stage("sign", lambda _, dtype, v: np.zeros(v.shape, np.uint8)),
)
_prod(
    "sign of zero",
    "a projection of zero counts as positive",
    "sign",
    lambda s: s.with_stage("sign", lambda _, dtype, v: np.asarray(v.astype(dtype) >= 0, np.uint8)),
)
_prod(
    "signs inverted",
    "a set bit means a negative projection",
    "sign",
    lambda s: s.with_stage("sign", lambda _, dtype, v: np.asarray(v.astype(dtype) <= 0, np.uint8)),
)
_prod(
    "residual length missing",
    "γ is 1 (or left uninitialised), not the length of the residual",
    "gamma",
    lambda s: s.with_stage("gamma", _constant(1.0)),
)
_prod(
    "residual length zero",
    "γ is 0: the second stage has no effect",
    "gamma",
    lambda s: s.with_stage("gamma", _constant(0.0)),
)
_prod(
    "QJL omitted",
    "decoding leaves out the correction by the second stage",
    "correct",
    lambda s: s.with_tables(qjl_factor=np.zeros(1, np.float32)),
)
_prod(
    "QJL constant √(2/π)",
    "the correction has √(2/π)/d for √(π/2)/d",
    "correct",
    lambda s: s.with_tables(qjl_factor=s.tables["qjl_factor"] * np.float32(2 / math.pi)),
)
_prod(
    "QJL constant 1/√d",
    "the correction has √(π/2)/√d for √(π/2)/d",
    "correct",
    lambda s: s.with_tables(qjl_factor=s.tables["qjl_factor"] * np.float32(math.sqrt(s.d))),
)


def _layout(name: str, says: str, layout: str, least: int = 1) -> None:
    def change(s: Setup) -> Setup | None:
        if layout == s.profile.layout or s.profile.nbits < least or s.profile.layout not in LAYOUTS:
            return None
        return replace(s, profile=replace(s.profile, layout=layout))

    MISTAKES[name] = Mistake(name, says, ("pack", "unpack"), change)


_layout("planes swapped", "bit planes are in the opposite order: the least significant first", "planes, low first", 2)
_layout("bits of a byte reversed", "bytes are filled from the highest bit", "planes, high bit first")
_layout("fields for planes", "codes are packed one after the other, not as bit planes", "fields", 2)
_layout(
    "fields from the high bit", "codes are packed one after the other, from the highest bit", "fields, high first", 2
)


def _replacing_last(s: Setup, stage: str, position: int, value: Callable[[NDArray], NDArray]) -> Setup:
    """A stage that sees one of its inputs changed."""
    function = s.stages[stage].function

    def changed(t: Setup, dtype: DTypeLike, *inputs: NDArray) -> Any:
        seen = list(inputs)
        seen[position] = value(inputs[position])
        return function(t, dtype, *seen)

    return s.with_stage(stage, changed)


@_mistake("length not restored", "decoded vectors and scores lack the factor of the stored scale", "decode")
def _not_restored(s: Setup) -> Setup | None:
    if "scale" not in s.stages["decode"].inputs:
        return None
    at = s.stages["decode"].inputs.index("scale")
    return _replacing_last(_replacing_last(s, "decode", at, np.ones_like), "score", at + 1, np.ones_like)


@_mistake("not shrunk", "decoded vectors lack the factor 1 − D", "decode")
def _not_shrunk(s: Setup) -> Setup | None:
    return s.with_tables(shrink=np.ones(1, np.float32)) if "shrink" in s.tables else None


@_mistake("query not rotated", "queries are not rotated before they meet codes", "score")
def _query(s: Setup) -> Setup:
    function = s.stages["score"].function

    def unrotated(t: Setup, dtype: DTypeLike, *inputs: NDArray) -> Any:
        return function(t.with_stage("rotate", _identity), dtype, *inputs)

    return s.with_stage("score", unrotated)


@_mistake("scores not divided", "attention lacks the factor 1/√d before the softmax", "attention")
def _undivided(s: Setup) -> Setup:
    factor = math.sqrt(s.d)
    return _replacing_last(s, "attention", 0, lambda q: q * np.asarray(factor, q.dtype))


@_mistake("scores divided twice", "attention has 1/d for 1/√d before the softmax", "attention")
def _divided_twice(s: Setup) -> Setup:
    factor = 1 / math.sqrt(s.d)
    return _replacing_last(s, "attention", 0, lambda q: q * np.asarray(factor, q.dtype))


@_mistake("softmax omitted", "attention averages the values with equal weights", "attention")
def _no_softmax(s: Setup) -> Setup:
    return _replacing_last(s, "attention", 0, np.zeros_like)
