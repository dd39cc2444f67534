"""Negative controls: every known mistake, planted in the oracle, is caught, at its stage, for its reason."""

from types import SimpleNamespace

import numpy as np
import pytest

from tqvec.oracle import ports, runner, statistics
from tqvec.oracle.families.registry import instantiate
from tqvec.oracle.mistakes import MISTAKES
from tqvec.oracle.profiles import PROFILES

DIMS = {"tqvec_scalar@1": 64, "tqvec_scalar@3": 100, "tqvec_trellis@2": 32, "paper_mse@2": 64, "paper_prod@3": 64}
DIMS |= {"turbo3@32": 128, "vllm_k3v4_nc": 64}
PLANTED = [
    (profile, name)
    for profile, d in DIMS.items()
    for name, mistake in MISTAKES.items()
    if mistake.applies(instantiate(PROFILES[profile], d))
]
NAMED = []


def first_broken(broken, s):
    """Return the verdict on the first broken stage of a port."""
    result = runner.verify_stages(broken, s)
    assert not result.passed
    return result.first_broken


@pytest.mark.slow
@pytest.mark.parametrize(("profile", "name"), PLANTED, ids=lambda value: value.replace(" ", "-"))
def test_a_planted_mistake_is_found(profile, name):
    s = instantiate(PROFILES[profile], DIMS[profile])
    verdict = first_broken(ports.from_oracle(MISTAKES[name].change(s)), s)
    assert verdict.stage in MISTAKES[name].stages
    NAMED.append(verdict.reasons[:1] == (name,))
    assert name in verdict.reasons


def test_nine_in_ten_reasons_come_first():
    assert sum(NAMED) >= 0.9 * len(NAMED)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ports.DTYPES)
@pytest.mark.parametrize(
    "name", ["no signs", "rotation transposed", "ties flipped", "uniform levels", "planes swapped"]
)
def test_mistakes_of_codecs_that_are_one_function(name, dtype):
    """A port that only has encode: its output mixes all stages."""
    s = instantiate(PROFILES["tqvec_scalar@3"], 100)
    whole = ports.from_oracle(MISTAKES[name].change(s), dtype)
    fused = ports.Port("fused", {"encode": whole.stages["encode"]}, dtype=dtype)
    verdict = first_broken(fused, s)
    assert verdict.stage == "encode"
    assert name in verdict.reasons


def test_every_mistake_is_planted_somewhere():
    assert {name for _, name in PLANTED} == set(MISTAKES)


def hand_written(**functions):
    """A port of tqvec_scalar@3 that has some stages only."""
    return ports.from_object(SimpleNamespace(**functions), "hand-written")


def swapped(view, codes):
    bits = np.stack([codes >> b & 1 for b in range(view.nbits)], axis=1).reshape(len(codes), -1)
    return np.packbits(bits.astype(np.uint8), axis=1, bitorder="little")


def unsigned(view, unit):
    """The rotation without signs, from the text of the format."""
    w = unit
    for permutation in view.tables["permutation"]:
        w, start, parts = w[:, permutation], 0, []
        for size in view.tables["blocks"]:
            block = w[:, start : start + size] / np.float32(np.sqrt(size))
            h = 1
            while h < size:
                pairs = block.reshape(len(w), -1, 2, h)
                block = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], axis=2)
                block = block.reshape(len(w), size)
                h *= 2
            parts.append(block)
            start += size
        w = np.concatenate(parts, axis=1)
    return w


BROKEN = {
    "identity port": ({"rotate": lambda view, unit: unit}, "rotate", "rotation ignored"),
    "no signs": ({"rotate": unsigned}, "rotate", "no signs"),
    "swapped planes": ({"pack": swapped}, "pack", "planes swapped"),
    "searchsorted to the right": (
        {"quantize": lambda view, y: np.searchsorted(view.tables["thresholds"], y, side="right")},
        "quantize",
        "ties flipped",
    ),
    "argmin over raw levels": (
        {"dequantize": lambda view, codes: view.tables["centroids"][codes] * np.float32(np.sqrt(view.d))},
        "dequantize",
        "levels not scaled",
    ),
    "biased codebook": (
        {
            "dequantize": lambda view, codes: (
                view.tables["centroids"] + 0.1 * np.diff(view.tables["centroids"].astype(np.float64))[-1]
            )[codes]
        },
        "dequantize",
        "levels biased",
    ),
    "half of everything": (
        {"unrotate": lambda view, levels: np.zeros_like(levels)},
        "unrotate",
        None,
    ),
    "identity codec": ({"encode": lambda view, x: (x, x[:, 0])}, "encode", "identity: the input itself comes back"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_hand_written_broken_ports(name):
    functions, stage, reason = BROKEN[name]
    verdict = first_broken(hand_written(**functions), instantiate(PROFILES["tqvec_scalar@3"], 100))
    assert verdict.stage == stage
    assert verdict.reasons[:1] == (() if reason is None else (reason,))


def dead(view, projected):
    return np.zeros(projected.shape, bool)


def reused(view, residual):
    return residual @ view.tables["matrix"].T * np.float32(np.sqrt(view.d))


@pytest.mark.parametrize(
    ("stage", "function", "reason"), [("sign", dead, "QJL dead"), ("project", reused, "QJL reuses the rotation")]
)
def test_hand_written_second_stages(stage, function, reason):
    verdict = first_broken(hand_written(**{stage: function}), instantiate(PROFILES["paper_prod@3"], 80))
    assert (verdict.stage, verdict.reasons[:1]) == (stage, (reason,))


@pytest.mark.parametrize(("stage", "factor", "told"), [("unrotate", 2.0, "2 times"), ("score", 0.3, "0.3 times")])
def test_a_constant_factor_is_told(stage, factor, told):
    s = instantiate(PROFILES["tqvec_scalar@3"], 64)
    right = ports.from_oracle(s).stages[stage]
    verdict = first_broken(ports.Port("scaled", {stage: lambda view, *inputs: right(view, *inputs)[0] * factor}), s)
    assert told in verdict.reasons[0]


def test_ports_that_raise_or_return_nonsense():
    s = instantiate(PROFILES["tqvec_scalar@3"], 64)
    assert first_broken(hand_written(rotate=lambda view, unit: 1 / 0), s).message.startswith("raised ZeroDivisionError")
    assert "shape (29,), not (29, 64)" in first_broken(hand_written(rotate=lambda view, unit: unit[:, 0]), s).message
    assert "not integers" in first_broken(hand_written(quantize=lambda view, y: y), s).message
    assert "no bytes" in first_broken(hand_written(quantize=lambda view, y: np.full(y.shape, -1)), s).message
    assert "2 outputs, not 1" in first_broken(hand_written(rotate=lambda view, unit: (unit, unit)), s).message
    assert "nan" in first_broken(hand_written(rotate=lambda view, unit: unit * np.nan), s).message
    assert "levels" in first_broken(hand_written(quantize=lambda view, y: np.full(y.shape, 9)), s).message


def test_a_wrong_mean_error_is_found_by_the_tables():
    """Codes of the right stages, decoded to vectors that are 10 % off: only the statistics see all of it."""
    s = instantiate(PROFILES["paper_mse@2"], 64)
    right = ports.from_oracle(s)
    wrong = {**right.stages, "decode": lambda view, *inputs: right.stages["decode"](view, *inputs)[0] * 1.3}
    result = runner.verify_stages(ports.Port("loud", {name: wrong[name] for name in ("encode", "decode")}), s)
    assert result.first_broken.stage == "decode"
    assert "mean squared error" in statistics.find_fault(ports.Port("loud", wrong), s)
