"""Ports under test: a Python module, any object with functions named after stages, or a command."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import shlex
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqvec import _safetensors
from tqvec.errors import InputError
from tqvec.oracle.families.registry import FAMILIES
from tqvec.oracle.instance import Arrays, Instance
from tqvec.oracle.profiles import PROFILES

STAGES = tuple(dict.fromkeys(name for family in FAMILIES.values() for name in family))
DTYPES = ("float32", "float16")


@dataclass(frozen=True)
class View:
    """The first argument of a port's functions.

    Attributes
    ----------
    profile : str
    d, nbits : int
    tables : dict
        The profile's tables by name, after the port's own `asarray` if it has one.
    """

    profile: str
    d: int
    nbits: int
    tables: dict[str, Any]


@dataclass(frozen=True)
class Port:
    """A port: the functions under test.

    Attributes
    ----------
    name : str
    stages : dict
        ``function(view, *inputs)`` by stage.
    profiles : tuple of str
        Names of the profiles or families that it implements.
    dims : tuple of int
        Dimensions that it takes; empty: all.
    dtype : str
        Type in which it computes: "float32" or "float16".
    asarray : callable
        Applied to every input array.
    """

    name: str
    stages: dict[str, Callable[..., Any]]
    profiles: tuple[str, ...] = ()
    dims: tuple[int, ...] = ()
    dtype: str = "float32"
    asarray: Callable[[NDArray], Any] = np.asarray

    def __call__(self, codec: Instance, stage: str, inputs: Sequence[NDArray]) -> Arrays:
        """Compute a stage and return its outputs as NumPy arrays.

        Raises
        ------
        PortError
            The port raises an error or exits, or what it gives is no array.
        """
        function = self.stages[stage]
        try:
            outputs = function(view_of(codec, self.asarray), *(self.asarray(array.copy()) for array in inputs))
        except (Exception, SystemExit) as error:  # a port may fail in any way
            raise PortError(f"raised {describe(error)}{locate(error, function)}") from error
        outputs = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
        try:
            return tuple(to_numpy(array) for array in outputs)
        except Exception as error:  # so may the arrays of any library
            kinds = ", ".join(type(output).__name__ for output in outputs)
            told = f"gives what can't be read as arrays ({kinds}): {describe(error)}"
            raise PortError(f"{told}{locate(None, function)}") from error


class PortError(Exception):
    """A port failed to compute a stage; the message says how and where."""


def describe(error: BaseException) -> str:
    """Return the kind of an error and its message."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def locate(error: BaseException | None, function: Callable[..., Any]) -> str:
    """Return the place in the port where an error arose, or where the function begins; empty for a command."""
    while isinstance(function, partial):
        function = function.func
    code = getattr(inspect.unwrap(function), "__code__", None)
    file, home = getattr(code, "co_filename", ""), str(Path(__file__).parents[1])
    if file.startswith(home):
        return ""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__ if error else None)
        if frame.filename[: len(home)] != home
    ]
    own = [frame for frame in frames if frame.filename == file] or frames
    if own:
        return f" ({own[-1].filename}, line {own[-1].lineno}, in {own[-1].name})"
    return f" ({file}, line {code.co_firstlineno}, in {code.co_name})" if code else ""


@lru_cache(maxsize=8)
def view_of(codec: Instance, asarray: Callable[[NDArray], Any]) -> View:
    """Return the view of a codec, its tables copied and converted."""
    tables = {name: asarray(table.copy()) for name, table in codec.tables.items()}
    return View(codec.profile.name, codec.d, codec.profile.nbits, tables)


def to_numpy(array: Any) -> NDArray:
    """Return the NumPy array of anything that has DLPack or can be copied to the host (torch, cupy, jax).

    Raises
    ------
    TypeError
        It is no array of numbers, or some of its values are masked.
    """
    if np.ma.is_masked(array):
        raise TypeError("some values are masked")
    if hasattr(array, "detach"):  # torch: DLPack refuses tensors with gradients or on a device, and NumPy bfloat16
        array = array.detach().cpu()
        array = array.float() if array.is_floating_point() and array.element_size() < 4 else array
    elif hasattr(array, "get"):  # cupy
        array = array.get()
    try:
        found = np.from_dlpack(array) if not isinstance(array, np.ndarray) else np.asarray(array)
    except (AttributeError, TypeError, BufferError, RuntimeError):
        found = np.asarray(array)
    if found.dtype.kind == "V" and found.dtype.names is None:  # bfloat16 and its like, of other packages
        found = found.astype(np.float32)
    if found.dtype.kind not in "biuf":
        raise TypeError(f"the dtype is {found.dtype}")
    return found


def _listed(thing: Any, name: str, attribute: str, kind: type) -> tuple[Any, ...]:
    """Return the names or numbers that a port lists; a single one counts as a list of one."""
    found = getattr(thing, attribute, ())
    listed = (found,) if isinstance(found, kind) else tuple(found) if isinstance(found, Iterable) else (None,)
    if not all(isinstance(each, kind) for each in listed):
        raise InputError(f"{attribute} of port {name} must be a tuple of {kind.__name__}, got {found!r}")
    return listed


