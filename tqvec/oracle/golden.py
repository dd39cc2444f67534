"""Golden vectors: the inputs of each stage and the outputs that the oracle expects, as files for any language."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqvec import _safetensors
from tqvec._output import Kind, Output, PathLike, as_path
from tqvec.oracle.cases import iter_cases
from tqvec.oracle.families.registry import instantiate
from tqvec.oracle.instance import Instance
from tqvec.oracle.profiles import Profile

MANIFEST = "manifest.json"
_GOLDEN = Kind("golden vectors of tqvec", re.compile(rb'\A.{8}\{"__metadata__":\{"oracle":', re.DOTALL))
_RAW = Kind("a list of raw golden vectors", re.compile(rb'\A\{\s*"profile":'))
_BYTES = Kind("known to be a golden vector", re.compile(rb"(?!)"))  # its bytes don't tell, but the list beside it does
_LIST = Kind("a manifest of golden vectors", re.compile(rb'\A\{(\}|\s*"[^"]+": "[0-9a-f]{64}")'))
Tensors = dict[str, NDArray]


def collect(codec: Instance) -> tuple[Tensors, dict[str, Any]]:
    """Collect all tables, and all inputs and outputs of all cases, every distinct array once.

    Returns
    -------
    tensors : dict of arrays
        ``table.NAME``, and ``NAME.k`` for the k-th distinct array that is a value NAME.
    about : dict
        The profile, and a list of cases: stage, names of the rows, tensors that go in and that must come out.
    """
    tensors: Tensors = {f"table.{name}": np.ascontiguousarray(table) for name, table in codec.tables.items()}
    seen: dict[tuple[str, bytes], str] = {}
    counts: dict[str, int] = {}

    def add(name: str, value: NDArray) -> str:
        key = (f"{name} {value.shape}", value.tobytes())
        if key not in seen:
            seen[key] = f"{name}.{counts.setdefault(name, 0)}"
            counts[name] += 1
            tensors[seen[key]] = value
        return seen[key]

    cases = []
    for name, stage in codec.stages.items():
        for case in iter_cases(codec, name):
            inputs = [add(*each) for each in zip(stage.inputs, case.inputs, strict=True)]
            arrays = codec.outputs(name, None, *case.inputs)
            outputs = [add(*each) for each in zip(stage.outputs, arrays, strict=True)]
            cases.append({"stage": name, "rows": case.rows, "inputs": inputs, "outputs": outputs})
    return tensors, {"profile": codec.profile.as_dict(), "d": codec.d, "cases": cases}


def file_name(profile: Profile, d: int) -> str:
    """Return the name of a profile's file, without an ending."""
    return f"{profile.name.replace('@', '-')}-d{d}"


def encode_file(profile: Profile, d: int) -> bytes:
    """Return the bytes of the safetensors file; its metadata ``oracle`` is `collect`'s dictionary as JSON."""
    tensors, about = collect(instantiate(profile, d))
    return _safetensors.dump(tensors, {"oracle": json.dumps(about, sort_keys=True)})


def _encode_raw_files(profile: Profile, d: int) -> dict[str, bytes]:
    """Return the bytes of a file for each tensor, and of JSON with types, shapes and cases, by file name."""
    tensors, about = collect(instantiate(profile, d))
    about["tensors"] = {
        name: {"dtype": value.dtype.newbyteorder("<").str, "shape": value.shape} for name, value in tensors.items()
    }
    stem = file_name(profile, d)
    raw = {f"{stem}/{name}.bin": value.tobytes() for name, value in tensors.items()}
    return {**raw, f"{stem}/vectors.json": json.dumps(about, indent=1).encode()}


def export(
    profiles: Sequence[Profile],
    dims: Sequence[int],
    folder: PathLike,
    raw: bool = False,
    *,
    overwrite: bool = False,
    remedy: str = "overwrite=True",
) -> dict[str, str]:
    """Write golden vectors and their manifest.

    Parameters
    ----------
    profiles : sequence of Profile
    dims : sequence of int
        Dimensions that a profile is not defined for are left out.
    folder : path
        Created if it does not exist.
    raw : bool
        Also write each tensor as a file of its own, little-endian, with a JSON file of types, shapes and cases.
    overwrite : bool
        Replace files of these names that are no golden vectors.
    remedy : str
        How the user asks for `overwrite`, for messages.

    Returns
    -------
    dict
        SHA-256 of each file, as in the manifest.

    Raises
    ------
    InputError
        There is a file that only `overwrite` replaces.
    OSError
        The folder can't be made or written to.
    """
    folder = as_path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"overwrite": overwrite, "remedy": remedy}
    list_of_all = Output(folder / MANIFEST, _LIST, **options)
    manifest = {}
    for profile in profiles:
        for d in dims:
            if not profile.takes(d):
                continue
            files = {f"{file_name(profile, d)}.safetensors": encode_file(profile, d)}
            if raw:
                files |= _encode_raw_files(profile, d)
            outputs = {name: _output(folder / name, **options) for name in files}
            for name, blob in files.items():
                with outputs[name].open() as file:
                    file.write(blob)
                manifest[name] = hashlib.sha256(blob).hexdigest()
    with list_of_all.open() as file:
        file.write((json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode())
    return manifest


def _output(path: Path, overwrite: bool, remedy: str) -> Output:
    """Return the output of one file, in a folder that is made if need be."""
    if path.suffix == ".safetensors":
        return Output(path, _GOLDEN, overwrite=overwrite, remedy=remedy)
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".json":
        return Output(path, _RAW, overwrite=overwrite, remedy=remedy)
    known = _RAW.describes(path.with_name("vectors.json"))
    return Output(path, _BYTES, overwrite=overwrite or known, remedy=remedy)
