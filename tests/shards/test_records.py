"""Records: conditions on their columns, and taking them."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import shards_of
import strategies as sts

import tqvec
from tqvec.errors import FormatError, InputError
from tqvec.shards.folder import Folder
from tqvec.shards.manifest import read_manifest, write_manifest

N, D = 90, 16
QUERIES = sts.normal(4, D, 9)
YEARS = [None if i % 7 == 0 else 1990 + i % 30 for i in range(N)]
RECORDS = pa.table({"id": [f"id-{i}" for i in range(N)], "year": pa.array(YEARS, pa.int32())})


@pytest.fixture(scope="module", params=[0, 5])
def made(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    index = tqvec.Index(D, nbits=2, metric="l2")
    index.add(sts.normal(N, D, 1))
    if request.param:
        index.partition(request.param)
    shards_of.cut(index, folder, [20, 50, 1, 19], RECORDS)
    return shards_of.PlainSharded(folder), index


def meeting(condition):
    return [i for i, year in enumerate(YEARS) if year is not None and condition(year)]


def test_where_is_a_filter_by_what_records_hold(made):
    sharded, index = made
    late = meeting(lambda year: year > 2003)
    for wanted, options in (
        (late, {}),
        ([i for i in late if 10 <= i < 50], {"filter": range(10, 50)}),
        ([i for i in late if i not in (14, 15)], {"filter": ~tqvec.selectors.Ids([14, 15])}),
    ):
        where = pc.field("year") > 2003
        for k in (3, 80):
            for ours, theirs in zip(
                sharded.search(QUERIES, k, where=where, **options), index.search(QUERIES, k, filter=wanted), strict=True
            ):
                np.testing.assert_array_equal(ours, theirs)
    ids = sharded.search(QUERIES, 5, where=pc.field("id") == "id-33")[1]
    assert ids.tolist() == [[33, -1, -1, -1, -1]] * 4
    assert (sharded.search(QUERIES, 5, where=pc.field("year") > 5000)[1] == -1).all()


def test_equal_conditions_are_evaluated_once(made, monkeypatch):
    sharded, _ = made
    first = sharded._choose(None, pc.field("year") > 2003)
    assert sharded._choose(None, pc.field("year") > 2003) is first
    assert sharded._choose(None, pc.field("year") > 2004) is not first
    assert sharded._choose(range(3), pc.field("year") > 2004) is not sharded._choose(None, pc.field("year") > 2004)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (pc.field("nothing") > 3, "can't be evaluated"),
        (pc.field("year") > "text", "can't be evaluated"),
        (pc.field("year") + 1, "must be a condition"),
    ],
)
def test_a_condition_that_is_none_is_told(where, message, made):
    with pytest.raises(InputError, match=f"where {message}"):
        made[0].search(QUERIES, 3, where=where)


@pytest.mark.parametrize("ids", [[5], [89, 0, 70, 69, 71, 20], [3, 3, 88, 3], list(range(N))[::-1]])
def test_taken_records_are_in_the_order_of_ids(ids, made):
    sharded, _ = made
    assert sharded.take(ids).to_pylist() == RECORDS.take(ids).to_pylist()
    assert sharded.take(ids, ["year"]).to_pylist() == RECORDS.select(["year"]).take(ids).to_pylist()


def test_no_ids_take_a_table_of_the_same_types(made):
    table = made[0].take([])
    assert table.num_rows == 0
    assert table.schema.equals(RECORDS.schema)


@pytest.mark.parametrize(
    ("ids", "columns", "message"),
    [
        ([3, N], None, f"ids row 1: {N} is not in the index"),
        ([-1], None, "ids row 0: -1 is not in the index"),
        ([3], ["no"], "columns must be some of id, year, got 'no'"),
        ([0.5], None, "ids must be"),
    ],
)
def test_bad_arguments_of_take_are_told(ids, columns, message, made):
    with pytest.raises(InputError, match=message):
        made[0].take(ids, columns)


def test_take_needs_the_shards_of_its_ids_alone(tmp_path):
    index = tqvec.Index(D, nbits=2)
    index.add(sts.normal(N, D, 1))
    manifest = shards_of.cut(index, tmp_path, [20, 50, 20], RECORDS)
    (tmp_path / manifest.shards[1].records.name).unlink()
    sharded = shards_of.PlainSharded(tmp_path)
    assert sharded.take([3, 80], ["id"]).to_pylist() == [{"id": "id-3"}, {"id": "id-80"}]
    with pytest.raises(FormatError, match=manifest.shards[1].records.name):
        sharded.take([3, 20])


def test_an_index_without_records_has_none(tmp_path):
    index = tqvec.Index(D, nbits=2)
    index.add(sts.normal(N, D, 1))
    shards_of.cut(index, tmp_path, [N])
    sharded = shards_of.PlainSharded(tmp_path)
    with pytest.raises(InputError, match="has no records"):
        sharded.take([1])
    with pytest.raises(InputError, match="has no records"):
        sharded.search(QUERIES, 3, where=pc.field("year") > 3)


@pytest.mark.parametrize("harm", ["rows", "columns", "text"])
def test_records_that_do_not_fit_are_refused(harm, tmp_path):
    index = tqvec.Index(D, nbits=2)
    index.add(sts.normal(N, D, 1))
    manifest = shards_of.cut(index, tmp_path, [N], RECORDS)
    table = RECORDS.slice(1) if harm == "rows" else RECORDS.drop_columns(["year"])

    def write(path):
        path.write_bytes(b"no Parquet") if harm == "text" else pq.write_table(table, path)

    file = shards_of.put_file(tmp_path, "records/other", ".parquet", write)
    shards = (manifest.shards[0]._replace(records=file),)
    write_manifest(Folder(tmp_path), manifest._replace(number=2, shards=shards))
    assert read_manifest(Folder(tmp_path)).number == 2
    with pytest.raises(FormatError, match=file.name):
        shards_of.PlainSharded(tmp_path).search(QUERIES, 3)
