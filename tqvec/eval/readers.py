"""Vector files: .npy, the TEXMEX formats .fvecs, .bvecs and .ivecs, and ann-benchmarks' HDF5."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqvec._mmap import release_pages
from tqvec.errors import FormatError, InputError, UnsupportedError

_TEXMEX: dict[str, np.dtype[Any]] = {".fvecs": np.dtype("<f4"), ".ivecs": np.dtype("<i4"), ".bvecs": np.dtype("u1")}
_CHECKED = 1 << 24  # bytes of rows at a time
HDF5 = (".hdf5", ".h5")
_NAMED = re.compile(r"\.(?:hdf5|h5|parquet):(?=.)", re.DOTALL | re.IGNORECASE)


def read_vectors(path: str | os.PathLike[str], dataset: str = "train", *, one_row: bool = False) -> NDArray[Any]:
    """Read a file of vectors, mapped into memory where the format allows.

    Parameters
    ----------
    path : path
        ``.npy`` (2-D), ``.fvecs``, ``.ivecs``, ``.bvecs``, ``.hdf5`` or ``.h5``. An HDF5 file may have a dataset's name
        after it, ``file.hdf5:test``; ann-benchmarks has ``train``, ``test``, ``neighbors`` and ``distances``.
    dataset : str
        The dataset of an HDF5 file that comes without a name.
    one_row : bool
        Whether a ``.npy`` of shape (d,) is taken for one vector.

    Returns
    -------
    (n, d) array
        The file's own dtype. A read-only view of the mapped file; for HDF5 a copy.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    InputError
        Unknown extension, or no such dataset.
    FormatError
        The file is damaged, or of another kind than its extension says.
    UnsupportedError
        HDF5 without h5py.
    """
    path, name = split_name(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return _read_npy(path, one_row)
    if suffix in _TEXMEX:
        return _read_texmex(path, _TEXMEX[suffix])
    if suffix in HDF5:
        with open_hdf5(path, name or dataset) as rows:
            return np.asarray(rows)
    known = ", ".join([".npy", *_TEXMEX, *HDF5])
    raise InputError(f"{path}: unknown extension {path.suffix!r}; expected one of {known}")


def split_name(path: str | os.PathLike[str]) -> tuple[Path, str | None]:
    """Return a file and the name of a dataset or column in it, as ``file.hdf5:test`` has both; None without a name.

    Folders and names may have a colon too: of several ways to read the text, that of a file that exists is taken.
    """
    text = os.fspath(path)
    ends = [match.end() for match in _NAMED.finditer(text)]
    if not ends or Path(text).is_file():
        return Path(text), None
    end = next((end for end in reversed(ends) if Path(text[: end - 1]).is_file()), ends[-1])
    return Path(text[: end - 1]), text[end:]


def float_rows(rows: NDArray[Any]) -> NDArray[Any]:
    """Return byte vectors (.bvecs) as float32, and all others as they are."""
    return rows.astype(np.float32) if rows.dtype == np.uint8 else rows


def _read_npy(path: Path, one_row: bool) -> NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise FormatError(f"{path}: not a .npy file, or damaged ({error})") from error
    if one_row and isinstance(array, np.ndarray) and array.ndim == 1:
        return array[None]
    if not isinstance(array, np.ndarray) or array.ndim != 2:
        raise FormatError(f"{path}: expected one 2-D array of shape (n, d)")
    return array


def _read_texmex(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Map a file whose rows are their length as int32, then their numbers; all must have one length."""
    size = path.stat().st_size
    if size == 0:
        return np.empty((0, 0), dtype)
    raw: NDArray[np.uint8] = np.memmap(path, np.uint8, mode="r")
    d = int(raw[:4].view("<i4")[0]) if size >= 4 else 0
    row = 4 + d * dtype.itemsize
    if d <= 0 or size % row:
        raise FormatError(f"{path}: damaged: {size} bytes are no whole number of rows of dimension {d}")
    rows = raw.reshape(-1, row)
    step = max(1, _CHECKED // row)
    for first in range(0, rows.shape[0], step):
        lengths = np.ascontiguousarray(rows[first : first + step, :4]).view("<i4")[:, 0]
        bad = np.flatnonzero(lengths != d)
        if bad.size:
            raise FormatError(f"{path}: row {first + bad[0]} has dimension {lengths[bad[0]]}, the first row {d}")
        release_pages(raw)
    return np.ndarray((rows.shape[0], d), dtype, buffer=raw, offset=4, strides=(row, dtype.itemsize))


@contextmanager
def open_hdf5(path: Path, name: str) -> Iterator[Any]:
    """Open a 2-D dataset of an HDF5 file, whose slices are arrays; the errors are those of `read_vectors`."""
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise UnsupportedError("reading HDF5 needs h5py: pip install 'tqvec[hdf5]'") from error
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise FormatError(f"{path}: not an HDF5 file, or damaged ({error})") from error
    with file:
        if name not in file:
            raise InputError(f"{path}: no dataset {name!r}; it has {', '.join(file)}")
        if len(getattr(file[name], "shape", ())) != 2:
            raise FormatError(f"{path}: {name} is no 2-D array of shape (n, d)")
        yield file[name]
