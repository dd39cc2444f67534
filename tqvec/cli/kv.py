"""``tqvec kv``: what a transformer's cache takes."""

from __future__ import annotations

from typing import Annotated

import typer

from tqvec.cli._console import console
from tqvec.kvcache.planner import plan as planned

app = typer.Typer(help="Keys and values of a transformer: bytes.", no_args_is_help=True)


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
