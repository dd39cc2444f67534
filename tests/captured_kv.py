"""Keys, values and queries of a real model whose keys have large constant channels (datasets/qwen_kv)."""

import json
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parents[1] / "datasets" / "qwen_kv"
MANIFEST = json.loads((FOLDER / "manifest.json").read_text())
THETA = MANIFEST["rope_theta"]  # of the rotary embedding that keys and queries have


def load():
    """Queries (14, 64, 64), keys and values (2, 512, 64) of each layer, float32."""
    arrays = [np.load(FOLDER / f"{name}_f16.npy").astype(np.float32) for name in ("queries", "keys", "values")]
    return list(zip(*arrays, strict=True))
