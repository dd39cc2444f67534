"""Measure what README and the pages quote, and write the figures into them: ``make bench``.

Every step is a script of this folder in a process of its own, one after another. Its figures go to results/pages/, with
the command that made them and its seconds. `page_figures.py` then writes them into the pages, and a test compares the
pages with them. Steps of lower SIMD levels are left out where the machine has no higher one.

``--only`` runs some of the steps, for instance those that are missing after a run was ended. Nothing else should run on
the machine meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from page_figures import RESULTS, write_pages
from rich.console import Console
from rich.table import Table

import tqvec

HERE = Path(__file__).parent
ABOVE = {"avx512": ("amx",), "avx2": ("avx512", "amx")}  # levels of machines on which a lower one is measured too


class Step(NamedTuple):
    """A run of a script.

    Attributes
    ----------
    name : str
        Of its results.
    command : str
        Script and arguments; ``{data}`` is the folder of the embeddings.
    threads : int
    lowered : str
        SIMD level that is measured on machines with a higher one; empty: that of the machine.
    """

    name: str
    command: str
    threads: int = 1
    lowered: str = ""


STEPS = (
    Step("distortion", "distortion.py"),
    Step("family", "family.py --plot docs/images/distortion.png"),
    Step("quantizers", "quantizers.py"),
    Step("estimators", "estimators.py"),
    Step("bands", "bands.py"),
    Step("retrieval", "retrieval.py --keys 1000000"),
    Step("retrieval-shared", "retrieval.py --keys 1000000 --shared 1.1 --theta 10000"),
    Step("recall", "recall.py {data}"),
    Step("recall-isotropic", "recall.py --isotropic 768 --bits 2 --seeds 3 --faiss PQ192x8np"),
    Step("paper", "paper.py --files {data}/base_f16.npy {data}/queries_f16.npy --times --plot docs/images"),
    Step("search", "search.py --folder {data}"),
    Step("search-avx512", "search.py --folder {data} -d 384", lowered="avx512"),
    Step("search-avx2", "search.py --folder {data} -d 384 --level avx2", lowered="avx2"),
    Step("scaling", "scaling.py --folder {data} --threads 1 2", threads=2),
    Step("encode", "encode.py"),
    Step("filters", "filters.py --dims 128 384 --no-faiss"),
    Step("scale", "scale.py --sizes 1000000x128 1000000x768"),
    Step("mutation", "mutation.py"),
    Step("partition", "partition.py --folder {data} --codecs '4 bits' --n 10000 30000 100000 300000 1000000"),
    Step("attention", "attention.py", threads=2),
    Step("simulator", "simulator.py"),
    Step("cold_start", "cold_start.py", threads=2),
)


def applies(step: Step) -> bool:
    """Whether this machine has the level of a step."""
    return not step.lowered or tqvec.simd_info()["level"] in ABOVE[step.lowered]


def run(step: Step, data: Path) -> float:
    """Run a step and return its seconds; its results appear whole, or not at all."""
    script, *arguments = shlex.split(step.command.format(data=data))
    path, part = RESULTS / f"{step.name}.json", RESULTS / f"{step.name}.part"
    settings = {"TQVEC_SIMD_LEVEL": "avx512"} if step.lowered == "avx512" else {}
    environment = {**os.environ, **settings, "TQVEC_BENCH_THREADS": str(step.threads), "TQVEC_BENCH_RESULT": str(part)}
    start = time.perf_counter()
    subprocess.run([sys.executable, str(HERE / script), *arguments], env=environment, cwd=HERE.parent, check=True)
    seconds = time.perf_counter() - start
    shown = [*(f"{name}={value}" for name, value in settings.items()), "python benchmarks/"]
    made_by = " ".join(shown) + step.command.format(data="FOLDER")
    facts = json.loads(part.read_text(encoding="utf-8")) | {"made_by": made_by, "seconds": round(seconds, 1)}
    part.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
    return seconds


def main() -> None:
    """Run the steps, print their seconds, and write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the full set of WordNet (datasets/README.md)")
    parser.add_argument("--only", nargs="+", choices=[step.name for step in STEPS], help="some of the steps")
    arguments = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    table = Table("step", "command", "seconds", title="Figures of the pages")
    console = Console()
    for step in STEPS:
        if arguments.only is None or step.name in arguments.only:
            if applies(step):
                console.rule(step.name)
                table.add_row(step.name, step.command, f"{run(step, arguments.data):.0f}")
            else:
                (RESULTS / f"{step.name}.json").unlink(missing_ok=True)
    console.print(table)
    missing = [step.name for step in STEPS if applies(step) and not (RESULTS / f"{step.name}.json").exists()]
    if missing:
        console.print(f"pages are written once these steps have results, too: {', '.join(missing)}")
        return
    for page in write_pages():
        console.print(f"written: {page}")


if __name__ == "__main__":
    main()
