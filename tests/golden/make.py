"""Writes codes.json, the bytes that encoding must give for ever, and indexes/v6-*.tqv, v7-trained.tqv and v8-lists.tqv,
files of the newest versions (docs/format.md). The files of versions 1 to 5, and what searches of them gave, were
written by the code of their time.

``python tests/golden/make.py`` from the repository root; it refuses to overwrite without ``--force``. New bytes for old
input are a new version of the format. The codec and the reference must agree before anything is written.

Input: value i (from 1) of a case is ``((word(1000 + seed, 64, i) >> 52) − 2048) / 256``, row by row, with `word` of
docs/format.md section 1: twelve bits, so it is exact in float32, and stream 64 is none of the rotation's.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

import tqvec
from tqvec.codec.bands import Band
from tqvec.codec.calibration import Calibration
from tqvec.codec.codebooks import scalar
from tqvec.index.file import io
from tqvec.index.partition.partition import Partition
from tqvec.index.partition.probing import TARGETS, Probing
from tqvec.index.partition.router import Router
from tqvec.index.rows import encode_rows
from tqvec.reference import packing, prod, quantize, splitmix

PATH = Path(__file__).with_name("codes.json")
ROWS = 5
CASES = [(1, 1, 0), (3, 8, 1), (31, 3, 2), (64, 4, 0), (97, 5, 2**64 - 1)]
CASES += [(128, 2, 3), (200, 4, 4), (384, 1, 5), (1536, 4, 6)]
CASES += [(128, 2.5, 7), (100, 3.5, 8), (97, [[7, 5], [1, 1], [89, 8]], 9)]
TRELLIS_CASES = [(16, 1, 0), (97, 3, 1), (128, 2, 2), (200, 4, 3), (384, 1, 4), (64, 5, 5)]
TRELLIS_CASES += [(128, 2.5, 6), (100, [[20, 5], [16, 1], [64, 3]], 7)]
PROD_CASES = [(3, 1, 0), (97, 3, 1), (128, 4, 2), (100, 2.5, 3)]
INDEXES = {
    "scalar": {"d": 97, "nbits": 4, "metric": "cosine", "seed": 1},
    "bands": {"d": 64, "nbits": 2.5, "metric": "l2", "seed": 2},
    "trellis": {"d": 32, "nbits": 3, "metric": "ip", "codebook": "trellis", "seed": 3},
}
CENTROIDS = [(2, 3, 5), (63, 8, 200), (64, 8, 255), (128, 4, 9), (768, 2, 3), (1536, 6, 40), (65536, 1, 1)]


def golden_input(d, seed):
    """(ROWS, d) float32; row 0 is all zeros but for its first value, row 1 is zero."""
    words = [splitmix.word((1000 + seed) % 2**64, 64, i) for i in range(1, ROWS * d + 1)]
    x = np.array([(w >> 52) - 2048 for w in words], np.float32).reshape(ROWS, d) / np.float32(256)
    x[0, 1:] = 0
    x[1] = 0
    return x


def golden_case(d, nbits, seed, codebook="scalar"):
    """What is stored for one case."""
    x = golden_input(d, seed)
    scales = {}
    for rule in ("unbiased", "least_squares", "norm"):
        codes = tqvec.TurboQuant(d, nbits=nbits, codebook=codebook, seed=seed, scale=rule).encode(x)
        scales[rule] = codes.scale.astype("<f4").tobytes().hex()
    return {
        "d": d,
        "nbits": nbits,
        "seed": str(seed),
        "input_sha256": hashlib.sha256(x.astype("<f4").tobytes()).hexdigest(),
        "codes_sha256": hashlib.sha256(codes.data.tobytes()).hexdigest(),
        "last_row_begins": codes.data[-1, :16].tobytes().hex(),
        "scales": scales,
        "fingerprint": tqvec.TurboQuant(d, nbits=nbits, codebook=codebook, seed=seed).fingerprint,
    }


def prod_case(d, nbits, seed):
    """What is stored for one case of mode "prod" with qjl="hadamard"."""
    tq = tqvec.TurboQuant(d, nbits=nbits, mode="prod", qjl="hadamard", seed=seed)
    codes = tq.encode(golden_input(d, seed))
    return {
        "d": d,
        "nbits": nbits,
        "seed": str(seed),
        "codes_sha256": hashlib.sha256(codes.data.tobytes()).hexdigest(),
        "last_row_begins": codes.data[-1, :16].tobytes().hex(),
        "scale": codes.scale.astype("<f4").tobytes().hex(),
        "gamma": codes.gamma.astype("<f4").tobytes().hex(),
        "fingerprint": tq.fingerprint,
    }


def golden_index(name):
    """An index of `INDEXES` that holds its input."""
    options = INDEXES[name]
    index = tqvec.Index(**options)
    index.add(golden_input(options["d"], options["seed"]))
    return index


def golden_calibration():
    """A matrix of bytes from the words of the input, for d = 40: what codes do with it, not how one is learned."""
    d = 40
    words = np.array([splitmix.word(2000, 64, i) >> 52 for i in range(1, d * d + 1)], np.int64)
    matrix = ((words % 255) - 127).reshape(d, d).astype(np.int8)
    numbers = np.arange(1, d + 1, dtype=np.float32)
    bands = (Band(0, 8, 5), Band(8, 24, 3), Band(24, 35, 1))
    std = np.array([2, 1, 0.5], np.float32)
    return Calibration(numbers / 64, matrix, bands, std, row_steps=np.float32(8) / (numbers + 600))


def save_trained(path):
    """Vectors with a matrix of bytes."""
    codec = tqvec.TurboQuant(40, nbits=2, seed=4).calibrated(golden_calibration())
    io.save(path, codec, "ip", ROWS, [encode_rows(codec, "ip", golden_input(40, 4))])


def save_with_ids(path):
    """The vectors of the index "scalar" once more, with ids."""
    codec = golden_index("scalar").codec
    rows = encode_rows(codec, "ip", golden_input(codec.d, codec.seed))
    rows["ids"] = np.array([2**62, 0, 7, 3, 2**40])
    io.save(path, codec, "ip", ROWS, [rows], None, 2**62 + 1)


def golden_lists():
    """Twelve vectors for l2 in three lists, two of them with a number that a file can't hold as it is."""
    options = {"d": 40, "nbits": 3, "metric": "l2", "seed": 5}
    x = np.concatenate([golden_input(40, seed) for seed in (5, 6, 7)])[[0, 2, 3, 4, 5, 7, 8, 9, 10, 12, 13, 14]]
    thresholds = np.arange(2 * len(TARGETS), dtype=np.float32).reshape(2, -1) / 8
    thresholds[:, -1], thresholds[0, 0] = np.inf, -np.inf
    probing = Probing(
        weight=0.3,
        ks=np.array([1, 10], np.int32),
        targets=np.array(TARGETS, np.float32),
        thresholds=thresholds,
        ranked=np.full(thresholds.shape, 3, np.int32),
        nlist=3,
    )
    index = tqvec.Index(**options)
    router = Router.of(x[[1, 4, 9]], "l2", centre=np.arange(40, dtype=np.float32) / 16)
    index._core = index._empty(index.codec, Partition(index.codec, router, probing))
    index.add(x)
    return index


