"""``tqvec kv``: bytes, time and error of a transformer's KV cache."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from tqvec._output import Kind, Output
from tqvec.cli._console import console, progress
from tqvec.cli._output import plan_output, with_force
from tqvec.cli._plot import SUFFIXES, plan_plot, pyplot, save_plot
from tqvec.errors import InputError
from tqvec.kvcache import planning, quality, simulation
from tqvec.kvcache.simulation import WORKLOADS, Request, SimulationReport

app = typer.Typer(help="Plan and simulate a transformer's KV cache: bytes, time and error.", no_args_is_help=True)
_TOKENS = "100k"  # of a generated trace
_REPORT = Kind("a report of `tqvec kv simulate`", re.compile(rb'\A\s*[\[{]\s*\{?\s*"model":'))


@app.command()
def plan(
    model: Annotated[str, typer.Option(help="Name of a model, or a Hugging Face config.json")],
    memory: Annotated[str | None, typer.Option(help="Size of the memory with its unit: 8GiB, 16GB")] = None,
    policy: Annotated[str, typer.Option(help="Name of a policy, or of another engine's format")] = "turbo3",
    context: Annotated[str | None, typer.Option(help="Tokens, or 128k; default: the model's own")] = None,
    weights: Annotated[str, typer.Option(help="Bytes of the memory that the weights take, with a unit")] = "0B",
    windows: Annotated[str, typer.Option(help="Tokens that sliding windows keep: ring or full")] = "ring",
    page: Annotated[int, typer.Option(help="Tokens that another engine's format reserves at a time")] = 1,
) -> None:
    """Plan a model's cache: bytes by component, the longest sequence and the number of sequences that fit a memory."""
    options: dict[str, Any] = {"memory": memory, "context": context, "weights": weights, "windows": windows}
    table = str(planning.plan(model, policy=policy, page=page, **options))
    console.print(table, highlight=False, soft_wrap=True)


@app.command()
@with_force
def simulate(
    model: Annotated[str, typer.Option(help="Name of a model, or a Hugging Face config.json")],
    tier: Annotated[list[str], typer.Option(help="name:capacity[:bandwidth[:latency]]; the first is the memory")],
    trace: Annotated[
        str, typer.Option(help="File of JSON lines; or chat, documents, shared with a number of tokens: chat:1M")
    ] = "chat",
    policy: Annotated[list[str] | None, typer.Option(help="Names of policies; default: exact, turbo4, turbo3")] = None,
    eviction: Annotated[str, typer.Option(help="lru, oldest, belady, or window:4096")] = "lru",
    prefill: Annotated[float, typer.Option(help="Prompt tokens that the model computes per second")] = float("inf"),
    tensors: Annotated[Path | None, typer.Option(help="Captured q, k and v: .safetensors; default: synthetic")] = None,
    output: Annotated[
        list[Path] | None, typer.Option("--output", "-o", help="Reports: .json, .png, .svg or .pdf")
    ] = None,
) -> None:
    """Simulate a server: bytes, time and error of each policy. Rates are measured on this machine first."""
    outputs = _plan_outputs(output or [], [Path(model), Path(trace), *([tensors] if tensors else [])])
    kind, _, size = eviction.partition(":")
    window = {"window": planning.parse_tokens(size, "window")} if size else {}
    server = simulation.Server([simulation.MemoryTier.parse(text) for text in tier], kind, prefill=prefill, **window)
    requests = _requests(trace)
    layers = None if tensors is None else quality.read_layers(tensors)
    reports = []
    with progress() as bar:
        for name in policy or ["exact", "turbo4", "turbo3"]:
            task = bar.add_task(name, total=len(requests))
            advance = partial(bar.advance, task)
            reports.append(simulation.simulate(requests, model, name, server, tensors=layers, progress=advance))
    console.print(simulation.format_reports(reports), highlight=False, soft_wrap=True)
    for each in outputs:
        if each.path.suffix == ".json":
            with each.open() as file:
                file.write("".join(report.to_json() + "\n" for report in reports).encode())
        else:
            _draw(reports, each)
        console.print(f"written: {each.path}", highlight=False)


def _plan_outputs(paths: Sequence[Path], inputs: Sequence[Path]) -> list[Output]:
    """Return the outputs of all reports, which must be different files."""
    outputs = []
    for i, path in enumerate(paths):
        if path.suffix not in (".json", *SUFFIXES):
            raise InputError(f"{path}: must be .json, .png, .svg or .pdf")
        others = [*inputs, *paths[:i]]
        if path.suffix == ".json":
            outputs.append(plan_output(path, _REPORT, others))
        else:
            outputs.append(plan_plot(path, others, "a plot as --output"))
    return outputs


def _requests(trace: str) -> list[Request]:
    """Read a trace from a file, or generate one."""
    kind, _, size = trace.partition(":")
    if kind in WORKLOADS:
        return simulation.generate_requests(kind, planning.parse_tokens(size or _TOKENS, "tokens"))
    if not Path(trace).is_file():
        raise InputError(
            f"trace must be a file, or one of {', '.join(WORKLOADS)} with a number of tokens, got {trace!r}"
        )
    return simulation.read_trace(trace)


def _draw(reports: Sequence[SimulationReport], output: Output) -> None:
    """Draw time per token against its context, and error against bytes."""
    figure, (left, right) = pyplot().subplots(1, 2, figsize=(10, 4.5), layout="constrained")
    for report in reports:
        context, seconds = zip(*report.steps, strict=True) if report.steps else ((), ())
        left.plot(context, [1000 * value for value in seconds], ".", markersize=4, label=report.policy)
        if report.loss is not None:
            right.plot(report.bytes_per_token / 1024, report.loss.mean, "o", label=report.policy)
    left.set(xlabel="context, tokens", ylabel="ms per generated token", title="the cache's time", ylim=(0, None))
    right.set(xlabel="KiB per token", ylabel="relative error of attention", title="bytes and error", xlim=(0, None))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(f"{reports[0].model}, {reports[0].requests:,} requests, {reports[0].tokens:,} tokens")
    save_plot(figure, output)
