"""``tqvec kv``: bytes and time of a transformer's KV cache, and its error on some tensors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from tqvec._output import Kind, Output
from tqvec.cli._console import Json, progress, show, show_json, show_table
from tqvec.cli._options import expand
from tqvec.cli._output import plan_output, with_force
from tqvec.cli._plot import SUFFIXES, plan_plot, save_plot
from tqvec.cli.kv_report import report, split_names
from tqvec.errors import InputError
from tqvec.kvcache import PRESETS, Policy, bits_per_value, planning, quality, simulation
from tqvec.kvcache.planning import FORMATS, LayerKind, Model, StreamedWeights
from tqvec.kvcache.simulation import WORKLOADS, Request

app = typer.Typer(
    help="Plan, simulate and measure a transformer's KV cache: bytes, time and error.", no_args_is_help=True
)
_REPORT = Kind("a report of `tqvec kv simulate`", re.compile(rb'\A\s*[\[{]\s*\{?\s*"model":'))
_TOKENS = "100k"  # of a generated trace
_SHAPE = (32, 8, 128)  # layers, KV heads and head_dim of the bits per value in the list of policies


_STREAM = """Stream weights layer by layer: resident:streamed[:bandwidth], as 2.5GB:14GB:3GB/s, or \
checkpoint[:bandwidth], a folder of model*.safetensors"""


class WeightOptions(NamedTuple):
    """Options of `plan` that describe the weights."""

    weights: Annotated[str, typer.Option(help="Bytes of the memory that the weights take, with a unit")] = "0B"
    stream_weights: Annotated[str | None, typer.Option(help=_STREAM)] = None


def plan(
    model: Annotated[str, typer.Option(help="Name of a model, or a Hugging Face config.json")],
    memory: Annotated[str | None, typer.Option(help="Size of the memory with its unit: 8GiB, 16GB")] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(help="Policy, or format of another engine; several: a,b or repeated; default: turbo3"),
    ] = None,
    context: Annotated[str | None, typer.Option(help="Tokens, or 128k; default: the model's own")] = None,
    windows: Annotated[str, typer.Option(help="Tokens that sliding windows keep: ring or full")] = "ring",
    page: Annotated[int, typer.Option(help="Tokens that another engine's format reserves at a time")] = 1,
    json: Json = False,
    options: WeightOptions = WeightOptions(),  # noqa: B008 (a named tuple never changes)
) -> None:
    """Plan a model's cache: bytes by component, the longest sequence and the number of sequences that fit a memory."""
    if options.stream_weights is not None and options.weights != "0B":
        raise InputError("--stream-weights says how many bytes are resident: leave --weights out")
    weights = _streamed(options.stream_weights) or options.weights
    sizes: dict[str, Any] = {"memory": memory, "context": context, "weights": weights, "windows": windows}
    plans = planning.plan(model, policy=split_names(policy or ["turbo3"]), page=page, **sizes)
    if json:
        show_json("kv plan", plans.to_dict())
    else:
        show(str(plans[0] if len(plans) == 1 else plans))


app.command()(expand(plan))


@app.command()
def models(json: Json = False) -> None:
    """List the models that `plan` and `simulate` know by name; others come from their config.json."""
    known = planning.list_models()
    if json:
        show_json("kv models", {"models": [model._asdict() for model in known.values()]})
        return
    rows = [
        [name, str(len(model.layers)), _describe_layers(model), f"{model.context:,}", model.source]
        for name, model in known.items()
    ]
    headings = ["model", "layers", "KV heads × head_dim", "context", "source"]
    show_table(headings, rows, right="layers, context")


@app.command()
def policies(json: Json = False) -> None:
    """List the policies of tqvec's cache, and the formats of other engines that `plan` compares with."""
    rows: list[dict[str, Any]] = []
    for name, policy in PRESETS.items():
        sides = {"keys": policy.key_nbits, "values": policy.value_nbits}
        widths = {side: 16 if policy.recent is None else bits for side, bits in sides.items()}
        bits = bits_per_value(policy, *_SHAPE)
        rows.append({"policy": name, "kind": "policy", **widths, "bits": bits, "text": _describe_policy(policy)})
    for name, form in FORMATS.items():
        widths = {"keys": form.keys.nbits, "values": form.values.nbits}
        bits = 8 * form.nbytes(1, _SHAPE[2], 1) / (2 * _SHAPE[2])
        rows.append({"policy": name, "kind": "format", **widths, "bits": bits, "text": form.source})
    if json:
        show_json("kv policies", {"policies": rows})
        return
    cells = [[f"{value:g}" if isinstance(value, (int, float)) else value for value in row.values()] for row in rows]
    headings = ["policy", "kind", "keys", "values", "bits per value", "what it is"]
    show_table(headings, cells, right="keys, values, bits per value")
    layers, _, head_dim = _SHAPE
    show(f"keys, values: bits per coordinate. bits per value: with scales, for {layers} layers of head_dim {head_dim}.")
    show("kind: a policy of tqvec's own cache, or the format of another engine, of which only sizes are known.")


