"""Options of a verb in groups: a function takes a record of them, and the command line has an option per field."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, get_type_hints


def expand(function: Callable[..., None]) -> Callable[..., None]:
    """Return a function with a parameter for each field of the parameters of `function` that are named tuples."""
    hints = get_type_hints(function, include_extras=True)
    groups = {name: kind for name, kind in hints.items() if isinstance(kind, type) and hasattr(kind, "_fields")}
    parameters = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name in groups:
            fields = get_type_hints(groups[name], include_extras=True)
            defaults = groups[name]._field_defaults  # type: ignore[attr-defined]
            parameters += [_parameter(field, kind, defaults[field]) for field, kind in fields.items()]
        else:
            parameters.append(_parameter(name, hints[name], parameter.default))

    @wraps(function)
    def verb(**values: Any) -> None:
        records = {name: kind(*(values.pop(field) for field in kind._fields)) for name, kind in groups.items()}  # type: ignore[attr-defined]
        function(**values, **records)

    verb.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    verb.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return verb


def _parameter(name: str, kind: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
