"""A reader written from docs/format.md alone: no tqvec, no safetensors but for the frozen codebooks."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from strategies import normal

import tqvec
from tqvec.codec.axes import find_axes
from tqvec.codec.calibration import Budget, calibrate
from tqvec.codec.codes import Codes
from tqvec.index.file import io
from tqvec.index.rows import encode_rows

DATA = Path(tqvec.__file__).parent / "codec" / "data"
TYPES = {"F32": "<f4", "I64": "<i8", "I8": "i1", "U8": "u1"}
MASK = 2**64 - 1


def read(path):
    """Fields and tensors (section 5)."""
    raw = path.read_bytes()
    start = 8 + struct.unpack("<Q", raw[:8])[0]
    head = json.loads(raw[8:start])
    fields = json.loads(head.pop("__metadata__")["tqvec"])
    bounds = {name: [start + offset for offset in entry["data_offsets"]] for name, entry in head.items()}
    flat = {name: np.frombuffer(raw[a:b], TYPES[head[name]["dtype"]]) for name, (a, b) in bounds.items()}
    return fields, {name: array.reshape(head[name]["shape"]) for name, array in flat.items()}


def mix(z):
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return z ^ z >> 31


def rotated_axes(d, seed, rounds=None):
    """Row i: the rotation of axis i (section 2)."""
    sizes = [2**b for b in reversed(range(d.bit_length())) if d >> b & 1]
    v, rounds = np.eye(d), rounds or (3 if d >= 128 else 4)
    for r in range(rounds):
        keys = [mix(mix(seed) ^ stream) for stream in (2 * r, 2 * r + 1)]
        words = [[mix(key + i * 0x9E3779B97F4A7C15 & MASK) for i in range(1, d + 1)] for key in keys]
        v = v[:, sorted(range(d), key=lambda i: words[0][i])] * [-1 if word >> 63 else 1 for word in words[1]]
        for size, end in zip(sizes, np.cumsum(sizes), strict=True):
            h = np.array([[(-1) ** (i & j).bit_count() for j in range(size)] for i in range(size)]) / np.sqrt(size)
            v[:, end - size : end] = v[:, end - size : end] @ h
    return v


def levels(fields, width):
    """Of the codes of a width (section 3), or of in-subset bits and windows (section 7); and D (section 5)."""
    d = fields["d"]
    if fields["codebook"] == "trellis":
        frozen = json.loads((DATA / "trellis.json").read_text())
        table = frozen["widths"][str(width)]
        inverse = [1 / n for n in reversed(frozen["dims"])]
        rows = [[float.fromhex(level) for level in row] for row in table["levels"]]
        return np.array(rows) / np.sqrt(d), np.interp(1 / d, inverse, table["distortion"][::-1])
    frozen, columns = load_file(DATA / "codebooks.safetensors"), slice(2 ** (width - 1) - 1, 2**width - 1)
    series = np.polynomial.chebyshev.chebval(2 * 64 / d - 1, frozen["series"])
    half = (frozen["small"][d] if d < 64 else series)[columns] / np.sqrt(d)
    c = np.concatenate([-half[::-1], half])
    t = (np.arange(400_000) + 0.5) / 200_000 - 1
    density = (1 - t * t) ** ((d - 3) / 2)
    p = np.bincount(np.searchsorted((c[1:] + c[:-1]) / 2, t), density, 2**width) / density.sum()
    return c, 1 - d * np.sum(p * c * c)


def decode(path):
    """(n, d) vectors (sections 4, 5, 7 and 8)."""
    fields, tensors = read(path)
    d, calibrated = fields["d"], "matrix" in tensors
    bits = np.unpackbits(tensors["codes"], axis=1, bitorder="little").astype(np.int64)
    values, first, shrink, kept = np.zeros((len(bits), d)), 0, 0.0, {}
    for band, (start, stop, width) in enumerate(fields["bands"]):
        n = stop - start
        planes = bits[:, first : first + n * width].reshape(-1, width, n)
        codes, first = np.einsum("rwn,w->rn", planes, 2 ** np.arange(width)[::-1]), first + n * width
        table, error = levels(fields, width)
        if fields["codebook"] == "trellis":
            windows = sum(np.roll(codes & 1, k, axis=1) << k for k in range(int(np.log2(table.shape[1]))))
            values[:, start:stop] = table[codes >> 1, windows]
        else:
            values[:, start:stop] = table[codes]
        kept[band] = 1 - error
        if calibrated:
            values[:, start:stop] *= tensors["spreads"][band] * kept[band]
    for band, (start, stop, _) in enumerate(fields["bands"]):
        share = tensors["spreads"][band] ** 2 / min(kept.values()) if calibrated else 1
        shrink += (stop - start) / d * share * kept[band]
    matrix = tensors["matrix"] if calibrated else rotated_axes(d, fields["seed"]).T
    if fields["version"] == 7:
        matrix = (tensors["steps"][:, None] * matrix) @ rotated_axes(d, 0, 2).T
    return shrink * tensors["scale"][:, None] * (values @ matrix) + (tensors["centre"] if calibrated else 0)


def codecs():
    for d, nbits in ((37, 4), (37, 2.5), (100, 1), (128, [(100, 8), (28, 3)])):
        yield tqvec.TurboQuant(d, nbits=nbits, seed=2**63 + 5)
    for codebook in ("scalar", "trellis"):
        yield tqvec.TurboQuant(48, nbits=3, codebook=codebook)
        for nbits in (2, 6 if codebook == "scalar" else 5):
            sample = (normal(500, 48, 10_080) / np.arange(1, 49)).astype(np.float32)
            calibration = calibrate(find_axes(sample), Budget(48 * nbits, codebook, 0))
            assert calibration.in_bytes == (nbits == 2)
            yield tqvec.TurboQuant(48, nbits=nbits, codebook=codebook).calibrated(calibration)


@pytest.mark.parametrize("codec", list(codecs()), ids=repr)
def test_an_independent_reader_decodes_what_the_codec_does(tmp_path, codec):
    x = normal(20, codec.d, 10_081)
    for metric in ("ip", "l2"):
        rows = encode_rows(codec, metric, x)
        io.save(tmp_path / "a.tqv", codec, metric, 20, [rows])
        expected = codec.decode(Codes(rows["codes"], rows["scale"]))
        np.testing.assert_allclose(decode(tmp_path / "a.tqv"), expected, atol=3e-5 * np.abs(x).max(), rtol=0)


def test_the_bytes_of_the_header(tmp_path):
    """Made anew from its fields, by the words of section 5."""
    codec = tqvec.TurboQuant(37, nbits=2.5)
    rows = encode_rows(codec, "l2", normal(20, 37, 10_082)) | {"ids": np.arange(20) * 3}
    io.save(tmp_path / "a.tqv", codec, "l2", 20, [rows], None, 60)
    raw = (tmp_path / "a.tqv").read_bytes()
    fields, tensors = read(tmp_path / "a.tqv")
    checksum = fields.pop("header_crc32")
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    assert checksum == f"{zlib.crc32(text.encode()):08x}"
    text = json.dumps(fields | {"header_crc32": checksum}, sort_keys=True, separators=(",", ":"))
    entries, body = {}, b""
    for name in ("ids", "scale", "squared_norm", "codes"):
        end = len(body) + tensors[name].nbytes
        kind = {"<f4": "F32", "<i8": "I64", "|u1": "U8"}[tensors[name].dtype.str]
        entries[name] = {"dtype": kind, "shape": list(tensors[name].shape), "data_offsets": [len(body), end]}
        body += tensors[name].tobytes()
        assert fields["crc32"][name] == [f"{zlib.crc32(tensors[name].tobytes()):08x}"]
    head = json.dumps({"__metadata__": {"tqvec": text}} | entries, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    assert raw == struct.pack("<Q", len(head)) + head + body
