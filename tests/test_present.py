"""Results show themselves: short reprs, tables for notebooks, plain data for programs."""

import copy
import json
import pickle
import sys

import numpy as np
import pytest
import strategies as sts

import tqvec
from tqvec import kvcache, oracle, selectors
from tqvec._present import Presented, Sheet, brief, to_plain
from tqvec.errors import UnsupportedError
from tqvec.index.diagnose.causes import Cause
from tqvec.index.diagnose.diagnosis import Alternative
from tqvec.kvcache import quality, simulation
from tqvec.oracle.report import Report, Result, Verdict

X = sts.normal(300, 24, 10_900)
DIAGNOSIS = tqvec.Diagnosis(
    recall=0.9,
    interval=(0.8, float("nan")),
    k=10,
    ntotal=300,
    queries=20,
    method="measured",
    causes=(Cause("near-ties", 0.1, "<b>close</b>"),),
    alternatives=(Alternative("4 bits (now)", 0.9, 16), Alternative("5 bits <script>", 0.95, 19)),
    shortlist=None,
    gaps=np.array([0.5, np.inf], np.float32),
)


def make_index():
    index = tqvec.Index(24, nbits=2, metric="cosine")
    index.add(X)
    return index


def make_report():
    report = simulation.SimulationReport("tiny", "turbo3", "lru", 100.0, requests=1, tokens=10, peak={"memory": 5})
    report.loss = quality.AttentionLoss(0.1, 0.2, 0.3)
    report.steps = [(100, 0.001)]
    return report


def make_cache():
    cache = kvcache.KVCache(1, 2, 24)
    cache.append(0, X[:200].reshape(2, 100, 24), X[:200].reshape(2, 100, 24))
    return cache


RESULTS = {
    "training": lambda: tqvec.Training(accepted=True, reason="it helps", rows=300, bands=(), shares=()),
    "diagnosis": lambda: DIAGNOSIS,
    "plan": lambda: kvcache.plan("gemma-3-12b", memory="8GiB"),
    "plans": lambda: kvcache.plan("llama-3.1-8b", memory="8GiB", policy=["turbo4", kvcache.Policy(2, 2), "fp16"]),
    "simulation": make_report,
    "verification": lambda: Report(
        "port", "float32", (Result("tqvec_scalar@2", 64, (Verdict("quantize", "passed"),)),)
    ),
    "fidelity": lambda: quality.Fidelity(*[0.5] * 9),
    "loss": lambda: quality.AttentionLoss(0.1, 0.2, 0.3),
    "allocation": lambda: quality.Allocation(
        kvcache.Policy(), (quality.Step(10, 0.1), quality.Step(20, 0.05)), np.zeros((1, 2, 2, 4))
    ),
    "curve": lambda: quality.Curve(name="turbo3", success=(0.1, 0.9), half=0.5, shift=0.1, low=0.0, high=0.2),
    "bytes of an index": lambda: make_index().nbytes,
    "bytes of a cache": lambda: make_cache().nbytes,
}
OTHERS = {
    "index": make_index,
    "codec": lambda: tqvec.TurboQuant(24),
    "codes": lambda: tqvec.TurboQuant(24).encode(X),
    "cache": make_cache,
    "policy": lambda: kvcache.Policy([(2, 3)] * 40, 3.5, codebook="trellis"),
    "model": lambda: kvcache.planning.find_model("gemma-3-12b"),
    "part": lambda: kvcache.plan("gemma-3-12b").parts[0],
    "selector": lambda: selectors.Range(0, 9) & ~(selectors.Ids(range(9)) | selectors.Mask([True, False])),
    "snapshot": lambda: make_index()._snapshot(),
    "layer": lambda: quality.synthesize_layer(32, 64),
    "server": lambda: simulation.Server([simulation.MemoryTier.parse("memory:1GiB")]),
    "profile": lambda: oracle.PROFILES["tqvec_scalar@2"],
    "cause": lambda: DIAGNOSIS.causes[0],
}


@pytest.mark.parametrize("name", [*RESULTS, *OTHERS])
def test_a_repr_takes_a_line_or_two(name):
    text = repr((RESULTS | OTHERS)[name]())
    assert len(text) <= 240
    assert "\n" not in text
    assert " object at 0x" not in text


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_is_plain_data(name):
    result = RESULTS[name]()
    assert isinstance(result, Presented)
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False)) == result.to_dict()
    assert str(result) != ""
    assert pickle.loads(pickle.dumps(result)).to_dict() == copy.deepcopy(result).to_dict() == result.to_dict()


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_is_a_table_in_a_notebook(name):
    html = RESULTS[name]()._repr_html_()
    assert html.count("<table>") == html.count("</table>") == 1
    assert "<script>" not in html
    assert "<b>" not in html


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_is_drawn(name):
    pytest.importorskip("matplotlib").use("agg")
    figure = np.ravel(RESULTS[name]().plot())[0].figure
    figure.draw_without_rendering()
    pytest.importorskip("matplotlib.pyplot").close(figure)


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_is_a_data_frame(name):
    pytest.importorskip("pandas")
    result = RESULTS[name]()
    frame = result.to_pandas()
    assert list(frame.columns) == list(result._sheet().columns)
    assert len(frame) == len(result._sheet().rows)


def test_what_is_missing_is_named_with_the_command(monkeypatch):
    for module, call in (("pandas", DIAGNOSIS.to_pandas), ("matplotlib", DIAGNOSIS.plot)):
        monkeypatch.setitem(sys.modules, module, None)
        extra = {"pandas": "pandas", "matplotlib": "plot"}[module]
        with pytest.raises(UnsupportedError, match=rf"needs {module}: pip install 'tqvec\[{extra}\]'"):
            call()


def test_dictionaries_have_what_the_result_has():
    found = DIAGNOSIS.to_dict()
    assert found["interval"] == [0.8, None]
    assert found["gaps"] == [0.5, None]
    assert found["alternatives"][0] == {"name": "4 bits (now)", "recall": 0.9, "code_size": 16}
    assert found["rerank"] == DIAGNOSIS.rerank
    sizes = make_index().nbytes
    assert sizes.to_dict() == sizes.items() | {"total": int(sizes), "mapped": 0}
    plan = RESULTS["plan"]()
    assert plan.to_dict()["total"] == plan.total
    assert plan.to_dict()["nbytes"]["codes"] == plan.nbytes.codes
    assert to_plain({1: (np.float32(0.5), {2}, np.array([True]), float("inf"))}) == {"1": [0.5, [2], [True], None]}


def test_plans_of_several_policies():
    plans = RESULTS["plans"]()
    assert [plan.policy for plan in plans] == ["turbo4", "policy", "fp16"]
    assert plans[0] == kvcache.plan("llama-3.1-8b", memory="8GiB", policy="turbo4")
    assert len(str(plans).splitlines()) == 1 + 1 + 3 + 2
    assert "max tokens" not in str(kvcache.plan("phi-4", policy=("turbo4", "turbo2")))
    with pytest.raises(tqvec.InputError, match="policy must have at least one"):
        kvcache.plan("phi-4", policy=[])


def test_sheets():
    sheet = Sheet(("name", "n"), [("a", 1234), ("bcd", None)], "title", ("note",))
    assert sheet.to_text() == "title\nname      n\na     1,234\nbcd\nnote"
    assert Sheet(("x",), []).to_text() == "x"
    assert brief(quality.Step(5, 0.123456789)) == "Step(bytes_per_token=5, error=0.123457)"
