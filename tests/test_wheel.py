"""What the wheel and the source archive hold: the package, the sample and the licences of both."""

import re
import tarfile
import zipfile

import pytest
from platforms.installed import ROOT, build

import tqvec

pytest.importorskip("hatchling")

DATA = ROOT / "datasets" / "wordnet_minilm"
LICENCES = ("WORDNET-LICENSE.txt", "MODEL-NOTICE.txt")
SAMPLE = ("base_f16.npy", "base_texts.txt.gz", "queries_f16.npy", "query_texts.txt.gz")


@pytest.mark.slow
def test_wheel(tmp_path):
    path = build("wheel", tmp_path)
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        info = next(name.split("/")[0] for name in names if ".dist-info/" in name)
        metadata = archive.read(f"{info}/METADATA").decode()
        for name in LICENCES:
            text = (DATA / name).read_bytes()
            assert archive.read(f"tqvec/eval/sample/{name}") == text
            assert archive.read(f"{info}/licenses/datasets/wordnet_minilm/{name}") == text
        assert archive.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert {f"tqvec/eval/sample/{name}" for name in SAMPLE} < names
    code = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tqvec").rglob("*.py")}
    plugin = "pytest_tqvec.py"  # outside the package, which pytest shall not import
    assert code | {plugin} == {name for name in names if name.endswith(".py")}
    assert {name.split("/")[0] for name in names} == {"tqvec", plugin, info}
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".nbc"))]
    assert {"tqvec/py.typed", "tqvec/codec/data/codebooks.safetensors", "tqvec/codec/data/trellis.json"} < names
    assert len(re.findall("^License-File: ", metadata, re.MULTILINE)) == 1 + len(LICENCES)
    assert re.findall("^Version: (.*)$", metadata, re.MULTILINE) == [tqvec.__version__]


@pytest.mark.slow
def test_source_archive(tmp_path):
    """What a wheel is built from, and what readers of it need."""
    with tarfile.open(build("sdist", tmp_path)) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    assert {"pyproject.toml", "LICENSE", "README.md", "tqvec/__init__.py", "pytest_tqvec.py"} < names
    assert {"SECURITY.md", "CITATION.cff"} < names
    assert {f"datasets/wordnet_minilm/{name}" for name in LICENCES} < names
    assert {f"datasets/wordnet_minilm/sample/{name}" for name in SAMPLE} < names
