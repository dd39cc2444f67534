"""The command line of all builders, and the checks of files against manifests. Plain Python: texts need no packages."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

BLOCK = 1 << 20


class BuildError(RuntimeError):
    """An input or a package is missing, unusable, or not the one of the manifest."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the ``manifest.json`` of a folder."""
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return manifest


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def check_source(path: Path, source: dict[str, Any]) -> None:
    """Raise BuildError unless a file is the one of a manifest's entry `source`."""
    if sha256(path) != source["sha256"]:
        raise BuildError(f"{path} is not the file of {source['package']} {source['version']}")


def run(
    parser: argparse.ArgumentParser,
    build: Callable[[argparse.Namespace], Sequence[Path]],
    argv: Sequence[str] | None = None,
) -> int:
    """Parse a command line, build, and list the files written.

    Returns
    -------
    int
        Exit status: 1 after a `BuildError`, which is printed in one line.
    """
    try:
        written = build(parser.parse_args(argv))
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for path in written:
        print(f"{path.stat().st_size:>12,}  {path}")
    return 0