def from_object(thing: Any, name: str) -> Port:
    """Make a port of a module, class or namespace: functions named after stages, and PROFILES, DIMS, DTYPE, asarray.

    Raises
    ------
    InputError
        It has none of the stages, or its DTYPE, PROFILES or DIMS is none.
    """
    stages = {stage: getattr(thing, stage) for stage in STAGES if callable(getattr(thing, stage, None))}
    if not stages:
        raise InputError(f"port {name} has no function named after a stage; these are: {', '.join(STAGES)}")
    dtype = getattr(thing, "DTYPE", "float32")
    if dtype not in DTYPES:
        raise InputError(f"DTYPE of port {name} must be one of {', '.join(DTYPES)}, got {dtype!r}")
    return Port(
        name=name,
        stages=stages,
        profiles=_listed(thing, name, "PROFILES", str),
        dims=_listed(thing, name, "DIMS", int),
        dtype=dtype,
        asarray=getattr(thing, "asarray", np.asarray),
    )


def from_oracle(codec: Instance, dtype: str = "float32") -> Port:
    """Make a port of the oracle itself, which computes in `dtype`; with a mistake in it, it is a negative control."""

    def call(stage: str, _: View, *inputs: NDArray) -> Arrays:
        with np.errstate(all="ignore"):
            outputs = zip(codec.stages[stage].outputs, codec.outputs(stage, np.dtype(dtype), *inputs), strict=True)
            return tuple(array.astype(codec.type_of(name)) for name, array in outputs)

    return Port(
        name="oracle",
        stages={stage: partial(call, stage) for stage in codec.stages},
        profiles=(codec.profile.name,),
        dims=(),
        dtype=dtype,
    )


def from_file(path: Path) -> Port:
    """Make a port of a Python file.

    Raises
    ------
    InputError
        There is no such file; it is no Python, raises an error or exits; or it has no function named after a stage.
    """
    if not path.exists():
        raise InputError(f"no such port: {path}")
    spec = importlib.util.spec_from_file_location(f"port_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # decorators such as Triton's look for the source there
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise InputError(f"port {path} is no Python: {error.msg} ({error.filename}, line {error.lineno})") from error
    except (Exception, SystemExit) as error:  # a port may fail in any way
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f", line {lines[-1]}," if lines else ""
        raise InputError(f"port {path}{where} raised {describe(error)} while it was loaded") from error
    return from_object(module, path.name)


def _run(command: Sequence[str], *arguments: str) -> str:
    process = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    if process.returncode != 0:
        raise RuntimeError(f"exit status {process.returncode}: {process.stderr.strip()[-500:]}")
    return process.stdout


def _run_stage(command: Sequence[str], name: str, view: View, *inputs: NDArray) -> Arrays:
    """Run a stage as ``COMMAND STAGE IN OUT``; "Oracle" page has the protocol."""
    stage = FAMILIES[PROFILES[view.profile].family][name]
    tensors = dict(zip(stage.inputs, inputs, strict=True))
    tensors |= {f"table.{name}": table for name, table in view.tables.items()}
    about = {"stage": name, "profile": view.profile, "d": str(view.d), "nbits": str(view.nbits)}
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.safetensors"), Path(folder, "out.safetensors")
        source.write_bytes(_safetensors.dump(tensors, about))
        _run(command, name, str(source), str(target))
        outputs, _ = _safetensors.load(target.read_bytes())
    return tuple(outputs[output] for output in stage.outputs)


def from_command(text: str) -> Port:
    """Make a port of a command that speaks the protocol of "Oracle" page.

    Raises
    ------
    InputError
        It can't be run, or doesn't describe itself.
    """
    command = shlex.split(text)
    try:
        about = json.loads(_run(command, "describe"))
        stages: dict[str, Callable[..., Any]] = {name: partial(_run_stage, command, name) for name in about["stages"]}
        profiles, dims = tuple(about.get("profiles", ())), tuple(about.get("dims", ()))
        return Port(name=text, stages=stages, profiles=profiles, dims=dims, dtype=about.get("dtype", "float32"))
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"'{text} describe' must print a JSON object with stages: {error}") from error


def load(port: object) -> Port:
    """Make a port of a Python file, a command, a module or an object; a `Port` stays as it is.

    Raises
    ------
    InputError
        There is no such file, the command doesn't describe itself, or there is no function named after a stage.
    """
    if isinstance(port, Port):
        return port
    if not isinstance(port, (str, os.PathLike)):
        return from_object(port, getattr(port, "__name__", type(port).__name__))
    if os.fspath(port).endswith(".py"):
        return from_file(Path(port))
    return from_command(port if isinstance(port, str) else shlex.quote(os.fspath(port)))
