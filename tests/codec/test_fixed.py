"""What a codec was made with can't be changed, and codes reach a kernel only if its tables were made for them."""

import copy
import dataclasses
import pickle
from functools import cached_property

import numpy as np
import pytest
import strategies as sts

import tqvec
from tqvec import Codes, TurboQuant
from tqvec.errors import InputError

D = 24
X = sts.normal(40, D, 12_000)
CODECS = {
    "scalar": TurboQuant(D),
    "bands": TurboQuant(D, nbits=2.5),
    "trellis": TurboQuant(D, nbits=2, codebook="trellis"),
    "haar": TurboQuant(D, rotation="haar"),
    "prod": TurboQuant(D, mode="prod", qjl="hadamard"),
}


def calibrated(seed=0):
    index = tqvec.Index(D, nbits=2)
    assert index.train((sts.normal(600, D, 12_001 + seed) / np.arange(1, D + 1)).astype(np.float32)).accepted
    return index.codec


@pytest.fixture(scope="module", params=[*CODECS, "calibrated"])
def codec(request):
    return calibrated() if request.param == "calibrated" else CODECS[request.param]


def test_no_attribute_can_be_changed(codec):
    before = codec.encode(X)
    for holder in (codec, codec.transform):
        names = [name for name in dir(holder) if not name.startswith("__") and not callable(getattr(holder, name))]
        for name in set(names) - {"_fixed", "_maker"}:
            value = getattr(holder, name)
            for change in (lambda: setattr(holder, name, value), lambda: delattr(holder, name)):  # noqa: B023
                with pytest.raises(AttributeError, match=rf"\w+\.{name} can't be changed; make a new \w+ instead"):
                    change()
    with pytest.raises(AttributeError, match=r"TurboQuant\.d can't be changed"):
        codec.__init__(8)
    assert codec.encode(X).data.tobytes() == before.data.tobytes()


def test_no_array_can_be_written_to(codec):
    before = codec.encode(X)
    arrays = [codec.centre, codec.band_std, *codec.quantizer, *codec.transform.tables, *(codec.calibration or ())]
    arrays += [codec.transform.centre, codec.transform.band_std]
    for array in arrays:
        if isinstance(array, np.ndarray):
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 10**6
            if array.size:
                array.shape = (1, *array.shape)  # of this view alone
    again = codec.encode(X)
    assert (again.data.tobytes(), again.scale.tobytes()) == (before.data.tobytes(), before.scale.tobytes())
    np.testing.assert_array_equal(codec.decode(again), codec.decode(before))


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda codec: pickle.loads(pickle.dumps(codec))])
def test_copies_are_as_fixed(codec, how):
    codes = codec.encode(X)
    other = how(codec)
    assert other.fingerprint == codec.fingerprint
    np.testing.assert_array_equal(other.decode(codes), codec.decode(codes))
    with pytest.raises(AttributeError, match="can't be changed"):
        other.d = 8
    with pytest.raises(ValueError, match="read-only"):
        other.transform.tables.perm[...] = 0


@pytest.mark.parametrize("protocol", range(2, 6))
def test_attributes_of_a_subclass_are_kept(protocol):
    one = Named(D)
    one.name = "a"
    one.name = "b"
    for other in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one, protocol))):
        assert (type(other), other.name, other.d) == (Named, "b", D)
    del one.name
    assert not hasattr(one, "name")


class Named(TurboQuant):
    """A user's codec."""

    @cached_property
    def costly(self):
        """Made when it is needed, and forgotten by `del`."""
        return [self.d]


def test_what_a_subclass_keeps_is_its_own():
    one = Named(D)
    first = one.costly
    del one.costly
    assert one.costly == first
    assert one.costly is not first
    one.costly = 3
    assert copy.copy(one).costly == 3


def test_a_calibration_is_copied():
    codec = calibrated()
    given = codec.calibration._replace(matrix=codec.calibration.matrix.copy(), centre=codec.calibration.centre.copy())
    other = TurboQuant(D, nbits=2).calibrated(given)
    codes = other.encode(X)
    given.matrix[...] = 7
    given.centre[...] = np.nan
    np.testing.assert_array_equal(other.encode(X).data, codes.data)
    with pytest.raises(InputError, match="bands of integers"):
        TurboQuant(D, nbits=2).calibrated(given._replace(bands=((0, 8.5, 2),)))


@pytest.mark.parametrize("d", [8, 32])
def test_sizes_come_from_the_tables(d):
    """A subclass that says another dimension, or a dimension bent by force, gives an error at most."""
    claiming = type("Claiming", (TurboQuant,), {"d": d})(D)
    forced = TurboQuant(D)
    vars(forced)["d"] = d
    for codec in (claiming, forced):
        codes = codec.encode(X)
        assert codec.decode(codes).shape == (*codes.scale.shape, D)
        with pytest.raises(InputError, match=rf"shape \(n, {D}\)"):
            codec.encode(sts.normal(3, d, 1))
        with pytest.raises(InputError, match=rf"shape \(n, {D}\)"):
            codec.inner_product(sts.normal(3, d, 1), codes)
    with pytest.raises(AttributeError, match="can't be changed"):
        type("Claiming", (TurboQuant,), {"d": property(lambda self: d)})(D)
    with pytest.raises(AttributeError):
        TurboQuant.__new__(TurboQuant).encode(X)


