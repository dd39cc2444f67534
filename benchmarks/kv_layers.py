"""Does a layer's cache tell the next layer's? Keys and values coded as what differs from the layer below.

Each head of a layer is predicted from the layer below, after the means are subtracted, and the residual is coded in
place of the head. Weights of predictions are those of least squares on the other half of the tokens:

none        Nothing is predicted: each layer is coded on its own.
difference  The same head of the layer below.
scalar      The same, times a number per head.
matrix      All heads of the layer below, times a matrix per head (ridge regression).

Keys are predicted before rotary embedding, which turns all layers alike. Energy is that of the residual, relative to
that of "none". Predictions are made from what is decoded of the layer below, as a decoder has it, and the first layer
is coded on its own. The squared error is relative to that of "none" at equal bits. The error of attention is that of
outputs with coded keys and true values, for the newest queries; "cache" is `KVCache`, which codes layers on their own.
Bits are those of the codes alone: the matrices, in 16 bits, are reported beside.

FOLDER has captured tensors of all layers, as ``python datasets/qwen_kv/build.py FOLDER --layers all`` makes them.
``--model`` captures them from a model of `_model_weights.py` instead.
"""

from __future__ import annotations

from _common import console, report  # isort: skip - sets threads first

import argparse
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

import tqvec
from tqvec.kvcache import KVCache, Policy, Rope
from tqvec.kvcache.quality import CapturedLayer, output_errors, read_layers, read_rope

KINDS = ("none", "difference", "scalar", "matrix")
WIDTHS = (2, 3, 4)
RIDGE = 0.1  # relative to the mean square of a coordinate
QUERIES = 64

Doubles = NDArray[np.float64]


class Prediction(NamedTuple):
    """An affine map from all heads of the layer below, (n, heads · d), to a head, (n, d)."""

    below: Doubles
    weights: Doubles
    own: Doubles

    def __call__(self, below: Doubles) -> Doubles:
        return (below - self.below) @ self.weights + self.own


def fit(kind: str, below: Doubles, own: Doubles, head: int) -> Prediction:
    """Fit a prediction of a head from all heads of the layer below."""
    means = below.mean(axis=0), own.mean(axis=0)
    x, y = below - means[0], own - means[1]
    d = y.shape[1]
    weights = np.zeros((x.shape[1], d))
    same = slice(head * d, (head + 1) * d)
    if kind == "difference":
        weights[same] = np.eye(d)
    elif kind == "scalar":
        weights[same] = np.eye(d) * (np.sum(x[:, same] * y) / np.sum(x[:, same] ** 2))
    elif kind != "none":
        squares = x.T @ x
        squares[np.diag_indices_from(squares)] += RIDGE * np.trace(squares) / len(squares)
        weights = np.linalg.solve(squares, x.T @ y)
    return Prediction(means[0], weights, means[1])


def code(x: Doubles, nbits: int) -> Doubles:
    """Return vectors as the codec gives them back."""
    codec = tqvec.TurboQuant(x.shape[1], nbits, scale="least_squares")
    return codec.decode(codec.encode(x.astype(np.float32))).astype(np.float64)


class Coded(NamedTuple):
    """The layers as they are decoded, (layers, heads, n, d), and the energy of each head's residual, relative."""

    decoded: Doubles
    energy: Doubles


