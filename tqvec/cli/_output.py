"""The files that the verbs write, and the option that all these verbs have."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import typer

from tqvec._output import Kind, Output
from tqvec.errors import InputError

Verb = TypeVar("Verb", bound=Callable[..., None])

REMEDY = "--force"
_OPTION = Annotated[bool, typer.Option(REMEDY, help="Replace a file that tqvec has not written")]
_force: ContextVar[bool] = ContextVar("force", default=False)


def with_force(verb: Verb) -> Verb:
    """Give a verb that writes files the option ``--force``, which `plan_output` knows of."""

    @wraps(verb)
    def command(*arguments: Any, force: bool = False, **options: Any) -> None:
        before = _force.set(force)
        try:
            verb(*arguments, **options)
        finally:
            _force.reset(before)

    own = inspect.signature(verb, eval_str=True)
    option = inspect.Parameter("force", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_OPTION)
    parameters = [*own.parameters.values(), option]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    cast(Any, command).__signature__ = own.replace(parameters=parameters)
    return cast(Verb, command)


def force() -> bool:
    """Return whether the verb that runs has ``--force``."""
    return _force.get()


def check_name(path: Path) -> None:
    """Raise InputError for the name that stands for standard output elsewhere."""
    if str(path) == "-":
        raise InputError("-: standard output has the messages, not the results; name a file, or a FIFO to pass them on")


def plan_output(path: Path, kind: Kind, inputs: Iterable[Path]) -> Output:
    """Return the output of a verb, checked before any work; `inputs` are all other files of the verb."""
    check_name(path)
    return Output(path, kind, overwrite=force(), inputs=inputs, remedy=REMEDY)
