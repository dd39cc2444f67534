"""The oracle itself: its values are the format's, its files are the same for ever, its rules let right ports pass."""

import hashlib
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import tqvec
from tqvec import _safetensors
from tqvec.errors import FormatError, InputError
from tqvec.oracle import arithmetic, cases, describe, golden, layouts, ports, runner, tables
from tqvec.oracle.families.registry import instantiate
from tqvec.oracle.mistakes import MISTAKES
from tqvec.oracle.profiles import PROFILES, find

HERE = Path(__file__).parent / "golden"
MANIFEST = json.loads((HERE / golden.MANIFEST).read_text())
DIMS = (64, 80, 96, 100, 128, 256, 384, 1536)
WIDE = [("tqvec_scalar@4", d) for d in DIMS] + [("paper_mse@2", d) for d in DIMS]
WIDE += [("turbo3@32", 1536), ("turbo4@128", 384), ("vllm_3bit_nc", 256)]
WIDE += [("tqvec_trellis@4", d) for d in DIMS[:6]] + [("paper_prod@3", d) for d in DIMS[:6]]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ports.DTYPES)
@pytest.mark.parametrize("name", [name for name in PROFILES if "trellis" not in name])
def test_the_oracle_passes_in_either_precision(name, dtype):
    """In float32 the statistics too, where a profile codes vectors and not pairs of them."""
    d = max(64, PROFILES[name].least)  # turbo: 128
    s, quick = instantiate(PROFILES[name], d), dtype == "float16"
    result = runner.verify_stages(ports.from_oracle(s, dtype), s, quick)
    assert result.passed, result.first_broken
    assert len(result.verdicts) == len(s.stages) + (not quick and not name.startswith("vllm"))


@pytest.mark.parametrize("dtype", ports.DTYPES)
@pytest.mark.parametrize("nbits", [1, 2, 3])
def test_trellis_in_either_precision(nbits, dtype):
    s = instantiate(PROFILES[f"tqvec_trellis@{nbits}"], 64)
    assert runner.verify_stages(ports.from_oracle(s, dtype), s, quick=True).passed


@pytest.mark.slow
@pytest.mark.parametrize(("name", "d"), WIDE)
def test_dimensions(name, d):
    s = instantiate(PROFILES[name], d)
    assert runner.verify_stages(ports.from_oracle(s), s, quick=True).passed
    if d <= (100 if name.startswith("paper") else 256):  # sums in half precision are slow in NumPy
        assert runner.verify_stages(ports.from_oracle(s, "float16"), s, quick=True).passed


def own_codec(view):
    kind = "trellis" if "trellis" in view.profile else "scalar"
    return tqvec.TurboQuant(view.d, nbits=view.nbits, codebook=kind)


def encode(view, x):
    codes = own_codec(view).encode(x)
    return codes.data, codes.scale


def decode(view, packed, scale):
    return own_codec(view).decode(tqvec.Codes(packed, scale))


def score(view, queries, packed, scale):
    return own_codec(view).inner_product(queries, tqvec.Codes(packed, scale))


OWN = SimpleNamespace(encode=encode, decode=decode, score=score, PROFILES=["tqvec_scalar", "tqvec_trellis"])


@pytest.mark.slow
@pytest.mark.parametrize("d", DIMS)
@pytest.mark.parametrize("name", ["tqvec_scalar@1", "tqvec_scalar@3", "tqvec_trellis@2", "tqvec_trellis@4"])
def test_turboquant_is_a_port_that_passes_bit_by_bit(name, d):
    """The compiled codec, which shares no code with the oracle."""
    s = instantiate(PROFILES[name], d)
    result = runner.verify_stages(ports.from_object(OWN, "tqvec"), s, quick=d != 64 or "scalar" not in name)
    assert result.passed, result.first_broken
    assert next(v for v in result.verdicts if v.stage == "encode").identical


def argmin(view, y):
    return np.argmin(np.abs(y[..., None] - view.tables["centroids"]), axis=-1)


def matmul(view, unit):
    return unit @ view.tables["matrix"].T


def unmatmul(view, levels):
    return levels @ view.tables["matrix"]


