"""Golden vectors: what the oracle feeds to each stage and what it expects back, as files for any language."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqvec import _safetensors
from tqvec.oracle import inputs
from tqvec.oracle.profiles import Profile
from tqvec.oracle.setup import Setup, setup

MANIFEST = "manifest.json"
Tensors = dict[str, NDArray]


def collect(s: Setup) -> tuple[Tensors, dict[str, Any]]:
    """All tables, and all inputs and outputs of all cases, each distinct array once.

    Returns
    -------
    tensors : dict of arrays
        ``table.NAME``, and ``NAME.k`` for the k-th distinct array that is a value NAME.
    about : dict
        The profile, and a list of cases: stage, names of the rows, tensors that go in and that must come out.
    """
    tensors: Tensors = {f"table.{name}": np.ascontiguousarray(table) for name, table in s.tables.items()}
    seen: dict[tuple[str, bytes], str] = {}
    counts: dict[str, int] = {}

    def place(name: str, value: NDArray) -> str:
        key = (f"{name} {value.shape}", value.tobytes())
        if key not in seen:
            seen[key] = f"{name}.{counts.setdefault(name, 0)}"
            counts[name] += 1
            tensors[seen[key]] = value
        return seen[key]

    cases = []
    for name, stage in s.stages.items():
        for case in inputs.cases(s, name):
            given = [place(*each) for each in zip(stage.inputs, case.inputs, strict=True)]
            outputs = s.outputs(name, None, *case.inputs)
            wanted = [place(*each) for each in zip(stage.outputs, outputs, strict=True)]
            cases.append({"stage": name, "rows": case.rows, "inputs": given, "outputs": wanted})
    return tensors, {"profile": s.profile.as_dict(), "d": s.d, "cases": cases}


def file_name(profile: Profile, d: int) -> str:
    """Of the vectors of a profile, without an ending."""
    return f"{profile.name.replace('@', '-')}-d{d}"


def content(profile: Profile, d: int) -> bytes:
    """The safetensors file; its metadata ``oracle`` is the JSON of what `collect` says about the tensors."""
    tensors, about = collect(setup(profile, d))
    return _safetensors.dump(tensors, {"oracle": json.dumps(about, sort_keys=True)})


def _raw(profile: Profile, d: int) -> dict[str, bytes]:
    """Each tensor as bytes of its own, and JSON that tells types, shapes and cases."""
    tensors, about = collect(setup(profile, d))
    about["tensors"] = {
        name: {"dtype": value.dtype.newbyteorder("<").str, "shape": value.shape} for name, value in tensors.items()
    }
    stem = file_name(profile, d)
    found = {f"{stem}/{name}.bin": value.tobytes() for name, value in tensors.items()}
    return {**found, f"{stem}/vectors.json": json.dumps(about, indent=1).encode()}


def export(profiles: Sequence[Profile], dims: Sequence[int], folder: Path, raw: bool = False) -> dict[str, str]:
    """Write golden vectors and their manifest.

    Parameters
    ----------
    profiles, dims
        Dimensions that a profile isn't defined for are left out.
    folder : Path
        Made if it is not there.
    raw : bool
        Also write each tensor as a file of its own, little-endian, with a JSON file that tells what they are.

    Returns
    -------
    dict
        SHA-256 of each file, as in the manifest.
    """
    manifest = {}
    for profile in profiles:
        for d in dims:
            if not profile.takes(d):
                continue
            written = {f"{file_name(profile, d)}.safetensors": content(profile, d)}
            if raw:
                written |= _raw(profile, d)
            for name, blob in written.items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(blob)
                manifest[name] = hashlib.sha256(blob).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    return manifest
