"""Cache files: what comes back is what was saved, and a damaged or forged file is always a `FormatError`."""

import json
import subprocess
import sys
import textwrap
import zlib

import numpy as np
import pytest
import strategies as sts
from cache_policies import POLICIES, D, tokens
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tqvec.errors import FormatError
from tqvec.kvcache import KVCache, Policy

SMALL = Policy(3, (2, (3, 2)), recent=4, chunk=4, mean_tokens=4, sinks=2, dtype="bfloat16")


def filled(policy, n=200):
    cache = KVCache(2, 2, D, policy)
    for layer, count in enumerate((n, n // 3)):
        cache.append(layer, *tokens(count, seed=layer))
    return cache


def written(path, policy=SMALL, n=20):
    filled(policy, n).save(path)
    return path


def refused(path):
    with pytest.raises(FormatError, match=path.name.replace(".", r"\.")) as caught:
        KVCache.load(path)
    return str(caught.value)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_round_trip(policy, tmp_path):
    cache = filled(policy)
    cache.save(tmp_path / "a.st")
    again = KVCache.load(tmp_path / "a.st")
    assert again.policy == policy
    again.save(str(tmp_path / "b.st"))
    assert (tmp_path / "a.st").read_bytes() == (tmp_path / "b.st").read_bytes()
    q = sts.normal(4, D, 8_000).reshape(4, 1, D)
    for layer in range(2):
        assert again.token_counts(layer) == cache.token_counts(layer)
        np.testing.assert_allclose(again.attend(layer, q), cache.attend(layer, q), rtol=1e-5, atol=1e-5)
        for one in (cache, again):
            one.append(layer, *tokens(90, seed=5))
        assert np.array_equal(again.keys(layer), cache.keys(layer))
        assert np.array_equal(again.values(layer), cache.values(layer))


def test_the_library_reads_it(tmp_path):
    """All of it but bfloat16, which NumPy does not have: with halves of type float16 the sinks, for one."""
    cache = filled(POLICIES["plain"])
    cache.save(tmp_path / "a.st")
    with safe_open(tmp_path / "a.st", framework="numpy") as file:
        assert json.loads(file.metadata()["tqvec_kvcache"])["n_layers"] == 2
        assert file.get_tensor("0.sinks.keys").dtype == np.float16
        assert np.array_equal(file.get_tensor("0.sinks.keys"), cache.keys(0)[:, :4].astype(np.float16))
        assert file.get_tensor("0.cold.values.0.codes").shape[1] == cache.token_counts(0).coded


def test_every_flipped_bit_is_found(tmp_path):
    path = written(tmp_path / "a.st")
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(10_061)
    for at in range(0, len(content), 1 + len(content) // 4000):
        bit = 1 << int(rng.integers(8))
        content[at] ^= bit
        path.write_bytes(content)
        content[at] ^= bit
        refused(path)


def test_every_length_is_wrong_but_one(tmp_path):
    path = written(tmp_path / "a.st")
    content = path.read_bytes()
    head = 8 + int.from_bytes(content[:8], "little")
    for length in {0, 1, 7, 8, 9, head - 1, head, head + 1, len(content) // 2, len(content) - 1}:
        path.write_bytes(content[:length])
        refused(path)
    path.write_bytes(content + b"\0")
    assert "truncated" in refused(path)


def test_other_files(tmp_path):
    path = tmp_path / "a.st"
    save_file({"x": np.zeros(3)}, path)
    assert "not a cache" in refused(path)
    for text in (
        b"",
        b"{}",
        b"[]",
        b"{" * 1000,
        b"[" * 50_000,
        b"\xff" * 20,
        b'{"__metadata__":{"tqvec_kvcache":"[]"}}',
    ):
        path.write_bytes(len(text).to_bytes(8, "little") + text)
        refused(path)
    path.write_bytes((2**63).to_bytes(8, "little") + b"x" * 1000)
    assert f"a header of {2**63} bytes in 1008" in refused(path)
    with pytest.raises(FileNotFoundError, match="none.st"):
        KVCache.load(tmp_path / "none.st")


def forged(path, **changes):
    """Change fields of a header, None removes one, and make its checksum and places true."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    head = json.loads(content[8:end])
    fields = json.loads(head["__metadata__"]["tqvec_kvcache"])
    del fields["header_crc32"]
    fields = {name: value for name, value in (fields | changes).items() if value is not None}
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    fields["header_crc32"] = f"{zlib.crc32(canonical.encode()):08x}"
    head["__metadata__"] = {"tqvec_kvcache": json.dumps(fields, sort_keys=True, separators=(",", ":"))}
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])
    return path


def test_a_true_forgery_is_read(tmp_path):
    KVCache.load(forged(written(tmp_path / "a.st")))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": 2}, "upgrade"),
        *(({"version": value}, "no integer from 1") for value in (0, "1", True, [])),
        *(({name: None}, "lacks") for name in ("version", "policy", "layers", "crc32", "fingerprint", "head_dim")),
        *(({"n_layers": value}, "") for value in (1, 3, 2**40, -1, 1.0)),
        *(({"n_kv_heads": value}, "") for value in (1, 4, 2**40, 0)),
        *(({"head_dim": value}, "") for value in (19, 24, 2**40)),
        ({"policy": "turbo3"}, "policy is no JSON"),
        ({"policy": "[1]"}, "parameters of Policy"),
        ({"policy": '{"key_nbits": 9}'}, "key_nbits must be"),
        ({"policy": '{"key_nbits": {"bands": [[10, 2]]}}'}, "bands that add up"),
        ({"policy": '{"key_nbits": {"x": 3}}'}, "in place of bands"),
        ({"policy": Policy(3, (2, (3, 2)), recent=4, chunk=4, mean_tokens=4, sinks=2).to_json()}, ""),
        ({"policy": SMALL.to_json().replace('"seed": 0', '"seed": 1')}, "fingerprint"),
        ({"fingerprint": "0" * 32}, "fingerprint"),
        ({"crc32": {}}, "tensors"),
        ({"crc32": []}, "crc32 is"),
        ({"layers": []}, "layers are"),
        ({"layers": [[2, 0, 12, 6, 0]] * 3}, "layers are"),
        ({"layers": [[2, 0, 12, 6], [2, 0, 0, 4, 0]]}, "layers have"),
        ({"layers": [[2, 0, 12, -6, 0], [2, 0, 0, 4, 0]]}, "layers have"),
        ({"layers": [[3, 0, 12, 5, 0], [2, 0, 0, 4, 0]]}, "can't have the tokens"),
        ({"layers": [[1, 0, 12, 7, 0], [2, 0, 0, 4, 0]]}, "can't have the tokens"),
        ({"layers": [[2, 4, 8, 6, 0], [2, 0, 0, 4, 0]]}, "can't have the tokens"),
        ({"layers": [[2, 0, 0, 18, 0], [2, 0, 0, 4, 0]]}, "can't have the tokens"),
        ({"layers": [[2, 0, 12, 6, 5], [2, 0, 0, 4, 0]]}, "can't have the tokens"),
        ({"layers": [[2, 0, 2**60, 6, 0], [2, 0, 0, 4, 0]]}, ""),
    ],
)
def test_wrong_fields(tmp_path, changes, reason):
    assert reason in refused(forged(written(tmp_path / "a.st"), **changes))


def test_numbers_that_no_writer_makes(tmp_path):
    cache = filled(POLICIES["plain"])
    state = cache._layers[0].state
    for array, value, name in (
        (state.sinks.keys, np.nan, "0.sinks.keys"),
        (state.recent.values, np.inf, "0.hot.values"),
        (state.means.keys, np.nan, "0.means.keys"),
        (state.coded[0].keys[0].scales, 0x7FC0, "0.cold.keys.0.scales"),
    ):
        before = array.copy()
        array[0, 0] = value
        cache.save(tmp_path / "a.st")
        array[...] = before
        assert f"{name} holds NaN or Inf" in refused(tmp_path / "a.st")


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = written(tmp_path / "a.st")
    before = path.read_bytes()
    monkeypatch.setattr("tqvec._safetensors.as_bytes", lambda array: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        filled(SMALL, 30).save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.st"]


def test_forged_sizes_take_no_memory(tmp_path):
    """A process that may not allocate a gigabyte refuses them like any other."""
    for i, rows in enumerate(([[2, 0, 2**38, 6, 0], [2, 0, 0, 4, 0]], [[2, 0, 12, 6, 0]] * 2)):
        forged(written(tmp_path / f"{i}.st"), layers=rows, n_kv_heads=2 if i == 0 else 1024)
    script = """
        import resource, sys
        from pathlib import Path
        from tqvec.errors import FormatError
        from tqvec.kvcache import KVCache
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**28,) * 2)
        for path in sys.argv[1:]:
            try:
                KVCache.load(path)
            except FormatError as error:
                print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), *(str(tmp_path / f"{i}.st") for i in range(2))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.count(".st: ") == 2


def test_files_are_little_larger_than_what_they_hold(tmp_path):
    cache = filled(POLICIES["plain"], 3000)
    cache.save(tmp_path / "a.st")
    size = cache.nbytes - cache.nbytes.bookkeeping
    assert size < (tmp_path / "a.st").stat().st_size < size + 8000
    assert load_file(written(tmp_path / "c.st", POLICIES["all recent"].from_name("exact"))).keys()
