"""A collection beside embedded vector databases: Chroma, LanceDB, sqlite-vec and tqdb, one after another.

Data: the embeddings and texts of a folder (datasets/README.md), by default the sample of WordNet, with five fields of
metadata. All libraries have the threads of this benchmark, where they let themselves be told. A rival is a row where it
is installed (`pip install 'tqvec[bench-collection]'`), with the settings that its documentation starts with; LanceDB
searches exhaustively (its default), and has a scalar index of the field that is filtered.

`filter` p % keeps the rows with `share` < 10 p, of a number from 0 to 999 drawn for each row. Recall is 10@10 against
exact cosines, unfiltered. `first` is the first query with a filter, others are the median of the queries after it.
"""

from __future__ import annotations

from _common import console, report  # isort: skip - sets threads first

import argparse
import importlib.util
import json
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

import tqvec
from tqvec.eval.recall import exact_search
from tqvec.eval.sample import load_sample
from tqvec.exact import normalize

K, QUERIES, SINGLES, BATCH = 10, 100, 1_000, 5_000
MOST_SECONDS = 60  # for the single upserts
KEEPS = (1_000, 500, 100, 10, 1)  # thousandths that filters keep

Floats = NDArray[np.float32]
Records = tuple[Sequence[str], Floats, Sequence[str], Sequence[dict[str, Any]]]


class Store:
    """What is asked of each database; `folder` is its own."""

    needs = "tqvec"

    def __init__(self, folder: Path, d: int) -> None:
        self.folder, self.d = folder, d

    def open(self) -> None:
        raise NotImplementedError

    def add(self, records: Records) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        """Build what searches need, once everything is there."""

    def search(self, query: Floats, share: int | None) -> list[str]:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class Tqvec(Store):
    keep: ClassVar[Literal["float16"] | None] = None

    def open(self) -> None:
        self.collection = tqvec.Collection(self.folder, self.d, indexed=["share"], keep=self.keep)

    def add(self, records: Records) -> None:
        ids, vectors, documents, metadatas = records
        self.collection.upsert(ids=ids, vectors=vectors, documents=documents, metadatas=metadatas)

    def finish(self) -> None:
        self.collection.compact()

    def search(self, query: Floats, share: int | None) -> list[str]:
        where = None if share is None else {"share": {"$lt": share}}
        return self.collection.search(query, K, where=where, include=("documents", "metadatas"))[0].ids

    def close(self) -> None:
        self.collection.close()


class TqvecKept(Tqvec):
    keep = "float16"

    def search(self, query: Floats, share: int | None) -> list[str]:
        where = None if share is None else {"share": {"$lt": share}}
        return self.collection.search(query, K, where=where, rerank=True)[0].ids


class Chroma(Store):
    needs = "chromadb"

    def open(self) -> None:
        import chromadb

        settings = chromadb.Settings(anonymized_telemetry=False)
        self.client = chromadb.PersistentClient(str(self.folder), settings=settings)
        self.collection = self.client.get_or_create_collection("records", configuration={"hnsw": {"space": "cosine"}})

    def add(self, records: Records) -> None:
        ids, vectors, documents, metadatas = records
        self.collection.upsert(ids=list(ids), embeddings=vectors, documents=list(documents), metadatas=list(metadatas))

    def search(self, query: Floats, share: int | None) -> list[str]:
        where = None if share is None else {"share": {"$lt": share}}
        found: list[str] = self.collection.query(query_embeddings=[query], n_results=K, where=where)["ids"][0]
        return found

    def close(self) -> None:
        from chromadb.api.shared_system_client import SharedSystemClient

        del self.collection, self.client
        SharedSystemClient.clear_system_cache()