@pytest.mark.parametrize("d", [64, 100])
def test_another_way_to_write_the_paper(d):
    """BLAS for the rotation passes, and so do plain sums of squares."""

    def normalize(view, x):
        norm = np.linalg.norm(x, axis=1, keepdims=True)
        return x / np.where(norm > 0, norm, np.inf)

    port = SimpleNamespace(
        normalize=normalize,
        rotate=matmul,
        unrotate=unmatmul,
        dequantize=lambda view, codes: np.take(view.tables["centroids"], codes),
    )
    result = runner.verify_stages(ports.from_object(port, "numpy"), instantiate(PROFILES["paper_mse@3"], d))
    assert result.passed, result.first_broken


def test_sizes_are_the_published_ones():
    """Bits a value of blocks, bytes of a key and a value of slots, at d = 128."""
    x = cases.ordinary_rows(128, 2, 0)
    bits = {"turbo2@32": 2.5, "turbo3@32": 3.5, "turbo4@32": 4.25}
    bits |= {"turbo2@128": 2.125, "turbo3@128": 3.125, "turbo4@128": 4.25}
    for name, width in bits.items():
        assert instantiate(PROFILES[name], 128)("encode", None, x).shape[1] * 8 == 128 * width
    for name, size in {"vllm_4bit_nc": 134, "vllm_k3v4_nc": 118, "vllm_3bit_nc": 102}.items():
        assert instantiate(PROFILES[name], 128)("encode", None, x, x).shape[1] == size


def test_ties_follow_from_the_paper():
    """argmin takes the first of two equal distances: zero goes down."""
    s = instantiate(PROFILES["paper_mse@3"], 64)
    assert argmin(s, np.zeros((1, 1), np.float32)) == s("quantize", None, np.zeros((1, 64), np.float32))[0, 0] == 3


@pytest.mark.parametrize("name", sorted(MANIFEST))
def test_golden_files(name):
    """Committed bytes, byte for byte; of files that are not committed, their checksum."""
    stem, d = name.removesuffix(".safetensors").rsplit("-d", 1)
    blob = golden.encode_file(PROFILES[stem.replace("-", "@")], int(d))
    assert hashlib.sha256(blob).hexdigest() == MANIFEST[name]
    if (HERE / name).exists():
        assert (HERE / name).read_bytes() == blob


def test_golden_files_are_small_and_whole():
    assert sum(path.stat().st_size for path in HERE.iterdir()) < 300_000
    assert {name.rsplit("-d", 1)[0].replace("-", "@") for name in MANIFEST} == set(PROFILES)
    assert {path.name for path in HERE.iterdir()} - {golden.MANIFEST} <= set(MANIFEST)


def test_golden_files_say_what_they_hold(tmp_path):
    """Any safetensors reader can replay a stage from a file alone; so can one that only reads bytes."""
    from safetensors.numpy import load_file

    golden.export([PROFILES["tqvec_scalar@2"]], [20], tmp_path, raw=True)
    path = tmp_path / "tqvec_scalar-2-d20.safetensors"
    tensors, metadata = _safetensors.load(path.read_bytes())
    assert {name: value.tolist() for name, value in load_file(path).items()} == {
        name: value.tolist() for name, value in tensors.items()
    }
    about = json.loads(metadata["oracle"])
    for case in about["cases"]:
        if case["stage"] == "quantize":
            y, codes = tensors[case["inputs"][0]], tensors[case["outputs"][0]]
            assert np.array_equal((y[..., None] > tensors["table.thresholds"]).sum(axis=-1), codes)
    raw = json.loads((tmp_path / "tqvec_scalar-2-d20" / "vectors.json").read_text())
    assert raw["cases"] == about["cases"]
    for name, entry in raw["tensors"].items():
        blob = (tmp_path / "tqvec_scalar-2-d20" / f"{name}.bin").read_bytes()
        assert np.array_equal(np.frombuffer(blob, entry["dtype"]).reshape(entry["shape"]), tensors[name])


def test_shrink_is_the_same_float32_wherever_it_is_computed():
    """1 − D comes from functions of the system: its float64 is far from the middle between two float32."""
    for profile in PROFILES.values():
        for d in (20, 64, 100, 128) if profile.shrink else ():
            exact = 1 - tables.distortion(profile, d)
            below = np.nextafter(np.float32(exact), np.float32(0)).astype(np.float64)
            middle = (below + float(np.float32(exact))) / 2, 2 * float(np.float32(exact)) - below
            assert min(abs(exact - m) for m in middle) > 1e-12