class ServerOptions(NamedTuple):
    """Options of `simulate` that describe the server."""

    eviction: Annotated[str, typer.Option(help="lru, oldest, belady, or window:4096")] = "lru"
    prefill: Annotated[float, typer.Option(help="Prompt tokens that the model computes per second")] = float("inf")
    stream_weights: Annotated[str | None, typer.Option(help=_STREAM)] = None


@with_force
def simulate(
    model: Annotated[str, typer.Option(help="Name of a model, or a Hugging Face config.json")],
    tier: Annotated[list[str], typer.Option(help="name:capacity[:bandwidth[:latency]]; the first is the memory")],
    trace: Annotated[
        str, typer.Option(help="File of JSON lines; or chat, documents, shared with a number of tokens: chat:1M")
    ] = "chat",
    policy: Annotated[
        list[str] | None, typer.Option(help="Names of policies: a,b or repeated; default: exact,turbo4,turbo3")
    ] = None,
    tensors: Annotated[
        Path | None,
        typer.Option(help="Captured q, k and v: a folder of .npy, or .safetensors; default: made ones, of no model"),
    ] = None,
    output: Annotated[
        list[Path] | None, typer.Option("--output", "-o", help="Reports: .json, .png, .svg or .pdf")
    ] = None,
    json: Json = False,
    options: ServerOptions = ServerOptions(),  # noqa: B008 (a named tuple never changes)
) -> None:
    """Simulate a server: bytes and time of each policy, by rates measured on this machine, and its error on tensors."""
    outputs = _plan_outputs(output or [], [Path(model), Path(trace), *([tensors] if tensors else [])])
    kind, _, size = options.eviction.partition(":")
    window = {"window": planning.parse_tokens(size, "window")} if size else {}
    tiers = [simulation.MemoryTier.parse(text) for text in tier]
    weights = _streamed(options.stream_weights)
    server = simulation.Server(tiers, kind, prefill=options.prefill, weights=weights, **window)
    requests = _requests(trace)
    layers = None if tensors is None else quality.read_layers(tensors)
    reports = []
    with progress() as bar:
        for name in split_names(policy or ["exact", "turbo4", "turbo3"]):
            task = bar.add_task(name, total=len(requests))
            advance = partial(bar.advance, task)
            reports.append(simulation.simulate(requests, model, name, server, tensors=layers, progress=advance))
    for each in outputs:
        if each.path.suffix == ".json":
            with each.open() as file:
                file.write("".join(report.to_json() + "\n" for report in reports).encode())
        else:
            save_plot(simulation.plot_reports(reports)[0].figure, each)
    if json:
        show_json("kv simulate", {"reports": reports, "outputs": [each.path for each in outputs]})
        return
    show(simulation.format_reports(reports))
    show(simulation.format_legend())
    for each in outputs:
        show(f"written: {each.path}")


app.command()(expand(simulate))
app.command()(report)


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


def _streamed(text: str | None) -> StreamedWeights | None:
    return None if text is None else StreamedWeights.parse(text)


def _describe_layers(model: Model) -> str:
    """Return the shapes of a model's layers, in the order in which they first occur."""
    kinds = dict.fromkeys(kind for kind in model.layers)
    return ", ".join(f"{_count(model, kind)}{_describe_kind(kind)}" for kind in kinds)


def _count(model: Model, kind: LayerKind) -> str:
    return "" if len(set(model.layers)) == 1 else f"{model.layers.count(kind)} {kind.name} "


def _describe_kind(kind: LayerKind) -> str:
    shape = f"{kind.kv_heads} × {kind.head_dim}" if kind.kv_heads else "without keys"
    return shape if kind.window is None else f"{shape} of the last {kind.window:,}"


def _describe_policy(policy: Policy) -> str:
    if policy.recent is None:
        return "no token is coded"
    text = f"{policy.codebook} codebook"
    if policy.protected:
        text += f"; {policy.protected_nbits} bits in {policy.protected} layers at either end"
    return text


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
