"""What a user sees who lacks the framework of an integration."""

import subprocess
import sys

BLOCKED = """
import sys
sys.modules["transformers"] = None
try:
    import tqvec.integrations.transformers
except Exception as error:
    print(type(error).__name__, error)
"""


def test_without_transformers_the_error_has_the_command():
    result = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("UnsupportedError")
    assert "pip install 'tqvec[llm]'" in result.stdout
