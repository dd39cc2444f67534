"""tqvec.faiss.read, over the factory strings of FAISS."""

import subprocess
import sys

import numpy as np
import pytest
import strategies as sts

import tqvec
from tqvec.errors import FormatError, InputError, LossWarning, UnsupportedError

faiss = pytest.importorskip("faiss")

faiss.omp_set_num_threads(1)  # threads that wait for each other on a busy machine take minutes
D, N = 16, 300
X = sts.normal(N, D, 20_100)
IDS = np.random.default_rng(20_101).permutation(10 * N)[:N] + 2**40

EXACT = [
    "Flat",
    "IVF8,Flat",
    "IVF8_HNSW4,Flat",
    "PQ4x4,RFlat",
    "IVF8,PQ4x4,RFlat",
    "HNSW8,Flat",
    "NSG8,Flat",
]
ROTATED = [
    "RR16,Flat",
    "RR20,IVF8,Flat",
    "OPQ4,Flat",
    "RR16,RR24,Flat",
    "RR16,PQ4x4,RFlat",
    "RR16,HNSW8,Flat",
]
CENTRED = ["PCA16,Flat", "PCAR16,IVF8,Flat"]
QUANTIZED = {  # the largest error of a coordinate, in standard deviations
    "SQfp16": 0.002,
    "SQbf16": 0.02,
    "SQ8": 0.03,
    "SQ6": 0.1,
    "SQ4": 0.4,
    "IVF8,SQ8": 0.03,
    "IVF8,SQfp16": 0.002,
    "HNSW8,SQ8": 0.03,
    "PQ4x4,Refine(SQfp16)": 0.002,
    "RR16,IVF8,SQ8": 0.05,
}
OTHERS = {  # factory strings that vectors can't be taken out of, and the name in the message
    "PQ4x4": "IndexPQ ",
    "PQ4x4fs": "IndexPQFastScan",
    "IVF8,PQ4x4": "IndexIVFPQ ",
    "HNSW8,PQ4x4": "IndexHNSWPQ",
    "IDMap,PQ4x4": "IndexPQ ",
    "RR16,PQ4x4": "IndexPQ ",
    "LSH": "IndexLSH",
    "RaBitQ": "IndexRaBitQ",
    "IVF8,FlatDedup": "IndexIVFFlatDedup",
    "PCA8,Flat": "PCAMatrix from 16 to 8 dimensions",
    "PCAW16,Flat": "PCAMatrix",
    "L2norm,Flat": "NormalizationTransform",
    "ITQ16,Flat": "ITQTransform",
    "HR,Flat": "HadamardRotation",
    "Pad20,Flat": "RemapDimensionsTransform",
}


def build(string, metric="l2", x=X, ids=None):
    kind = {"l2": faiss.METRIC_L2, "ip": faiss.METRIC_INNER_PRODUCT}[metric]
    index = faiss.index_factory(D, string, kind)
    index.train(X)
    index.add(x) if ids is None else index.add_with_ids(x, ids)
    return index


@pytest.fixture(params=["object", "file"])
def read(request, tmp_path):
    """Read an index from memory, or write it and read the file."""

    def read_file(index):
        faiss.write_index(index, str(tmp_path / "an index"))
        return tqvec.faiss.read(tmp_path / "an index")

    return tqvec.faiss.read if request.param == "object" else read_file


def check(contents, x, ids, metric="l2", atol=0.0):
    assert isinstance(contents.vectors, np.ndarray)
    assert contents.vectors.dtype == np.float32
    assert contents.ids.dtype == np.int64
    assert contents.metric == metric
    np.testing.assert_array_equal(contents.ids, ids)
    np.testing.assert_allclose(contents.vectors, x, rtol=0, atol=atol)


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("string", EXACT)
def test_exact_vectors(read, string, metric):
    check(read(build(string, metric)), X, np.arange(N), metric)


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("string", ROTATED)
def test_rotations_are_undone(read, string, metric):
    check(read(build(string, metric)), X, np.arange(N), metric, atol=2e-5)


@pytest.mark.parametrize("string", CENTRED)
def test_a_mean_is_added_again_where_the_metric_does_not_see_it(read, string):
    check(read(build(string, "l2")), X, np.arange(N), atol=2e-5)
    with pytest.raises(UnsupportedError, match="PCAMatrix"):
        read(build(string, "ip"))


@pytest.mark.parametrize("string", QUANTIZED)
def test_scalar_quantizers_are_decoded_with_a_warning(read, string):
    index = build(string)
    with pytest.warns(LossWarning, match="bits per coordinate"):
        contents = read(index)
    check(contents, X, np.arange(N), atol=QUANTIZED[string])
    if "Refine" not in string:
        np.testing.assert_allclose(contents.vectors, index.reconstruct_n(0, N), atol=2e-5)


@pytest.mark.parametrize(("string", "bits"), [("SQ8", 8), ("SQ4", 4), ("IVF8,SQfp16", 16)])
def test_the_warning_tells_the_bits(string, bits):
    with pytest.warns(LossWarning, match=f"keeps {bits} bits per coordinate") as caught:
        tqvec.faiss.read(build(string))
    assert caught[0].filename == __file__


