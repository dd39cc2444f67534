"""Downloads, checks and loaders of data sets, from a server on loopback: no test touches the network."""

import errno
import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from file_server import serving

from tqvec.errors import FormatError, InputError
from tqvec.eval import datasets
from tqvec.eval.datasets import catalog, downloading, loading
from tqvec.eval.sample import load_sample

ROOT = Path(__file__).parents[2]
rng = np.random.default_rng(3)
BODY = b"\x89HDF\r\n\x1a\n" + rng.bytes(50_000)  # no vectors, but it begins as HDF5 does


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TQVEC_DATASETS", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache"


@pytest.fixture
def server():
    with serving() as server:
        server.content["/x.hdf5"] = BODY
        yield server


def entry_of(*files, **fields):
    facts = {"n": 300, "d": 7, "metric": "l2", "nbytes": None, "licence": None, "page": "nowhere"}
    return datasets.Entry(**{"name": "x", **facts, "files": files, **fields})


def entry_at(server, path="/x.hdf5", sha256=None):
    return entry_of(datasets.File("x.hdf5", server.url + path, sha256))


def digest_of(content):
    return hashlib.sha256(content).hexdigest()


def names(folder):
    return sorted(path.name for path in (folder / "x").iterdir())


def test_a_first_download_notes_its_digest(server, folder):
    seen = []
    files = datasets.fetch(entry_at(server), lambda *facts: seen.append(facts))
    assert files == [(folder / "x" / "x.hdf5", len(BODY), digest_of(BODY), False)]
    assert files[0].path.read_bytes() == BODY
    assert (folder / "x" / "x.hdf5.sha256").read_text() == f"{digest_of(BODY)}  x.hdf5\n"
    assert names(folder) == ["x.hdf5", "x.hdf5.sha256"]
    assert ("downloading x.hdf5", len(BODY), len(BODY)) in seen
    assert ("checking x.hdf5.part", len(BODY), len(BODY)) in seen
    assert [agent.startswith("tqvec/") for agent in server.agents] == [True]
    assert datasets.fetch(entry_at(server)) == files
    assert len(server.requests) == 1


def test_redirections_are_followed(server, folder):
    server.cuts = [20_000]
    datasets.fetch(entry_at(server, "/moved/x.hdf5"))
    assert (folder / "x" / "x.hdf5").read_bytes() == BODY
    assert server.requests == [
        ("/moved/x.hdf5", 0), ("/x.hdf5", 0), ("/moved/x.hdf5", 20_000), ("/x.hdf5", 20_000)
    ]  # fmt: skip


@pytest.mark.parametrize("version", ["etag", "modified"])
def test_a_cut_connection_is_taken_up(server, folder, version):
    if version == "modified":
        server.etag, server.modified = 'W/"1"', "Mon, 01 Jan 2024 00:00:00 GMT"
    server.cuts = [10_000, 15_000]
    datasets.fetch(entry_at(server))
    assert (folder / "x" / "x.hdf5").read_bytes() == BODY
    assert server.starts == [0, 10_000, 25_000]
    assert names(folder) == ["x.hdf5", "x.hdf5.sha256"]


def interrupt(server, cut=10_000):
    """Leave a part of the file behind."""
    server.cuts = [cut, 0]
    with pytest.raises(OSError, match=r"the connection ended after 10,000 of 50,008 bytes; 10,000 bytes are kept"):
        datasets.fetch(entry_at(server))
    server.requests.clear()


def test_a_later_call_goes_on(server, folder):
    interrupt(server)
    assert names(folder) == ["x.hdf5.part", "x.hdf5.part.version"]
    datasets.fetch(entry_at(server))
    assert (folder / "x" / "x.hdf5").read_bytes() == BODY
    assert server.starts == [10_000]


def test_a_changed_file_is_not_joined_to_its_beginning(server, folder):
    interrupt(server)
    server.content["/x.hdf5"] = other = BODY[:8] + bytes(60_000)
    server.etag = '"2"'
    datasets.fetch(entry_at(server))
    assert (folder / "x" / "x.hdf5").read_bytes() == other


