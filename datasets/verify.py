"""Check the files of the sets against their manifests.

Examples
--------
What is kept in this folder, or also a full set that ``build.py`` wrote to ``full/``, or another set::

    python verify.py
    python verify.py full
    python verify.py FOLDER --set glove_50
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _common import read_manifest, sha256

HERE = Path(__file__).resolve().parent / "wordnet_minilm"
WORDS = Path(__file__).resolve().parent / "word_vectors"
PROSE = Path(__file__).resolve().parent / "prose"
QWEN_KV = Path(__file__).resolve().parent / "qwen_kv"
MIN_COSINE = 0.999


def content_sha256(path: Path) -> str:
    """Return the SHA-256 of the unpacked bytes of a gzip file, in hex; empty if it can't be unpacked."""
    try:
        return hashlib.sha256(gzip.decompress(path.read_bytes())).hexdigest()
    except (OSError, EOFError, zlib.error):
        return ""


def min_cosine(path: Path, sample: Path, rows: int) -> float | None:
    """Return the least cosine between the first rows of a full set, which must have `rows`, and those of the sample.

    None without NumPy, or for an array that doesn't fit.
    """
    try:
        import numpy as np
    except ModuleNotFoundError:
        return None
    try:
        full = np.load(path, mmap_mode="r")
        ours = np.load(sample).astype(np.float32)
    except (OSError, ValueError):
        return None
    if full.ndim != 2 or full.shape != (rows, ours.shape[1]) or full.dtype != np.float16:
        return None
    theirs = np.asarray(full[: len(ours)], dtype=np.float32)
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    if not np.all(norms > 0):
        return None
    return float(np.min(np.einsum("ij,ij->i", ours, theirs) / norms))


def check(path: Path, entry: dict[str, Any]) -> str:
    """Compare a file with its entry in the manifest.

    Returns
    -------
    str
        ``ok``, ``ok (content)`` for other gzip bytes around the right content, ``missing`` or ``MISMATCH``.
    """
    if not path.is_file():
        return "missing"
    if path.stat().st_size == entry["bytes"] and sha256(path) == entry["sha256"]:
        return "ok"
    if "content_sha256" in entry and content_sha256(path) == entry["content_sha256"]:
        return "ok (content)"
    return "MISMATCH"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 if every file is as the manifests say, else 1."""
    others = read_manifest(WORDS)
    parser = argparse.ArgumentParser(description="Check wordnet_minilm, or another set, against its manifest.")
    parser.add_argument("full", nargs="?", type=Path, help="a folder with the full set")
    parser.add_argument("--set", choices=sorted(others), help="the folder has this set, not wordnet_minilm")
    args = parser.parse_args(argv)
    if args.set is not None and args.full is None:
        parser.error("argument --set: needs a folder")

    manifest = read_manifest(HERE) | others | {"prose": read_manifest(PROSE), "qwen_kv": read_manifest(QWEN_KV)}
    folders = [("sample", HERE / "sample"), ("prose", PROSE), ("qwen_kv", QWEN_KV)] if args.set is None else []
    if args.full is not None:
        folders.append((args.set or "full", args.full))

    good = True
    print(f"{'set':<10} {'file':<20} {'bytes':>11}  result")
    for name, folder in folders:
        for file, entry in manifest[name]["files"].items():
            path = folder / file
            result = check(path, entry)
            if name == "full" and result == "MISMATCH" and path.suffix == ".npy":
                # Another processor or torch may round otherwise; the rows must still agree.
                cosine = min_cosine(path, HERE / "sample" / file, entry["rows"])
                if cosine is not None and cosine > MIN_COSINE:
                    result = f"ok (rounding; least cosine {cosine:.6f} on the sample's rows)"
            good = good and result.startswith("ok")
            size = f"{path.stat().st_size:,}" if path.is_file() else "-"
            print(f"{name:<10} {file:<20} {size:>11}  {result}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
