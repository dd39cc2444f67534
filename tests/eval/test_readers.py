import builtins

import numpy as np
import pytest

from tqvec.errors import FormatError, InputError, UnsupportedError
from tqvec.eval.readers import float_rows, read_vectors


def write_texmex(path, rows):
    with path.open("wb") as file:
        for row in rows:
            np.array([len(row)], "<i4").tofile(file)
            row.tofile(file)


@pytest.mark.parametrize(("suffix", "dtype"), [(".fvecs", "<f4"), (".ivecs", "<i4"), (".bvecs", "u1")])
def test_texmex(tmp_path, suffix, dtype):
    x = np.random.default_rng(1).integers(0, 255, (13, 7)).astype(dtype)
    path = tmp_path / f"x{suffix}"
    write_texmex(path, x)
    rows = read_vectors(path)
    assert rows.dtype == x.dtype
    assert np.array_equal(rows, x)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(FormatError, match="no whole number of rows of dimension 7"):
        read_vectors(path)
    write_texmex(path, [x[0], x[1]])
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] = 6
    path.write_bytes(raw)
    with pytest.raises(FormatError, match="row 1 has dimension 6, the first row 7"):
        read_vectors(path)
    path.write_bytes(b"\x00\x00")
    with pytest.raises(FormatError):
        read_vectors(path)
    path.write_bytes(b"")
    assert read_vectors(path).shape == (0, 0)


def test_npy(tmp_path):
    x = np.random.default_rng(1).standard_normal((5, 3)).astype(np.float16)
    np.save(tmp_path / "x.npy", x)
    assert np.array_equal(read_vectors(tmp_path / "x.npy"), x)
    np.save(tmp_path / "x.npy", x[0])
    with pytest.raises(FormatError, match="2-D"):
        read_vectors(tmp_path / "x.npy")
    (tmp_path / "x.npy").write_bytes(b"junk")
    with pytest.raises(FormatError, match=r"not a \.npy file"):
        read_vectors(tmp_path / "x.npy")
    np.save(tmp_path / "x.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(FormatError):
        read_vectors(tmp_path / "x.npy")


def test_hdf5(tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    x = np.random.default_rng(1).standard_normal((5, 3)).astype(np.float32)
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["train"], file["test"] = x, x[:2]
    assert np.array_equal(read_vectors(tmp_path / "x.hdf5"), x)
    assert np.array_equal(read_vectors(tmp_path / "x.hdf5", "test"), x[:2])
    assert np.array_equal(read_vectors(f"{tmp_path}/x.hdf5:test"), x[:2])
    assert np.array_equal(read_vectors(f"{tmp_path}/x.hdf5:train", "test"), x)
    for path, dataset in (("x.hdf5", "base"), ("x.hdf5:base", "test")):
        with pytest.raises(InputError, match="no dataset 'base'; it has test, train"):
            read_vectors(tmp_path / path, dataset)
    with pytest.raises(FileNotFoundError, match=r"no such file: .*y\.h5$"):
        read_vectors(tmp_path / "y.h5:test")
    (tmp_path / "y.h5").write_bytes(b"junk")
    with pytest.raises(FormatError, match="not an HDF5 file"):
        read_vectors(tmp_path / "y.h5")
    real_import = builtins.__import__

    def without_h5py(name, *args, **kwargs):
        if name == "h5py":
            raise ModuleNotFoundError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_h5py)
    with pytest.raises(UnsupportedError, match=r"pip install 'tqvec\[hdf5\]'"):
        read_vectors(tmp_path / "x.hdf5")


def test_wrong_names(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_vectors(tmp_path / "x.npy")
    (tmp_path / "x.csv").write_text("1,2")
    with pytest.raises(InputError, match=r"unknown extension '\.csv'; expected one of \.npy"):
        read_vectors(tmp_path / "x.csv")


def test_float_rows():
    assert float_rows(np.array([[1, 2]], np.uint8)).dtype == np.float32
    assert float_rows(np.array([[1, 2]], np.float16)).dtype == np.float16
