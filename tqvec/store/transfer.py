"""Transfer: records to files of Parquet or JSON lines."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tqvec._output import Kind, Output, as_path
from tqvec._present import import_optional
from tqvec.errors import InputError
from tqvec.store.hits import Hits

# No file is known to be one that nobody misses: a table of another program looks alike.
_EXPORT = Kind("empty", re.compile(rb"(?!)"))


def describe_file(path: str | os.PathLike[str]) -> str:
    """Return the name, size and time of a file: another content has another description."""
    real = as_path(path).resolve()
    if not real.is_file():
        raise FileNotFoundError(f"no such file: {real}")
    status = real.stat()
    return f"{real}:{status.st_size}:{status.st_mtime_ns}"


def write_records(
    path: Path, parts: Iterable[Hits], d: int, overwrite: bool, progress: Callable[[int], None] | None
) -> int:
    """Write records with ids, vectors, documents and metadata, and return their number."""
    if path.suffix not in (".parquet", ".jsonl", ".ndjson"):
        raise InputError(f"path must end in .parquet, .jsonl or .ndjson, got {path}")
    write = _write_parquet if path.suffix == ".parquet" else _write_json_lines
    done = 0
    with Output(path, _EXPORT, overwrite=overwrite).open() as file:
        for count in write(file, parts, d):
            done += count
            if progress is not None:
                progress(done)
    return done


def _write_json_lines(file: BinaryIO, parts: Iterable[Hits], d: int) -> Iterator[int]:
    for part in parts:
        for record in part.to_records():
            record["vector"] = record["vector"].tolist()
            file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        yield len(part.ids)


def _write_parquet(file: BinaryIO, parts: Iterable[Hits], d: int) -> Iterator[int]:
    arrow: Any = import_optional("pyarrow", "a file of Parquet", "parquet")
    parquet: Any = import_optional("pyarrow.parquet", "a file of Parquet", "parquet")
    fields = {"id": arrow.string(), "vector": arrow.list_(arrow.float32(), d)}
    schema = arrow.schema({**fields, "document": arrow.string(), "metadata": arrow.string()})
    with parquet.ParquetWriter(file, schema) as writer:
        for part in parts:
            if part.vectors is None or part.metadatas is None:
                raise TypeError("vectors and metadata are not included")
            vectors = arrow.FixedSizeListArray.from_arrays(arrow.array(part.vectors.reshape(-1)), d)
            metadatas = [json.dumps(fields, ensure_ascii=False) for fields in part.metadatas]
            writer.write_batch(arrow.record_batch([part.ids, vectors, part.documents, metadatas], schema=schema))
            yield len(part.ids)
