"""Build ``northanger_abbey.txt`` from Debian's package r-cran-janeaustenr, without any download of its own.

The package holds the lines of Jane Austen's novels, as Project Gutenberg has them, in R's own format. The text is the
first six chapters of Northanger Abbey, one paragraph a line. ``manifest.json`` has package, licence and sums.

Examples
--------
::

    apt-get download r-cran-janeaustenr
    dpkg -x r-cran-janeaustenr_*.deb package
    python build.py package/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb northanger_abbey.txt
"""

from __future__ import annotations

import argparse
import re
import struct
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _common import check_source, read_manifest, run

MANIFEST = read_manifest(Path(__file__).resolve().parent)
TITLE, FIRST, END = "NORTHANGER ABBEY", "CHAPTER 1", "CHAPTER 7"
_STRINGS = 16  # R's type code of a vector of strings


def objects(data: bytes) -> Iterator[bytes]:
    """Iterate over the serialised R objects of a .rdb file: each is preceded by its length and compressed."""
    while data:
        unpack = zlib.decompressobj()
        yield unpack.decompress(data[4:])
        data = unpack.unused_data


def strings(serialised: bytes) -> list[str]:
    """Return the elements of a serialised vector of strings (XDR, version 3); none for other objects."""
    start = 18 + struct.unpack_from(">I", serialised, 14)[0]  # header, and the name of the encoding
    flags, count = struct.unpack_from(">II", serialised, start)
    if flags & 255 != _STRINGS:
        return []
    elements, start = [], start + 8
    for _ in range(count):
        size = max(struct.unpack_from(">i", serialised, start + 4)[0], 0)
        elements.append(serialised[start + 8 : start + 8 + size].decode())
        start += 8 + size
    return elements


def paragraphs(lines: Sequence[str]) -> str:
    """Return the text of the chapters from `FIRST` to before `END`, one paragraph per line."""
    text = "\n".join(lines)
    chapters = text[text.index(f"{FIRST}\n") : text.index(f"{END}\n")]
    parts = (" ".join(part.split()) for part in re.split(r"\n\s*\n", chapters))
    return "\n\n".join(part for part in parts if part) + "\n"


def build(args: argparse.Namespace) -> list[Path]:
    """Write the text, and return its path."""
    check_source(args.rdb, MANIFEST["source"])
    books = (lines for lines in map(strings, objects(args.rdb.read_bytes())) if lines and lines[0] == TITLE)
    args.out.write_text(paragraphs(next(books)), encoding="utf-8")
    return [args.out]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Build the prose from Debian's r-cran-janeaustenr.")
    parser.add_argument("rdb", type=Path, help="Rdata.rdb of the unpacked package")
    parser.add_argument("out", type=Path)
    sys.exit(run(parser, build))
