"""What a user sees who lacks the framework of an integration."""

import subprocess
import sys

import pytest

OLD = """
import sys, types
sys.modules["transformers"] = types.ModuleType("transformers")
sys.modules["transformers"].__version__ = "4.57.6"
try:
    import tqvec.integrations.transformers
except Exception as error:
    print(type(error).__name__, error)
"""
BLOCKED = """
import sys
sys.modules["transformers"] = None
try:
    import tqvec.integrations.transformers
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(("program", "reason"), [(BLOCKED, "transformers"), (OLD, "this is transformers 4.57.6")])
def test_without_transformers_5_the_error_has_the_command(program, reason):
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("UnsupportedError")
    assert reason in result.stdout
    assert "pip install 'tqvec[llm]'" in result.stdout
