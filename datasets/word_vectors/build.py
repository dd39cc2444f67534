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
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SEED = 20260101
MANIFEST = json.loads((Path(__file__).resolve().parent / "manifest.json").read_text(encoding="utf-8"))


class BuildError(RuntimeError):
    """A package is missing or not the one of the manifest."""


def read_source(source: dict[str, Any], folders: Sequence[str]) -> NDArray[Any]:
    """Read the array of a package, and check that it is the one of the manifest.

    Parameters
    ----------
    source : dict
        Entry of the manifest.
    folders : sequence of str
        Where packages may be installed.

    Returns
    -------
    (n, d) float32
        The vectors as they are.
    """
    wanted = f"{source['package']}=={source['version']}"
    path = next(
        (Path(folder) / source["path"] for folder in folders if (Path(folder) / source["path"]).is_file()), None
    )
    if path is None:
        raise BuildError(f"{source['path']} is not installed: pip install --no-deps {wanted}")
    if hashlib.sha256(path.read_bytes()).hexdigest() != source["sha256"]:
        raise BuildError(f"{path} is not the file of {wanted}")
    vectors: NDArray[Any] = np.load(path)
    return vectors


def split(vectors: NDArray[Any], n_queries: int) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """Make base and queries.

    Parameters
    ----------
    vectors : (n, d) float
        None of them zero.
    n_queries : int
        Rows to hold out.

    Returns
    -------
    base, queries : (n - n_queries, d) and (n_queries, d) float16
        Of length one, up to rounding.
    """
    exact = vectors.astype(np.float64)
    unit = (exact / np.sqrt(np.sum(exact * exact, axis=1, keepdims=True))).astype(np.float16)
    order = np.random.default_rng(SEED).permutation(len(unit))
    return unit[np.sort(order[n_queries:])], unit[np.sort(order[:n_queries])]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name.

    Returns
    -------
    int
        Exit status.
    """
    parser = argparse.ArgumentParser(description="Build a set of word vectors from its package.")
    parser.add_argument("set", choices=sorted(MANIFEST))
    parser.add_argument("out", type=Path, help="folder to write to (made if missing)")
    parser.add_argument("--packages", metavar="DIR", help="where pip install --target put the package")
    args = parser.parse_args(argv)
    entry = MANIFEST[args.set]
    try:
        vectors = read_source(entry["source"], [args.packages] if args.packages else sys.path)
    except BuildError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    args.out.mkdir(parents=True, exist_ok=True)
    for name, rows in zip(("base_f16.npy", "queries_f16.npy"), split(vectors, entry["queries"]), strict=True):
        np.save(args.out / name, rows)
        print(f"{(args.out / name).stat().st_size:>12,}  {args.out / name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
