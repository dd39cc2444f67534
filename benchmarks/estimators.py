"""Which estimate of an inner product is best at equal bits? Variance and bias of Algorithm 2 and of the scale rules."""

from __future__ import annotations

from _common import console, report  # isort: skip - sets threads first

import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from rich.table import Table

import tqvec

D = 128
PAIRS = 2000  # a draw
DRAWS = 50  # of the rotation and of S
CODECS = {
    "norm": {"scale": "norm"},
    "unbiased": {"scale": "unbiased"},
    "prod, gaussian": {"mode": "prod", "qjl": "gaussian"},
    "prod, hadamard": {"mode": "prod", "qjl": "hadamard"},
}


def pairs(cosine: float, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Unit rows x and y at a fixed cosine; the seed is never that of a rotation."""
    rng = np.random.default_rng(seed + 20_000)
    x, z = rng.standard_normal((2, PAIRS, D))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    z -= np.einsum("ij,ij->i", x, z)[:, None] * x
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    return x.astype(np.float32), (cosine * x + np.sqrt(1 - cosine**2) * z).astype(np.float32)


def errors(nbits: int, options: dict[str, str], cosine: float) -> NDArray[np.float64]:
    """Errors of all estimates, (draws, pairs)."""
    found = np.empty((DRAWS, PAIRS))
    for seed in range(DRAWS):
        x, y = pairs(cosine, seed)
        tq = tqvec.TurboQuant(D, nbits=nbits, seed=seed, **options)
        codes = tq.encode(x)
        for i in range(0, PAIRS, 50):
            part = slice(i, i + 50)
            found[seed, part] = np.diag(tq.inner_product(y[part], codes[part])) - cosine
    return found


def main() -> None:
    """Print d times the variance, and the bias, for each estimate and width at two cosines."""
    table = Table(title=f"d · variance (bias) of estimated products, d={D}, {DRAWS * PAIRS:,} pairs")
    for heading in ("cosine", "bits", *CODECS):
        table.add_column(heading, justify="right")
    rows = []
    cells = [(cosine, nbits) for cosine in (0.0, 0.5) for nbits in (1, 2, 3, 4)]
    for cosine, nbits in track(cells, description="estimating", transient=True):
        texts = []
        for name, options in CODECS.items():
            found = errors(nbits, options, cosine)
            variance, bias = D * float(found.var()), float(found.mean())
            rows.append({"cosine": cosine, "nbits": nbits, "codec": name, "d_variance": variance, "bias": bias})
            texts.append(f"{variance:.4f} ({bias:+.4f})")
        table.add_row(str(cosine), str(nbits), *texts)
    console.print(table)
    report("estimators", rows)


if __name__ == "__main__":
    main()