class Lance(Store):
    needs = "lancedb"

    def open(self) -> None:
        import lancedb

        self.database = lancedb.connect(str(self.folder))
        self.table = self.database.open_table("c") if (self.folder / "c.lance").exists() else None

    def add(self, records: Records) -> None:
        rows = [
            {"id": name, "vector": vector, "document": text, **fields}
            for name, vector, text, fields in zip(*records, strict=True)
        ]
        if self.table is None:
            self.table = self.database.create_table("c", rows)
        elif len(rows) == 1:
            self.table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(rows)
        else:
            self.table.add(rows)

    def finish(self) -> None:
        from lancedb.index import BTree

        assert self.table is not None
        self.table.create_index("share", config=BTree())
        self.table.optimize()

    def search(self, query: Floats, share: int | None) -> list[str]:
        assert self.table is not None
        search = self.table.search(query).distance_type("cosine").limit(K)
        if share is not None:
            search = search.where(f"share < {share}", prefilter=True)
        return [row["id"] for row in search.to_list()]

    def close(self) -> None:
        self.table = None


class SqliteVec(Store):
    needs = "sqlite_vec"

    def open(self) -> None:
        import sqlite_vec

        # Pythons that load no extensions are common
        loads = hasattr(sqlite3.Connection, "enable_load_extension")
        sqlite = sqlite3 if loads else importlib.import_module("pysqlite3")
        self.folder.mkdir(exist_ok=True)
        self.database = sqlite.connect(self.folder / "c.sqlite", isolation_level=None)
        self.database.enable_load_extension(True)
        sqlite_vec.load(self.database)
        self.database.execute("PRAGMA journal_mode = WAL")
        self.database.execute(
            "CREATE VIRTUAL TABLE IF NOT EXISTS c USING vec0(id TEXT PRIMARY KEY, share INTEGER, "
            f"vector float[{self.d}] distance_metric=cosine, +document TEXT, +metadata TEXT)"
        )

    def add(self, records: Records) -> None:
        self.database.execute("BEGIN")
        for name, vector, text, fields in zip(*records, strict=True):
            self.database.execute("DELETE FROM c WHERE id = ?", (name,))
            row = (name, fields["share"], vector.tobytes(), text, json.dumps(fields))
            self.database.execute("INSERT INTO c (id, share, vector, document, metadata) VALUES (?, ?, ?, ?, ?)", row)
        self.database.execute("COMMIT")

    def search(self, query: Floats, share: int | None) -> list[str]:
        condition, parameters = ("", ()) if share is None else (" AND share < ?", (share,))
        sql = f"SELECT id, document, metadata FROM c WHERE vector MATCH ? AND k = {K}{condition}"
        return [row[0] for row in self.database.execute(sql, (query.tobytes(), *parameters)).fetchall()]

    def close(self) -> None:
        self.database.close()


class Tqdb(Store):
    needs = "tqdb"

    def open(self) -> None:
        import tqdb

        self.database = tqdb.Database.open(str(self.folder), self.d, bits=4, metric="cosine")

    def add(self, records: Records) -> None:
        ids, vectors, documents, metadatas = records
        self.database.insert_batch(list(ids), vectors, list(metadatas), list(documents), mode="upsert")
        if len(ids) == 1:
            self.database.checkpoint()  # what makes a write durable there

    def finish(self) -> None:
        self.database.checkpoint()

    def search(self, query: Floats, share: int | None) -> list[str]:
        filter = None if share is None else {"share": {"$lt": share}}
        return [row["id"] for row in self.database.search(query, K, filter=filter)]

    def close(self) -> None:
        self.database.close()


STORES: dict[str, type[Store]] = {
    "tqvec 4 bits": Tqvec,
    "tqvec 4 bits, float16 kept, reranked": TqvecKept,
    "Chroma (HNSW)": Chroma,
    "LanceDB (exhaustive)": Lance,
    "sqlite-vec (exhaustive)": SqliteVec,
    "tqdb 4 bits (exhaustive)": Tqdb,
}


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def make_records(folder: Path | None, n: int | None) -> tuple[Records, Floats]:
    """Ids, vectors, texts and metadata of five fields, and queries."""
    sample = load_sample(folder)
    base, texts = normalize(sample.base[:n].astype(np.float32)), sample.base_texts[:n]
    rng = np.random.default_rng(20)
    shares, years = rng.integers(0, 1_000, len(base)).tolist(), rng.integers(1990, 2026, len(base)).tolist()
    metadatas = [
        {"share": share, "year": year, "length": len(text), "kind": ("noun", "verb", "other")[i % 3], "first": text[:1]}
        for i, (share, year, text) in enumerate(zip(shares, years, texts, strict=True))
    ]
    queries = normalize(sample.queries[:QUERIES].astype(np.float32))
    return ([f"word-{i:07d}" for i in range(len(base))], base, texts, metadatas), queries


