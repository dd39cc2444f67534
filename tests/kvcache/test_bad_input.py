"""Bad arguments: an `InputError` that names them, and nothing changed."""

import numpy as np
import pytest
import strategies as sts

from tqvec.errors import InputError
from tqvec.kvcache import Bands, KVCache, Policy, allocate
from tqvec.kvcache.quality.fidelity import measure_fidelity

D = 20
GOOD = sts.normal(2 * 50, D, 8_200).reshape(2, 50, D)


def spoiled(value, head=1, token=33):
    x = GOOD.copy()
    x[head, token, 3] = value
    return x


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_layers": 0}, "n_layers must be an integer from 1"),
        ({"n_layers": 2.0}, "n_layers must be an integer"),
        ({"n_kv_heads": 0}, "n_kv_heads must be"),
        ({"n_kv_heads": 10**6}, "n_kv_heads must be"),
        ({"head_dim": True}, "head_dim must be an integer, got True"),
        ({"policy": "turbo9"}, "policy must be one of 'exact', 'turbo4'"),
        ({"policy": 3}, "policy must be a Policy or the name of one, got int"),
        ({"policy": Policy([3, 3, 3], 3)}, "key_nbits has widths for 3 layers, the cache has 2"),
        ({"policy": Policy(3, [(3, 3, 3), 3])}, "value_nbits has widths for 3 KV heads, the cache has 2"),
        ({"policy": Policy(Bands(((8, 3), (8, 2))), 3)}, "bands that add up to d=20"),
        ({"policy": Policy(3, 3, "trellis"), "head_dim": 8}, "at least 16 coordinates"),
    ],
)
def test_constructor(arguments, message):
    with pytest.raises(InputError, match=message):
        KVCache(**({"n_layers": 2, "n_kv_heads": 2, "head_dim": D} | arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": 2}, "layer must be an integer from 0 to 1, got 2"),
        ({"layer": -1}, "layer must be"),
        ({"layer": "0"}, "layer must be an integer"),
        ({"k": GOOD[0]}, r"k must have shape \(2, n_tokens, 20\), got \(50, 20\)"),
        ({"k": GOOD[:1]}, "k must have shape"),
        ({"v": GOOD[:, :, :19]}, "v must have shape"),
        ({"v": GOOD[:, :49]}, "the same number of tokens, got 50 and 49"),
        ({"k": GOOD.astype(int)}, "k must hold floating-point numbers, got dtype int64"),
        ({"k": [[[1.0], [1.0, 2.0]]]}, "k can't be read as an array"),
        ({"v": spoiled(np.nan)}, "v of layer 1, head 1, token 33 holds NaN or Inf"),
        ({"k": spoiled(-np.inf, 0, 49)}, "k of layer 1, head 0, token 49 holds NaN or Inf"),
        ({"k": spoiled(7e4)}, "k of layer 1, head 1, token 33 holds a value above 65504; a policy with dtype='bfloat1"),
        ({"k": spoiled(np.nan).astype(np.float16)}, "k of layer 1, head 1, token 33 holds NaN or Inf"),
        ({"v": spoiled(1.0).astype(np.float64) * 1e300}, "v of layer 1, head 0, token 0 holds"),
    ],
)
def test_append(arguments, message):
    cache = KVCache(2, 2, D, "turbo3")
    cache.append(1, GOOD, GOOD)
    state = cache._layers[1].state
    with pytest.raises(InputError, match=message):
        cache.append(**({"layer": 1, "k": GOOD, "v": GOOD} | arguments))
    assert cache._layers[1].state is state


