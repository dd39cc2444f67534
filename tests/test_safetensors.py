"""Damaged and forged files of all kinds: always a `FormatError` with the path and a reason."""

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from cache_policies import D, tokens
from craft_files import forge_fields, join, split
from safetensors.numpy import save_file
from strategies import normal

import tqvec
from tqvec import _safetensors
from tqvec.errors import FormatError
from tqvec.index.file import header as index_header
from tqvec.index.file import io
from tqvec.index.rows import encode_rows
from tqvec.kvcache import KVCache, Policy
from tqvec.kvcache import file as cache_file

INDEXES = Path(__file__).parent / "golden" / "indexes"


@cache
def codec():
    """A calibrated one: its files have every kind of tensor."""
    index = tqvec.Index(16, nbits=2, metric="l2")
    assert index.train((normal(400, 16, 10_010) / np.arange(1, 17)).astype(np.float32)).accepted
    return index.codec


def write_index(path):
    """A file with several blocks, of metric l2, with ids."""
    rows = encode_rows(codec(), "l2", normal(6, 16, 10_011)) | {"ids": np.arange(6)[::-1] * 3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_header, "CHECKSUM_ROWS", 4)
        io.save(path, codec(), "l2", 6, [rows], None, 1200)


def write_cache(path):
    cache = KVCache(2, 2, D, Policy(3, (2, (3, 2)), recent=4, chunk=4, mean_tokens=4, sinks=2, dtype="bfloat16"))
    for layer, n in enumerate((20, 6)):
        cache.append(layer, *tokens(n, seed=layer))
    cache.save(path)


class Kind(NamedTuple):
    """A kind of file: how it is written, all ways to load it, those that verify every byte, and some of its tensors."""

    key: str
    title: str
    version: int
    write: Callable
    loads: tuple
    verified: tuple
    tensors: tuple


INDEX = Kind(
    key=index_header.KEY,
    title="tqvec index",
    version=index_header.VERSION,
    write=write_index,
    loads=(tqvec.Index.load, partial(tqvec.Index.load, mmap=True)),
    verified=(partial(tqvec.Index.load, verify=True), partial(tqvec.Index.load, mmap=True, verify=True)),
    tensors=("ids", "scale", "codes"),
)
CACHE = Kind(
    key="tqvec_kvcache",
    title="cache of tqvec",
    version=cache_file.VERSION,
    write=write_cache,
    loads=(KVCache.load,),
    verified=(KVCache.load,),
    tensors=("0.means.keys", "0.cold.keys.0.scales", "1.sinks.keys"),
)
OLD = {
    f"index, version {n}": INDEX._replace(
        version=n, write=lambda path, n=n: path.write_bytes((INDEXES / f"v{n}.tqv").read_bytes())
    )
    for n in (1, 2, 3, 4)
}
KINDS = {"index": INDEX, "cache": CACHE}
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.file"


def fields_of(path, kind):
    return json.loads(split(path)[0]["__metadata__"][kind.key])


def refuse(path, kind, loads=None):
    """The reason for which a file can't be loaded, the same for every way to load it."""
    reasons = set()
    for load in loads or kind.loads:
        with pytest.raises(FormatError, match=path.name.replace(".", r"\.")) as caught:
            load(path)
        reasons.add(str(caught.value))
    assert len(reasons) == 1
    return reasons.pop()


