"""Inputs and small helpers that several tests share.

Data never comes from the generator and seed that drew a rotation: test vectors would align with its rows. NumPy's
generators here are keyed by a second number that no rotation uses.
"""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tqvec.reference import packing

ODD_DIMS = (1, 2, 3, 7, 31, 33, 64, 97, 100, 128, 200, 384, 768, 1000, 1536)
RULES = ("unbiased", "least_squares", "norm")
_DATA = 0xDA7A


def rng(seed):
    """A generator of data."""
    return np.random.default_rng([_DATA, seed])


def normal(n, d, seed=0):
    """(n, d) float32, Gaussian, so of uniform direction."""
    return rng(seed).standard_normal((n, d)).astype(np.float32)


def unit(n, d, seed=0):
    """(n, d) float64 uniform on the sphere."""
    x = rng(seed).standard_normal((n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def pairs(n, d, cosine, seed=0):
    """Unit rows x and y at a fixed cosine, jointly uniform: like one pair under fresh Haar rotations."""
    x, z = unit(n, d, seed), rng(seed + 10**6).standard_normal((n, d))
    z -= np.einsum("ij,ij->i", z, x)[:, None] * x
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    return x, cosine * x + np.sqrt(1 - cosine**2) * z


def mixed(n, d, seed=0):
    """Gaussian rows among which are a zero, a one-hot, a constant, a huge and a tiny one; n ≥ 5."""
    x = normal(n, d, seed)
    x[0] = 0
    x[1] = 0
    x[1, d // 2] = -3
    x[2] = 0.7
    x[3] *= np.float32(1e15)
    x[4] *= np.float32(1e-15)
    return x


def bands(tq):
    """A codec's bands, for the reference."""
    return [(band.start, band.stop, band.nbits) for band in tq.bands]


def unpacked(tq, codes):
    """Codes (n, d) of packed rows, by the reference."""
    return packing.unpack(codes.data, bands(tq))


def diagonal_scores(tq, y, codes):
    """Estimate of the product of query i and vector i."""
    parts = [slice(i, i + 16) for i in range(0, len(y), 16)]
    return np.concatenate([np.diag(tq.inner_product(y[part], codes[part])) for part in parts]).astype(np.float64)


nbits = st.integers(1, 8)
dims = st.sampled_from((1, 2, 3, 5, 8, 17, 31, 40))
seeds = st.integers(0, 2**64 - 1)


@st.composite
def rows(draw, dims=dims):
    """(n, d) float32 multiples of 1/256: doubling and halving are exact, and ties and zeros are common."""
    shape = (draw(st.integers(1, 4)), draw(dims))
    whole = draw(hnp.arrays(np.int32, shape, elements=st.integers(-5000, 5000)))
    return whole.astype(np.float32) / np.float32(256)