def test_bfloat16_takes_larger_numbers():
    cache = KVCache(2, 2, D, Policy(3, 3, dtype="bfloat16", recent=4, chunk=4, mean_tokens=8))
    cache.append(1, spoiled(1e15), GOOD * 1e14)
    assert np.isfinite(cache.attend(1, GOOD[:, :1] * np.float32(1e15))).all()
    with pytest.raises(InputError, match=r"k of layer 0, head 1, token 33 holds a value above 1.8"):
        cache.append(0, spoiled(1e17), GOOD)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": 2}, "layer must be"),
        ({"q": GOOD}, "q must have 1 to 40 queries, the newest tokens of layer 1, got 50"),
        ({"q": GOOD[:, :0]}, "q must have 1 to 40 queries"),
        ({"q": GOOD[:, :1], "layer": 0}, "layer 0 holds no tokens to attend to"),
        ({"q": GOOD[:1, :1]}, r"q must have shape \(multiple of 2, n_queries, 20\), got \(1, 1, 20\)"),
        ({"q": GOOD[:0, :1]}, "q must have shape"),
        ({"q": GOOD[:, 0]}, "q must have shape"),
        ({"q": spoiled(np.nan)[:, 30:35]}, "q of layer 1, head 1, query 3 holds NaN or Inf"),
        ({"q": spoiled(1e30)[:, 30:35]}, "q of layer 1, head 1, query 3 holds a value above"),
        ({"scale": np.nan}, "scale must not be NaN"),
        ({"scale": np.inf}, "scale must be finite"),
        ({"scale": "1"}, "scale must be a number"),
        ({"skip_below": -0.1}, "skip_below must be at least 0 and below 1"),
        ({"skip_below": 1}, "skip_below must be at least 0 and below 1"),
        ({"threads": 0}, "threads must be a positive integer"),
        ({"window": 0}, "window must be an integer from 1"),
        ({"window": 8.0}, "window must be an integer"),
        ({"softcap": 0.0}, r"softcap must be from 1e-30 to 1e\+30, or None for no cap, got 0.0"),
        ({"softcap": np.inf}, "softcap must be from 1e-30 to"),
        ({"softcap": True}, "softcap must be a number"),
        ({"sinks": [0.0]}, r"sinks must have a logit for each of the 2 heads of q, got shape \(1,\)"),
        ({"sinks": 0.5}, "sinks must have a logit for each"),
        ({"sinks": [0.0, np.nan]}, "sinks of head 1 is nan, which float32 can't hold as a number"),
        ({"sinks": [-1e300, 0.0]}, "sinks of head 0 is -1e"),
        ({"sinks": ["a", "b"]}, "sinks must hold floating-point numbers"),
    ],
)
def test_attend(arguments, message):
    cache = KVCache(2, 2, D, "turbo3")
    cache.append(1, GOOD[:, :40], GOOD[:, :40])
    with pytest.raises(InputError, match=message):
        cache.attend(**({"layer": 1, "q": GOOD[:, :1]} | arguments))


def test_queries_of_dropped_tokens():
    cache = KVCache(1, 2, D, Policy(3, 3, max_tokens=40, recent=8, chunk=4, mean_tokens=8))
    cache.append(0, GOOD, GOOD)
    with pytest.raises(InputError, match="q must have 1 to 36 queries"):
        cache.attend(0, GOOD[:, :37])
    cache.attend(0, GOOD[:, :36])