@pytest.mark.slow
@kinds
def test_every_flipped_bit_is_found(path, kind):
    kind.write(path)
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(10_061)
    for at in range(0, len(content), 1 + len(content) // 4000):
        bit = 1 << int(rng.integers(8))
        content[at] ^= bit
        path.write_bytes(content)
        content[at] ^= bit
        refuse(path, kind, kind.verified)


@pytest.mark.parametrize("kind", (KINDS | OLD).values(), ids=KINDS | OLD)
def test_every_length_is_wrong_but_one(path, kind):
    kind.write(path)
    content = path.read_bytes()
    for load in kind.verified:
        load(path)
    head = len(content) - len(split(path)[1])
    sizes = {*range(16), *range(0, len(content), 1 + len(content) // 60), len(content) // 2, len(content) - 1}
    for size in sizes | {head - 1, head, head + 1}:
        path.write_bytes(content[:size])
        refuse(path, kind)
    path.write_bytes(content + b"x")
    assert f"it has {len(content) + 1} bytes, its header says {len(content)}" in refuse(path, kind)


@kinds
def test_other_files(path, kind):
    save_file({"x": np.zeros(3)}, path)
    assert f"a.file: a safetensors file, but not a {kind.title}" in refuse(path, kind)
    texts = [b"", b"{", b"{}", b"[]", b"3", b"NaN", b"{" * 1000, b"\xff" * 50, b"[" * 100_000, b"9" * 100_000]
    texts += [b'{"__metadata__":' * 50_000, b'{"__metadata__":{"KEY":"[]"}}'.replace(b"KEY", kind.key.encode())]
    for text in texts:
        refuse(join(path, text), kind)
    for content in (b"", b"hello", b"\x00" * 100, b"\x03" + b"\x00" * 7 + b"[1]", np.random.default_rng(1).bytes(4096)):
        path.write_bytes(content)
        assert "a.file: not a safetensors file" in refuse(path, kind)
    with pytest.raises(FileNotFoundError, match="no such file"):
        kind.loads[0](path.with_name("missing"))
    with pytest.raises(FileNotFoundError):
        kind.loads[0](path.parent)


@kinds
def test_other_heads(path, kind):
    """Tensors that overlap, leave holes, or lie outside; and metadata of other types."""
    kind.write(path)
    head, body = split(path)
    for name in kind.tensors:
        first, end = head[name]["data_offsets"]
        size = end - first
        elsewhere = [[n, n + size] for n in (first + 8, 2 * size + 8, -size, 10**18, 2**64)]
        for offsets in (*elsewhere, [0, end + 8], [end, first], "x", [0]):
            other = head | {name: head[name] | {"data_offsets": offsets}}
            assert "tensors" in refuse(join(path, other, body), kind)
        for change in ({"dtype": "I16"}, {"shape": [7]}, {"shape": "x"}):
            assert "tensors" in refuse(join(path, head | {name: head[name] | change}, body), kind)
        assert "tensors" in refuse(join(path, head | {name: None}, body), kind)
        assert "tensors" in refuse(join(path, {key: head[key] for key in head if key != name}, body), kind)
    for metadata in (None, {kind.key: 1}, {kind.key: "[" * 100_000}):
        refuse(join(path, head | {"__metadata__": metadata}, body), kind)
        refuse(join(path, {"__metadata__": metadata}), kind)
    for other in ([], {}, 3):
        refuse(join(path, other, body), kind)


@kinds
@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 2**40, 10**8, 5000])
def test_huge_headers(path, kind, length):
    path.write_bytes(length.to_bytes(8, "little") + b"{}" * 1000)
    assert f"a header of {length} bytes in 2008" in refuse(path, kind)
    with path.open("r+b") as file:  # sparse: a header of the size it says would have to be parsed
        file.truncate(2**26)
        file.seek(0)
        file.write((2**25).to_bytes(8, "little"))
    assert "a header of 33554432 bytes" in refuse(path, kind)


@kinds
def test_fields(path, kind):
    """Missing, unknown, of a newer version, or without a checksum of their own."""
    kind.write(path)
    content, written = path.read_bytes(), fields_of(path, kind)
    assert forge_fields(path, {}, kind.key).read_bytes() == content
    for name in written.keys() - {"header_crc32"}:
        path.write_bytes(content)
        assert f"the header lacks '{name}'" in refuse(forge_fields(path, {name: None}, kind.key), kind)
    for changes, reason in (
        ({"other": 1}, "other bytes than a writer"),
        ({"version": kind.version + 1, "crc32": None}, f"in format version {kind.version + 1}; this tqvec reads up to"),
        *(({"version": value}, f"version is {value!r}, no integer from 1") for value in (0, "1", True, [])),
        ({"crc32": []}, "crc32 is []"),
        ({"crc32": {}}, "crc32 has [], not the tensors"),
        ({"crc32": dict.fromkeys(written["crc32"], 1)}, "crc32 of"),
        ({"crc32": {name: ["0"] for name in written["crc32"]}}, "crc32 of"),
    ):
        path.write_bytes(content)
        assert reason in refuse(forge_fields(path, changes, kind.key), kind)
    path.write_bytes(content)
    head, body = split(path)
    for checksum, reason in (("00000000", "the header's checksum does not match"), (None, "lacks 'header_crc32'")):
        fields = {name: value for name, value in fields_of(path, kind).items() if name != "header_crc32"}
        fields |= {} if checksum is None else {"header_crc32": checksum}
        join(path, head | {"__metadata__": {kind.key: json.dumps(fields)}}, body)
        assert reason in refuse(path, kind)
        path.write_bytes(content)


@kinds
def test_spaces_in_the_header(path, kind):
    """The fields are true, and so are all checksums: only the bytes are not a writer's."""
    kind.write(path)
    head, body = split(path)
    for text in (
        json.dumps(head).encode(),
        json.dumps(head, separators=(",", ":")).encode() + b" " * 8,
        json.dumps({name: head[name] for name in sorted(head, reverse=True)}, separators=(",", ":")).encode(),
    ):
        assert "other bytes than a writer" in refuse(join(path, text, body), kind)


HUGE = {
    "index": [
        {"ntotal": n, "next_id": n, "block_rows": n, "crc32": lambda crcs: {name: crcs[name][:1] for name in crcs}}
        for n in (2**28, 2**40, 2**62)
    ],
    "cache": [
        {"layers": [[2, 0, 2**38, 6, 0], [2, 0, 0, 4, 0]]},
        {"layers": [[2, 0, 12, 6, 0]] * 2, "n_kv_heads": 1024},
    ],
}


@pytest.mark.parametrize("name", KINDS)
def test_forged_sizes_take_no_memory(tmp_path, name):
    """A process that may not allocate a gigabyte refuses them like any other."""
    kind, paths = KINDS[name], []
    for i, changes in enumerate(HUGE[name]):
        paths.append(tmp_path / f"{i}.file")
        kind.write(paths[-1])
        fields = fields_of(paths[-1], kind)
        forged = {key: value(fields[key]) if callable(value) else value for key, value in changes.items()}
        forge_fields(paths[-1], forged, kind.key)
    script = """
        import resource, sys
        from functools import partial
        from pathlib import Path
        from tqvec.errors import FormatError
        from tqvec.index.file import io
        from tqvec.kvcache import KVCache
        loads = [io.load, partial(io.load, mmap=True)] if sys.argv[1] == "index" else [KVCache.load]
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**28,) * 2)
        for path in sys.argv[2:]:
            for load in loads:
                try:
                    load(Path(path))
                except FormatError as error:
                    print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), name, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    reason = "damaged: the tensors" if name == "index" else ".file: "
    assert done.stdout.count(reason) == len(paths) * len(kind.loads)


def test_a_file_that_becomes_shorter_while_it_is_read(path):
    path.write_bytes(_safetensors.dump({"x": np.arange(5000), "y": np.arange(5000)}, {"key": "{}"}))
    tensors = _safetensors.place({"x": ("I64", (5000,)), "y": ("I64", (5000,))})
    with path.open("r+b") as file:
        reader = _safetensors.Reader(path, file, "key", "test")
        reader.verify(tensors, _safetensors.make_head(tensors, {"key": "{}"}))
        arrays = reader.read(tensors)
        assert np.array_equal(next(arrays)[1], np.arange(5000))
        file.truncate(50_000)
        with pytest.raises(FormatError, match=r"a\.file: became shorter while it was read"):
            next(arrays)