@pytest.mark.parametrize("lacking", ["ranges", "version"])
def test_servers_that_cannot_go_on(server, folder, lacking):
    if lacking == "ranges":
        server.ranges = False
    else:
        server.etag = None
    server.cuts = [10_000, 20_000]
    datasets.fetch(entry_at(server))
    assert (folder / "x" / "x.hdf5").read_bytes() == BODY
    server.cuts = [10_000, 10_000]
    (folder / "x" / "x.hdf5").unlink()
    with pytest.raises(OSError, match="connection ended after 10,000 of 50,008 bytes"):
        datasets.fetch(entry_at(server))


def test_servers_that_tell_no_size(server, folder):
    server.framing, server.cuts = "chunks", [10_000]
    datasets.fetch(entry_at(server))
    assert (folder / "x" / "x.hdf5").read_bytes() == BODY
    assert len(server.requests) == 2
    server.framing = None
    (folder / "x" / "x.hdf5").unlink()
    with pytest.raises(OSError, match="the server tells no size, so a broken connection would not be noticed"):
        datasets.fetch(entry_at(server))


def test_a_part_that_is_longer_than_the_file(server, folder):
    interrupt(server)
    (folder / "x" / "x.hdf5.part").write_bytes(bytes(60_000))
    datasets.fetch(entry_at(server))
    assert (folder / "x" / "x.hdf5").read_bytes() == BODY
    assert server.starts == [60_000, 0]


def test_a_wrong_digest(server, folder):
    with pytest.raises(FormatError, match=f"SHA-256 is {digest_of(BODY)}, not {'0' * 64}.*nothing is kept"):
        datasets.fetch(entry_at(server, sha256="0" * 64))
    assert names(folder) == []
    files = datasets.fetch(entry_at(server, sha256=digest_of(BODY)))
    assert files[0].published
    assert names(folder) == ["x.hdf5"]


@pytest.mark.parametrize("published", [False, True])
def test_a_file_that_changes_later(server, folder, published):
    entry = entry_at(server, sha256=digest_of(BODY) if published else None)
    datasets.fetch(entry)
    (folder / "x" / "x.hdf5").write_bytes(BODY[:-1] + b"!")
    origin = "of the catalogue" if published else "noted in x.hdf5.sha256"
    with pytest.raises(FormatError, match=rf"x\.hdf5: SHA-256 is .* {origin}: the file has changed; delete it"):
        datasets.fetch(entry)
    (folder / "x" / "x.hdf5").unlink()
    assert datasets.fetch(entry)[0].sha256 == digest_of(BODY)


def test_a_new_version_after_the_old_one_is_deleted(server, folder):
    datasets.fetch(entry_at(server))
    (folder / "x" / "x.hdf5").unlink()
    server.content["/x.hdf5"] = other = BODY + b"!"
    assert datasets.fetch(entry_at(server))[0].sha256 == digest_of(other)
    assert datasets.fetch(entry_at(server))[0].sha256 == digest_of(other)


def test_a_file_that_a_user_put_there(server, folder):
    (folder / "x").mkdir(parents=True)
    (folder / "x" / "x.hdf5").write_bytes(b"mine")
    assert datasets.fetch(entry_at(server))[0].sha256 == digest_of(b"mine")
    assert server.requests == []
    (folder / "x" / "x.hdf5.sha256").write_text("junk")
    with pytest.raises(FormatError, match="holds no SHA-256; delete it"):
        datasets.fetch(entry_at(server))


@pytest.mark.parametrize("status", [404, 503])
def test_errors_of_the_server(server, folder, status):
    server.status = status
    with pytest.raises(
        OSError, match=rf"x\.hdf5: HTTP status {status} .*download it elsewhere and put it at .*x\.hdf5"
    ):
        datasets.fetch(entry_at(server))
    assert not (folder / "x" / "x.hdf5").exists()


def test_a_page_in_place_of_the_file(server, folder):
    server.content["/x.hdf5"] = b"<!DOCTYPE html>"
    with pytest.raises(FormatError, match=r"the server sent no \.hdf5 file: it begins with b'<!DOCTYP'"):
        datasets.fetch(entry_at(server))
    assert names(folder) == []


def test_offline(folder):
    with serving() as server:
        entry = entry_at(server)
    with pytest.raises(
        OSError, match=r"http://127.*no connection.*refused.*; download it elsewhere and put it at .*x\.hdf5"
    ):
        datasets.fetch(entry)


