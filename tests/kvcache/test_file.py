"""Cache files: what comes back is what was saved, and a forged file is always a `FormatError`.

tests/test_safetensors.py has the faults that files of all kinds can have.
"""

import json

import numpy as np
import pytest
import strategies as sts
from cache_policies import POLICIES, D, tokens
from craft_files import forge_fields
from safetensors import safe_open
from safetensors.numpy import load_file

from tqvec.errors import FormatError
from tqvec.kvcache import KVCache, Policy

SMALL = Policy(3, (2, (3, 2)), recent=4, chunk=4, mean_tokens=4, sinks=2, dtype="bfloat16")


def fill(policy, n=200):
    cache = KVCache(2, 2, D, policy)
    for layer, count in enumerate((n, n // 3)):
        cache.append(layer, *tokens(count, seed=layer))
    return cache


def write(path, policy=SMALL, n=20):
    fill(policy, n).save(path)
    return path


def refuse(path):
    with pytest.raises(FormatError, match=path.name.replace(".", r"\.")) as caught:
        KVCache.load(path)
    return str(caught.value)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_round_trip(policy, tmp_path):
    cache = fill(policy)
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
    cache = fill(POLICIES["plain"])
    cache.save(tmp_path / "a.st")
    with safe_open(tmp_path / "a.st", framework="numpy") as file:
        assert json.loads(file.metadata()["tqvec_kvcache"])["n_layers"] == 2
        assert file.get_tensor("0.sinks.keys").dtype == np.float16
        assert np.array_equal(file.get_tensor("0.sinks.keys"), cache.keys(0)[:, :4].astype(np.float16))
        assert file.get_tensor("0.cold.values.0.codes").shape[1] == cache.token_counts(0).coded


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
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
    assert reason in refuse(forge_fields(write(tmp_path / "a.st"), changes, "tqvec_kvcache"))


def test_numbers_that_no_writer_makes(tmp_path):
    cache = fill(POLICIES["plain"])
    state = cache._layers[0].state
    for array, value, name in (
        (state.sinks.keys, np.nan, "0.sinks.keys"),
        (state.recent.values, np.inf, "0.hot.values"),
        (state.learned.keys.means, np.nan, "0.means.keys"),
        (state.coded[0].keys[0].scales, 0x7FC0, "0.cold.keys.0.scales"),
    ):
        before = array.copy()
        array[0, 0] = value
        cache.save(tmp_path / "a.st")
        array[...] = before
        assert f"{name} holds NaN or Inf" in refuse(tmp_path / "a.st")


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = write(tmp_path / "a.st")
    before = path.read_bytes()
    monkeypatch.setattr("tqvec._safetensors.as_bytes", lambda array: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fill(SMALL, 30).save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.st"]


def test_files_are_little_larger_than_what_they_hold(tmp_path):
    cache = fill(POLICIES["plain"], 3000)
    cache.save(tmp_path / "a.st")
    size = cache.nbytes - cache.nbytes.bookkeeping
    assert size < (tmp_path / "a.st").stat().st_size < size + 8000
    assert load_file(write(tmp_path / "c.st", POLICIES["all recent"].from_name("exact"))).keys()
