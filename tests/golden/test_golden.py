"""Encoding gives the bytes that it gave when the format was fixed, on any machine."""

import importlib.util
import json
from pathlib import Path

import pytest

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE / "codes.json").read_text())


@pytest.fixture(scope="module")
def make():
    spec = importlib.util.spec_from_file_location("golden_make", HERE / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"{case['d']}-{case['nbits']}")
def test_codes_and_scales(make, case):
    assert make.golden_case(case["d"], case["nbits"], int(case["seed"])) == case


@pytest.mark.parametrize("case", GOLDEN["trellis"], ids=lambda case: f"{case['d']}-{case['nbits']}")
def test_codes_of_the_trellis(make, case):
    assert make.golden_case(case["d"], case["nbits"], int(case["seed"]), "trellis") == case


@pytest.mark.parametrize("case", GOLDEN["prod"], ids=lambda case: f"{case['d']}-{case['nbits']}")
def test_codes_of_two_stages(make, case):
    assert make.prod_case(case["d"], case["nbits"], int(case["seed"])) == case


def test_centroids(make):
    assert make.golden()["centroids"] == GOLDEN["centroids"]


def test_the_file_is_whole(make):
    assert GOLDEN["version"] == 1
    assert [(c["d"], c["nbits"], int(c["seed"])) for c in GOLDEN["cases"]] == make.CASES
    assert [(c["d"], c["nbits"], int(c["seed"])) for c in GOLDEN["trellis"]] == make.TRELLIS_CASES
    assert [(c["d"], c["nbits"], int(c["seed"])) for c in GOLDEN["prod"]] == make.PROD_CASES


def test_make_refuses_to_overwrite(make, monkeypatch):
    monkeypatch.setattr("sys.argv", ["make.py"])
    with pytest.raises(SystemExit, match="--force"):
        make.main()