def test_a_server_that_falls_silent(server, monkeypatch):
    monkeypatch.setattr(downloading, "_TIMEOUT", 0.05)
    server.wait.clear()
    with pytest.raises(OSError, match="no connection .*timed out"):
        datasets.fetch(entry_at(server))
    server.wait.set()


def test_a_folder_that_cannot_be_written_to(server, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TQVEC_DATASETS", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"set TQVEC_DATASETS to a folder that can be written to: '.*file.x'"):
        datasets.fetch(entry_at(server))
    assert server.requests == []


def test_a_full_disk(server, folder, monkeypatch):
    class Full(io.BytesIO):
        name = str(folder / "x" / "x.hdf5.part")

        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(downloading._atomic, "open_exclusive", lambda _: Full())
    with pytest.raises(OSError, match=r"No space left on device; set TQVEC_DATASETS to .*'.*cache.x'"):
        datasets.fetch(entry_at(server))
    assert server.starts == [0]


def test_two_processes_at_once(server, folder):
    server.wait.clear()
    program = (
        "import sys; from tqvec.eval import datasets\n"
        "files = datasets.File('x.hdf5', sys.argv[1], None),\n"
        "entry = datasets.Entry(name='x', n=1, d=1, metric='l2', nbytes=None, licence=None, page='', files=files)\n"
        "print('ready', flush=True)\n"
        "print(datasets.fetch(entry)[0].sha256)"
    )
    command = [sys.executable, "-W", "error", "-c", program, server.url + "/x.hdf5"]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)]
    for run in runs:
        assert run.stdout.readline() == "ready\n"
    server.wait.set()
    assert [run.communicate(timeout=60)[0].strip() for run in runs] == [digest_of(BODY)] * 2
    assert len(server.requests) == 1
    assert names(folder) == ["x.hdf5", "x.hdf5.sha256"]


def use(monkeypatch, *entries):
    monkeypatch.setattr(catalog, "iter_entries", lambda: iter(entries))


def read(stream, start=0, rows=64):
    parts = list(stream.parts(start, rows))
    assert all(0 < len(part) <= rows for part in parts)
    return np.concatenate(parts) if parts else np.empty((0, stream.d))


