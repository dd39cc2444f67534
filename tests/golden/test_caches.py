"""Cache files of every version can be read, and those of the newest have the bytes that were fixed with it."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from golden.make_caches import CACHES, FILES, VERSION_1, golden_cache, golden_tokens
from processes import X86, has_settings, read_script, settings_of
from safetensors import safe_open

from tqvec.kernels.dispatch import levels
from tqvec.kernels.features import available_levels
from tqvec.kvcache import KVCache

NEWEST = {name: FILES / f"v2-{name.replace(' ', '-')}.st" for name in CACHES}
HASHES = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in NEWEST.values()}


def version(path):
    with safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["tqvec_kvcache"])["version"]


@pytest.mark.parametrize("name", CACHES)
def test_the_newest_version_has_its_bytes(name, tmp_path):
    golden_cache(name).save(tmp_path / "new.st")
    assert version(tmp_path / "new.st") == 2
    assert (tmp_path / "new.st").read_bytes() == NEWEST[name].read_bytes()
    KVCache.load(NEWEST[name]).save(tmp_path / "again.st")
    assert (tmp_path / "again.st").read_bytes() == NEWEST[name].read_bytes()


def test_golden_caches_have_keys_with_and_without_their_mean():
    for path in NEWEST.values():
        cache = KVCache.load(path)
        state = cache._layers[0].state
        plain = np.concatenate([group.scales.ravel() >> 15 for part in state.coded for group in part.keys])
        assert 0 < plain.mean() < 0.5


def made(**environment):
    """What a process with some settings makes."""
    return read_script(Path(__file__).with_name("make_caches.py"), "--print", **environment)


def check(level, **environment):
    if has_settings() or level not in available_levels():
        pytest.skip(f"no {level} here, or this process runs with settings of its own")
    assert made(**environment) == {"level": level, "hashes": HASHES}


@pytest.mark.slow
@pytest.mark.parametrize("level", levels("encode_rows")[1:])  # the others write with the kernels of one that is faster
def test_lower_levels(level):
    check(level, TQVEC_SIMD_LEVEL=level)


@pytest.mark.slow
@pytest.mark.skipif(not X86, reason="the name of an x86 processor")
def test_a_lowered_target():
    check("avx2", **settings_of("avx2"))


@pytest.fixture
def old():
    """A cache of version 1, and what it held when it was written."""
    assert version(FILES / "v1.st") == 1
    return KVCache.load(FILES / "v1.st"), np.load(FILES / "v1.npz")


def test_version_1_holds_what_it_held(old):
    cache, expected = old
    assert (cache.rope, cache.policy) == ((None,), VERSION_1)
    assert np.array_equal(cache.keys(0), expected["keys"])
    assert np.array_equal(cache.values(0), expected["values"])


def test_version_1_goes_on(old):
    """New tokens come with the old means; those that are shorter without keep their length."""
    cache, expected = old
    k, v = golden_tokens(100, 20)
    cache.append(0, k[:, 70:], v[:, 70:])
    assert cache.token_counts(0).held == 100
    out, before = cache.attend(0, k[:, -3:]), expected["attention"]
    np.testing.assert_allclose(out, before, atol=0.1 * np.abs(before).max())


def test_version_1_becomes_the_newest(old, tmp_path):
    cache, expected = old
    cache.save(tmp_path / "new.st")
    assert version(tmp_path / "new.st") == 2
    again = KVCache.load(tmp_path / "new.st")
    assert np.array_equal(again.keys(0), expected["keys"])
    assert np.array_equal(again.values(0), expected["values"])


def test_all_files_are_tested():
    assert set(FILES.iterdir()) == {*NEWEST.values(), FILES / "v1.st", FILES / "v1.npz"}
