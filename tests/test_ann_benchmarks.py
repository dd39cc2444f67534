"""The adapter to ann-benchmarks and VIBE, called in the order in which their runners call it.

Neither is on PyPI, so what they require is written down here, in our own words. Sources, read on 2026-11-30:
ann_benchmarks/algorithms/base/module.py, runner.py and definitions.py of github.com/erikbern/ann-benchmarks;
vibe/algorithms/base/module.py, runner.py, definitions.py and docs/NEW_METHOD.md of github.com/vector-index-bench/vibe.
"""

import importlib
import json
import shutil
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest

import tqvec
from tqvec.eval.sample import load_sample

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks" / "ann_benchmarks"
BASE = '''
class BaseANN:
    """The base class: methods that an adapter does not write itself."""

    def get_memory_usage(self):  # KiB
        raise NotImplementedError

    def get_additional(self):
        return {}

    def __str__(self):
        return self.name
'''
DISTANCES = {"ann_benchmarks": ["angular", "euclidean"], "vibe": ["cosine", "normalized", "ip", "euclidean"]}
K = 10


@pytest.fixture(params=DISTANCES)
def harness(request, tmp_path, monkeypatch):
    """Copy the adapter into a checkout of a harness, as the README says, and return the harness's name."""
    algorithms = tmp_path / request.param / "algorithms"
    shutil.copytree(FOLDER / ("tqvec" if request.param == "ann_benchmarks" else "vibe"), algorithms / "tqvec")
    shutil.copy(FOLDER / "tqvec" / "module.py", algorithms / "tqvec")
    (algorithms / "base").mkdir()
    (algorithms / "base" / "module.py").write_text(BASE)
    monkeypatch.syspath_prepend(tmp_path)
    yield request.param
    for name in [name for name in sys.modules if name.partition(".")[0] == request.param]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def data():
    sample = load_sample()
    return sample.base[:4000].astype(np.float32), sample.queries[:60].astype(np.float32)


def neighbours(x, queries, distance):
    """Return the true results; the sample's vectors have length 1."""
    scores = -((queries[:, None] - x) ** 2).sum(-1) if distance == "euclidean" else queries @ x.T
    return np.argsort(-scores, axis=1)[:, :K]


def definitions(harness, folder, distance):
    """Yield the constructor's and the queries' arguments of each run, as the harness expands config.yml."""
    yaml = pytest.importorskip("yaml")
    (config,) = yaml.safe_load((folder / "config.yml").read_text())["float"]["any"]
    image = config["docker_tag"] if harness == "ann_benchmarks" else config["singularity_image"]
    assert image == {"ann_benchmarks": "ann-benchmarks-tqvec", "vibe": "tqvec"}[harness]
    assert config["module"] == f"{harness}.algorithms.tqvec"
    assert (config["name"], config["constructor"], config["disabled"]) == ("tqvec", "Tqvec", False)
    assert config["base_args"] == ["@metric"]
    for group in config["run_groups"].values():
        queries = [list(each) for each in product(*group["query_args"])] if "query_args" in group else []
        for arguments in product(*group["args"]):
            yield json.loads(json.dumps([distance, *arguments])), json.loads(json.dumps(queries))


def run(module, arguments, groups, x, queries, batch=False):
    """Call the adapter as a runner does; return names and results."""
    algorithm = module.Tqvec(*arguments)
    before = algorithm.get_memory_usage()
    algorithm.fit(x)
    size = algorithm.get_memory_usage() - before
    results = {}
    for group in groups or [[]]:
        if group:
            algorithm.set_query_arguments(*group)
        for _ in range(2):
            if batch:
                algorithm.batch_query(queries, K)
                found = algorithm.get_batch_results()
            else:
                found = [algorithm.query(q, K) for q in queries]
        for candidates in found:
            assert len(candidates) == len(set(candidates)) <= K
            assert np.isfinite(x[candidates]).all()
        assert algorithm.get_additional() == {}
        results[str(algorithm)] = found
    if hasattr(algorithm, "done"):
        algorithm.done()
    return size, results


def recall(found, truth):
    return np.mean([np.isin(a, b).sum() / K for a, b in zip(found, truth, strict=True)])


@pytest.mark.slow
def test_every_distance(harness, data):
    module = importlib.import_module(f"{harness}.algorithms.tqvec.module")
    x, queries = data
    for distance in DISTANCES[harness]:
        before = x.copy(), queries.copy()
        size, results = run(module, [distance, 4, "scalar", False, False], [], x, queries)
        np.testing.assert_array_equal((x, queries)[0], before[0])  # VIBE asks not to change them
        np.testing.assert_array_equal((x, queries)[1], before[1])
        ((name, found),) = results.items()
        assert name == "tqvec(nbits=4, codebook=scalar, trained=False, partitioned=False)"
        assert recall(found, neighbours(x, queries, distance)) > 0.93
        assert size == pytest.approx(len(x) * (384 * 4 // 8 + (8 if distance == "euclidean" else 4)) / 1024, rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [False, True])
def test_a_partition_trades_recall_for_lists(harness, data, batch):
    module = importlib.import_module(f"{harness}.algorithms.tqvec.module")
    x, queries = data
    groups = [["nprobe", 1], ["nprobe", 16], ["recall", 0.5], ["recall", 0.99]]
    _, results = run(module, [DISTANCES[harness][0], 8, "scalar", False, True], groups, x, queries, batch)
    assert [name.partition("partitioned=True, ")[2] for name in results] == [
        "nprobe=1)",
        "nprobe=16)",
        "recall=0.5)",
        "recall=0.99)",
    ]
    few, more, half, most = (recall(found, neighbours(x, queries, "ip")) for found in results.values())
    assert few < more
    assert half < most
    assert most > 0.95


@pytest.mark.slow
def test_training_and_the_trellis_are_used(harness, data):
    module = importlib.import_module(f"{harness}.algorithms.tqvec.module")
    x, queries = data
    truth = neighbours(x, queries, "ip")
    plain, both = (
        recall(*run(module, [DISTANCES[harness][0], 2, *settings, False], [], x, queries)[1].values(), truth)
        for settings in (["scalar", False], ["trellis", True])
    )
    assert both > plain + 0.03


@pytest.mark.slow
def test_every_run_of_the_configuration(harness, data, tmp_path):
    module = importlib.import_module(f"{harness}.algorithms.tqvec.module")
    x, queries = data[0][:600], data[1][:3]
    names = []
    for arguments, groups in definitions(harness, tmp_path / harness / "algorithms" / "tqvec", DISTANCES[harness][0]):
        small = [group for group in groups if group[0] == "recall" or group[1] <= 16]  # 600 vectors have few lists
        names += run(module, arguments, small, x, queries)[1]
    assert len(names) == len(set(names)) > 20


def test_a_failure_is_not_hidden_by_the_end_of_the_run(harness, data):
    module = importlib.import_module(f"{harness}.algorithms.tqvec.module")
    algorithm = module.Tqvec(DISTANCES[harness][0], 4, "scalar", False, False)
    assert algorithm.get_memory_usage() == 0
    algorithm.done()
    algorithm.fit(data[0][:5])
    assert algorithm.query(data[1][0], K).size == 5  # as many as there are


@pytest.mark.parametrize("file", ["tqvec/Dockerfile", "vibe/image.def"])
def test_images_install_this_version(file):
    text = (FOLDER / file).read_text()
    assert text.count(f"tqvec-{tqvec.__version__}-py3-none-any.whl") >= 2
    assert "TQVEC_COMPILE=now" in text
    assert "tqvec warmup" in text
