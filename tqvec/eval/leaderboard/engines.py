"""Engines: what is compared, at which width, and in which configuration."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from tqvec.errors import InputError

LIBRARIES = ("tqvec", "faiss", "turbovec", "rabitqlib", "hnswlib", "usearch", "exact")
_RECALLS = (0.9, 0.95, 0.99)  # that lists of tqvec aim at
_NPROBES = (16, 64, 256)
_EFS = (32, 64, 128, 256)
_SMALLEST = 64  # dimension that rabitqlib's rotation takes
_DEGREE = 32  # of SymphonyQG's graph, as its authors measure it


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
    search : dict
        What a search is called with: how much of the index it reads.
    """

    name: str
    library: str
    nbits: float
    settings: dict[str, Any]
    sublinear: bool = False
    search: dict[str, Any] = {}  # noqa: RUF012 - never changed

    @property
    def build(self) -> str:
        """Library and settings as JSON. Engines that differ in their searches alone are built once."""
        return json.dumps([self.library, self.settings])


def is_installed(library: str) -> bool:
    """Return whether a library can be measured here."""
    return library in ("tqvec", "exact") or importlib.util.find_spec(library) is not None


def engines(d: int, n: int, widths: Iterable[int], libraries: Iterable[str] = LIBRARIES) -> list[Engine]:
    """Return the engines of some libraries that fit the data, and can be measured here.

    Parameters
    ----------
    d, n : int
        Dimension and number of vectors.
    widths : iterable of int
        Bits per coordinate, 1 to 4. Engines that keep whole vectors come with any width.
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
    made = _whole(d, n)
    for nbits in widths:
        if nbits not in (1, 2, 3, 4):
            raise InputError(f"widths must be 1 to 4 bits, got {nbits}")
        made += _ours(nbits) + _faiss(nbits, d, n) + _turbovec(nbits, d) + _rabitqlib(nbits, d, n) + _usearch(nbits)
    return [engine for engine in made if engine.library in chosen and is_installed(engine.library)]


def _sweep(engine: Engine, option: str, values: Iterable[float]) -> list[Engine]:
    """Return an engine once for each value of an option of its searches."""
    return [
        engine._replace(name=f"{engine.name}, {option}={value}", sublinear=True, search={option: value})
        for value in values
    ]


def _nlist(n: int) -> int:
    return max(1, min(int(4 * n**0.5), n // 40))


def _bits(nbits: int) -> str:
    return f"{nbits} bit{'s' * (nbits > 1)}"


def _whole(d: int, n: int) -> list[Engine]:
    """Engines that keep whole vectors."""
    hnsw = Engine("hnswlib HNSW, float32", "hnswlib", 32, {"M": 16, "ef_construction": 200})
    made = [Engine("exact, float32", "exact", 32, {}), *_sweep(hnsw, "ef", _EFS)]
    if d >= _SMALLEST and n > _DEGREE:
        graph = Engine("rabitqlib SymphonyQG, float32", "rabitqlib", 32, {"index": "symqg", "nbits": 0})
        made += _sweep(graph, "ef", _EFS)
    return made


def _ours(nbits: int) -> list[Engine]:
    made = []
    for codebook in ("scalar", "trellis"):
        for train in (False, True):
            settings: dict[str, Any] = {"nbits": nbits, "codebook": codebook, "train": train, "lists": False}
            made.append(Engine(f"tqvec {_bits(nbits)}, {codebook}{', trained' * train}", "tqvec", nbits, settings))
    lists = made[-1]._replace(name=f"{made[-1].name}, lists", settings=made[-1].settings | {"lists": True})
    return made + _sweep(lists, "recall", _RECALLS)


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
    code = f"RaBitQfs{nbits if nbits > 1 else ''}"
    lists = Engine(f"FAISS RR,IVF,{code}", "faiss", nbits, {"factory": f"RR,IVF{_nlist(n)},{code}"})
    return made + _sweep(lists, "nprobe", _NPROBES)


def _turbovec(nbits: int, d: int) -> list[Engine]:
    if nbits not in (2, 3, 4) or d % 8:
        return []
    return [
        Engine(f"turbovec {nbits} bits{', calibrated' * each}", "turbovec", nbits, {"nbits": nbits, "calibrate": each})
        for each in (False, True)
    ]


def _rabitqlib(nbits: int, d: int, n: int) -> list[Engine]:
    """IVF, HNSW and SymphonyQG, with what the authors' benchmarks build graphs with; HNSW of 5 bits is theirs too."""
    if d < _SMALLEST:
        return []
    settings = {"index": "ivf", "nbits": nbits, "nlist": _nlist(n)}
    ivf = Engine(f"rabitqlib IVF, {_bits(nbits)}", "rabitqlib", nbits, settings)
    made = _sweep(ivf, "nprobe", _NPROBES)
    for width in (nbits, 5) if nbits == 4 else (nbits,):
        hnsw = Engine(f"rabitqlib HNSW, {_bits(width)}", "rabitqlib", width, {"index": "hnsw", "nbits": width})
        made += _sweep(hnsw, "ef", _EFS)
    if nbits == 4 and n > _DEGREE:
        graph = Engine("rabitqlib SymphonyQG, 4 bits", "rabitqlib", 4, {"index": "symqg", "nbits": 4})
        made += _sweep(graph, "ef", _EFS)
    return made


def _usearch(nbits: int) -> list[Engine]:
    if nbits == 1:
        return _sweep(Engine("usearch HNSW, b1 by sign", "usearch", 1, {"dtype": "b1"}), "ef", _EFS)
    return _sweep(Engine("usearch HNSW, int8", "usearch", 8, {"dtype": "i8"}), "ef", _EFS) if nbits == 4 else []
