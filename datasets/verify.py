"""Check the files of the sets against their manifests.

Examples
--------
The sample and the prose of this folder, or also a full set that ``build.py`` wrote to ``full/``, or another set::

    python verify.py
    python verify.py full
    python verify.py FOLDER --set glove_50
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent / "wordnet_minilm"
OTHERS = Path(__file__).resolve().parent / "word_vectors" / "manifest.json"
PROSE = Path(__file__).resolve().parent / "prose"
MIN_COSINE = 0.999
BLOCK = 1 << 20


def sha256(path: Path) -> str:
    """Hash a file.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    str
        Its SHA-256, in hex.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def content_sha256(path: Path) -> str:
    """Hash what a gzip file holds.

    Parameters
    ----------
    path : Path
        The ``.gz`` file.

    Returns
    -------
    str
        SHA-256 of the unpacked bytes, in hex; empty if it cannot be unpacked.
    """
    try:
        return hashlib.sha256(gzip.decompress(path.read_bytes())).hexdigest()
    except (OSError, EOFError, zlib.error):
        return ""


def min_cosine(path: Path, sample: Path, rows: int) -> float | None:
    """Compare the first rows of a full set's vectors with the sample's.

    Parameters
    ----------
    path : Path
        Vectors of the full set.
    sample : Path
        Vectors of the sample, its first rows.
    rows : int
        Rows that `path` must have.

    Returns
    -------
    float or None
        Least cosine of two rows; ``None`` without NumPy or for an array that doesn't fit.
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
    """Check one file.

    Parameters
    ----------
    path : Path
        The file.
    entry : dict
        Its entry in the manifest.

    Returns
    -------
    str
        ``ok``, ``ok (content)`` for other gzip bytes around the right content, ``missing`` or
        ``MISMATCH``.
    """
    if not path.is_file():
        return "missing"
    if path.stat().st_size == entry["bytes"] and sha256(path) == entry["sha256"]:
        return "ok"
    if "content_sha256" in entry and content_sha256(path) == entry["content_sha256"]:
        return "ok (content)"
    return "MISMATCH"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name.

    Returns
    -------
    int
        0 if every file is as the manifest says, else 1.
    """
    others = json.loads(OTHERS.read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description="Check wordnet_minilm, or another set, against its manifest.")
    parser.add_argument("full", nargs="?", type=Path, help="a folder with the full set")
    parser.add_argument("--set", choices=sorted(others), help="the folder has this set, not wordnet_minilm")
    args = parser.parse_args(argv)
    if args.set is not None and args.full is None:
        parser.error("argument --set: needs a folder")

    manifest = json.loads((HERE / "manifest.json").read_text(encoding="utf-8")) | others
    manifest["prose"] = json.loads((PROSE / "manifest.json").read_text(encoding="utf-8"))
    folders = [("sample", HERE / "sample"), ("prose", PROSE)] if args.set is None else []
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
