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
import importlib, sys
package, module = sys.argv[1:]
sys.modules[package] = None
try:
    importlib.import_module(f"tqvec.integrations.{module}")
except Exception as error:
    print(type(error).__name__, error)
"""
MODULES = {  # and what each needs, and the extra that brings it
    "haystack": ("haystack", "haystack"),
    "langchain": ("langchain_core", "langchain"),
    "llama_index": ("llama_index", "llama-index"),
    "ray": ("ray", "ray"),
    "sklearn": ("sklearn", "sklearn"),
    "transformers": ("transformers", "llm"),
    "txtai": ("txtai", "txtai"),
    "vicinity": ("vicinity", "vicinity"),
}


def run(program, *arguments):
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize("module", MODULES)
def test_without_a_framework_the_error_has_the_command(module):
    package, extra = MODULES[module]
    told = run(BLOCKED, package, module)
    assert told.startswith("UnsupportedError")
    assert package in told
    assert f"pip install 'tqvec[{extra}]'" in told


def test_with_transformers_4_the_error_has_the_command():
    told = run(OLD)
    assert told.startswith("UnsupportedError")
    assert "this is transformers 4.57.6" in told
    assert "pip install 'tqvec[llm]'" in told
