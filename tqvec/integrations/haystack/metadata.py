"""Metadata: what the meta of documents has, field by field."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

Meta = dict[str, Any]
_TYPES = {bool: "boolean", int: "int", float: "float"}


def count_unique(metas: Iterable[Meta], names: Iterable[str]) -> dict[str, int]:
    """Return the number of different values of each field."""
    seen: dict[str, set[str]] = {name.removeprefix("meta."): set() for name in names}
    for meta in metas:
        for name, values in seen.items():
            if meta.get(name) is not None:
                values.add(_key(meta[name]))
    return {name: len(values) for name, values in seen.items()}


def describe_fields(metas: Iterable[Meta]) -> dict[str, dict[str, str]]:
    """Return the type of each field: boolean, int, float, or keyword for all others."""
    return {
        name: {"type": _TYPES.get(type(value), "keyword")}
        for meta in metas
        for name, value in meta.items()
        if value is not None
    }


def find_range(metas: Iterable[Meta], name: str) -> dict[str, Any]:
    """Return the smallest and the largest value of a field; None if it has both numbers and texts, or neither."""
    found = (meta.get(name.removeprefix("meta.")) for meta in metas)
    values = [value for value in found if isinstance(value, (int, float, str))]
    if not values or len({isinstance(value, str) for value in values}) > 1:
        return {"min": None, "max": None}
    return {"min": min(values), "max": max(values)}


def find_unique(
    metas: Iterable[Meta], name: str, search_term: str | None, first: int, size: int
) -> tuple[list[Any], int]:
    """Return some of the different values of a field that have a text in them, and the number of all of these."""
    found = (meta.get(name.removeprefix("meta.")) for meta in metas)
    unique = {_key(value): value for value in found if value is not None}
    part = (search_term or "").casefold()
    keys = sorted((str(value), key) for key, value in unique.items() if part in str(value).casefold())
    return [unique[key] for _, key in keys[first : first + size]], len(keys)


def _key(value: Any) -> str:
    """Return a text that only equal values of one type have."""
    return json.dumps(value, sort_keys=True, default=repr)
