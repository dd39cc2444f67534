"""What ``tqvec oracle show`` says of a profile, against the values that ports get and the oracle computes."""

import re

import numpy as np
import pytest

from tqvec.oracle import cases, describe, ports
from tqvec.oracle.families.registry import instantiate
from tqvec.oracle.profiles import PROFILES

SMALLEST = {name: max(profile.least, 20 if profile.multiple == 1 else 0) for name, profile in PROFILES.items()}


@pytest.fixture(params=PROFILES)
def codec(request):
    return instantiate(PROFILES[request.param], SMALLEST[request.param])


@pytest.fixture
def told(codec):
    """The choices that are shown, by name."""
    return dict(re.findall(r"^([\w ,]+) \[\w+\]: (.*)$", describe.to_text(codec), re.MULTILINE))


def shown_tables(codec):
    """The tables as a reader would type them off: name, shape, type, and numbers if they are there."""
    text = describe.to_text(codec).split("\n\n")[2]
    for name, shape, dtype, numbers in re.findall(r"^(\w+): ([\d ×]+) (\w+)(.*(?:\n  .*)*)", text, re.MULTILINE):
        read = float.fromhex if dtype.startswith("float") else int
        values = [] if "golden" in numbers else [read(number) for number in numbers.strip(":").split()]
        yield name, tuple(int(n) for n in shape.split(" × ")), dtype, values


def test_shown_tables_are_those_of_ports(codec):
    tables = ports.view_of(codec, np.asarray).tables
    shown = {name: (shape, dtype, values) for name, shape, dtype, values in shown_tables(codec)}
    assert shown.keys() == tables.keys()
    for name, (shape, dtype, values) in shown.items():
        assert (shape, dtype) == (tables[name].shape, str(tables[name].dtype))
        if name in ("matrix", "projection"):
            assert values == []
        else:
            assert np.array_equal(np.array(values, dtype).reshape(shape), tables[name])


def test_every_choice_is_shown_for_one_reason(codec, told):
    fields = list(describe.iter_fields(codec.profile))
    assert told == {field.name: field.text for field in fields}
    assert {field.status for field in fields} <= {"defined", "confirmed", "assumed"}


def test_dimensions_are_those_that_are_taken(codec, told):
    p, text = codec.profile, told["dimensions"]
    takes = [d for d in range(1, 600) if p.takes(d)]
    if text.startswith("powers of two from "):
        expected = [2**e for e in range(10) if 2**e >= int(text.split()[-1])]
    elif text.startswith("from "):
        expected = list(range(int(text.split()[-1]), 600))
    else:
        step = int(text.removeprefix("multiples of "))
        expected = list(range(step, 600, step))
    assert takes == expected


def test_bits_and_codes(codec, told):
    signed = "second stage included" in told["bits"]
    assert signed == (codec.profile.family == "prod")
    levels = codec.tables.get("centroids", codec.tables.get("levels"))
    assert levels.size if "trellis" in told["codebook"] else len(levels) == 2 ** (int(told["bits"].split()[0]) - signed)
    if "midpoints" in told["codebook"] and codec.profile.codebook != "decimal":  # published ones have six decimals
        c = levels.astype(np.float64)
        assert np.allclose(codec.tables["thresholds"], (c[1:] + c[:-1]) / 2, rtol=1e-6, atol=1e-9)


def test_rotation(codec, told):
    """The formula of the text on the tables, for one vector."""
    u = cases.ordinary_rows(codec.d, 1, 0)[0].astype(np.float64)
    y, t = codec("rotate", np.float64, u[None].astype(np.float32))[0], codec.tables
    if "`matrix`" in told["rotation"]:
        assert np.allclose(t["matrix"].astype(np.float64) @ u, y)
    elif "rows of `signs`" in told["rotation"]:
        size = int(t["blocks"][0])
        walsh = np.array([[(-1) ** bin(i & j).count("1") for j in range(size)] for i in range(size)])
        s1, s2 = t["signs"].astype(np.float64)
        assert np.allclose((s2 * ((s1 * u).reshape(-1, size) @ walsh).ravel()) / np.sqrt(size), y)
    else:
        assert np.unique(np.abs(t["signs"])).tolist() == [1]
        w = u
        for permutation, signs in zip(t["permutation"], t["signs"], strict=True):
            w, start, out = w[permutation] * signs, 0, []
            for size in t["blocks"].tolist():
                walsh = np.array([[(-1) ** bin(i & j).count("1") for j in range(size)] for i in range(size)])
                out.append(walsh @ w[start : start + size] / np.sqrt(size))
                start += size
            w = np.concatenate(out)
        assert np.allclose(w, y)
    assert f"seed {codec.profile.seed}" in told["rotation"] or "signs" in told["rotation"]


