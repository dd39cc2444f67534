"""The tolerance of floats: small errors in ordinary values fail, and every right order of sums passes."""

import numpy as np
import pytest

from tqvec.oracle import arithmetic, ports, rotations
from tqvec.oracle.cases import iter_cases
from tqvec.oracle.compare import compare
from tqvec.oracle.families import llama_cpp, prod, scalar, vllm
from tqvec.oracle.families.registry import instantiate
from tqvec.oracle.profiles import PROFILES

PLANTED = {"float32": 1e-4, "float16": 1e-2}
SMALL = {"tqvec_scalar@3": 64, "tqvec_trellis@2": 20, "paper_mse@2": 64, "paper_prod@3": 64}
SMALL |= {"turbo3@32": 128, "vllm_k3v4_nc": 64}
ALL = [(name, d) for name, profile in PROFILES.items() for d in (64, 80, 100, 128) if profile.takes(d)]
ORDINARY = 16  # first rows of all inputs


def float_cases(codec, dtype):
    """Stage, first case, what a right port gives, and exact outputs with their spread, of each stage of floats."""
    port = ports.from_oracle(codec, dtype)
    for name, stage in codec.stages.items():
        if stage.rule == "floats":
            case = next(iter(iter_cases(codec, name)))
            with np.errstate(all="ignore"):
                tracked = codec.track(name, np.dtype(dtype), *case.inputs)
            yield name, case, port(codec, name, case.inputs), tracked


def ordinary(name, tracked, dtype):
    """The values in which an error of `PLANTED` is more than rounding explains, of ordinary rows; the share of them.

    Half precision: more than twice the standard deviation of what the computation loses. Single: forty times.
    """
    rows = (slice(None), slice(ORDINARY)) if name == "score" else slice(ORDINARY)
    value, spread = tracked.value[rows], np.sqrt(tracked.variance[rows])
    with np.errstate(all="ignore"):
        fit = np.abs(value) * PLANTED[dtype] > (2 if dtype == "float16" else 40) * spread
    fit &= value != 0
    return np.argwhere(fit), fit.mean()


def plant(got, output, index, factor):
    """The outputs with some values of one of them times `factor`."""
    wrong = got[output].astype(np.float64)
    wrong[index] *= factor
    return tuple(wrong.astype(each.dtype) if i == output else each for i, each in enumerate(got))


def places(element, shape):
    """One element, its row, its column, and all."""
    yield "element", tuple(element)
    if len(shape) > 1:
        yield "row", (element[0], slice(None))
        yield "column", (slice(None), element[1])
    yield "all", ...


def check_planted(name, d, dtype):
    """Plant errors at one ordinary value of every output, and around it; return the shares of ordinary values."""
    codec = instantiate(PROFILES[name], d)
    shares = {}
    for stage, case, got, tracked in float_cases(codec, dtype):
        assert compare(codec, case, got, dtype) == []
        for output, each in enumerate(tracked):
            at, share = ordinary(stage, each, dtype)
            shares[stage, output] = share
            for k, (what, index) in enumerate(places(at[len(at) // 2], each.shape)):
                wrong = plant(got, output, index, 1 + PLANTED[dtype] * (-1) ** k)
                if not np.array_equal(wrong[output], got[output]):  # a stored scale may round the error away
                    assert compare(codec, case, wrong, dtype), (name, d, dtype, stage, what, index)
    return shares


@pytest.mark.parametrize("dtype", PLANTED)
@pytest.mark.parametrize("name", SMALL)
def test_a_small_error_anywhere_is_found(name, dtype):
    shares = check_planted(name, SMALL[name], dtype)
    least = 0.75 if dtype == "float32" else 0.25
    assert min(shares.values()) > least, shares


@pytest.mark.slow
@pytest.mark.parametrize("dtype", PLANTED)
@pytest.mark.parametrize(("name", "d"), ALL)
def test_a_small_error_anywhere_is_found_in_every_profile(name, d, dtype):
    check_planted(name, d, dtype)


# Right ports that add in another order.


def backwards(a, b, dtype):
    return arithmetic.product(a[:, ::-1], b[::-1], dtype)


def pairwise(a, b, dtype):
    terms = a.astype(dtype)[:, :, None] * b.astype(dtype)[None]
    while terms.shape[1] > 1:
        if terms.shape[1] % 2:
            terms = np.concatenate([terms, np.zeros_like(terms[:, :1])], axis=1)
        terms = terms[:, ::2] + terms[:, 1::2]
    return terms[:, 0]


def four_lanes(a, b, dtype):
    return sum(arithmetic.product(a[:, lane::4], b[lane::4], dtype) for lane in range(4))


def fused(a, b, dtype):
    """Every product is exact, every sum rounded once."""
    left, right, wide = a.astype(dtype).astype(np.float64), b.astype(dtype).astype(np.float64), np.zeros(1)
    sums = np.zeros((len(left), right.shape[1]), dtype)
    for j in range(len(right)):
        wide = sums.astype(np.float64) + left[:, j, None] * right[j]
        sums = wide.astype(dtype)
    return sums


def in_double(a, b, dtype):
    return (a.astype(dtype).astype(np.float64) @ b.astype(dtype).astype(np.float64)).astype(dtype)


def in_single(a, b, dtype):
    """As matrix units do: half precision in, single inside."""
    return (a.astype(dtype).astype(np.float32) @ b.astype(dtype).astype(np.float32)).astype(dtype)


def total_of(product):
    """The sum of rows in the order of a product."""

    def total(terms):
        return product(terms, np.ones((terms.shape[1], 1)), terms.dtype)[:, 0]

    return total


def dense(codec, dtype, v, back=False):
    """The rotation as a matrix, rounded to `dtype`."""
    forwards, backwards_ = rotations.ROTATIONS[codec.profile.rotation]
    columns = (backwards_ if back else forwards)(codec, np.float64, np.eye(codec.d))
    return in_single(v, columns, dtype)


ORDERS = {f.__name__: f for f in (backwards, pairwise, four_lanes, fused, in_double, in_single)}


def failures_with(patch, codec, dtype, product):
    """The stages that fail where sums are added in the order of `product`."""
    port = ports.from_oracle(codec, dtype)
    with patch.context() as patched:
        for module in (scalar, prod, llama_cpp, vllm, rotations, arithmetic):
            for name, function in (("product", product), ("total", total_of(product))):
                if hasattr(module, name) and module is not arithmetic:
                    patched.setattr(module, name, function)
        patched.setattr(scalar, "weighted_mean", lambda w, v, t: product(w, v, t) / total_of(product)(w)[:, None])
        outputs = [
            (name, case, port(codec, name, case.inputs)) for name in codec.stages for case in iter_cases(codec, name)
        ]
    found = [(name, compare(codec, case, got, dtype)) for name, case, got in outputs]
    return [each for each in found if each[1]]


@pytest.mark.parametrize("dtype", PLANTED)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", SMALL)
def test_every_order_of_sums_passes(name, order, dtype, monkeypatch):
    assert failures_with(monkeypatch, instantiate(PROFILES[name], SMALL[name]), dtype, ORDERS[order]) == []
