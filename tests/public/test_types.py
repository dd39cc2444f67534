"""The public face has types that users' checkers see: a program over all of it passes them, and a wrong one doesn't."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import public_face
import pytest
import strategies as sts

ROOT = Path(__file__).parents[2]
CHECKERS = {
    "mypy": [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--config-file", os.devnull],
    "pyright": [sys.executable, "-m", "pyright", "--pythonpath", sys.executable],
}
WRONG = """
import numpy as np
import tqvec

index = tqvec.Index(8, metric="manhattan")
x = np.zeros((3, 8), np.float32)
scores, ids, error = index.search(x)
index.train(x, x)
index.update(x, [0])
text: str = index.codec.encode(x)
tqvec.kvcache.KVCache(1, 1, 8).attend(0, x, 0.5)
report: int = tqvec.oracle.verify("port.py")
"""


def check(checker, path):
    environment = os.environ | {"MYPYPATH": str(ROOT), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*CHECKERS[checker], str(path)], capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )


@pytest.mark.slow
@pytest.mark.parametrize("checker", CHECKERS)
def test_a_program_over_the_public_face(checker):
    run = check(checker, ROOT / "tests" / "public_face.py")
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.slow
@pytest.mark.parametrize("checker", CHECKERS)
def test_every_wrong_line_is_reported(checker, tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text(WRONG)
    output = check(checker, path).stdout
    for line, text in enumerate(WRONG.splitlines(), 1):
        if text and not text.startswith(("import", "x =")):
            assert f"wrong.py:{line}:" in output, f"{text}\n{output}"


def test_the_program_runs(tmp_path):
    x = sts.normal(400, 16, 10_300)
    assert public_face.search(x, tmp_path / "a.tqv").shape == (2, 3)
    assert public_face.collect(x, tmp_path / "c") == ["a", "b"]
    assert public_face.encode(x).shape == (1, 16)
    assert public_face.attend(sts.normal(2 * 300, 16, 10_301).reshape(2, 300, 16)).shape == (2, 1, 16)
    port = SimpleNamespace(quantize=lambda view, y: (y[..., None] > view.tables["thresholds"]).sum(-1, dtype=np.uint8))
    assert public_face.verify(port)
