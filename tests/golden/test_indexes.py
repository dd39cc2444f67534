"""Index files of every version can be read, and those of the newest have the bytes that were fixed with it."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

import tqvec
from tqvec.codec.error_byte import read_error_byte
from tqvec.index.file import io
from tqvec.reference import packing
from tqvec.reference.calibrated import encode, in_bytes, residuals
from tqvec.reference.quantize import directions

HERE = Path(__file__).parent
FILES = HERE / "indexes"
OLD = json.loads((FILES / "results.json").read_text())


@pytest.fixture(scope="module")
def make():
    spec = importlib.util.spec_from_file_location("golden_make", HERE / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def version(path):
    with safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["tqvec"])["version"]


def queries(make, index):
    """Those that `results.json` answers: the first rows of the index, of as many random bits as its golden input."""
    bits = [make.splitmix.word(1000 + index.codec.seed, 64, i) for i in range(1, 3 * index.d + 1)]
    x = np.array([(w >> 52) - 2048 for w in bits], np.float32).reshape(3, index.d) / np.float32(256)
    return x / np.sqrt(np.arange(1, index.d + 1, dtype=np.float32)) if index.codec.calibration else x


@pytest.mark.parametrize("name", OLD)
def test_old_versions_give_what_they_gave(make, name, tmp_path):
    """Scales move by 2⁻¹⁶ at most, to lose low bytes that say nothing of an angle; cosines are clipped since then."""
    assert version(FILES / f"{name}.tqv") == int(name[1:])
    index = tqvec.Index.load(FILES / f"{name}.tqv")
    asked = queries(make, index)
    scores, ids, error = index.search(asked, k=5, return_error=True)
    expected = OLD[name]
    assert ids.tolist() == expected["ids"]
    expected_scores = np.array(expected["scores"])
    if index.metric == "cosine":
        expected_scores = np.clip(expected_scores, -1, 1)
    size = np.abs(expected_scores).max()
    np.testing.assert_allclose(scores, expected_scores, rtol=2**-15, atol=2**-15 * size)
    assert np.isnan(read_error_byte(index._core.store.blocks[0].rows["scale"])).all()
    assert np.all(error > 0)
    assert np.isfinite(error).all()
    index.save(tmp_path / "new.tqv")
    again = tqvec.Index.load(tmp_path / "new.tqv")
    assert version(tmp_path / "new.tqv") == 6
    for one, two in zip(again.search(asked, k=5, return_error=True), (scores, ids, error), strict=True):
        assert np.array_equal(one, two)


@pytest.mark.parametrize("name", ["scalar", "bands", "trellis"])
def test_the_newest_version_has_its_bytes(make, name, tmp_path):
    make.golden_index(name).save(tmp_path / "new.tqv")
    assert (tmp_path / "new.tqv").read_bytes() == (FILES / f"v6-{name}.tqv").read_bytes()
    tangents = read_error_byte(load_file(FILES / f"v6-{name}.tqv")["scale"])
    assert np.flatnonzero(np.isnan(tangents)).tolist() == [1]  # the zero vector


@pytest.mark.parametrize("name", ["scalar", "bands", "trellis", "trained"])
def test_version_5_becomes_the_newest(name, tmp_path):
    """Only the header differs."""
    for old in (5, 6):
        assert version(FILES / f"v{old}-{name}.tqv") == old
        tqvec.Index.load(FILES / f"v{old}-{name}.tqv", verify=True).save(tmp_path / "new.tqv")
        assert (tmp_path / "new.tqv").read_bytes() == (FILES / f"v6-{name}.tqv").read_bytes()


def test_ids_have_their_bytes(make, tmp_path):
    make.save_with_ids(tmp_path / "new.tqv")
    assert (tmp_path / "new.tqv").read_bytes() == (FILES / "v6-ids.tqv").read_bytes()
    header, rows, *_ = io.load(FILES / "v6-ids.tqv", verify=True)
    assert rows["ids"].tolist() == [2**62, 0, 7, 3, 2**40]
    assert (header.first_id, header.next_id) == (0, 2**62 + 1)


def test_a_matrix_of_bytes_has_its_bytes(make, tmp_path):
    make.save_trained(tmp_path / "new.tqv")
    assert (tmp_path / "new.tqv").read_bytes() == (FILES / "v7-trained.tqv").read_bytes()
    assert version(FILES / "v7-trained.tqv") == 7
    index = tqvec.Index.load(FILES / "v7-trained.tqv", verify=True)
    assert index.codec.calibration.in_bytes
    given = make.golden_calibration()
    r = residuals(make.golden_input(40, 4), given.centre)
    expected = encode(r, in_bytes(directions(r), given.matrix, given.row_steps), given.bands, given.band_std)
    stored = load_file(FILES / "v7-trained.tqv")["codes"]
    assert stored.tobytes() == packing.pack(expected.codes, given.bands).tobytes()


def test_lists_have_their_bytes(make, tmp_path):
    """The reader of this file is the specification's own: rows by list, the nearest centroid of each."""
    make.golden_lists().save(tmp_path / "new.tqv")
    assert (tmp_path / "new.tqv").read_bytes() == (FILES / "v8-lists.tqv").read_bytes()
    assert version(FILES / "v8-lists.tqv") == 8
    stored = load_file(FILES / "v8-lists.tqv")
    assert stored["list_starts"].tolist()[0::3] == [0, 12]
    index = tqvec.Index.load(FILES / "v8-lists.tqv", verify=True)
    assert index.nlist == 3
    lists = np.repeat(np.arange(3), np.diff(stored["list_starts"]))
    centroids = index._core.partition.router.centroids.astype(np.float64)
    distances = np.square(index.reconstruct(index.ids)[:, None] - centroids).sum(axis=2)
    assert distances.argmin(axis=1).tolist() == lists.tolist()
    for number in range(3):
        assert (np.diff(stored["ids"][lists == number]) > 0).all()
    assert np.isinf(index._core.partition.probing.thresholds).sum() == 3


def test_all_files_are_tested(make):
    newer = {f"v{version}-{name}" for version in (5, 6) for name in (*make.INDEXES, "trained")}
    assert {path.stem for path in FILES.glob("*.tqv")} == {*OLD, *newer, "v6-ids", "v7-trained", "v8-lists"}
