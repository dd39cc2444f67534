"""Weights of a model that is larger than the memory: layers are read from a disk one by one, in every pass."""

from __future__ import annotations

import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tqvec import _validate
from tqvec._output import as_path
from tqvec.errors import InputError
from tqvec.kvcache.planning.units import MAX_BYTES, format_bytes, format_seconds, parse_bandwidth, parse_bytes

_SIZES = ("resident", "streamed")
_LAYER = re.compile(r"(.*?)\b(\d+)\.")  # the stem and the number of a layer, in the name of one of its tensors
_LONGEST_HEADER = 100_000_000  # bytes, as the safetensors library allows


class StreamedWeights(NamedTuple):
    """The weights of a model whose layers are read from a disk one by one (layer streaming, a kind of offloading).

    A *pass* reads all layers once. It computes a prompt, or the next token of each sequence of a batch.

    Attributes
    ----------
    resident : int
        Bytes in memory: the largest layer, and everything that is in no layer, such as embeddings.
    streamed : int
        Bytes of all layers.
    bandwidth : float
        Bytes per second of the disk. Default: infinity, and no time is counted.
    """

    resident: int
    streamed: int
    bandwidth: float = math.inf

    @property
    def seconds(self) -> float:
        """Seconds of reading per pass."""
        return self.streamed / self.bandwidth

    @classmethod
    def read(cls, checkpoint: str | Path, bandwidth: float = math.inf) -> StreamedWeights:
        """Read the bytes of each layer from the headers of a checkpoint.

        A tensor belongs to a layer if its name has a number, as ``model.layers.0.…``. If such names begin in several
        ways, the layers are those that take the most bytes together, and the others stay in memory.

        Parameters
        ----------
        checkpoint : str or Path
            A file of safetensors, or a folder with ``model*.safetensors``.
        bandwidth : float
            Bytes per second of the disk.

        Raises
        ------
        InputError
            There is no file, a file is damaged, or no tensor belongs to a layer.
        """
        total, stems = 0, defaultdict[str, dict[str, int]](lambda: defaultdict(int))
        for name, size in _iter_tensors(as_path(checkpoint, "checkpoint")):
            total += size
            match = _LAYER.match(name)
            if match:
                stems[match[1]][match[2]] += size
        if not stems:
            raise InputError(f"{checkpoint}: no tensor has the number of its layer in its name, as model.layers.0.…")
        layers = max((stem.values() for stem in stems.values()), key=sum)
        return cls(total - sum(layers) + max(layers), sum(layers), bandwidth)

    @classmethod
    def parse(cls, text: str) -> StreamedWeights:
        """Read ``"2.5GB:14GB:3GB/s"``, resident and streamed bytes, or ``"folder:3GB/s"``, a checkpoint.

        The bandwidth may be left out.

        Raises
        ------
        InputError
            The text has another form, or as `read`.
        """
        sizes, bandwidth = _validate.instance(text, "streamed weights", str).split(":"), math.inf
        if sizes[-1].endswith("/s"):
            bandwidth = parse_bandwidth(sizes.pop(), "bandwidth of streamed weights")
        path = ":".join(sizes)
        if len(sizes) == 1 or os.path.exists(path):
            return cls.read(path, bandwidth)
        if len(sizes) != 2:
            raise InputError(
                "streamed weights must be resident:streamed[:bandwidth], as 2.5GB:14GB:3GB/s, or "
                f"checkpoint[:bandwidth]; got {text!r}"
            )
        resident, streamed = (parse_bytes(size, f"{name} weights") for name, size in zip(_SIZES, sizes, strict=True))
        return cls(resident, streamed, bandwidth)

    def check(self) -> StreamedWeights:
        """Return the same with checked numbers; InputError if one is wrong."""
        resident, streamed = (
            _validate.integer(getattr(self, name), f"{name} weights", 0, MAX_BYTES) for name in _SIZES
        )
        bandwidth = _validate.number(self.bandwidth, "bandwidth of streamed weights")
        if bandwidth <= 0:
            raise InputError(f"bandwidth of streamed weights must be more than 0 bytes per second, got {bandwidth}")
        return StreamedWeights(resident, streamed, bandwidth)

    def __str__(self) -> str:
        text = f"{format_bytes(self.resident)} resident, {format_bytes(self.streamed)} streamed per token"
        if math.isinf(self.bandwidth):
            return text
        return f"{text} in {format_seconds(self.seconds)}, at {format_bytes(self.bandwidth)}/s"


def _iter_tensors(checkpoint: Path) -> Iterator[tuple[str, int]]:
    """Yield the names and bytes of all tensors."""
    paths = sorted(checkpoint.glob("model*.safetensors")) if checkpoint.is_dir() else [checkpoint]
    if not paths:
        raise InputError(f"{checkpoint}: the folder has no model*.safetensors")
    if not paths[0].is_file():
        raise InputError(f"streamed weights must be sizes, or the path of a checkpoint; got {str(checkpoint)!r}")
    for path in paths:
        yield from _read_sizes(path)


def _read_sizes(path: Path) -> list[tuple[str, int]]:
    """Return the names and bytes of the tensors of a file; InputError unless they make up its size."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if length <= _LONGEST_HEADER else b""
    try:
        entries = json.loads(text)
        entries.pop("__metadata__", None)
        spans = {name: entry["data_offsets"] for name, entry in entries.items()}
        sizes = [(name, int(stop) - int(start)) for name, (start, stop) in spans.items()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: no safetensors file, or damaged: {error}") from None
    expected, found = 8 + length + sum(size for _, size in sizes), path.stat().st_size
    if found != expected or any(size < 0 for _, size in sizes):
        raise InputError(f"{path}: damaged or cut short: it has {found} bytes, its header says {expected}")
    return sizes
