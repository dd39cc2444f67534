import hashlib
import json
from pathlib import Path

import numpy as np

from tqvec.eval.sample import load_sample, sample_folder

MANIFEST = Path(__file__).parents[2] / "datasets" / "wordnet_minilm" / "manifest.json"


def test_the_sample_is_the_one_of_the_manifest():
    files = json.loads(MANIFEST.read_text())["sample"]["files"]
    assert sorted(files) == sorted(path.name for path in sample_folder().iterdir())
    for name, entry in files.items():
        assert hashlib.sha256((sample_folder() / name).read_bytes()).hexdigest() == entry["sha256"]


def test_texts_line_up_with_rows():
    sample = load_sample()
    assert sample.base.shape == (len(sample.base_texts), 384)
    assert sample.queries.shape == (len(sample.query_texts), 384)
    rows = {text: i for i, text in enumerate(sample.base_texts)}
    salad = rows["a finely chopped salad with tomatoes and parsley and mint and scallions and bulgur wheat"]
    best = int(np.argmax(sample.base.astype(np.float32) @ sample.queries[0].astype(np.float32)))
    assert sample.query_texts[0].startswith("savory dressings for salads")
    assert best == salad
