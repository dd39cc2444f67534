"""Conditions on metadata, against the same conditions in Python."""

import sqlite3

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tqvec.errors import InputError
from tqvec.store import catalog
from tqvec.store.records import write_metadata
from tqvec.store.where import OPERATORS, compile_where

FIELDS = ["year", "tag", "it's", "a.b", "é"]
SCALARS = st.one_of(
    st.integers(-3, 3), st.sampled_from([0.5, -1.5, 2.0]), st.booleans(), st.text("ab'\"%é", max_size=3)
)
METADATA = st.dictionaries(st.sampled_from(FIELDS), SCALARS | st.lists(SCALARS, max_size=3), max_size=4)
NUMBERS_OR_TEXT = SCALARS.filter(lambda value: not isinstance(value, bool))
OPERATIONS = st.one_of(
    st.tuples(st.sampled_from(["$eq", "$ne", "$contains"]), SCALARS),
    st.tuples(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), NUMBERS_OR_TEXT),
    st.tuples(st.sampled_from(["$in", "$nin"]), st.lists(SCALARS, max_size=3)),
    st.tuples(st.just("$exists"), st.booleans()),
)
TEXTS = st.text("ab'%é", max_size=2)
RECORD_OPERATIONS = st.one_of(
    st.tuples(st.sampled_from(["$eq", "$ne", "$contains", "$gt", "$gte", "$lt", "$lte"]), TEXTS | st.just("1")),
    st.tuples(st.sampled_from(["$in", "$nin"]), st.lists(TEXTS | st.just("1"), max_size=3)),
    st.tuples(st.just("$exists"), st.booleans()),
)
LEAVES = st.one_of(
    st.dictionaries(
        st.sampled_from(FIELDS), SCALARS | st.lists(OPERATIONS, min_size=1, max_size=2).map(dict), max_size=2
    ),
    st.dictionaries(
        st.sampled_from(["$id", "$document"]), TEXTS | st.lists(RECORD_OPERATIONS, min_size=1, max_size=2).map(dict)
    ),
)
CONDITIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"$and": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$or": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$not": inner}),
    ),
    max_leaves=5,
)


def same(one, other):
    """Equal as SQLite has it: truths are 1 and 0, and no text equals a number."""
    return isinstance(one, str) == isinstance(other, str) and one == other


def holds(where, metadata):
    """The condition, in Python."""
    return all(holds_part(key, value, metadata) for key, value in where.items())


def holds_part(key, value, metadata):
    if key == "$and":
        return all(holds(part, metadata) for part in value)
    if key == "$or":
        return any(holds(part, metadata) for part in value)
    if key == "$not":
        return not holds(value, metadata)
    operations = value if isinstance(value, dict) else {"$eq": value}
    return all(holds_operation(metadata.get(key), operator, operand) for operator, operand in operations.items())


def holds_operation(value, operator, operand):
    scalar = None if isinstance(value, list) else value
    comparable = scalar is not None and isinstance(scalar, str) == isinstance(operand, str)
    if operator == "$contains":
        within = isinstance(value, str) and isinstance(operand, str) and operand in value
        return within or (isinstance(value, list) and any(same(entry, operand) for entry in value))
    return {
        "$eq": lambda: scalar is not None and same(scalar, operand),
        "$ne": lambda: scalar is None or not same(scalar, operand),
        "$in": lambda: scalar is not None and any(same(scalar, one) for one in operand),
        "$nin": lambda: scalar is None or not any(same(scalar, one) for one in operand),
        "$exists": lambda: (value is not None) == operand,
        "$gt": lambda: comparable and key_of(scalar) > key_of(operand),
        "$gte": lambda: comparable and key_of(scalar) >= key_of(operand),
        "$lt": lambda: comparable and key_of(scalar) < key_of(operand),
        "$lte": lambda: comparable and key_of(scalar) <= key_of(operand),
    }[operator]()


def key_of(value):
    """SQLite compares the bytes of texts."""
    return value.encode() if isinstance(value, str) else value


@pytest.fixture(scope="module")
def connections(tmp_path_factory):
    made = {}
    for name, indexed in {"plain": [], "indexed": FIELDS}.items():
        path = tmp_path_factory.mktemp(name) / catalog.NAME
        catalog.create(path, {}, indexed)
        made[name] = sqlite3.connect(path, isolation_level=None)
    yield made
    for connection in made.values():
        connection.close()


@pytest.mark.parametrize("kind", ["plain", "indexed"])
def test_conditions_are_those_of_python(connections, kind):
    connection = connections[kind]
    columns = {name: f"field_{i}" for i, name in enumerate(FIELDS)} if kind == "indexed" else {}

    @given(where=CONDITIONS, records=st.lists(st.tuples(METADATA, st.none() | TEXTS), max_size=6))
    @settings(max_examples=300, deadline=None, database=None)
    def check(where, records):
        connection.execute("BEGIN")
        try:
            connection.executemany(
                "INSERT INTO records (row, id, document, metadata) VALUES (?, ?, ?, ?)",
                ((i, str(i), text, write_metadata(metadata, 0)) for i, (metadata, text) in enumerate(records, 1)),
            )
            sql, parameters = compile_where(where, columns)
            found = {row for (row,) in connection.execute(f"SELECT row FROM records WHERE {sql}", parameters)}
        finally:
            connection.execute("ROLLBACK")
        whole = [{**metadata, "$id": str(i), "$document": text} for i, (metadata, text) in enumerate(records, 1)]
        assert found == {i for i, record in enumerate(whole, 1) if holds(where, record)}

    check()