def test_ties_and_the_zero_vector(codec, told):
    zero = np.zeros((1, codec.d), np.float32)
    if "trellis" not in told["codebook"]:
        t = codec.tables["thresholds"]
        codes = codec("quantize", None, np.resize(t, codec.d)[None])[0]
        upper = "upper" in told["ties"]
        assert np.array_equal(codes, np.resize(np.arange(len(t)), codec.d) + upper)
        middle = len(t) // 2 + ("upper" in told["zero vector"])
        if "where the middle threshold is above 0" in told["zero vector"]:
            assert 0 <= abs(t[len(t) // 2]) < 1e-16
            middle -= t[len(t) // 2] > 0
        assert np.unique(codec("quantize", None, zero)).tolist() == [middle]
    assert not codec("normalize", None, zero).any()
    assert "direction 0" in told["zero vector"]
    assert "scale 0" in told["zero vector"]
    inputs = {"x": zero, "rotated": zero, "codes": codec("quantize", None, zero)}
    assert not codec("scale", None, *(inputs[name] for name in codec.stages["scale"].inputs)).any()


def test_scale_and_decoding(codec, told):
    """The formulas of the text, on ordinary rows."""
    x = cases.ordinary_rows(codec.d, 3, 0)
    y = codec("rotate", None, codec("normalize", None, x))
    codes = codec("quantize", None, y)
    c = codec("dequantize", np.float64, codes)
    inputs = {"x": x, "rotated": y, "codes": codes}
    scale = codec("scale", None, *(inputs[name] for name in codec.stages["scale"].inputs))
    assert str(scale.dtype) == told["scale type"]
    norm = np.linalg.norm(x.astype(np.float64), axis=1)
    formulas = {
        "‖x‖/⟨y, c⟩": norm / (y * c).sum(axis=1),
        "‖x‖": norm,
        "‖x‖/‖c‖ of the group of 128": norm / np.linalg.norm(c, axis=1),
    }
    rule = told["scale"].rsplit(", one a ", 1)
    exact = formulas[rule[0]]
    assert rule[1] == ("block" if scale.ndim == 2 else "vector")
    assert np.allclose(
        scale, exact[:, None] if scale.ndim == 2 else exact, rtol=1e-3 if "16" in str(scale.dtype) else 1e-6
    )
    if "scale" in codec.stages["decode"].inputs and codec.profile.family != "prod":
        shrink = codec.tables["shrink"][0] if told["decoding"].startswith("shrink") else 1.0
        decoded = codec("decode", np.float64, codec("pack", None, codes), scale)
        assert np.allclose(decoded, shrink * scale[:, None] * codec("unrotate", np.float64, c), rtol=1e-6)
    assert ("shrink" in told["decoding"]) == ("shrink" in codec.tables)


def test_layout(codec, told):
    """Bits where the text says they are: of one code after the other, all others zero."""
    p = codec.profile
    for j in (0, 1, codec.d - 1):
        codes = np.zeros((1, codec.d), np.uint8)
        codes[0, j] = 2**p.nbits - 1
        if p.family in ("scalar", "paper"):
            bits = np.unpackbits(codec("pack", None, codes)[0], bitorder="little")
            expected = {j + codec.d * plane for plane in range(p.nbits)}
            assert "bit planes" in told["layout"]
        elif p.family == "prod":
            bits = np.unpackbits(codec("pack", None, codes >> 1, codes & 1)[0], bitorder="little")
            expected = {j + codec.d * plane for plane in range(p.nbits)}
            assert told["packed code"] == "2 · first-stage code + sign bit"
        elif p.family == "blocks":
            scale = np.zeros((1, codec.d // p.block), np.float16)
            bits = np.unpackbits(codec("pack", None, codes, scale)[0], bitorder="little")
            size, i = len(bits) // (codec.d // p.block), j % p.block
            low, start = min(p.nbits, 2 if p.nbits < 4 else 4), 16 + 16 * (p.nbits == 4)
            expected = {start + i * low + b for b in range(low)} | (
                {start + 2 * p.block + i} if p.nbits == 3 else set()
            )
            expected = {j // p.block * size + e for e in expected}
            assert "block after block: the scale" in told["layout"]
        else:
            none = np.zeros(1, np.float16)
            bits = np.unpackbits(codec("pack", None, codes, none, 0 * codes, none, none)[0], bitorder="little")
            expected = {j * p.nbits + b for b in range(p.nbits)}
            assert "key codes one after the other, lowest bit first" in told["layout"]
        assert set(np.flatnonzero(bits).tolist()) == expected


def test_groups(codec, told):
    p = codec.profile
    assert told["group, block"] == (f"{p.group}, {p.block} coordinates" if p.group else "the whole vector; no blocks")
    unit = codec("normalize", np.float64, cases.ordinary_rows(codec.d, 2, 0))
    assert np.allclose(np.linalg.norm(unit.reshape(-1, p.group or codec.d), axis=1), 1, rtol=1e-6)


def test_second_stage():
    codec = instantiate(PROFILES["paper_prod@3"], 20)
    told = {field.name: field.text for field in describe.iter_fields(codec.profile)}
    r = cases.ordinary_rows(20, 2, 0)
    projected = codec("project", np.float64, r)
    assert np.allclose(projected, r.astype(np.float64) @ codec.tables["projection"].T)
    bits = codec("sign", None, projected)
    assert np.array_equal(bits, projected > 0)
    assert "z_i = 1 bit: (S r)_i > 0" in told["second stage"]
    assert "with z = ±1" in told["second stage"]
    gamma = np.array([1.0, 2.0], np.float32)
    correction = np.sqrt(np.pi / 2) / 20 * gamma[:, None] * ((2.0 * bits - 1) @ codec.tables["projection"])
    assert np.allclose(codec("correct", np.float64, bits, gamma), correction, rtol=1e-5)
