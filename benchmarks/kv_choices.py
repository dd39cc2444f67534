"""Which scale for keys, which for values, and do their means help? Errors of the attention output of a real model.

SmolLM2-135M on prose; every third layer. Keys or values alone are coded, all but the first four tokens; the error is
the root mean square of the relative error of the output over the last queries, then over the layers.
"""

from __future__ import annotations

from _common import console, report  # isort: skip - sets threads first

import argparse
from typing import Any

import numpy as np
from _language_model import CapturedTensors, Model
from numpy.typing import NDArray
from rich.table import Table

import tqvec
from tqvec.codec.turboquant import encode_sums
from tqvec.kvcache.quality import output_errors

SINKS, MEAN = 4, 64

Floats = NDArray[np.float32]


def coded(tq: tqvec.TurboQuant, x: Floats, rule: str, mean: bool) -> Floats:
    """Return keys or values, coded and decoded."""
    centre = x[:, SINKS : SINKS + MEAN].mean(axis=1, keepdims=True) * np.float32(mean)
    sums = encode_sums(tq, (x - centre).reshape(-1, tq.d))
    scale = sums.scale(rule).astype(np.float32)
    out: Floats = tq.decode_unbiased(tqvec.Codes(sums.data, scale)).reshape(x.shape) + centre
    out[:, :SINKS] = x[:, :SINKS]
    return out


def error(tq: tqvec.TurboQuant, layer: CapturedTensors, side: str, rule: str, mean: bool, queries: int) -> float:
    """Return the squared error of one layer's outputs."""
    true = layer.keys, layer.values
    other = (coded(tq, true[0], rule, mean), true[1]) if side == "keys" else (true[0], coded(tq, true[1], rule, mean))
    return float(np.square(output_errors(layer.queries[:, -queries:], true, other)).mean())


def main() -> None:
    """Print a row per choice, with the error of each layer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--queries", type=int, default=128)
    arguments = parser.parse_args()
    layers = Model("smollm2", arguments.tokens).capture()[::3]
    rows: list[dict[str, Any]] = []
    table = Table(title="error of attention's output")
    for column in ("bits", "coded", "scale", "mean", "error", "by layer"):
        table.add_column(column)
    for nbits in (2, 3, 4):
        tq = tqvec.TurboQuant(layers[0].keys.shape[2], nbits)
        for side in ("keys", "values"):
            for rule in ("unbiased", "least_squares"):
                for mean in (False, True):
                    errors = [error(tq, layer, side, rule, mean, arguments.queries) for layer in layers]
                    row = {"nbits": nbits, "side": side, "scale": rule, "mean": mean}
                    rows.append({**row, "error": np.mean(errors) ** 0.5, "by layer": np.sqrt(errors).tolist()})
                    by_layer = " ".join(f"{value:.3f}" for value in np.sqrt(errors))
                    table.add_row(str(nbits), side, rule, "yes" if mean else "", f"{rows[-1]['error']:.4f}", by_layer)
    console.print(table)
    report("kv_choices", rows)


if __name__ == "__main__":
    main()