def test_an_indexed_field_uses_its_index(connections):
    for where in ({"year": 3}, {"year": {"$gte": 2, "$lt": 5}}, {"year": {"$in": [1, 2]}}, {"tag": {"$gt": "a"}}):
        sql, parameters = compile_where(where, {"year": "field_0", "tag": "field_1"})
        plan = connections["indexed"].execute(f"EXPLAIN QUERY PLAN SELECT row FROM records WHERE {sql}", parameters)
        assert "INDEX records_field_" in str(plan.fetchall())


HOSTILE = ["year') OR 1=1 --", "'; DROP TABLE records; --", "$.year", "field_0", "records.row", "x" * 5_000]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_the_user_is_sql(connections, text):
    connection = connections["plain"]
    for where in ({text.lstrip("$"): text}, {"year": {"$in": [text]}}, {"tag": {"$contains": text}}):
        sql, parameters = compile_where(where, {})
        assert text not in sql
        assert connection.execute(f"SELECT count(*) FROM records WHERE {sql}", parameters).fetchone() == (0,)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (3, "where must be a dict of conditions, got 3"),
        ({"year": {"$near": 3}}, r"field 'year' has the unknown operator '\$near'"),
        ({"$gt": 3}, r"where has '\$gt' in place of a field"),
        ({"$nor": []}, r"where has '\$nor' in place of a field; .*\$id and \$document may stand there"),
        ({"$id": 3}, r"\$eq of field '\$id' must be a str, got 3"),
        ({"$document": {"$in": ["a", 3]}}, r"\$in of field '\$document' must be a str, got 3"),
        ({"$id": {"$contains": 3}}, r"\$contains of field '\$id' must be a str"),
        ({"$and": []}, r"\$and must have a list of at least one condition"),
        ({"$or": {"year": 3}}, r"\$or must have a list"),
        ({"$or": [{"year": {"$gt": None}}]}, r"\$or\[0\]: \$gt of field 'year' must not be None"),
        ({"year": None}, r"\$eq of field 'year' must not be None; ask with"),
        ({"year": {}}, "field 'year' has no operator"),
        ({"year": {"$gt": True}}, "must be a number or a str, got True"),
        ({"year": {"$in": "abc"}}, r"\$in of field 'year' must be a list, got 'abc'"),
        ({"year": {"$in": [[1]]}}, "must be a number, a str or a bool"),
        ({"year": {"$exists": 1}}, "must be True or False"),
        ({"year": {"$eq": 2**63}}, "must be within int64"),
        ({"year": float("nan")}, "must not be NaN"),
        ({"year": "\ud800"}, "must be valid Unicode"),
        ({"": 3}, "no field can have the name"),
        ({'a"b': 3}, "no field can have the name"),
        ({"a\\b": 3}, "no field can have the name"),
        ({3: 3}, "must have names of fields as keys"),
    ],
)
def test_bad_conditions(where, message):
    with pytest.raises(InputError, match=message):
        compile_where(where, {})


def test_conditions_may_not_be_nested_for_ever(connections):
    deep = {"tag": {"$contains": "a"}}
    for i in range(10):
        deep = {"$not": deep} if i % 2 else {"$and": [{"year": 3}, deep]}
    sql, parameters = compile_where(deep, {})
    connections["plain"].execute(f"SELECT count(*) FROM records WHERE {sql}", parameters)
    for _ in range(20):
        deep = {"$and": [deep]}
    with pytest.raises(InputError, match="nested more than"):
        compile_where(deep, {})


def test_numbers_of_numpy():
    assert compile_where({"year": np.int64(3)}, {}) == compile_where({"year": 3}, {})
    assert compile_where({"year": {"$in": np.array([1, 2])}}, {}) == compile_where({"year": {"$in": [1, 2]}}, {})
    assert set(OPERATORS) >= {"$eq", "$contains"}


@pytest.mark.parametrize("kind", ["plain", "indexed"])
def test_a_list_within_a_list_is_no_text(connections, kind):
    """Of a nested list SQLite returns the JSON text."""
    connection = connections[kind]
    connection.execute("BEGIN")
    try:
        metadata = write_metadata({FIELDS[0]: [["a"], {"b": 1}, '["c"]']}, 0)
        connection.execute("INSERT INTO records (row, id, metadata) VALUES (1, 'x', ?)", (metadata,))
        for text, expected in {'["a"]': 0, '{"b":1}': 0, '["c"]': 1}.items():
            sql, parameters = compile_where({FIELDS[0]: {"$contains": text}}, {})
            (found,) = connection.execute(f"SELECT count(*) FROM records WHERE {sql}", parameters).fetchone()
            assert found == expected, text
    finally:
        connection.execute("ROLLBACK")
