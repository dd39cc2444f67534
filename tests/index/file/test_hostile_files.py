"""Damaged and forged index files: always a `FormatError` with the path and a reason.

tests/test_safetensors.py has the faults that files of all kinds can have.
"""

import json

import numpy as np
import pytest
from craft_files import forge, make_checksums, put_together, take_apart
from safetensors.numpy import save_file
from strategies import normal

import tqvec
from tqvec.errors import FormatError
from tqvec.index.file import header as header_module
from tqvec.index.file import io
from tqvec.index.rows import encode_rows

X = (normal(400, 16, 10_010) / np.arange(1, 17)).astype(np.float32)


@pytest.fixture(scope="module")
def codec():
    """A calibrated one: its files have every kind of tensor."""
    index = tqvec.Index(16, nbits=2, metric="l2")
    assert index.train(X).accepted
    return index.codec


def write(path, codec, n=40, ids=True):
    """A file with several blocks; of metric l2, with ids."""
    rows = encode_rows(codec, "l2", X[:n])
    if ids:
        rows["ids"] = np.arange(n)[::-1] * 3
    io.save(path, codec, "l2", n, [rows], None if ids else 0, 1200)
    return path


def load(path, **options):
    header, _, calibration, _ = io.load(path, **options)
    io.codec_of(path, header, calibration)


def refuse(path, **options):
    """The reason for which a file can't be loaded, mapped or not."""
    reasons = set()
    for mmap in (False, True):
        with pytest.raises(FormatError, match=path.name.replace(".", r"\.")) as caught:
            load(path, mmap=mmap, **options)
        reasons.add(str(caught.value))
    assert len(reasons) == 1
    return reasons.pop()


@pytest.mark.slow
def test_what_is_always_verified(tmp_path, monkeypatch, codec):
    """Every byte of a file, one at a time, but those of codes, scales and squared lengths: they wait for `verify`."""
    monkeypatch.setattr(header_module, "CHECKSUM_ROWS", 4)
    path = write(tmp_path / "a.tqv", codec, 6)
    header, *_ = io.load(path)
    content = bytearray(path.read_bytes())
    start = len(content) - header.data_bytes
    lazy = [header.tensors()[name] for name in ("codes", "scale", "squared_norm")]
    rng = np.random.default_rng(10_011)
    for at in range(len(content)):
        bit = 1 << int(rng.integers(8))
        content[at] ^= bit
        path.write_bytes(content)
        content[at] ^= bit
        if any(tensor.start <= at - start < tensor.stop for tensor in lazy):
            io.load(path)
        else:
            with pytest.raises(FormatError, match=r"a\.tqv"):
                io.load(path, mmap=bool(at % 2))


def test_a_fault_is_named(tmp_path, monkeypatch, codec):
    monkeypatch.setattr(header_module, "CHECKSUM_ROWS", 16)
    path = write(tmp_path / "a.tqv", codec)
    header, *_ = io.load(path)
    content = bytearray(path.read_bytes())
    codes = header.tensors()["codes"]
    content[len(content) - header.data_bytes + codes.start + 17 * codes.row_bytes] ^= 1
    path.write_bytes(content)
    reason = refuse(path, verify=True)
    assert "a.tqv: damaged: codes of rows 16 to 31 has checksum" in reason
    assert f"the header says {header.crc32['codes'][1]}" in reason


WRONG = {
    "version": [0, -1, 1.5, "7", 6, True, None, 2**70],
    "d": [0, -1, 15, 17, 65537, 2**40, 16.0, "16", [16], True],
    "nbits": [0, 9, 2.6, 2.0, "2", [[16, 2], [1, 1]], [[[]]], {}, [16, 2], float("nan"), -(2**80)],
    "bands": [
        [],
        [[0, 16, 2]],
        [[0, 16]],
        [[0, 17, 2]],
        [[1, 16, 2]],
        [[0, 8, 9]],
        [[0, 8, 0]],
        [[0, 0, 2]],
        "x",
        7,
        [[0, 8.0, 2]],
    ],
    "mode": ["prod", "", 1, ["mse"]],
    "codebook": ["none", None, 1],
    "rotation": ["hadamard", "haar", 1, {}],
    "seed": [-1, 2**64, 1.0, "1"],
    "metric": ["ip", "cosine", "dot", 1],
    "ntotal": [39, 41, 0, -1, 2**31, 2**60, 2**63 - 1, 2**64, 40.0, "40", True],
    "first_id": [-1, 2**64, 1.0, 1201],
    "next_id": [-1, 0, 117, 2**64, 200.0],
    "block_rows": [0, -1, 15, 2**64, 16.0],
    "fingerprint": ["00ff", "", 1, ["x"]],
    "crc32": [{}, [], "x", None, 5],
}


