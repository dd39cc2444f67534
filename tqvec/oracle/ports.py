"""Ports under test: a Python module, any object with functions named after stages, or a command."""

from __future__ import annotations

import importlib.util
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqvec import _safetensors
from tqvec.errors import InputError
from tqvec.oracle.setup import Setup
from tqvec.oracle.stages import FAMILIES

STAGES = tuple(dict.fromkeys(name for family in FAMILIES.values() for name in family))
DTYPES = ("float32", "float16")
Arrays = tuple[NDArray, ...]


@dataclass(frozen=True)
class View:
    """What a port's function gets as its first argument.

    Attributes
    ----------
    profile : str
    d, nbits : int
    tables : dict
        The profile's tables, by the port's own `asarray` if it has one.
    """

    profile: str
    d: int
    nbits: int
    tables: dict[str, Any]


@dataclass(frozen=True)
class Port:
    """A port.

    Attributes
    ----------
    name : str
    stages : dict
        ``function(view, *inputs)`` by stage.
    profiles : tuple of str
        What it says it implements; names as in `profiles.find`.
    dims : tuple of int
        Dimensions it takes; empty: all.
    dtype : str
        In which it computes.
    asarray : callable
        Applied to every array that it is given.
    """

    name: str
    stages: dict[str, Callable[..., Any]]
    profiles: tuple[str, ...] = ()
    dims: tuple[int, ...] = ()
    dtype: str = "float32"
    asarray: Callable[[NDArray], Any] = np.asarray

    def __call__(self, setup: Setup, stage: str, inputs: Sequence[NDArray]) -> Arrays:
        """Outputs of a stage, as NumPy arrays."""
        found = self.stages[stage](_view(self.asarray, setup), *(self.asarray(each.copy()) for each in inputs))
        return tuple(to_numpy(part) for part in (found if isinstance(found, (tuple, list)) else (found,)))


@lru_cache(maxsize=8)
def _view(asarray: Callable[[NDArray], Any], setup: Setup) -> View:
    tables = {name: asarray(table.copy()) for name, table in setup.tables.items()}
    return View(setup.profile.name, setup.d, setup.profile.nbits, tables)


def to_numpy(array: Any) -> NDArray:
    """NumPy array of anything that has DLPack or can be copied to the host (torch, cupy, jax)."""
    if isinstance(array, np.ndarray):
        return array
    if hasattr(array, "detach"):  # torch: DLPack refuses tensors with gradients or on a device
        array = array.detach().cpu()
    elif hasattr(array, "get"):  # cupy
        array = array.get()
    try:
        return np.from_dlpack(array)
    except (AttributeError, TypeError, BufferError, RuntimeError):
        return np.asarray(array)


def from_object(thing: Any, name: str) -> Port:
    """Port made of a module, class or namespace: functions named after stages, and PROFILES, DIMS, DTYPE, asarray.

    Raises
    ------
    InputError
        It has none of the stages, or one of the names holds nonsense.
    """
    found = {stage: getattr(thing, stage) for stage in STAGES if callable(getattr(thing, stage, None))}
    if not found:
        raise InputError(f"port {name} has no function named after a stage; these are: {', '.join(STAGES)}")
    dtype = getattr(thing, "DTYPE", "float32")
    if dtype not in DTYPES:
        raise InputError(f"DTYPE of port {name} must be one of {', '.join(DTYPES)}, got {dtype!r}")
    profiles, dims = tuple(getattr(thing, "PROFILES", ())), tuple(getattr(thing, "DIMS", ()))
    return Port(name, found, profiles, dims, dtype, getattr(thing, "asarray", np.asarray))


def of_setup(setup: Setup, dtype: str = "float32", name: str = "oracle") -> Port:
    """The oracle as a port that computes in `dtype`; of a setup with a mistake, a negative control."""

    def call(stage: str, _: View, *inputs: NDArray) -> Arrays:
        with np.errstate(all="ignore"):
            found = setup.outputs(stage, np.dtype(dtype), *inputs)
            named = zip(setup.stages[stage].outputs, found, strict=True)
            return tuple(part.astype(setup.type_of(each)) for each, part in named)

    return Port(name, {stage: partial(call, stage) for stage in setup.stages}, (setup.profile.name,), (), dtype)


def from_file(path: Path) -> Port:
    """Port made of a Python file."""
    if not path.exists():
        raise InputError(f"no such port: {path}")
    spec = importlib.util.spec_from_file_location(f"port_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # decorators such as Triton's look for the source there
    spec.loader.exec_module(module)
    return from_object(module, path.name)


def _run(command: Sequence[str], *arguments: str) -> str:
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"exit status {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout


def _ask(command: Sequence[str], stage: str, view: View, *inputs: NDArray) -> Arrays:
    """Run a stage as ``COMMAND STAGE IN OUT``; docs/oracle.md has the protocol."""
    family = FAMILIES[_family(view.profile)][stage]
    tensors = dict(zip(family.inputs, inputs, strict=True))
    tensors |= {f"table.{name}": table for name, table in view.tables.items()}
    about = {"stage": stage, "profile": view.profile, "d": str(view.d), "nbits": str(view.nbits)}
    with tempfile.TemporaryDirectory() as folder:
        given, wanted = Path(folder, "in.safetensors"), Path(folder, "out.safetensors")
        given.write_bytes(_safetensors.dump(tensors, about))
        _run(command, stage, str(given), str(wanted))
        found, _ = _safetensors.load(wanted.read_bytes())
    return tuple(found[name] for name in family.outputs)


def _family(profile: str) -> str:
    from tqvec.oracle.profiles import PROFILES

    return PROFILES[profile].family


def from_command(text: str) -> Port:
    """Port made of a command that speaks the protocol of docs/oracle.md.

    Raises
    ------
    InputError
        It can't be run, or doesn't describe itself.
    """
    command = shlex.split(text)
    try:
        about = json.loads(_run(command, "describe"))
        stages: dict[str, Callable[..., Any]] = {stage: partial(_ask, command, stage) for stage in about["stages"]}
        return Port(
            text, stages, tuple(about.get("profiles", ())), tuple(about.get("dims", ())), about.get("dtype", "float32")
        )
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"'{text} describe' must print a JSON object with stages: {error}") from error


def load(what: str) -> Port:
    """Port from a Python file or a command."""
    return from_file(Path(what)) if what.endswith(".py") else from_command(what)