def golden():
    """All of codes.json."""
    centroids = [[d, nbits, i, float(scalar.centroids(d, nbits)[i]).hex()] for d, nbits, i in CENTROIDS]
    return {
        "version": 1,
        "rows": ROWS,
        "cases": [golden_case(*case) for case in CASES],
        "trellis": [golden_case(*case, "trellis") for case in TRELLIS_CASES],
        "prod": [prod_case(*case) for case in PROD_CASES],
        "centroids": centroids,
    }


def main():
    if PATH.exists() and "--force" not in sys.argv:
        sys.exit(f"{PATH} exists; the bytes of a version never change. --force overwrites it.")
    scalar = [(*case, "scalar", quantize.encode_bands) for case in CASES]
    trellis = [(*case, "trellis", quantize.encode_trellis) for case in TRELLIS_CASES]
    for d, nbits, seed, kind, encode in scalar + trellis:
        x = golden_input(d, seed)
        tq = tqvec.TurboQuant(d, nbits=nbits, codebook=kind, seed=seed)
        codes, bands = tq.encode(x), [tuple(band) for band in tq.bands]
        expected = encode(x, bands, seed)
        assert codes.data.tobytes() == packing.pack(expected.codes, bands).tobytes()
        assert codes.scale.tobytes() == quantize.scale_unbiased(expected).astype(np.float32).tobytes()
    for d, nbits, seed in PROD_CASES:
        tq = tqvec.TurboQuant(d, nbits=nbits, mode="prod", qjl="hadamard", seed=seed)
        codes, bands = tq.encode(golden_input(d, seed)), [tuple(band) for band in tq.bands]
        expected, _, gamma = prod.encode_rows(golden_input(d, seed), bands, seed)
        assert codes.data.tobytes() == packing.pack(expected, bands).tobytes()
        assert codes.gamma.tobytes() == gamma.astype(np.float32).tobytes()
    PATH.write_text(json.dumps(golden(), indent=1) + "\n")
    folder = PATH.with_name("indexes")
    for name in INDEXES:
        golden_index(name).save(folder / f"v6-{name}.tqv")
    tqvec.Index.load(folder / "v5-trained.tqv").save(folder / "v6-trained.tqv")
    save_with_ids(folder / "v6-ids.tqv")
    save_trained(folder / "v7-trained.tqv")
    golden_lists().save(folder / "v8-lists.tqv")


if __name__ == "__main__":
    main()