@pytest.mark.parametrize(
    "x", [sts.normal(3, 8, 1), sts.normal(3, 32, 1), X.astype(np.float64), X[0], np.asfortranarray(X)]
)
def test_transforms_check_their_rows(x):
    with pytest.raises(InputError, match=rf"C-contiguous float32 of shape \(n, {D}\)"):
        CODECS["scalar"].transform.rotate(x)


OTHERS = {
    "seed=0 in place of seed=1": {"seed": 1},
    "nbits=4 in place of nbits=3": {"nbits": 3},
    "d=24 in place of d=25": {"d": 25},
    "scale='unbiased' in place of scale='norm'": {"scale": "norm"},
    "rotation='hadamard' in place of rotation='haar'": {"rotation": "haar"},
    "codebook='scalar' in place of codebook='trellis'": {"codebook": "trellis"},
    "mode='mse' in place of mode='prod'": {"mode": "prod"},
}


@pytest.mark.parametrize("words", OTHERS)
def test_codes_of_another_codec_are_refused_in_words(words):
    codes = TurboQuant(D).encode(X)
    other = TurboQuant(**({"d": D} | OTHERS[words]))
    for taken in (codes, codes[3:5], pickle.loads(pickle.dumps(codes)), copy.deepcopy(codes)):
        for read in (other.decode, other.decode_unbiased, lambda c: other.inner_product(sts.normal(2, other.d, 1), c)):
            with pytest.raises(InputError, match=f"made by another codec, with .*{words}"):
                read(taken)


def test_codes_of_another_calibration():
    one, two = calibrated(0), calibrated(5)
    with pytest.raises(InputError, match="another codec"):
        one.decode(two.encode(X))
    with pytest.raises(InputError, match="rotation='calibrated' in place of rotation='hadamard'"):
        TurboQuant(D, nbits=2).decode(one.encode(X))


def test_codes_of_an_equal_codec_are_taken():
    codes = TurboQuant(D).encode(X)
    assert codes.fingerprint == TurboQuant(D).fingerprint
    for same in (TurboQuant(D), TurboQuant(D, nbits=[(D, 4)])):
        assert same.decode(codes).tobytes() == TurboQuant(D).decode(codes).tobytes()


def test_codes_by_hand_are_taken(codec):
    """Without a maker only shapes and types count; layouts and flags of arrays don't."""
    codes = codec.encode(X)
    expected = codec.decode(codes)

    def variants(array):
        wide = np.zeros((array.shape[0], 2, *array.shape[1:]), array.dtype)
        wide[:, 1] = array
        unaligned = np.frombuffer(b"\0" + array.tobytes(), np.uint8)[1:].view(array.dtype).reshape(array.shape)
        frozen = array.copy()
        frozen.flags.writeable = False
        return [array, wide[:, 1], unaligned, frozen, np.asfortranarray(array), array[::-1].copy()[::-1]]

    gammas = variants(codes.gamma) if codes.gamma is not None else [None] * 6
    for data, scale, gamma in zip(variants(codes.data), variants(codes.scale), gammas, strict=True):
        made = Codes(data, scale, gamma)
        assert made.fingerprint is None
        np.testing.assert_array_equal(codec.decode(made), expected)
        np.testing.assert_array_equal(codec.inner_product(X[:2], made), codec.inner_product(X[:2], codes))


@pytest.mark.parametrize(
    "change",
    [
        lambda c: {"data": c.data[:, :-1]},
        lambda c: {"data": c.data[:-1]},
        lambda c: {"data": c.data.astype(np.int8)},
        lambda c: {"data": c.data.ravel()},
        lambda c: {"data": c.data.tolist()},
        lambda c: {"data": None},
        lambda c: {"data": np.uint8(3)},
        lambda c: {"scale": c.scale[:-1]},
        lambda c: {"scale": c.scale.astype(">f4")},
        lambda c: {"scale": c.scale.astype(np.float64)},
        lambda c: {"scale": c.scale[:, None]},
        lambda c: {"gamma": c.scale},
        lambda c: {"maker": "me"},
    ],
)
def test_bad_codes_by_hand(change):
    tq = TurboQuant(D)
    codes = Codes(*(tq.encode(X).data, tq.encode(X).scale))
    bad = dataclasses.replace(codes, **change(codes))
    for read in (tq.decode, tq.decode_unbiased, lambda c: tq.inner_product(X[:2], c)):
        with pytest.raises(InputError, match="codes"):
            read(bad)


def test_codes_are_fixed():
    codes = TurboQuant(D).encode(X)
    for name in ("data", "scale", "gamma", "maker", "fingerprint"):
        with pytest.raises(AttributeError):
            setattr(codes, name, None)


def test_codes_whose_array_was_reshaped():
    tq = TurboQuant(D)
    codes = tq.encode(X)
    codes.data.shape = (codes.data.size, 1)
    with pytest.raises(InputError, match="codes.data must be"):
        tq.decode(codes)
    codes.data.shape = (12, -1)
    with pytest.raises(InputError, match="codes.data must be"):
        tq.inner_product(X, codes)