@pytest.mark.parametrize("string", ["IDMap,Flat", "IDMap2,Flat", "IDMap,HNSW8,Flat", "IDMap,PQ4x4,RFlat"])
def test_own_ids_stay_in_the_order_in_which_they_were_added(read, string):
    check(read(build(string, ids=IDS)), X, IDS)


@pytest.mark.parametrize("string", ["IDMap,RR16,Flat", "RR16,IDMap,Flat"])
def test_own_ids_and_rotations(read, string):
    check(read(build(string, ids=IDS)), X, IDS, atol=2e-5)


def test_own_ids_of_lists(read):
    check(read(build("IDMap,IVF8,Flat", ids=IDS)), X, IDS)


def test_a_multi_index(read):
    check(read(build("IMI2x2,Flat")), X, np.arange(N))


@pytest.mark.parametrize("direct_map", [faiss.DirectMap.NoMap, faiss.DirectMap.Hashtable])
def test_ids_of_ivf_come_in_ascending_order(read, direct_map):
    index = build("IVF8,Flat", ids=IDS)
    index.set_direct_map_type(direct_map)
    order = np.argsort(IDS)
    check(read(index), X[order], IDS[order])


def test_removed_vectors_are_gone(read):
    kept = np.delete(np.arange(N), [0, 7, 299])
    for string in ("Flat", "SQ8", "IDMap2,Flat", "IVF8,Flat"):
        index = build(string, ids=IDS if "IDMap" in string else None)
        removed = IDS[[0, 7, 299]] if "IDMap" in string else np.array([0, 7, 299])
        assert index.remove_ids(removed) == 3
        ids = {"IDMap2,Flat": IDS[kept], "IVF8,Flat": kept}.get(string, np.arange(N - 3))
        if string == "SQ8":
            with pytest.warns(LossWarning):
                check(read(index), X[kept], ids, atol=0.03)
        else:
            check(read(index), X[kept], ids)


@pytest.mark.parametrize("string", [*EXACT, *ROTATED, *CENTRED, *QUANTIZED, "IDMap,Flat"])
def test_empty_and_untrained(read, string):
    untrained = faiss.index_factory(D, string)
    trained = faiss.index_factory(D, string)
    trained.train(X)
    for index in (trained, untrained):
        contents = read(index)
        assert contents.vectors.shape == (0, D)
        assert contents.ids.shape == (0,)
        assert contents.to_index().ntotal == 0


@pytest.mark.parametrize("string", ["Flat", "SQ8", "IVF2,Flat", "IVF2,SQ8", "RR16,Flat", "IDMap,Flat"])
@pytest.mark.filterwarnings("ignore::tqvec.errors.LossWarning")
def test_parts_are_put_together(monkeypatch, string):
    index = build(string, ids=IDS if "IDMap" in string else None)
    whole = tqvec.faiss.read(index)
    monkeypatch.setattr("tqvec.integrations.faiss._PART", 4 * D * 7)
    parts = tqvec.faiss.read(index)
    np.testing.assert_allclose(parts.vectors, whole.vectors, atol=1e-6)
    np.testing.assert_array_equal(parts.ids, whole.ids)


def test_the_result_outlives_the_index():
    index = build("IVF8,Flat")
    contents = tqvec.faiss.read(index)
    index.reset()
    del index
    check(contents, X, np.arange(N))


@pytest.mark.parametrize("string", OTHERS)
def test_other_indexes_are_refused_by_name(read, string):
    ids = IDS if "IDMap" in string else None
    with pytest.raises(UnsupportedError, match=OTHERS[string]) as error:
        read(build(string, ids=ids))
    assert "compress the original vectors" in str(error.value)


def test_other_metrics_are_refused(read):
    with pytest.raises(UnsupportedError, match="inner product and L2"):
        read(faiss.IndexFlat(D, faiss.METRIC_L1))


def test_binary_indexes_are_refused(tmp_path):
    index = faiss.IndexBinaryFlat(64)
    faiss.write_index_binary(index, str(tmp_path / "a"))
    for one in (index, tmp_path / "a"):
        with pytest.raises(UnsupportedError, match="binary vectors"):
            tqvec.faiss.read(one)


def test_a_changed_inner_index_is_refused():
    index = build("IDMap,Flat", ids=IDS)
    index.index.add(X[:2])
    with pytest.raises(InputError, match="IndexIDMap doesn't fit"):
        tqvec.faiss.read(index)
    index = build("IDMap,IVF8,Flat", ids=IDS)
    assert index.remove_ids(IDS[:5]) == 5  # FAISS leaves the lists with numbers that no id stands for
    with pytest.raises(InputError, match="inconsistent"):
        tqvec.faiss.read(index)
    index = build("HNSW8,Flat")
    index.storage.reset()
    with pytest.raises(InputError, match="IndexHNSWFlat doesn't fit"):
        tqvec.faiss.read(index)


