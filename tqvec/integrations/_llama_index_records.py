"""Nodes of LlamaIndex as records of a collection, and filters as its conditions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from llama_index.core.schema import BaseNode, TextNode
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters
from llama_index.core.vector_stores.utils import metadata_dict_to_node

from tqvec.errors import InputError

SOURCE, _CONTENT, _TYPE = _OWN = ("_ref_doc_id", "_node_content", "_node_type")
_SOURCE_NAMES = ("ref_doc_id", "doc_id", "document_id")  # by which filters for other stores name the source
_OF_VALUE = {"==": "$eq", "!=": "$ne", ">": "$gt", ">=": "$gte", "<": "$lt", "<=": "$lte", "contains": "$contains"}
_OF_LIST, _OF_ENTRIES = {"in": "$in", "nin": "$nin"}, {"any": "$or", "all": "$and"}


def fields_of(node: BaseNode, row: int) -> dict[str, Any]:
    """Return the metadata of a record: that of the node, its source, and the node as JSON without its text.

    Raises
    ------
    InputError
        The node has a field that the store sets.
    """
    for name in _OWN:
        if name in node.metadata:
            raise InputError(f"nodes row {row}: metadata must not have the field {name!r}, which the store sets")
    content, source = {**node.model_dump(mode="json"), "embedding": None}, node.ref_doc_id
    if isinstance(node, TextNode):
        content["text"] = ""  # it is the document of the record
    named = {**dict.fromkeys(_SOURCE_NAMES, source), **node.metadata}
    return {
        **{name: value for name, value in named.items() if value != []},  # so that IS_EMPTY can ask for them
        SOURCE: source,
        _CONTENT: json.dumps(content, ensure_ascii=False),
        _TYPE: node.class_name(),
    }


def node_of(record: dict[str, Any]) -> BaseNode:
    """Return the node of a record."""
    node = metadata_dict_to_node(record["metadata"])
    if isinstance(node, TextNode):
        node.set_content(record["document"])
    return node


def where_of(
    filters: MetadataFilters | None, node_ids: Sequence[str] | None = None, doc_ids: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return the condition that a node passes the filters, and has one of the ids and one of the sources.

    Raises
    ------
    InputError
        Conditions can't express a filter.
    """
    where = {} if filters is None else _join(filters)
    if node_ids is not None:
        where["$id"] = {"$in": node_ids}
    if doc_ids is not None:
        where[SOURCE] = {"$in": doc_ids}
    return where


def _join(filters: MetadataFilters) -> dict[str, Any]:
    parts = [_join(part) if isinstance(part, MetadataFilters) else _condition_of(part) for part in filters.filters]
    if not parts:  # which LlamaIndex takes for no filters, also in OR and NOT
        return {}
    if filters.condition == "not":
        return {"$not": {"$or": parts}}
    return {"$or" if filters.condition == "or" else "$and": parts}


def _condition_of(part: MetadataFilter) -> dict[str, Any]:
    key, operator, value = part.key, part.operator.value, part.value
    if operator == "is_empty":  # empty lists are not among the fields
        return {"$or": [{key: {"$exists": False}}, {key: {"$eq": ""}}]}
    if isinstance(value, list):
        if operator in _OF_LIST:
            return {key: {_OF_LIST[operator]: value}}
        if operator in _OF_ENTRIES and value:
            return {_OF_ENTRIES[operator]: [{key: {"$contains": entry}} for entry in value]}
    elif operator in _OF_VALUE and value is not None:
        return {key: {_OF_VALUE[operator]: value}}
    elif operator == "text_match" and isinstance(value, str):
        return {key: {"$contains": value, "$gte": ""}}  # a text, not a list with this entry
    raise InputError(f"filters: {part.operator.name} of the field {key!r} can't be asked for with {value!r}")
