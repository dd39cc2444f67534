"""Writes caches/v2-*.st, the bytes that cache files must have for ever (docs/format.md, section 10).

``python tests/golden/make_caches.py`` from the repository root; it refuses to overwrite without ``--force``. With
``--print`` it prints the hash of each file that this process makes, and its SIMD level. caches/v1.st, and what it held,
was written by the code of its time, as `version_1` says.

Keys are integers over 256, turned by sums and products of float32, so they have the same bits everywhere.
"""

import hashlib
import io
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

import tqvec
from tqvec.kvcache import KVCache, Policy, Rope
from tqvec.kvcache.key_basis import layout
from tqvec.reference import splitmix

FILES = Path(__file__).with_name("caches")
HEADS = 2
VERSION_1 = Policy(
    *(4, 3),
    recode_after=24,
    recoded_key_nbits=[(2, 3)],
    recoded_value_nbits=2,
    value_means=True,
    recent=8,
    chunk=8,
    mean_tokens=16,
    sinks=2,
    seed=7,
)
CACHES = {
    "scalar": (20, VERSION_1, (Rope(5e5),)),
    "trellis": (32, Policy(3, [(2, 4)], "trellis", recent=8, chunk=4, mean_tokens=24), (Rope(1e4, dim=20),)),
    "evicting": (
        24,
        Policy([(4, 2.5)], 3, recent=8, chunk=4, mean_tokens=20, max_tokens=60),
        (Rope(interleaved=True),),
    ),
    "no rope": (17, Policy(3, 3, recent=8, chunk=4, mean_tokens=20, dtype="bfloat16"), (None,)),
}


def golden_tokens(n, d, rope=None):
    """Keys at positions 0 to n and values, (HEADS, n, d) float32, a ninth without the mean of the others."""
    words = [splitmix.word(2000, 64, i) for i in range(1, 2 * HEADS * (n + 1) * d + 1)]
    x = np.array([(w >> 52) - 2048 for w in words], np.float32).reshape(2, HEADS, n + 1, d) / np.float32(256)
    shared = (np.arange(n) % 9 != 5)[:, None].astype(np.float32)
    keys, values = x[:, :, 1:] / 4 + x[:, :, :1] * shared
    turning = layout(rope, d)
    cosines, sines = turning.turns(0, n)
    return keys * cosines + turning.sign * keys[..., turning.partner] * sines, values


def golden_cache(name):
    """A cache of `CACHES` with 90 tokens."""
    d, policy, ropes = CACHES[name]
    cache = KVCache(1, HEADS, d, policy, ropes)
    cache.append(0, *golden_tokens(90, d, ropes[0]))
    return cache


def version_1():
    """A cache as it was written to v1.st, with the tokens that it got later: v1.npz has what came out."""
    k, v = golden_tokens(100, 20)
    cache = KVCache(1, HEADS, 20, VERSION_1)
    cache.append(0, k[:, :70], v[:, :70])
    cache.save(FILES / "v1.st")
    arrays = {"keys": cache.keys(0), "values": cache.values(0)}
    cache.append(0, k[:, 70:], v[:, 70:])
    file = io.BytesIO()
    np.savez_compressed(file, **arrays, attention=cache.attend(0, k[:, -3:]))
    FILES.joinpath("v1.npz").write_bytes(file.getvalue())


def write(folder):
    for name in CACHES:
        path = folder / f"v2-{name.replace(' ', '-')}.st"
        if path.exists() and "--force" not in sys.argv:
            sys.exit(f"{path} exists; the bytes of a version never change. --force overwrites it.")
        golden_cache(name).save(path, overwrite=True)


def main():
    if "--print" not in sys.argv:
        write(FILES)
        return
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(folder).iterdir()}
    print(json.dumps({"level": tqvec.simd_info()["level"], "hashes": hashes}))


if __name__ == "__main__":
    main()