def test_near_normal_numbers():
    """Exact in float32, and as normal as twelve uniforms are."""
    x = tables.near_normal(7, 3, (200, 500)).astype(np.float64)
    assert np.array_equal(x * 65536, np.rint(x * 65536))
    n = x.size
    assert abs(x.mean()) < 5 / math.sqrt(n)
    assert abs((x * x).mean() - 1) < 5 * math.sqrt(1.9 / n)
    assert abs((x**4).mean() - 2.9) < 5 * math.sqrt(85 / n)


def test_exponential_is_correctly_rounded():
    x = -np.linspace(0, 30, 400)
    assert np.allclose(arithmetic.exponential(x), np.exp(x), rtol=3e-16, atol=0)
    assert arithmetic.exponential(np.array([-1.0]))[0].hex() == "0x1.78b56362cef38p-2"  # e⁻¹, from the NIST digits


@pytest.mark.parametrize("name", layouts.LAYOUTS)
@pytest.mark.parametrize(("d", "nbits"), [(7, 1), (64, 2), (100, 3), (33, 4)])
def test_layouts_are_undone(name, d, nbits):
    codes = np.random.default_rng(10_003).integers(0, 2**nbits, (5, d)).astype(np.uint8)
    layout = layouts.LAYOUTS[name]
    packed = layout.pack(codes, nbits)
    assert packed.shape == (5, (d * nbits + 7) // 8)
    assert np.array_equal(layout.unpack(packed, nbits, d), codes)


def test_adversarial_rows_are_there():
    rows = cases.adversarial_rows(96)
    assert np.signbit(rows["minus zero"]).all()
    assert 0 < np.abs(rows["denormal"]).max() < np.finfo(np.float32).tiny
    assert np.linalg.norm(rows["norm beyond float16"].astype(np.float64)) > 65504
    ties = cases.tie_rows(instantiate(PROFILES["tqvec_scalar@3"], 96))
    t = instantiate(PROFILES["tqvec_scalar@3"], 96).tables["thresholds"]
    assert (ties["just below thresholds"][:7] < t).all()
    assert (ties["just above thresholds"][:7] > t).all()
    assert np.array_equal(ties["on thresholds"][:7], t)


def test_profiles_describe_themselves():
    for profile in PROFILES.values():
        text = describe.to_text(instantiate(profile, max(128, profile.least)))
        assert profile.name in text
        assert {field.status for field in describe.iter_fields(profile)} <= {"defined", "confirmed", "assumed"}
        if profile.codebook != "trellis":
            assert describe.to_hexadecimal(instantiate(profile, 128).tables["centroids"])[0] in text
    for mistake in MISTAKES.values():
        assert mistake.says
        assert set(mistake.stages) <= set(ports.STAGES)


PAGES = Path(__file__).parents[2] / "docs" / "spec"


@pytest.mark.parametrize("name", PROFILES)
def test_pages_of_the_specification_have_the_fields_of_profiles(name):
    family = name.split("@")[0]
    page = next(path for path in PAGES.glob("*.md") if f"## `{family}" in path.read_text(encoding="utf-8"))
    text = page.read_text(encoding="utf-8")
    for field in describe.iter_fields(PROFILES[name]):
        if field.name != "bits":
            assert f"| {field.name} | {field.text} | {field.status} |" in text, field


def test_bad_requests():
    with pytest.raises(InputError, match="profile must be one of paper_mse"):
        find("turbo9")
    with pytest.raises(InputError, match="d must be at least 16 for tqvec_trellis@2, got 8"):
        instantiate(PROFILES["tqvec_trellis@2"], 8)
    with pytest.raises(InputError, match="no function named after a stage"):
        ports.from_object(SimpleNamespace(rotat=1), "x")
    with pytest.raises(InputError, match="DTYPE of port x must be one of float32, float16"):
        ports.from_object(SimpleNamespace(rotate=matmul, DTYPE="float8"), "x")
    with pytest.raises(InputError, match="profile must be given"):
        tqvec.oracle.verify(SimpleNamespace(rotate=matmul))
    with pytest.raises(InputError, match="d must suit"):
        tqvec.oracle.verify(SimpleNamespace(rotate=matmul), profiles=["tqvec_trellis"], dims=[8])
    with pytest.raises(FormatError, match="not a safetensors file"):
        _safetensors.load(b"garbage, and more of it")
