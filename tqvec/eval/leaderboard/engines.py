"""Engines: what is compared, at which width, and in which configuration."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Any, NamedTuple

from tqvec.errors import InputError

LIBRARIES = ("tqvec", "faiss", "turbovec", "rabitqlib", "usearch", "exact")
_PACKAGES = {"faiss": "faiss", "turbovec": "turbovec", "rabitqlib": "rabitqlib", "usearch": "usearch"}


class Engine(NamedTuple):
    """One row of the leaderboard.

    Attributes
    ----------
    name : str
    library : str
        One of `LIBRARIES`.
    nbits : float
        Bits per coordinate, as the configuration is meant; the bytes are measured.
    settings : dict
        What its adapter is made with.
    sublinear : bool
        Whether a search reads a part of the vectors alone.
    """

    name: str
    library: str
    nbits: float
    settings: dict[str, Any]
    sublinear: bool = False


def is_installed(library: str) -> bool:
    """Return whether a library can be measured here."""
    return library not in _PACKAGES or importlib.util.find_spec(_PACKAGES[library]) is not None


def engines(d: int, n: int, widths: Iterable[int], libraries: Iterable[str] = LIBRARIES) -> list[Engine]:
    """Return the engines of some libraries that fit the data, and can be measured here.

    Parameters
    ----------
    d, n : int
        Dimension and number of vectors.
    widths : iterable of int
        Bits per coordinate, 1 to 4.
    libraries : iterable of str

    Raises
    ------
    InputError
        There is no such library, or no comparison at this width.
    """
    chosen = list(libraries)
    for name in chosen:
        if name not in LIBRARIES:
            raise InputError(f"libraries must be some of {', '.join(LIBRARIES)}, got {name!r}")
    found: list[Engine] = [Engine("exact, float32", "exact", 32, {})]
    for nbits in widths:
        if nbits not in (1, 2, 3, 4):
            raise InputError(f"widths must be 1 to 4 bits, got {nbits}")
        found += _ours(nbits) + _faiss(nbits, d, n) + _others(nbits, d, n)
    return [engine for engine in found if engine.library in chosen and is_installed(engine.library)]


def _ours(nbits: int) -> list[Engine]:
    made = []
    for codebook in ("scalar", "trellis"):
        for train in (False, True):
            settings: dict[str, Any] = {"nbits": nbits, "codebook": codebook, "train": train}
            made.append(Engine(f"tqvec {nbits} bits, {codebook}{', trained' * train}", "tqvec", nbits, settings))
    for recall in (0.95, 0.99):
        settings = {"nbits": nbits, "codebook": "trellis", "train": True, "recall": recall}
        name = f"tqvec {nbits} bits, trellis, trained, lists, recall={recall}"
        made.append(Engine(name, "tqvec", nbits, settings, sublinear=True))
    return made


def _faiss(nbits: int, d: int, n: int) -> list[Engine]:
    """The configurations that FAISS's own authors recommend at such bytes, where they divide `d`."""
    flat = {
        1: [(d % 4, f"PQ{d // 4}x4fs"), (d % 8, f"OPQ{d // 8},PQ{d // 8}x8"), (0, "RR,RaBitQfs"), (0, "RR,EDEN1")],
        2: [
            (d % 2, f"PQ{d // 2}x4fs"),
            (d % 4, f"PQ{d // 4}x8"),
            (d % 4, f"OPQ{d // 4},PQ{d // 4}x8"),
            (0, "RR,RaBitQfs2"),
            (0, "RR,EDEN2"),
            (0, "RR,SQtqmse2"),
        ],
        3: [(d % 2, f"PQ{d // 2}x6"), (0, "RR,RaBitQfs3"), (0, "RR,EDEN3"), (0, "RR,SQtqmse3")],
        4: [
            (0, f"PQ{d}x4fs"),
            (d % 2, f"PQ{d // 2}x8"),
            (0, "RR,RaBitQfs4"),
            (0, "RR,EDEN4"),
            (0, "RR,SQtqmse4"),
        ],
    }
    made = [
        Engine(f"FAISS {factory}", "faiss", nbits, {"factory": factory}) for rest, factory in flat[nbits] if rest == 0
    ]
    nlist = max(1, min(int(4 * n**0.5), n // 40))
    for nprobe in (16, 64):
        factory = f"RR,IVF{nlist},RaBitQfs{nbits if nbits > 1 else ''}"
        settings = {"factory": factory, "nprobe": nprobe}
        made.append(Engine(f"FAISS {factory}, nprobe={nprobe}", "faiss", nbits, settings, sublinear=True))
    return made


def _others(nbits: int, d: int, n: int) -> list[Engine]:
    made = []
    if nbits in (2, 4) and d % 8 == 0:
        for calibrate in (False, True):
            name = f"turbovec {nbits} bits{', calibrated' * calibrate}"
            made.append(Engine(name, "turbovec", nbits, {"nbits": nbits, "calibrate": calibrate}))
    nlist = max(1, min(int(4 * n**0.5), n // 40))
    for nprobe in (16, 64) if d >= 64 else ():  # its rotation takes no smaller dimension
        settings = {"nbits": nbits, "nlist": nlist, "nprobe": nprobe}
        name = f"rabitqlib IVF{nlist}, {nbits} bits, nprobe={nprobe}"
        made.append(Engine(name, "rabitqlib", nbits, settings, sublinear=True))
    if nbits == 1:
        made.append(Engine("usearch HNSW, b1 by sign", "usearch", 1, {"dtype": "b1"}, sublinear=True))
    if nbits == 4:
        made.append(Engine("usearch HNSW, int8", "usearch", 8, {"dtype": "i8"}, sublinear=True))
    return made
