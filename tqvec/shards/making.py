"""Making: one shard, from a range of a source.

Equal rows give equal files, so a shard may be made any number of times, by any process.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tqvec._present import import_optional
from tqvec.errors import InputError, LossWarning
from tqvec.index.index import Index
from tqvec.shards.folder import Folder
from tqvec.shards.manifest import Shard, parse_shard, shard_bytes
from tqvec.shards.source import Source
from tqvec.shards.writing import put_records, put_vectors

NOTES = "building"  # folder of the notes of builds that are not complete


class Plan(NamedTuple):
    """How rows become shards.

    Attributes
    ----------
    folder : Folder
        Of the sharded index.
    source : Source
    source_key : str
        Stands for the rows of the source.
    key : str
        Stands for these and for all settings: a build with another key shares nothing with this one.
    vectors : str
        Column of the vectors.
    schema : pyarrow.Schema
        Of the columns that become records.
    base : int
        Number of the source's first row in the sharded index.
    shard_rows : int
    threads : int
        Of one task.
    """

    folder: Folder
    source: Source
    source_key: str
    key: str
    vectors: str
    schema: Any
    base: int
    shard_rows: int
    threads: int

    @property
    def origin(self) -> str:
        """What a manifest notes of the source and the settings."""
        return f"{self.source_key}-{self.key}"

    def starts(self) -> range:
        """Return the first row of each shard, in the source."""
        return range(0, self.source.n, self.shard_rows)

    def note_name(self, start: int) -> str:
        """Return the name of the file that notes a complete shard."""
        return f"{self.notes}/{start:012d}.json"

    @property
    def notes(self) -> str:
        """The folder of the notes."""
        return f"{NOTES}/{self.key}"

    def begin(self) -> dict[int, Shard]:
        """Note that a build goes on, and return the shards that are there, by their first row in the source."""
        self.folder.write(f"{self.notes}/begun", b"")
        done, sizes = {}, None
        for name in self.folder.sizes(self.notes):
            start = int(Path(name).stem) if Path(name).stem.isdecimal() else -1
            if start in self.starts():
                shard = parse_shard(f"{self.folder}/{name}", self.folder.read(name))
                sizes = self.folder.sizes() if sizes is None else sizes
                if all(sizes.get(file.name) == file.nbytes for file in shard.files):
                    done[start] = shard
        return done

    def forget(self) -> None:
        """Delete the notes of a build that is complete."""
        self.folder.delete_below(self.notes)


class Made(NamedTuple):
    """A shard that was made, and the warnings that this gave."""

    shard: Shard
    warnings: tuple[str, ...]


def make_shard(plan: Plan, empty: Index, start: int) -> Made:
    """Compress a range of the source, write its files to the folder, and note them.

    Parameters
    ----------
    plan : Plan
    empty : Index
        Without vectors; it stays so.
    start : int
        First row, in the source.

    Raises
    ------
    InputError
        A vector is bad; the message has its row.
    """
    stop = min(start + plan.shard_rows, plan.source.n)
    first = plan.base + start
    with tempfile.TemporaryDirectory(prefix="tqvec-shard-") as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", LossWarning)
        index, records = empty.__copy__(), _Records(Path(folder) / "records.parquet", plan.schema)
        try:
            index.add(_vectors(plan, start, stop, records), ids=np.arange(first, first + stop - start))
        except InputError as error:
            raise InputError(f"source, rows counted from {start}: {error}") from error
        finally:
            records.close()
        path = Path(folder) / "vectors.tqv"
        index.save(path)
        vectors = put_vectors(plan.folder, path, first)
        kept = put_records(plan.folder, records.path, first) if plan.schema.names else None
    shard = Shard(first, stop - start, vectors, kept)
    plan.folder.write(plan.note_name(start), shard_bytes(shard))
    losses = (str(warning.message) for warning in caught if issubclass(warning.category, LossWarning))
    return Made(shard, tuple(dict.fromkeys(losses)))


def _vectors(plan: Plan, start: int, stop: int, records: _Records) -> Iterator[Any]:
    """Yield the vectors of some rows, and write their records."""
    for vectors, table in plan.source.tables(start, stop, plan.vectors, plan.schema.names):
        records.write(table)
        yield vectors


class _Records:
    """A Parquet file of records, if there are any columns."""

    def __init__(self, path: Path, schema: Any) -> None:
        self.path, self._schema = path, schema
        parquet = import_optional("pyarrow.parquet", "shards", "ray")
        self._writer = parquet.ParquetWriter(path, schema, compression="zstd") if schema.names else None

    def write(self, table: Any) -> None:
        if self._writer is not None:
            self._writer.write_table(table.cast(self._schema))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
