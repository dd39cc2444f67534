"""Ports that raise, exit or give nonsense: a failed stage with the port's own file and line, never a traceback."""

import importlib.util
import re
from types import SimpleNamespace

import numpy as np
import pytest
from command import run

from tqvec import oracle
from tqvec.errors import InputError
from tqvec.oracle import ports, runner
from tqvec.oracle.families.registry import instantiate
from tqvec.oracle.profiles import PROFILES

CODEC = instantiate(PROFILES["tqvec_scalar@2"], 20)
RAISING = {
    "ZeroDivisionError: division by zero": "return 1 / 0",
    "SystemExit: 3": "raise SystemExit(3)",
    "KeyError: 'nothing'": "return view.tables['nothing']",
    "RecursionError": "return rotate(view, unit)",
    "NotImplementedError": "raise NotImplementedError",
    "ValueError: ": "return helper(unit)",
    "MemoryError": "raise MemoryError",
}
NONSENSE = {
    "NoneType": lambda unit: None,
    "dict": lambda unit: {"rotated": unit},
    "str": lambda unit: "rotated",
    "generator": lambda unit: (row for row in unit),
    "the dtype is complex128": lambda unit: unit.astype(complex),
    "the dtype is object": lambda unit: unit.astype(object),
    "the dtype is <U": lambda unit: unit.astype(str),
    "some values are masked": lambda unit: np.ma.masked_array(unit, mask=True),
    "29 outputs, not 1": lambda unit: unit.tolist(),
    "0 outputs, not 1": lambda unit: (),
    "shape (20, 29), not (29, 20)": lambda unit: unit.T,
    "shape (), not (29, 20)": lambda unit: 0.5,
    "shape (28, 20), not (29, 20)": lambda unit: unit[1:],
    "nan, not": lambda unit: unit * np.nan,
    "inf, not": lambda unit: np.full(unit.shape, np.inf),
    "differ": lambda unit: unit > 0,
}


def write_port(folder, body):
    path = folder / "port.py"
    path.write_text(
        f'PROFILES = ["tqvec_scalar@2"]\nDIMS = (20,)\n\n\ndef rotate(view, unit):\n    {body}\n\n\n'
        "def helper(unit):\n    return int('no number')\n"
    )
    return path


@pytest.mark.parametrize("told", RAISING)
def test_what_a_port_raises_is_told_with_its_file_and_line(told, tmp_path):
    path = write_port(tmp_path, RAISING[told])
    verdict = oracle.verify(path).results[0].first_broken
    assert verdict.message.startswith(f"raised {told}")
    assert f"({path}, line {10 if 'helper' in RAISING[told] else 6}, in " in verdict.message


@pytest.mark.parametrize("told", NONSENSE)
@pytest.mark.parametrize("stage", ["rotate", "encode", "statistics"])
def test_what_is_no_output_is_told(told, stage):
    def function(view, given):
        return NONSENSE[told](given)

    if stage == "statistics":
        right = ports.from_oracle(CODEC).stages
        port = ports.Port("port", {**right, "decode": lambda view, packed, scale: function(view, None)})
        assert not runner.verify_stages(port, CODEC).passed
        return
    verdict = runner.verify_stages(ports.from_object(SimpleNamespace(**{stage: function}), "port"), CODEC).first_broken
    if stage == "rotate":
        assert told in verdict.message
    else:
        assert verdict.stage == "encode"
    if "gives what can't be read" in verdict.message:
        assert re.search(rf"\({re.escape(__file__)}, line \d+, in function\)", verdict.message)


def test_an_interrupt_is_not_a_fault():
    def interrupted(view, unit):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.verify_stages(ports.Port("port", {"rotate": interrupted}), CODEC)


def test_statistics_of_a_port_that_raises_now_and_then():
    right = ports.from_oracle(CODEC).stages

    def decode(view, packed, scale):
        if len(packed) > 100:
            raise ValueError("too many")
        return right["decode"](view, packed, scale)

    verdict = runner.verify_stages(ports.Port("port", {**right, "decode": decode}), CODEC).first_broken
    assert verdict.stage == "statistics"
    assert verdict.message.startswith("raised ValueError: too many (")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def rotate(view, unit:\n", r"is no Python: .*port.py, line 1"),
        ("import nothing_of_this_name\n", r"line 1, raised ModuleNotFoundError: No module"),
        ("x = 1\nraise SystemExit('usage')\n", r"line 2, raised SystemExit: usage"),
        ("x = 1\n", "no function named after a stage"),
        ("PROFILES = 3\ndef rotate(view, unit): pass\n", "PROFILES of port port.py must be a tuple of str, got 3"),
        ("DIMS = ['64']\ndef rotate(view, unit): pass\n", "DIMS of port port.py must be a tuple of int"),
        ("DTYPE = 'int8'\ndef rotate(view, unit): pass\n", "DTYPE of port port.py must be one of"),
    ],
)
def test_a_file_that_cannot_be_loaded(text, told, tmp_path):
    path = tmp_path / "port.py"
    path.write_text(text)
    with pytest.raises(InputError, match=told):
        oracle.verify(path)


def test_a_single_profile_and_dimension_need_no_list():
    port = SimpleNamespace(dequantize=CODEC.tables["centroids"].__getitem__, PROFILES="tqvec_scalar", DIMS=64)
    assert (ports.load(port).profiles, ports.load(port).dims) == (("tqvec_scalar",), (64,))


def test_the_verb_tells_the_line(tmp_path):
    told = run("verify", write_port(tmp_path, "return 1 / 0"))
    assert told.exit_code == 1
    assert "port.py, line 6, in rotate" in told.output.replace("\n", "")


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs PyTorch")
def test_tensors_of_every_kind():
    import torch

    def rotate(convert):
        right = ports.from_oracle(CODEC).stages["rotate"]
        port = ports.Port("torch", {"rotate": lambda view, u: convert(torch.tensor(right(view, u)[0]))})
        return runner.verify_stages(port, CODEC).first_broken

    assert rotate(lambda t: t.requires_grad_()) is None
    assert rotate(lambda t: t.double()) is None
    assert rotate(lambda t: t.T.contiguous().T) is None
    assert "differ" in rotate(lambda t: t.bfloat16()).message
    assert "can't be read as arrays (Tensor)" in rotate(lambda t: t.to("meta")).message
    assert "can't be read as arrays (Tensor)" in rotate(lambda t: t.to_sparse()).message
