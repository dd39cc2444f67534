"""Shards are the single index, cut up; and a build that is killed goes on to the same bytes."""

import multiprocessing
import os
import random
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shard_plans
from shard_plans import D, make_all, plan_for

import tqvec
from tqvec.errors import InputError
from tqvec.index.file.merge import merge
from tqvec.shards.folder import Folder
from tqvec.shards.making import make_shard
from tqvec.shards.manifest import first_manifest, read_manifest, write_manifest

N = 2_100
KILLS = int(os.environ.get("TQVEC_KILLS", "15"))
X = np.random.default_rng(2).standard_normal((N, D)).astype(np.float32) * np.linspace(3, 0.2, D, dtype=np.float32)


def trained(metric, codebook="scalar"):
    index = tqvec.Index(D, 4, metric=metric, codebook=codebook)
    index.train(X)
    return index


def partitioned(metric):
    index = tqvec.Index(D, 3, metric=metric)
    index.partition(13, sample=X)
    return index


EMPTY = {
    "ip": lambda: tqvec.Index(D, 4),
    "l2, 2.5 bits": lambda: tqvec.Index(D, 2.5, metric="l2"),
    "cosine, trellis, trained": lambda: trained("cosine", "trellis"),
    "l2, trained": lambda: trained("l2"),
    "ip, lists": lambda: partitioned("ip"),
    "l2, lists": lambda: partitioned("l2"),
}


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    for number, start in enumerate(range(0, N, 900)):
        part = X[start : start + 900]
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), D)
        records = {"vector": vectors, "id": [f"r{start + i}" for i in range(len(part))]}
        pq.write_table(pa.table(records), folder / f"{number}.parquet", row_group_size=111)
    return folder


def joined(folder, shards, tmp_path):
    """The file of the single index that shards are cut from."""
    paths, path = [Path(folder) / shard.vectors.name for shard in shards], tmp_path / "joined.tqv"
    if tqvec.Index.load(paths[0]).nlist is None:
        merge(paths, path)
    else:
        index = tqvec.Index.load(paths[0])
        for other in paths[1:]:
            index.merge_from(tqvec.Index.load(other))
        index.save(path)
    return path.read_bytes()


@pytest.mark.parametrize("kind", EMPTY)
@pytest.mark.parametrize("shard_rows", [400, 2_100, 9_999])
def test_shards_are_the_single_index_cut_up(tmp_path, source, kind, shard_rows):
    empty = EMPTY[kind]()
    plan = plan_for(source, tmp_path / "made", shard_rows=shard_rows)
    shards = make_all(plan, empty)
    assert [(shard.first, shard.rows) for shard in shards] == [
        (start, min(shard_rows, N - start)) for start in range(0, N, shard_rows)
    ]
    assert empty.ntotal == 0
    single = empty.__copy__()
    single.add(X)
    single.save(tmp_path / "single.tqv")
    assert joined(tmp_path / "made", shards, tmp_path) == (tmp_path / "single.tqv").read_bytes()


def test_records_lie_beside_their_vectors(tmp_path, source):
    shards = make_all(plan_for(source, tmp_path / "made"), tqvec.Index(D))
    ids = [id for shard in shards for id in pq.read_table(tmp_path / "made" / shard.records.name)["id"].to_pylist()]
    assert ids == [f"r{row}" for row in range(N)]
    assert all(shard.records is None for shard in make_all(plan_for(source, tmp_path / "b", ()), tqvec.Index(D)))


def test_ids_of_what_is_appended_follow(tmp_path, source):
    shards = make_all(plan_for(source, tmp_path / "made", base=5_000), tqvec.Index(D))
    assert shards[1].first == 5_400
    assert tqvec.Index.load(tmp_path / "made" / shards[1].vectors.name).ids.tolist() == list(range(5_400, 5_800))


def test_only_what_is_missing_is_made_again(tmp_path, source):
    plan, empty = plan_for(source, tmp_path / "made"), tqvec.Index(D)
    shards = make_all(plan, empty)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "made/shards").iterdir()}
    (tmp_path / "made" / shards[2].vectors.name).unlink()
    (tmp_path / "made" / shards[3].records.name).write_bytes(b"short")
    assert sorted(plan.begin()) == [0, 400, 1600, 2000]
    assert make_all(plan, empty) == shards
    path = tmp_path / "made" / shards[2].vectors.name
    assert [each for each in times if each.stat().st_mtime_ns != times[each]] == [path]
    plan.forget()
    assert plan.begin() == {}
    assert len(list((tmp_path / "made/shards").iterdir())) == len(shards)


def test_a_bad_row_is_named_and_leaves_nothing(tmp_path):
    bad = X.copy()
    bad[1_234, 5] = np.nan
    np.save(tmp_path / "bad.npy", bad)
    plan = plan_for(tmp_path / "bad.npy", tmp_path / "made", (), 1_000)
    with pytest.raises(InputError, match="rows counted from 1000: x row 234 holds NaN"):
        make_shard(plan, tqvec.Index(D), 1_000)
    assert plan.folder.sizes() == {}


def test_vectors_far_from_the_origin_are_told(tmp_path):
    np.save(tmp_path / "far.npy", X + 1_000)
    made = make_shard(plan_for(tmp_path / "far.npy", tmp_path / "made", ()), tqvec.Index(D, metric="l2"), 0)
    assert "origin" in made.warnings[0]


def run(process):
    process.start()
    process.join()
    assert process.exitcode == 0


def test_kills_and_then_the_same_bytes(tmp_path, source):
    rng, kills = random.Random(3), 0
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tqvec.shards.making", "tqvec.shards.source", "pyarrow.parquet", "pyarrow.fs"])
    make = partial(context.Process, target=shard_plans.build)
    run(make(args=(source, whole)))  # the first starts the server too
    start = time.monotonic()
    run(make(args=(source, tmp_path / "again")))
    longest = time.monotonic() - start
    while kills < KILLS:
        process = make(args=(source, cut))
        process.start()
        time.sleep(rng.uniform(0, longest))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        if (cut / "manifests").exists() and list((cut / "manifests").iterdir()) and kills < KILLS:
            assert read_manifest(Folder(cut)) == read_manifest(Folder(whole))
            shutil.rmtree(cut)
    run(make(args=(source, cut)))
    manifest = read_manifest(Folder(cut))
    assert manifest == read_manifest(Folder(whole))
    for stored in manifest.files:
        assert (cut / stored.name).read_bytes() == (whole / stored.name).read_bytes()


def test_no_manifest_of_files_that_are_not_there(tmp_path, source):
    plan, empty = plan_for(source, tmp_path / "made"), tqvec.Index(D)
    shards = make_all(plan, empty)
    manifest = first_manifest(empty, shards[0].vectors, ["id"], shards, plan.origin)
    (tmp_path / "made" / shards[4].records.name).write_bytes(b"")
    with pytest.raises(tqvec.FormatError, match=f"{shards[4].records.name}: has 0 bytes"):
        write_manifest(plan.folder, manifest)
    assert plan.folder.sizes("manifests") == {}