def test_every_field_is_checked(tmp_path, monkeypatch, codec):
    """Forged with true checksums of header and tensors."""
    monkeypatch.setattr(header_module, "CHECKSUM_ROWS", 16)
    path = tmp_path / "a.tqv"
    write(path, codec)
    assert take_apart(path)[0].keys() == WRONG.keys() | {"header_crc32"}
    for name, values in WRONG.items():
        for value in values:
            forge(write(path, codec), {name: value})
            if name == "crc32":
                fields, tensors = take_apart(path)
                put_together(path, fields | {"crc32": value}, tensors)
            assert len(refuse(path)) < 400, (name, value)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"scale": np.zeros(40, np.float64)}, "tensors"),
        ({"codes": np.zeros((40, 4), np.int8)}, "tensors"),
        ({"codes": np.zeros((40, 7), np.uint8)}, "tensors"),
        ({"codes": np.zeros(160, np.uint8)}, "tensors"),
        ({"other": np.zeros(3, np.float32)}, "crc32"),
        ({"squared_norm": None}, "crc32"),
        ({"matrix": None}, "crc32"),
        ({"ids": np.zeros(40, np.int32)}, "tensors"),
        ({"ids": np.arange(40) * 40}, "ids up to 1560, but the next one is 1200"),
        ({"centre": np.full(16, np.inf, np.float32)}, "centre holds NaN or Inf"),
        ({"matrix": np.full((16, 16), np.nan, np.float32)}, "tensors"),
        ({"steps": np.full(16, np.nan, np.float32)}, "steps holds NaN or Inf"),
        ({"steps": None}, "crc32"),
        ({"near": np.array([0, np.nan], np.float32)}, "near holds NaN or Inf"),
        (
            {"near": np.array([0, -1], np.float32)},
            "near_error of a calibration must be a mean and a standard deviation",
        ),
        ({"near": None}, "crc32"),
        ({"spreads": "zero"}, "band_std of a calibration must be positive"),
        ({"matrix": "reversed"}, "fingerprint"),
    ],
)
def test_wrong_tensors(tmp_path, codec, arrays, reason):
    path = write(tmp_path / "a.tqv", codec)
    tensors = take_apart(path)[1]
    special = {"zero": tensors["spreads"] * 0, "reversed": tensors["matrix"][:, ::-1]}
    arrays = {name: special[array] if isinstance(array, str) else array for name, array in arrays.items()}
    assert reason in refuse(forge(path, {}, arrays))


def test_what_only_verify_sees(tmp_path, codec):
    for arrays, reason in (
        ({"scale": np.full(40, np.nan, np.float32)}, "scale of rows 0 to 39 holds NaN or Inf"),
        ({"squared_norm": np.full(40, np.inf, np.float32)}, "squared_norm of rows 0 to 39 holds NaN or Inf"),
        ({"ids": np.zeros(40, np.int64)}, "an id occurs twice"),
    ):
        path = forge(write(tmp_path / "a.tqv", codec), {}, arrays)
        assert reason in refuse(path, verify=True)
        index = tqvec.Index.load(path)
        with np.errstate(invalid="ignore"):  # no crash
            if "ids" in arrays:
                assert index.search(X[:3], 5)[1].shape == (3, 5)
            else:
                with pytest.raises(tqvec.InputError, match="load the file with verify=True"):
                    index.search(X[:3], 5)


def test_old_headers(tmp_path):
    """A field of version 1 to 5 that is wrong, under true checksums."""
    path = tmp_path / "a.tqv"
    tensors = {"codes": np.zeros((3, 2), np.uint8), "scale": np.zeros(3, np.float32)}
    good = {
        **{"version": 1, "d": 4, "nbits": 4, "bands": [[0, 4, 4]], "mode": "mse", "codebook": "scalar", "seed": 1},
        **{"rotation": "hadamard", "metric": "ip", "ntotal": 3, "fingerprint": tqvec.TurboQuant(4, seed=1).fingerprint},
        "crc32": {name: values[0] for name, values in make_checksums(tensors, 3).items()},
    }
    header, *_ = io.load(put_together(path, good, tensors), verify=True)
    assert (header.next_id, header.block_rows, header.crc32["codes"]) == (3, 3, [good["crc32"]["codes"]])
    for changes in (
        *({"ntotal": 4}, {"ntotal": -3}, {"ntotal": "3"}, {"crc32": None}, {"crc32": {}}, {"crc32": []}, {"d": 5}),
        *(
            {"bands": [[0, 4, 3]]},
            {"nbits": 40},
            {"metric": "l2"},
            {"crc32": {"codes": [1], "scale": 1}},
            {"seed": None},
        ),
    ):
        refuse(put_together(path, good | changes, tensors))
    save_file(tensors, path, metadata={"tqvec": json.dumps(good | {"header_crc32": "00000000"})})
    assert "header's checksum" in refuse(path)
