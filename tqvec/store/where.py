"""Where: conditions on metadata, compiled to SQL with parameters.

No text of the user's gets into the SQL: fields and values are parameters, or names of columns that the catalog made.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tqvec.errors import InputError

_COMPARISONS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
OPERATORS = ("$eq", "$ne", *_COMPARISONS, "$in", "$nin", "$contains", "$exists")
_RECORD = {"$id": "records.id", "$document": "records.document"}  # what is asked for beside the metadata
_TRUE = "1"
_LARGEST = 2**63
_DEEPEST = 10  # the stack of SQLite's parser has 100 entries, and a level takes some


class Condition(NamedTuple):
    """An SQL expression over the table ``records``, and its parameters."""

    sql: str
    parameters: tuple[Any, ...] = ()

    @property
    def holds_always(self) -> bool:
        """Whether nothing was asked for."""
        return self.sql == _TRUE


EVERYTHING = Condition(_TRUE)


class _Field(NamedTuple):
    """A field of the metadata: its name, its JSON path, and the column of its values, if it is indexed.

    The id and the document have a column and no path.
    """

    name: str
    path: str | None
    column: str | None

    @property
    def scalar(self) -> Condition:
        """The number or text of the field; NULL for a list, an object, or none."""
        if self.column is not None:
            return Condition(self.column)
        return Condition(scalar_sql("?"), (self.path, self.path))

    def compare(self, operator: str, value: Any) -> Condition:
        """Compare the scalar with a parameter."""
        sql, parameters = self.scalar
        return Condition(f"{sql} {operator} ?", (*parameters, value))


def scalar_sql(path: str) -> str:
    """Return the SQL of the number or text at a path."""
    return f"CASE WHEN json_type(metadata, {path}) NOT IN ('array', 'object') THEN json_extract(metadata, {path}) END"


def json_path(name: str) -> str:
    """Return the JSON path of a key of the metadata."""
    return f'$."{name}"'


def compile_where(where: Mapping[str, Any], columns: Mapping[str, str]) -> Condition:
    """Compile a condition.

    Parameters
    ----------
    where : dict
        Values by field, or an operator and its operand by field, or ``$and``, ``$or`` and ``$not``. ``$id`` and
        ``$document`` stand for the id and the document. The empty dictionary holds for all records.
    columns : dict
        Columns of indexed fields, by field.

    Raises
    ------
    InputError
        An operator is unknown or its operand has a wrong type; the message names the operator and the field.
    """
    return _compile(where, columns, "where", 0)


def _compile(where: object, columns: Mapping[str, str], place: str, depth: int) -> Condition:
    if not isinstance(where, Mapping):
        raise InputError(f"{place} must be a dict of conditions, got {_describe(where)}")
    if depth > _DEEPEST:
        raise InputError(f"{place} is nested more than {_DEEPEST} deep")
    parts = []
    for key, value in where.items():
        if not isinstance(key, str):
            raise InputError(f"{place} must have names of fields as keys, got {_describe(key)}")
        if key in ("$and", "$or"):
            parts.append(_compile_list(key, value, columns, place, depth))
        elif key == "$not":
            sql, parameters = _compile(value, columns, f"{place}: $not", depth + 1)
            parts.append(Condition(f"NOT ifnull({sql}, 0)", parameters))
        elif key in _RECORD:
            parts.append(_compile_field(_Field(key, None, _RECORD[key]), value, place))
        elif key.startswith("$"):
            hint = f"; write {{field: {{{key!r}: …}}}}" if key in OPERATORS else ""
            joins = f"$and, $or, $not, {' and '.join(_RECORD)}"
            raise InputError(f"{place} has {key!r} in place of a field; {joins} may stand there{hint}")
        else:
            check_field(key, place)
            parts.append(_compile_field(_Field(key, json_path(key), columns.get(key)), value, place))
    return _join(parts, " AND ", _TRUE)


def _compile_list(key: str, value: object, columns: Mapping[str, str], place: str, depth: int) -> Condition:
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)) or not value:
        raise InputError(f"{place}: {key} must have a list of at least one condition, got {_describe(value)}")
    parts = [_compile(part, columns, f"{place}: {key}[{i}]", depth + 1) for i, part in enumerate(value)]
    return _join(parts, " AND " if key == "$and" else " OR ", _TRUE)


def _join(parts: Sequence[Condition], operator: str, empty: str) -> Condition:
    if not parts:
        return Condition(empty)
    sql = operator.join(part.sql for part in parts)
    return Condition(f"({sql})", tuple(parameter for part in parts for parameter in part.parameters))


def _compile_field(field: _Field, value: object, place: str) -> Condition:
    name = field.name
    operations = value if isinstance(value, Mapping) else {"$eq": value}
    if not operations:
        raise InputError(f"{place}: field {name!r} has no operator; use one of {', '.join(OPERATORS)}")
    parts = []
    for operator, operand in operations.items():
        if operator not in _COMPILERS:
            raise InputError(
                f"{place}: field {name!r} has the unknown operator {operator!r}; use one of {', '.join(OPERATORS)}"
            )
        parts.append(_COMPILERS[operator](field, operand, f"{place}: {operator} of field {name!r}"))
    return _join(parts, " AND ", _TRUE)


def check_field(name: object, place: str) -> None:
    """Raise InputError unless a JSON path can have this name."""
    if not isinstance(name, str):
        raise InputError(f"{place}: the name of a field must be a str, got {_describe(name)}")
    # JSON writes these characters in another way, which paths of SQLite don't know.
    if not name or name.startswith("$") or any(sign in '"\\' or sign < " " for sign in name):
        raise InputError(
            f'{place}: no field can have the name {name!r}: it must not be empty, begin with $, or have ", \\ or '
            "control characters"
        )
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(f"{place}: the field {name!r} is no valid Unicode text") from None


def _describe(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _scalar(field: _Field, value: Any, place: str) -> Any:
    """Return a number, text or boolean as SQLite takes it."""
    value = value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value
    if field.path is None and not isinstance(value, str):
        raise InputError(f"{place} must be a str, got {_describe(value)}")
    if value is None:
        raise InputError(f"{place} must not be None; ask with {{'$exists': False}} for records without the field")
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int) and not -_LARGEST <= value < _LARGEST:
        raise InputError(f"{place} must be within int64, got {value}")
    if isinstance(value, float) and math.isnan(value):
        raise InputError(f"{place} must not be NaN")
    if not isinstance(value, (int, float, str)):
        raise InputError(f"{place} must be a number, a str or a bool, got {_describe(value)}")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InputError(f"{place} must be valid Unicode text, got {value!r}") from None
    return value


def _equal(field: _Field, operand: object, place: str) -> Condition:
    return field.compare("=", _scalar(field, operand, place))


def _unequal(field: _Field, operand: object, place: str) -> Condition:
    return field.compare("IS NOT", _scalar(field, operand, place))


def _comparison(operator: str) -> Callable[[_Field, object, str], Condition]:
    def compile_comparison(field: _Field, operand: object, place: str) -> Condition:
        if isinstance(operand, bool):
            raise InputError(f"{place} must be a number or a str, got {operand}; compare a bool with $eq")
        value = _scalar(field, operand, place)
        # Of two types SQLite compares the types: every number is less than every text.
        kind = ">= ''" if isinstance(value, str) else "< ''"
        sql, parameters = field.scalar
        return Condition(f"({sql} {operator} ? AND {sql} {kind})", (*parameters, value, *parameters))

    return compile_comparison


def _list_of(field: _Field, operand: object, place: str) -> str:
    if isinstance(operand, (str, bytes, Mapping)) or not hasattr(operand, "__iter__"):
        raise InputError(f"{place} must be a list, got {_describe(operand)}")
    values = (_scalar(field, value, place) for value in operand)  # type: ignore[attr-defined]
    return json.dumps([value for value in values if not (isinstance(value, float) and math.isinf(value))])


def _is_in(field: _Field, operand: object, place: str) -> Condition:
    sql, parameters = field.scalar
    return Condition(f"{sql} IN (SELECT value FROM json_each(?))", (*parameters, _list_of(field, operand, place)))


def _is_not_in(field: _Field, operand: object, place: str) -> Condition:
    sql, parameters = _is_in(field, operand, place)
    return Condition(f"NOT ifnull({sql}, 0)", parameters)


def _contains(field: _Field, operand: object, place: str) -> Condition:
    value = _scalar(field, operand, place)
    if field.path is None:
        return Condition(f"instr({field.column}, ?)", (value,))
    member = Condition(
        "(json_type(metadata, ?) = 'array' AND EXISTS"
        " (SELECT 1 FROM json_each(metadata, ?) WHERE value = ? AND type NOT IN ('array', 'object')))",
        (field.path, field.path, value),
    )
    if not isinstance(value, str):
        return member
    within = Condition(
        "(json_type(metadata, ?) = 'text' AND instr(json_extract(metadata, ?), ?))", (field.path, field.path, value)
    )
    return _join([member, within], " OR ", "0")


def _exists(field: _Field, operand: object, place: str) -> Condition:
    if not isinstance(operand, bool):
        raise InputError(f"{place} must be True or False, got {_describe(operand)}")
    test = f"IS {'NOT ' if operand else ''}NULL"
    if field.path is None:
        return Condition(f"{field.column} {test}")
    return Condition(f"json_type(metadata, ?) {test}", (field.path,))


_COMPILERS: Mapping[object, Callable[[_Field, object, str], Condition]] = {
    "$eq": _equal,
    "$ne": _unequal,
    "$in": _is_in,
    "$nin": _is_not_in,
    "$contains": _contains,
    "$exists": _exists,
    **{name: _comparison(operator) for name, operator in _COMPARISONS.items()},
}
