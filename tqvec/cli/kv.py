"""``tqvec kv``: what a transformer's cache takes, how slow it is and how wrong."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from tqvec.cli._console import console, progress
from tqvec.cli._plot import pyplot
from tqvec.errors import InputError
from tqvec.kvcache.planning.planner import plan as planned
from tqvec.kvcache.planning.units import parse_tokens
from tqvec.kvcache.quality.captured import read_layers
from tqvec.kvcache.simulation.memory_tiers import Tier
from tqvec.kvcache.simulation.report import Report, show
from tqvec.kvcache.simulation.simulator import Server
from tqvec.kvcache.simulation.simulator import simulate as simulated
from tqvec.kvcache.simulation.traces import WORKLOADS, Request, generate, read_trace

app = typer.Typer(help="Keys and values of a transformer: bytes, time and error.", no_args_is_help=True)
_TOKENS = "100k"  # of a trace that is made


@app.command()
def plan(
    model: Annotated[str, typer.Option(help="Of the catalogue, or a Hugging Face config.json")],
    memory: Annotated[str | None, typer.Option(help="With its unit: 8GiB, 16GB")] = None,
    policy: Annotated[str, typer.Option(help="Preset, or another engine's format")] = "turbo3",
    context: Annotated[str | None, typer.Option(help="Tokens, or 128k; default: the model's own")] = None,
    weights: Annotated[str, typer.Option(help="Bytes of the memory that the weights take, with a unit")] = "0B",
    windows: Annotated[str, typer.Option(help="Sliding windows: ring or full")] = "ring",
    page: Annotated[int, typer.Option(help="Tokens that another engine's format reserves at a time")] = 1,
) -> None:
    """Bytes of a model's cache by component, the longest sequence in a memory, and how many sequences fit."""
    console.print(str(planned(model, memory, policy, context, weights, windows, page)), highlight=False, soft_wrap=True)


@app.command()
def simulate(
    model: Annotated[str, typer.Option(help="Of the catalogue, or a Hugging Face config.json")],
    tier: Annotated[list[str], typer.Option(help="name:capacity[:bandwidth[:latency]]; the first is the memory")],
    trace: Annotated[
        str, typer.Option(help="JSON lines; or chat, documents, shared, as chat:1M for 1M tokens")
    ] = "chat",
    policy: Annotated[list[str] | None, typer.Option(help="Presets; default: exact, turbo4, turbo3")] = None,
    eviction: Annotated[str, typer.Option(help="lru, oldest, belady, or window:4096")] = "lru",
    prefill: Annotated[float, typer.Option(help="Tokens of a prompt that the model computes a second")] = float("inf"),
    tensors: Annotated[Path | None, typer.Option(help="Captured q, k, v: .safetensors; default: made ones")] = None,
    output: Annotated[list[Path] | None, typer.Option("--output", "-o", help=".json, .png, .svg or .pdf")] = None,
) -> None:
    """Serve a workload: bytes, time and error of each policy. Rates are measured on this machine first."""
    outputs = output or []
    for path in outputs:
        if path.suffix not in (".json", ".png", ".svg", ".pdf"):
            raise InputError(f"{path}: must be .json, .png, .svg or .pdf")
    if any(path.suffix != ".json" for path in outputs):
        pyplot("a plot as --output")
    kind, _, size = eviction.partition(":")
    window = {"window": parse_tokens(size, "window")} if size else {}
    server = Server([Tier.parse(text) for text in tier], kind, prefill=prefill, **window)
    requests = _requests(trace)
    layers = None if tensors is None else read_layers(tensors)
    reports = []
    with progress() as bar:
        for name in policy or ["exact", "turbo4", "turbo3"]:
            task = bar.add_task(name, total=len(requests))
            reports.append(simulated(requests, model, name, server, tensors=layers, tell=partial(bar.advance, task)))
    console.print(show(reports), highlight=False, soft_wrap=True)
    for path in outputs:
        if path.suffix == ".json":
            path.write_text("".join(report.to_json() + "\n" for report in reports), encoding="utf-8")
        else:
            _draw(reports, path)
        console.print(f"written: {path}", highlight=False)


def _requests(trace: str) -> list[Request]:
    """A trace from a file, or one that is made."""
    kind, _, size = trace.partition(":")
    if kind in WORKLOADS:
        return generate(kind, parse_tokens(size or _TOKENS, "tokens"))
    if not Path(trace).is_file():
        raise InputError(
            f"trace must be a file, or one of {', '.join(WORKLOADS)} with a number of tokens, got {trace!r}"
        )
    return read_trace(trace)


def _draw(reports: Sequence[Report], path: Path) -> None:
    """Time of a token against its context, and error against bytes."""
    figure, (left, right) = pyplot().subplots(1, 2, figsize=(10, 4.5), layout="constrained")
    for report in reports:
        context, seconds = zip(*report.steps, strict=True) if report.steps else ((), ())
        left.plot(context, [1000 * each for each in seconds], ".", markersize=4, label=report.policy)
        if report.loss is not None:
            right.plot(report.bytes_per_token / 1024, report.loss.mean, "o", label=report.policy)
    left.set(xlabel="context, tokens", ylabel="ms a generated token", title="time of the cache's work", ylim=(0, None))
    right.set(xlabel="KiB a token", ylabel="relative error of attention", title="bytes and error", xlim=(0, None))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(f"{reports[0].model}, {reports[0].requests:,} requests, {reports[0].tokens:,} tokens")
    figure.savefig(path, dpi=150)
