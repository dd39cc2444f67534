"""Attention on codes by the functions of the codec: against attention on what the codes stand for."""

from itertools import pairwise

import numpy as np
import pytest
import strategies as sts

import tqvec
from tqvec.codec.attention import Part, add_values, attention_tables, code_scores, merge, softmax_in_place
from tqvec.errors import InputError
from tqvec.reference import attention as reference


def to_bfloat16(x):
    return (np.asarray(x, np.float32).view(np.uint32) >> 16).astype(np.uint16)


class Head:
    """Keys and values of one head, coded by codecs of their own."""

    def __init__(self, n, d=64):
        self.codecs = [tqvec.TurboQuant(d, nbits=4), tqvec.TurboQuant(d, nbits=3, codebook="trellis")]
        self.tables = [attention_tables(codec) for codec in self.codecs]
        coded = [codec.encode(sts.normal(n, d, seed)) for seed, codec in enumerate(self.codecs)]
        self.codes = [codes.data for codes in coded]
        self.scale = [to_bfloat16(codes.scale) for codes in coded]
        kinds = ("scalar", "trellis")
        self.rows = [
            reference.levels(data, d, sts.bands(codec), kind) * reference.from_bfloat16(scale)[:, None]
            for data, codec, kind, scale in zip(self.codes, self.codecs, kinds, self.scale, strict=True)
        ]

    def part(self, queries, start, stop, seen=None, least=0.0):
        """Attention over the rows ``start .. stop``."""
        scores = np.empty((len(queries), stop - start), np.float32)
        out = np.zeros_like(queries)
        code_scores(self.tables[0], queries, self.codes[0][start:stop], self.scale[0][start:stop], scores)
        largest, total = softmax_in_place(scores, None if seen is None else seen - start)
        skipped = add_values(self.tables[1], scores, self.codes[1][start:stop], self.scale[1][start:stop], out, least)
        return Part(largest, total, skipped, out)


@pytest.mark.parametrize("cuts", [(0, 90), (0, 1, 90), (0, 33, 64, 90)])
def test_parts_make_the_whole(cuts):
    head, queries = Head(90), sts.normal(3, 64, seed=9) / 8
    seen = np.array([90, 40, 1])
    parts = [head.part(queries, a, b, seen) for a, b in pairwise(cuts)]
    out, skipped = merge(parts)
    exact = reference.attention(queries, *head.rows, seen)
    assert np.abs(out - exact).max() < 0.01 * np.abs(exact).max()
    assert not skipped.any()


def test_a_query_that_sees_nothing():
    head, queries = Head(20), sts.normal(2, 64, seed=9)
    out, skipped = merge([head.part(queries, 0, 20, np.array([0, 20]))])
    assert not out[0].any()
    assert out[1].any()
    assert not skipped.any()


def test_skipped_share():
    head, queries = Head(300), sts.normal(2, 64, seed=9)
    out, skipped = merge([head.part(queries, 0, 128, least=0.05), head.part(queries, 128, 300, least=0.05)])
    exact, _ = merge([head.part(queries, 0, 300)])
    assert np.all((skipped > 0) & (skipped < 0.5))
    largest = np.linalg.norm(head.rows[1], axis=1).max()
    assert np.all(np.linalg.norm(out - exact, axis=1) <= skipped * largest * 1.001)


def test_large_scores():
    head, queries = Head(50), sts.normal(2, 64, seed=9) * np.float32(1e4)
    part = head.part(queries, 0, 50)
    best = np.argmax(queries @ head.rows[0].T, axis=1)
    np.testing.assert_allclose(part.out / part.total[:, None], head.rows[1][best], atol=1e-3)


@pytest.mark.parametrize("nbits", [1, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("d", [64, 128])
def test_the_usual_head_sizes_have_vector_kernels(d, nbits):
    for codebook in ("scalar", "trellis") if nbits <= 5 else ("scalar",):
        tables = attention_tables(tqvec.TurboQuant(d, nbits=nbits, codebook=codebook))
        assert len(tables.source) == d // 64
        assert len(tables.strips) == len(tables.bands)


def test_codecs_without_tables():
    calibrated = tqvec.Index(16, metric="cosine")
    calibrated.train(sts.normal(256, 16) * np.linspace(0.1, 3, 16, dtype=np.float32))
    assert calibrated.codec.calibration is not None
    for codec in (tqvec.TurboQuant(16, mode="prod"), calibrated.codec):
        with pytest.raises(InputError, match="codec must have mode 'mse' and no calibration"):
            attention_tables(codec)
