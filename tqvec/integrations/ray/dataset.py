"""Dataset: the rows of a Ray Dataset as a source of shards."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any
from zlib import crc32

from tqvec._arrays import is_a
from tqvec._present import import_optional
from tqvec.shards.source import same_schema

ray = import_optional("ray", "tqvec.ray", "ray")


def is_dataset(source: object) -> bool:
    """Return whether a source is a Ray Dataset."""
    return is_a(source, "ray.data.dataset", "Dataset", "MaterializedDataset")


class DatasetSource:
    """The rows of a Ray Dataset, block by block.

    Parameters
    ----------
    dataset : ray.data.Dataset
        It is computed now, and kept in Ray's object store.
    """

    def __init__(self, dataset: Any) -> None:
        self._blocks = dataset.to_arrow_refs()
        facts = ray.get([ray.remote(_describe_block).remote(block) for block in self._blocks])
        self._facts = [fact for fact, _ in facts]
        self._schemas = [schema for _, schema in facts]
        self._starts = list(accumulate((rows for rows, _ in self._facts), initial=0))

    @property
    def n(self) -> int:
        """Number of rows."""
        return self._starts[-1]

    def describe(self) -> str:
        """Return the checksum of each block."""
        return repr(self._facts)

    def schema(self, vectors: str, columns: Sequence[str]) -> Any:
        """Return the pyarrow schema of the records; InputError if a column is not there, or has two types."""
        schema = None
        for number, found in enumerate(self._schemas):
            schema = same_schema(f"source block {number}", found, (vectors, *columns), columns, schema)
        return schema

    def tables(self, start: int, stop: int, vectors: str, columns: Sequence[str]) -> Iterator[tuple[Any, Any]]:
        """Yield the vectors of some rows, and a pyarrow table of their records, part by part."""
        while start < stop:
            number = bisect_right(self._starts, start) - 1
            base, end = self._starts[number], min(stop, self._starts[number + 1])
            table = ray.get(self._blocks[number]).slice(start - base, end - start)
            yield table.column(vectors), table.select(list(columns))
            start = end


def _describe_block(table: Any) -> tuple[tuple[int, int], Any]:
    """Return the rows and a checksum of a block, and its schema."""
    pa = import_optional("pyarrow", "shards", "ray")
    sink, check = pa.BufferOutputStream(), 0
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    check = crc32(sink.getvalue())
    return (table.num_rows, check), table.schema