def code_layers(x: Doubles, kind: str, nbits: int) -> Coded:
    """Code the residual of each head of each layer; x: (layers, heads, n, d)."""
    n_layers, heads, n, d = x.shape
    halves = slice(0, n // 2), slice(n // 2, n)
    decoded, energy = np.zeros_like(x), np.empty((n_layers, heads))
    for layer in range(n_layers):
        below, true = (y[max(0, layer - 1)].swapaxes(0, 1).reshape(n, heads * d) for y in (decoded, x))
        for head in range(heads):
            own, guess, residual, plain = x[layer, head], np.empty((n, d)), np.empty((n, d)), np.empty((n, d))
            for here, other in (halves, halves[::-1]):
                predict = fit(kind if layer else "none", true[other], own[other], head)
                guess[here], residual[here] = predict(below[here]), own[here] - predict(true[here])
                plain[here] = own[here] - predict.own
            decoded[layer, head] = guess + code(own - guess, nbits)
            energy[layer, head] = np.sum(residual**2) / np.sum(plain**2)
    return Coded(decoded, energy)


def squared_errors(x: Doubles, decoded: Doubles) -> Doubles:
    """Return the squared error of each head of the layers above the first."""
    return np.sum((decoded - x)[1:] ** 2, axis=(2, 3))


def measure_side(side: str, x: Doubles) -> Iterator[dict[str, Any]]:
    """Yield energy and errors of each prediction and width."""
    for nbits in WIDTHS:
        plain = squared_errors(x, code_layers(x, "none", nbits).decoded)
        for kind in KINDS[1:]:
            coded = code_layers(x, kind, nbits)
            ratio = squared_errors(x, coded.decoded) / plain
            yield {
                "side": side,
                "prediction": kind,
                "nbits": nbits,
                "energy": float(np.median(coded.energy[1:])),
                "energy_by_layer": coded.energy[1:].mean(axis=1).tolist(),
                "error": float(np.median(ratio)),
                "bits_won": float(-0.5 * np.log2(np.median(ratio))),
            }


def measure_attention(layers: Sequence[CapturedLayer], rope: Rope, x: Doubles) -> Iterator[dict[str, Any]]:
    """Yield the error of attention with keys of each prediction and width; x: keys before the embedding."""
    positions = np.arange(x.shape[2])
    for nbits in WIDTHS:
        cache = KVCache(len(layers), *x.shape[1::2], Policy(nbits, 8, recent=0, sinks=0, chunk=1), rope)
        for number, layer in enumerate(layers):
            cache.append(number, layer.k, layer.v)
        keys = {kind: rope.rotate(code_layers(x, kind, nbits).decoded, positions) for kind in KINDS}
        keys["cache"] = np.array([cache.keys(number) for number in range(len(layers))])
        for kind, coded in keys.items():
            errors = [
                float(output_errors(layer.q, (layer.k, layer.v), (k, layer.v)).mean())
                for layer, k in zip(layers[1:], coded[1:], strict=True)
            ]
            yield {
                "side": "attention",
                "prediction": kind,
                "nbits": nbits,
                "output_error": statistics.mean(errors),
                "worst_layer": max(errors),
            }


def read_model(name: str, n: int, weights: Path | None) -> tuple[list[CapturedLayer], Rope]:
    """Capture tensors of all layers of a model."""
    from _language_model import Model

    model = Model(name, n, weights)
    layers = [CapturedLayer(x.queries[:, -QUERIES:], x.keys, x.values) for x in model.capture()]
    return layers, Rope(model.rope_thetas[0])


def show(rows: list[dict[str, Any]]) -> None:
    """Print a table of residuals and one of attention."""
    table = Table(title="residuals of layers above the first: medians over heads and layers")
    for heading in ("side", "prediction", "energy", *(f"error, {b} bits" for b in WIDTHS), "bits won at 3"):
        table.add_column(heading, justify="right")
    for side in ("keys", "values"):
        for kind in KINDS[1:]:
            own = [row for row in rows if (row["side"], row["prediction"]) == (side, kind)]
            errors = [f"{row['error']:.3f}" for row in own]
            table.add_row(side, kind, f"{own[0]['energy']:.3f}", *errors, f"{own[1]['bits_won']:+.2f}")
    console.print(table)
    table = Table(title="error of attention with coded keys: mean over layers above the first (worst layer)")
    for heading in ("prediction", *(f"{b} bits" for b in WIDTHS)):
        table.add_column(heading, justify="right")
    for kind in (*KINDS, "cache"):
        own = [row for row in rows if (row["side"], row["prediction"]) == ("attention", kind)]
        table.add_row(kind, *(f"{row['output_error']:.3f} ({row['worst_layer']:.2f})" for row in own))
    console.print(table)


def main() -> None:
    """Measure the layers that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="captured tensors of all layers")
    parser.add_argument("--theta", type=float, help="base of their rotary embedding; default: that of the manifest")
    parser.add_argument("--model", help="capture these of a model instead")
    parser.add_argument("--weights", type=Path, metavar="FOLDER", help="where MODEL.gguf lies, or is made")
    parser.add_argument("-n", type=int, default=2048, help="tokens of the model's text")
    wanted = parser.parse_args()
    if (wanted.folder is None) == (wanted.model is None):
        parser.error("name a folder, or a model")
    if wanted.model:
        layers, rope = read_model(wanted.model, wanted.n, wanted.weights)
    else:
        known = Rope(wanted.theta) if wanted.theta else read_rope(wanted.folder)
        if known is None:
            parser.error("name the base of the rotary embedding with --theta")
        layers, rope = read_layers(wanted.folder), known
    positions = np.arange(layers[0].k.shape[1])
    keys = np.array([rope.rotate(layer.k.astype(np.float64), -positions) for layer in layers])
    values = np.array([layer.v.astype(np.float64) for layer in layers])
    rows = [*measure_side("keys", keys), *measure_side("values", values), *measure_attention(layers, rope, keys)]
    show(rows)
    shape = dict(zip(("layers", "kv_heads", "tokens", "d"), keys.shape, strict=True))
    size = 2 * shape["kv_heads"] * (shape["kv_heads"] * shape["d"] ** 2)
    console.print(f"matrices of a layer's keys, or values: {size:,} bytes")
    report(f"kv_layers-{wanted.model or 'captured'}", [shape, *rows])


if __name__ == "__main__":
    main()