def test_truncate():
    cache = KVCache(1, 2, D, "turbo3")
    cache.append(0, GOOD, GOOD)
    for n in (51, -1, 3.0):
        with pytest.raises(InputError, match="n_tokens must be an integer"):
            cache.truncate(n)
    assert cache.n_tokens == 50


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"key_nbits": 0}, "key_nbits must be 1 to 8, 2.5, 3.5 or Bands, got 0"),
        ({"key_nbits": 9}, "key_nbits must be"),
        ({"key_nbits": 4.5}, "key_nbits must be"),
        ({"key_nbits": True}, "key_nbits must be"),
        ({"key_nbits": []}, "key_nbits has no widths"),
        ({"value_nbits": [3, (2, 9)]}, r"value_nbits\[1\]\[1\] must be"),
        ({"value_nbits": [3, ((2, 3), 3)]}, r"value_nbits\[1\]\[0\] must be"),
        ({"value_nbits": "3"}, "value_nbits must be"),
        ({"key_nbits": 6, "codebook": "trellis"}, "codebook='trellis' has widths up to 5, got 6"),
        ({"protected_nbits": 8, "codebook": "trellis"}, "protected_nbits: codebook='trellis'"),
        ({"codebook": "vector"}, "codebook must be one of"),
        ({"dtype": "float32"}, "dtype must be one of"),
        ({"recent": -1}, "recent must be"),
        ({"sinks": None}, "sinks must be an integer"),
        ({"chunk": 0}, "chunk must be"),
        ({"mean_tokens": 1.5}, "mean_tokens must be"),
        ({"value_means": 1}, "value_means must be True or False"),
        ({"protected": -1}, "protected must be"),
        ({"seed": 2**64}, "seed must be"),
        ({"recode_after": 10}, "must be given together"),
        ({"recoded_key_nbits": 2}, "must be given together"),
        (
            {"recode_after": 0, "recoded_key_nbits": 2, "recoded_value_nbits": 2},
            "recode_after must be an integer from 1",
        ),
        ({"recode_after": 9, "recoded_key_nbits": 2, "recoded_value_nbits": 0}, "recoded_value_nbits must be"),
        ({"max_tokens": 195}, "max_tokens must be at least 196"),
        (
            {"max_tokens": 295, "recode_after": 36, "recoded_key_nbits": 2, "recoded_value_nbits": 2},
            "must be at least 296",
        ),
        ({"max_tokens": 1000, "recent": None}, "max_tokens needs a number of recent tokens"),
    ],
)
def test_policies(arguments, message):
    with pytest.raises(InputError, match=message):
        Policy(**arguments)


@pytest.mark.parametrize(
    ("q", "true", "other", "message"),
    [
        (GOOD, (GOOD, GOOD), (GOOD, GOOD[:, 1:]), "must have one shape"),
        (GOOD[0], (GOOD, GOOD), (GOOD, GOOD), "must have one shape"),
        (GOOD[:, :, 1:], (GOOD, GOOD), (GOOD, GOOD), "must have one shape"),
        (GOOD[:1], (GOOD, GOOD), (GOOD, GOOD), "multiple of the KV heads"),
        (GOOD[:, :0], (GOOD, GOOD), (GOOD, GOOD), "1 to n_tokens queries"),
    ],
)
def test_fidelity(q, true, other, message):
    with pytest.raises(InputError, match=message):
        measure_fidelity(q, true, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"captured": []}, "must not be empty"),
        ({"widths": []}, "must not be empty"),
        ({"widths": (3, 2)}, "widths must take more bytes each"),
        ({"bytes_per_token": 27}, "bytes_per_token must be at least 28"),
        ({"bytes_per_token": 2.5}, "bytes_per_token must be an integer"),
        ({"policy": Policy()}, "have 50 tokens, of which the policy codes none"),
    ],
)
def test_allocate(arguments, message):
    good = {"captured": [(GOOD, GOOD, GOOD[:, :5])], "bytes_per_token": 100, "policy": Policy(recent=4, chunk=4)}
    good["policy"] = Policy(recent=4, chunk=4, mean_tokens=8)
    with pytest.raises(InputError, match=message):
        allocate(**(good | arguments))


def test_attention_on_an_empty_layer_says_so():
    cache = KVCache(2, 1, 8)
    cache.append(0, np.ones((1, 3, 8)), np.ones((1, 3, 8)))
    with pytest.raises(InputError, match=r"layer 1 holds no tokens to attend to: append\(layer, k, v\) adds some"):
        cache.attend(1, np.ones((1, 1, 8)))
    cache.truncate(0)
    with pytest.raises(InputError, match="layer 0 holds no tokens"):
        cache.attend(0, np.ones((1, 1, 8)))