def warm_up(store: Store, records: Records, query: Floats) -> None:
    """Load libraries and compile: what the first calls of a process cost, and no later ones."""
    store.open()
    store.add(tuple(column[:BATCH] for column in records))  # type: ignore[arg-type]
    store.finish()
    for share in (None, 500):
        store.search(query, share)
    store.close()


def measure(store: Store, records: Records, queries: Floats, exact: list[set[str]]) -> dict[str, Any]:
    """All figures of one database."""
    n = len(records[0])
    store.open()
    start = time.perf_counter()
    for first in range(0, n, BATCH):
        store.add(tuple(column[first : first + BATCH] for column in records))  # type: ignore[arg-type]
    store.finish()
    row: dict[str, Any] = {"ingest": n / (time.perf_counter() - start)}
    found = [set(store.search(query, None)) for query in queries]
    row["recall"] = float(np.mean([len(one & other) / K for one, other in zip(found, exact, strict=True)]))
    row["single"] = 1e3 * float(np.median([seconds(lambda q=q: store.search(q, None)) for q in queries]))
    for keep in KEEPS:
        row[f"first {keep / 10:g} %"] = 1e3 * seconds(lambda keep=keep: store.search(queries[0], keep))
        times = [seconds(lambda q=q, keep=keep: store.search(q, keep)) for q in queries]
        row[f"{keep / 10:g} %"] = 1e3 * float(np.median(times))
    store.close()
    row["bytes"] = sum(path.stat().st_size for path in store.folder.rglob("*") if path.is_file()) / n
    row["reopen"] = 1e3 * seconds(lambda: (store.open(), store.search(queries[0], None)))
    start, done = time.perf_counter(), 0
    while done < SINGLES and time.perf_counter() - start < MOST_SECONDS:
        store.add(tuple(column[done : done + 1] for column in records))  # type: ignore[arg-type]
        done += 1
    row["upsert"] = 1e3 * (time.perf_counter() - start) / done
    store.close()
    return row


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="embeddings and texts; default: the sample of the package")
    parser.add_argument("--n", type=int, help="records; default: those of the folder")
    parser.add_argument("--only", help="databases whose name has this part")
    arguments = parser.parse_args()
    records, queries = make_records(arguments.folder, arguments.n)
    _, rows = exact_search(records[1], queries, K, "cosine")
    exact = [{records[0][i] for i in some} for some in rows]
    results = []
    columns = ["ingest", "bytes", "recall", "single", *(f"{keep / 10:g} %" for keep in KEEPS)]
    columns += [f"first {keep / 10:g} %" for keep in KEEPS] + ["reopen", "upsert"]
    for name, kind in STORES.items():
        if importlib.util.find_spec(kind.needs) is None or (arguments.only or "") not in name:
            continue
        folder = Path(tempfile.mkdtemp())
        try:
            warm_up(kind(folder / "first", records[1].shape[1]), records, queries[0])
            figures = measure(kind(folder / "c", records[1].shape[1]), records, queries, exact)
            results.append({"database": name, "version": version(kind.needs), **figures})
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        console.print(results[-1])
    table = Table(title=f"{len(records[0]):,} records: per second, bytes a record, recall 10@10, ms a call")
    table.add_column("")
    for row in results:
        table.add_column(f"{row['database']}\n{row['version']}", justify="right")
    for column in columns:
        values = [row[column] for row in results]
        table.add_row(column, *(f"{value:,.3g}" if value < 1000 else f"{value:,.0f}" for value in values))
    console.print(table)
    report(f"collection-{len(records[0])}", results)


if __name__ == "__main__":
    main()