@pytest.mark.parametrize("index", [3, None, X, b"name", [X]])
def test_what_is_no_index(index):
    with pytest.raises(InputError, match=r"index must be a faiss\.Index or the path of its file, got"):
        tqvec.faiss.read(index)


@pytest.mark.parametrize("string", ["Flat", "IDMap,Flat", "IVF8,Flat", "HNSW8,Flat", "RR16,Flat"])
def test_every_truncated_file_is_refused(tmp_path, string):
    path = tmp_path / "a"
    faiss.write_index(build(string, ids=IDS if "IDMap" in string else None), str(path))
    content = path.read_bytes()
    for size in (1, 4, 40, 200, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(FormatError, match="is damaged, of a newer FAISS"):
            tqvec.faiss.read(path)


def test_files_that_are_none_of_faiss(tmp_path):
    with pytest.raises(FileNotFoundError):
        tqvec.faiss.read(tmp_path / "nothing")
    with pytest.raises(IsADirectoryError):
        tqvec.faiss.read(tmp_path)
    np.save(tmp_path / "a.npy", X)
    with pytest.raises(FormatError, match="not a FAISS index, but a NumPy array"):
        tqvec.faiss.read(tmp_path / "a.npy")
    (tmp_path / "b").write_bytes(b"")
    with pytest.raises(FormatError, match="but empty"):
        tqvec.faiss.read(str(tmp_path / "b"))
    (tmp_path / "c").write_bytes(b"what is this?")
    with pytest.raises(FormatError, match="tell nothing"):
        tqvec.faiss.read(tmp_path / "c")


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_to_index_finds_what_faiss_finds(metric):
    index = build("IDMap2,Flat", metric, ids=IDS)
    ours = tqvec.faiss.read(index).to_index(nbits=8)
    assert (ours.metric, ours.nbits, ours.ntotal) == (metric, 8, N)
    theirs = index.search(X[:20], 10)
    scores, ids = ours.search(X[:20], 10)
    np.testing.assert_allclose(scores, theirs[0], atol=0.2)
    assert np.mean([np.isin(a, b).mean() for a, b in zip(ids, theirs[1], strict=True)]) > 0.95
    trellis = tqvec.faiss.read(index).to_index(nbits=2, codebook="trellis")
    assert (trellis.codec.codebook, trellis.nbits) == ("trellis", 2)


@pytest.mark.parametrize("string", ["Flat", "IVF8,Flat"])
def test_ids_that_nobody_chose_take_no_memory(string):
    index = tqvec.faiss.read(build(string)).to_index()
    assert index.nbytes.ids == 0
    same = tqvec.Index(D, metric="l2")
    same.add(X)
    np.testing.assert_array_equal(index.search(X, 3)[1], same.search(X, 3)[1])


@pytest.mark.parametrize(
    ("ids", "x", "message"),
    [
        ([5, 6, 5], X[:3], "ids row 2: id 5 is given twice"),
        ([5, -1, 6], X[:3], "ids row 1: -1 can't be an id"),
        ([5, 6, 7], np.where(np.arange(3)[:, None] == 1, np.nan, X[:3]), "x row 1 holds NaN"),
    ],
)
def test_what_faiss_takes_and_tqvec_does_not(read, ids, x, message):
    """It is read as it is, and refused with the row when an index is made."""
    contents = read(build("IDMap,Flat", x=x, ids=np.array(ids)))
    check(contents, x, ids)
    with pytest.raises(InputError, match=message):
        contents.to_index()


def test_ids_that_repeat_in_lists(read):
    ids = np.arange(N) // 2
    contents = read(build("IVF8,Flat", ids=ids))
    np.testing.assert_array_equal(contents.ids, ids)
    np.testing.assert_allclose(np.sort(contents.vectors, axis=0), np.sort(X, axis=0))


def test_lists_without_vectors_that_hold_nan(read):
    """FAISS counts them, but puts them in no list."""
    index = build("IVF8,Flat", x=np.where(np.arange(N)[:, None] == 4, np.nan, X))
    kept = np.delete(np.arange(N), 4)
    check(read(index), X[kept], kept)


def test_a_mapped_file(tmp_path):
    path = str(tmp_path / "a")
    for string in ("Flat", "IVF8,Flat"):
        faiss.write_index(build(string), path)
        for flags in (faiss.IO_FLAG_MMAP, faiss.IO_FLAG_MMAP_IFC):
            check(tqvec.faiss.read(faiss.read_index(path, flags)), X, np.arange(N))


WITHOUT = """
import sys
sys.modules["faiss"] = None
from tqvec import *
import tqvec
try:
    tqvec.faiss.read("a")
except Exception as error:
    print(type(error).__name__, error)
"""


def test_without_faiss_the_error_has_the_command():
    """The module itself loads, since ``from tqvec import *`` and tools that list attributes load it."""
    result = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "UnsupportedError tqvec.faiss.read needs faiss: pip install 'tqvec[faiss]'"
