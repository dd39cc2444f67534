"""Merges of different indexes are refused in words, whichever way they are merged."""

import re

import numpy as np
import pytest
from strategies import normal

import tqvec
from tqvec.errors import InputError
from tqvec.index.differences import describe_difference
from tqvec.index.file.merge import merge

X = (normal(600, 32, 10_064) / np.arange(1, 33)).astype(np.float32)


def trained(x, **options):
    index = tqvec.Index(32, nbits=2, **options)
    assert index.train(x).accepted
    return index


PLAIN = tqvec.Index(32, nbits=2)
PAIRS = {
    "2 bits against 4": (PLAIN, tqvec.Index(32)),
    "2 bits against 2.5": (PLAIN, tqvec.Index(32, nbits=2.5)),
    "d 32 against 16": (PLAIN, tqvec.Index(16, nbits=2)),
    "metric ip against l2": (PLAIN, tqvec.Index(32, nbits=2, metric="l2")),
    "codebook scalar against trellis": (PLAIN, tqvec.Index(32, nbits=2, codebook="trellis")),
    "seed 0 against 7": (PLAIN, tqvec.Index(32, nbits=2, seed=7)),
    "metric cosine against ip, d 32 against 16, 2 bits against 4": (
        tqvec.Index(32, nbits=2, metric="cosine"),
        tqvec.Index(16),
    ),
}


def refused(one, other, words, folder):
    with pytest.raises(InputError, match=rf"^indexes of different codecs can't be merged: {re.escape(words)}; add the"):
        one.merge_from(other)
    paths = [folder / "one", folder / "other"]
    for index, path in zip((one, other), paths, strict=True):
        index.save(path)
    with pytest.raises(InputError, match=f"one and .*other differ: {re.escape(words)}; build one of them again"):
        merge(paths, folder / "merged")


@pytest.mark.parametrize(("words", "pair"), PAIRS.items(), ids=PAIRS)
def test_settings(tmp_path, words, pair):
    refused(*pair, words, tmp_path)


def test_calibrations(tmp_path):
    one, two = trained(X[:400]), trained(X[200:])
    refused(PLAIN, one, "not trained against trained", tmp_path)
    refused(one, two, "each was trained with a sample of its own", tmp_path)
    assert describe_difference((one.codec, "ip"), (one.codec, "ip")) is None
