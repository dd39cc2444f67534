"""Weights of a model that is larger than the memory: layers are read from a disk one by one, in every pass."""

from __future__ import annotations

import math
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from tqvec import _validate
from tqvec._output import as_path
from tqvec.errors import InputError
from tqvec.kvcache.planning.units import MAX_BYTES, format_bytes, format_seconds, parse_bandwidth, parse_bytes

_SIZES = ("resident", "streamed")
_LAYER = re.compile(r"(.*?)\b(\d+)\.")  # the stem and the number of a layer, in the name of one of its tensors


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
    """Return the names and bytes of the tensors of a file, from its header."""
    try:
        with safe_open(path, "numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            return [(name, _count_bytes(one.get_dtype(), one.get_shape())) for name, one in slices.items()]
    except SafetensorError as error:
        raise InputError(f"{path}: no safetensors file, or damaged: {error}") from None


def _count_bytes(dtype: str, shape: list[int]) -> int:
    """Return the bytes of a tensor whose type is, for instance, "BF16", "F8_E4M3" or "BOOL"."""
    bits = re.match(r"[A-Z]+(\d+)", dtype)
    return math.prod(shape) * (int(bits[1]) if bits else 8) // 8
