"""Build the sets ``glove_50`` and ``french_300`` from installed packages, without any download.

A package holds one array of word vectors. Each is divided by its length; rows drawn with a fixed seed are the queries,
the rest, in the order of the package, is the base. ``manifest.json`` has packages, paths, sums and licences.

Examples
--------
::

    pip install --no-deps --target packages -r requirements.txt
    python build.py glove_50 glove_50 --packages packages
    python build.py french_300 french_300 --packages packages
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _common import BuildError, check_source, read_manifest, run

SEED = 20260101
MANIFEST = read_manifest(Path(__file__).resolve().parent)


def read_source(source: dict[str, Any], folders: Sequence[str]) -> NDArray[Any]:
    """Read the (n, d) float32 array of a package in one of the folders, which must be the one of the manifest."""
    path = next(
        (Path(folder) / source["path"] for folder in folders if (Path(folder) / source["path"]).is_file()), None
    )
    if path is None:
        package = f"{source['package']}=={source['version']}"
        raise BuildError(f"{source['path']} is not installed: pip install --no-deps {package}")
    check_source(path, source)
    vectors: NDArray[Any] = np.load(path)
    return vectors


def split(vectors: NDArray[Any], n_queries: int) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """Split vectors into base and queries of unit length.

    Parameters
    ----------
    vectors : (n, d) float
        No vector is zero.
    n_queries : int
        Rows to hold out.

    Returns
    -------
    base, queries : (n - n_queries, d) and (n_queries, d) float16
        The rows have unit length, up to rounding.
    """
    exact = vectors.astype(np.float64)
    unit = (exact / np.sqrt(np.sum(exact * exact, axis=1, keepdims=True))).astype(np.float16)
    order = np.random.default_rng(SEED).permutation(len(unit))
    return unit[np.sort(order[n_queries:])], unit[np.sort(order[:n_queries])]


def build(args: argparse.Namespace) -> list[Path]:
    """Write base and queries of a set, and return their paths."""
    entry = MANIFEST[args.set]
    vectors = read_source(entry["source"], [args.packages] if args.packages else sys.path)
    args.out.mkdir(parents=True, exist_ok=True)
    written = [args.out / name for name in ("base_f16.npy", "queries_f16.npy")]
    for path, rows in zip(written, split(vectors, entry["queries"]), strict=True):
        np.save(path, rows)
    return written


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Build a set of word vectors from its package.")
    parser.add_argument("set", choices=sorted(MANIFEST))
    parser.add_argument("out", type=Path, help="folder to write to (made if missing)")
    parser.add_argument("--packages", metavar="DIR", help="where pip install --target put the package")
    sys.exit(run(parser, build))
