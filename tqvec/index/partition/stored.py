"""Stored lists: a partition and its lists as the tensors of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec._types import Ids
from tqvec.codec.turboquant import TurboQuant
from tqvec.errors import FormatError
from tqvec.index.partition.partition import Partition
from tqvec.index.partition.probing import TARGETS, Probing
from tqvec.index.partition.router import Router

_INFINITE = np.finfo(np.float32).max  # stands for infinity in thresholds: files hold finite numbers alone
_OF_ROWS = {"codes": "centroid_codes", "scale": "centroid_scales", "squared_norm": "centroid_norms"}


class StoredLists(NamedTuple):
    """Lists of rows that are sorted by list.

    Attributes
    ----------
    partition : Partition
    starts : (nlist + 1,) int64
        First row of each list, and the end.
    """

    partition: Partition
    starts: Ids

    def arrays(self) -> dict[str, NDArray]:
        """Return the tensors by name."""
        router, probing = self.partition.router, self.partition.probing
        return {_OF_ROWS[name]: array for name, array in router.rows.items()} | {
            "list_starts": self.starts,
            "router_centre": router.centre,
            "probe_thresholds": np.clip(probing.thresholds, -_INFINITE, _INFINITE),
            "probe_ranked": probing.ranked.astype(np.int64),
        }


def stored_lists(
    codec: TurboQuant, metric: str, arrays: Mapping[str, NDArray], ks: Sequence[int], weight: float
) -> StoredLists:
    """Return the lists of tensors; the last two arguments are fields of `Probing`."""
    rows = {name: arrays[stored] for name, stored in _OF_ROWS.items() if stored in arrays}
    thresholds = arrays["probe_thresholds"]
    probing = Probing(
        weight=weight,
        ks=np.array(ks, np.int32),
        targets=np.array(TARGETS, np.float32),
        thresholds=np.where(np.abs(thresholds) == _INFINITE, np.copysign(np.float32(np.inf), thresholds), thresholds),
        ranked=arrays["probe_ranked"].astype(np.int32),
        nlist=len(rows["scale"]),
    )
    return StoredLists(Partition(codec, Router(rows, arrays["router_centre"], metric), probing), arrays["list_starts"])


def check_lists(path: Path, arrays: Mapping[str, NDArray], ntotal: int) -> None:
    """Raise FormatError for tensors that no writer makes."""
    if not arrays:
        return
    starts = arrays["list_starts"]
    if starts[0] != 0 or starts[-1] != ntotal or (np.diff(starts) < 0).any():
        raise FormatError(f"{path}: damaged: list_starts doesn't divide {ntotal} rows")
    ranked = arrays["probe_ranked"]
    if ranked.min() < 1 or ranked.max() >= starts.size:
        raise FormatError(f"{path}: damaged: probe_ranked is not within 1 and {starts.size - 1}")
    finite = ("centroid_scales", "centroid_norms", "router_centre")
    if not all(np.isfinite(arrays[name]).all() for name in finite if name in arrays):
        raise FormatError(f"{path}: damaged: a centroid is not finite")
