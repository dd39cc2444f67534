import hashlib

import captured_kv
import numpy as np

from tqvec.kvcache.quality import measure_fidelity


def test_the_files_are_those_of_the_manifest():
    files = captured_kv.MANIFEST["files"]
    assert {path.name for path in captured_kv.FOLDER.glob("*.npy")} == set(files)
    for name, entry in files.items():
        path = captured_kv.FOLDER / name
        assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]
        assert list(np.load(path, mmap_mode="r").shape) == entry["shape"]


def test_keys_share_much_of_their_length_and_attention_does_not_see_it():
    """What makes these keys hard to code: in layer 0 they hardly differ, beside their length."""
    for layer, (q, k, v) in zip(captured_kv.MANIFEST["layers"], captured_kv.load(), strict=True):
        mean = k.mean(axis=1, keepdims=True)
        shared = np.linalg.norm(mean[:, 0], axis=1) / np.linalg.norm(k, axis=2).mean(axis=1)
        assert (shared > (0.9 if layer == 0 else 0.4)).all()
        assert measure_fidelity(q, (k, v), (k - mean, v)).output_error < 1e-4
