"""Filters: Haystack's conditions on documents, as conditions of a collection."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from haystack.errors import FilterError

from tqvec.errors import InputError
from tqvec.integrations.haystack.records import Moment, read_moment
from tqvec.store.where import compile_where

Where = dict[str, Any]
_ORDER = {">": "$gt", ">=": "$gte", "<": "$lt", "<=": "$lte"}
_EQUALITY = ("==", "!=", "in", "not in")
_OF_RECORD = {"id": "$id", "content": "$document"}
_OTHER_FIELDS = ("blob", "dataframe", "embedding", "meta", "score", "sparse_embedding")


def compile_filters(filters: Mapping[str, Any] | None) -> Where:
    """Return the condition of a collection for Haystack's filters; ``{}``, which holds for all, for none.

    Raises
    ------
    FilterError
        Filters are malformed, or ask for something that a collection can't answer.
    """
    if filters is None or filters == {}:
        return {}
    where = _compile(filters)
    try:
        compile_where(where, {})
    except InputError as error:
        raise FilterError(f"these filters can't be answered: {error}") from error
    return where


def read_field(field: object) -> str:
    """Return a field as ``id``, ``content`` or ``meta.<name>``; a name alone belongs to the meta.

    Raises
    ------
    FilterError
        Documents have no such field, or conditions can't reach it.
    """
    if not isinstance(field, str) or not field:
        raise FilterError(f"a field must be a str, got {field!r}")
    if field in _OF_RECORD:
        return field
    if field in _OTHER_FIELDS:
        raise FilterError(f"filters can't ask for the field {field!r}, only for id, content and meta.<name>")
    name = field.removeprefix("meta.")
    if "." in name:
        raise FilterError(
            f"filters can't ask for {field!r}: only fields at the top of the meta can be asked for; keep a copy of the "
            f"nested value in a field of its own, such as meta.{name.replace('.', '_')}"
        )
    return f"meta.{name}"


def _compile(filters: object) -> Where:
    if not isinstance(filters, Mapping):
        raise FilterError(f"filters must be a dict, got {filters!r}")
    operator = _entry(filters, "operator")
    if "field" in filters:
        return _compare(read_field(filters["field"]), operator, _entry(filters, "value"))
    conditions = _entry(filters, "conditions")
    if not isinstance(conditions, list) or not conditions:
        raise FilterError(f"conditions must be a list of at least one condition, got {conditions!r}")
    parts = [_compile(condition) for condition in conditions]
    if operator == "NOT":
        return {"$not": {"$and": parts}}
    if operator not in ("AND", "OR"):
        raise FilterError(f"a logical operator must be AND, OR or NOT, got {operator!r}")
    return {f"${operator.lower()}": parts}


def _entry(filters: Mapping[str, Any], key: str) -> Any:
    if key not in filters:
        raise FilterError(f"filters lack {key!r}: {dict(filters)!r}")
    return filters[key]


def _compare(field: str, operator: object, value: Any) -> Where:
    if operator in _EQUALITY:
        if operator in ("in", "not in") and not isinstance(value, list):
            raise FilterError(f"{operator!r} on {field} needs a list, got {value!r}")
        condition = _is_in(field, value if isinstance(value, list) and operator in ("in", "not in") else [value])
        return condition if operator in ("==", "in") else {"$not": condition}
    if not isinstance(operator, str) or operator not in _ORDER:
        raise FilterError(
            f"the operator on {field} must be one of {', '.join((*_EQUALITY, *_ORDER))}, got {operator!r}"
        )
    if value is None:
        return {_OF_RECORD.get(field, field): {"$in": []}}  # nothing is larger or smaller than None
    moment, name = read_moment(value), field.removeprefix("meta.")
    if isinstance(value, (str, datetime)) and (moment is None or name == field):
        raise FilterError(
            f"{operator!r} on {field} needs a number or, on fields of the meta, an ISO date, got {value!r}"
        )
    if moment is None:
        return {field: {_ORDER[operator]: value}}
    if moment.utc is None:
        return {f"wall.{name}": {_ORDER[operator]: moment.wall}}
    # A date without a time zone has that of the date which it is compared with.
    zoned = {f"utc.{name}": {_ORDER[operator]: moment.utc}}
    return {"$or": [zoned, {f"utc.{name}": {"$exists": False}, f"wall.{name}": {_ORDER[operator]: moment.wall}}]}


def _is_in(field: str, values: Iterable[Any]) -> Where:
    """Return the condition that a field is one of some values; None stands for a field that isn't there."""
    name, key = field.removeprefix("meta."), _OF_RECORD.get(field, field)
    plain: list[Any] = []
    local: list[int] = []
    zoned: list[Moment] = []
    parts: list[Where] = []
    for value in values:
        moment = None if name == field else read_moment(value)
        if value is None:
            parts.append({key: {"$exists": False}})
        elif moment is None:
            if key == field or isinstance(value, str):  # no id or content equals anything else
                plain.append(value)
        elif moment.utc is None:
            local.append(moment.wall)
        else:
            zoned.append(moment)
    if plain or not (parts or local or zoned):
        parts.append({key: {"$in": plain}})
    if local:
        parts.append({f"wall.{name}": {"$in": local}})
    if zoned:
        parts.append({f"utc.{name}": {"$in": [moment.utc for moment in zoned]}})
        walls = [moment.wall for moment in zoned]
        parts.append({f"utc.{name}": {"$exists": False}, f"wall.{name}": {"$in": walls}})
    return {"$or": parts}