def test_hdf5(server, tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    x, queries = rng.standard_normal((300, 7)), rng.standard_normal((5, 7))
    neighbors = rng.integers(0, 300, (5, 10))
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["train"], file["test"], file["neighbors"], file["distances"] = x, queries, neighbors, neighbors / 2
    server.content["/x.hdf5"] = (tmp_path / "x.hdf5").read_bytes()
    entry = entry_at(server)
    use(monkeypatch, entry)
    data = datasets.load("x")
    assert (data.name, data.metric, data.base.n, data.base.d) == ("x", "l2", 300, 7)
    assert np.array_equal(read(data.base), x)
    assert np.array_equal(data.queries, queries)
    assert np.array_equal(data.neighbors, neighbors)
    use(monkeypatch, entry._replace(d=8))
    with pytest.raises(FormatError, match="vectors have dimension 7, queries 7, instead of 8"):
        datasets.load("x")


def test_parquet_shards(server, tmp_path, monkeypatch):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(loading, "_QUERIES", 20)
    x, files = rng.standard_normal((300, 7)), []
    for i, rows in enumerate((x[:110], x[110:111], x[111:])):
        table = pa.table({"title": ["t"] * len(rows), "v": pa.array(rows.tolist(), pa.list_(pa.float64()))})
        parquet.write_table(table, tmp_path / "x.parquet", row_group_size=50)
        server.content[f"/{i}.parquet"] = (tmp_path / "x.parquet").read_bytes()
        files.append(datasets.File(f"{i}.parquet", f"{server.url}/{i}.parquet", None))
    use(monkeypatch, entry_of(*files, column="v"))
    data = datasets.load("x")
    drawn = np.sort(np.random.default_rng(20260101).choice(300, 20, replace=False))
    rest = np.delete(x, drawn, axis=0)
    assert data.neighbors is None
    assert np.array_equal(data.queries, x[drawn].astype(np.float32))
    assert (data.base.n, data.base.d) == (280, 7)
    for start in (0, 1, 99, 100, 101, 102, 103, 279, 280):
        assert np.array_equal(read(data.base, start), rest[start:])
    assert np.array_equal(data.base.take(np.array([3, 100, 105])), rest[[3, 100, 105]])
    again = datasets.load("x")
    assert isinstance(again.queries, np.memmap)
    assert np.array_equal(again.queries, data.queries)
    assert len(server.requests) == 3


def test_queries_are_drawn_anew_from_new_files(server, tmp_path, monkeypatch):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(loading, "_QUERIES", 4)
    entry = entry_of(datasets.File("x.parquet", f"{server.url}/x.parquet", None), column="v")
    use(monkeypatch, entry)
    for scale in (1, 2):
        lists = (scale * np.arange(210.0).reshape(30, 7)).tolist()
        parquet.write_table(pa.table({"v": pa.array(lists, pa.list_(pa.float32()))}), tmp_path / "x.parquet")
        server.content["/x.parquet"] = (tmp_path / "x.parquet").read_bytes()
        for file in entry.files:
            (entry.folder / file.name).unlink(missing_ok=True)
        assert {row[1] - row[0] for row in datasets.load("x").queries} == {scale}


def test_the_sample():
    data, sample = datasets.load("wordnet-sample"), load_sample()
    assert (data.base.n, data.base.d, data.metric, data.neighbors) == (10_000, 384, "cosine", None)
    assert np.array_equal(read(data.base, 0, 4096), sample.base)
    assert np.array_equal(data.queries, sample.queries)


def test_sets_that_are_built(folder, monkeypatch):
    with pytest.raises(
        FileNotFoundError, match=r"wordnet-full.base_f16\.npy is missing: .*built by datasets.wordnet_minilm"
    ):
        datasets.load("wordnet-full")
    use(monkeypatch, datasets.find("wordnet-full")._replace(d=7))
    (folder / "wordnet-full").mkdir(parents=True)
    x = rng.standard_normal((9, 7)).astype(np.float16)
    np.save(folder / "wordnet-full" / "base_f16.npy", x)
    np.save(folder / "wordnet-full" / "queries_f16.npy", x[:2])
    data = datasets.load("wordnet-full")
    assert np.array_equal(read(data.base), x)
    assert np.array_equal(data.queries, x[:2])


def test_the_catalogue():
    entries = list(datasets.iter_entries())
    assert len({entry.name for entry in entries}) == len(entries) == 35
    for entry in entries:
        assert entry.metric in ("ip", "cosine", "l2")
        assert entry.d > 0 < entry.n
        assert len({file.name for file in entry.files}) == len(entry.files)
        assert (entry.column is not None) == entry.files[0].name.endswith(".parquet")
        for file in entry.files:
            assert file.sha256 is None or len(bytes.fromhex(file.sha256)) == 32
            assert (file.url is None) == file.name.endswith(".npy")
            assert file.url is None or file.url.endswith(f"/{file.name}")


def test_the_catalogue_agrees_with_the_builders():
    words = json.loads((ROOT / "datasets" / "word_vectors" / "manifest.json").read_text())
    glosses = json.loads((ROOT / "datasets" / "wordnet_minilm" / "manifest.json").read_text())
    builders = {
        "glove-50": words["glove_50"],
        "french-300": words["french_300"],
        "wordnet-sample": {"d": glosses["d"], **glosses["sample"]},
        "wordnet-full": {"d": glosses["d"], **glosses["full"]},
    }
    for name, facts in builders.items():
        entry = datasets.find(name)
        assert (entry.n, entry.d) == (facts["base"], facts["d"])
        assert entry.nbytes == sum(facts["files"][file.name]["bytes"] for file in entry.files)
        assert all(file.sha256 in (None, facts["files"][file.name]["sha256"]) for file in entry.files)


def test_unknown_names():
    with pytest.raises(InputError, match="name must be one that `tqvec datasets list` shows, got 'glove'"):
        datasets.load("glove")


def test_the_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("TQVEC_DATASETS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert datasets.find("glove-50").folder == tmp_path / "tqvec" / "datasets" / "glove-50"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert catalog.cache_folder() == tmp_path / "home" / ".cache" / "tqvec" / "datasets"
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError()))
    with pytest.raises(OSError, match="set TQVEC_DATASETS"):
        catalog.cache_folder()
