"""Requests of a simulated server: read from and written to JSON lines, or generated from a workload."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tqvec import _validate
from tqvec._output import Kind, Output, as_path
from tqvec.errors import InputError

_MAX_TOKENS = 2**31  # of a request
_MAX_TIME = 1e12  # seconds


class Request(NamedTuple):
    """A prompt and its answer.

    Attributes
    ----------
    time : float
        Seconds from the start at which the request arrives.
    session : str
        Name of the session: its requests are one sequence of tokens.
    prompt, output : int
        Number of new tokens, and of generated ones.
    prefix : str or None
        Name of the tokens with which the session begins, as other sessions with this prefix do.
    prefix_tokens : int
        Number of tokens of the prefix.
    """

    time: float
    session: str
    prompt: int
    output: int
    prefix: str | None = None
    prefix_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of prompt and answer, without the prefix."""
        return self.prompt + self.output


class Workload(NamedTuple):
    """A kind of workload; numbers of tokens and times are means.

    Attributes
    ----------
    turns : int
        Requests per session.
    first, prompt, output : int
        Tokens of the first prompt, of each other prompt, and of an answer.
    think_time : float
        Seconds from an answer to the next request.
    concurrency : int
        Number of sessions that are active at a time.
    prefixes, prefix_tokens : int
        Number of prefixes, and tokens of a prefix; each session begins with one of them.
    """

    turns: int
    first: int
    prompt: int
    output: int
    think_time: float
    concurrency: int
    prefixes: int = 0
    prefix_tokens: int = 0


WORKLOADS = {
    "chat": Workload(turns=8, first=300, prompt=150, output=250, think_time=20.0, concurrency=16),
    "documents": Workload(turns=4, first=24_000, prompt=100, output=300, think_time=60.0, concurrency=3),
    "shared": Workload(
        turns=3,
        first=250,
        prompt=150,
        output=250,
        think_time=20.0,
        concurrency=24,
        prefixes=4,
        prefix_tokens=6_000,
    ),
}
"""Workloads by name:

chat
    Many short turns.
documents
    A long text, then a few questions about it.
shared
    Many users, whose sessions begin with one of a few long texts, such as instructions.
"""


def generate_requests(workload: str | Workload, tokens: int, *, seed: int = 0) -> list[Request]:
    """Generate the requests of whole sessions, in order of time.

    Parameters
    ----------
    workload : str or Workload
        A name of `WORKLOADS`, or one of your own.
    tokens : int
        Least number of tokens of all requests, each prefix counted once.
    seed : int

    Returns
    -------
    list of Request

    Raises
    ------
    InputError
        There is no such workload, or a number is out of its range.
    """
    kind = _as_workload(workload)
    total = _validate.integer(tokens, "tokens", 1, _MAX_TOKENS)
    rng = np.random.default_rng(_validate.integer(seed, "seed", 0, 2**63))
    session_time = kind.turns * kind.think_time
    requests: list[Request] = []
    count, session, start = kind.prefixes * kind.prefix_tokens, 0, 0.0
    while count < total:
        prefix = f"prefix-{rng.integers(kind.prefixes)}" if kind.prefixes else None
        time = start
        for turn in range(kind.turns):
            prompt, output = (_draw_tokens(mean, rng) for mean in (kind.prompt if turn else kind.first, kind.output))
            requests.append(
                Request(
                    time=time,
                    session=f"session-{session}",
                    prompt=prompt,
                    output=output,
                    prefix=prefix,
                    prefix_tokens=kind.prefix_tokens if kind.prefixes else 0,
                )
            )
            count += prompt + output
            time += float(rng.exponential(kind.think_time))
        session += 1
        start += float(rng.exponential(session_time / kind.concurrency))
    return sorted(requests, key=lambda request: request.time)


def _as_workload(workload: str | Workload) -> Workload:
    """Return the workload of this name, or one with checked numbers."""
    if isinstance(workload, str):
        return WORKLOADS[_validate.choice(workload, "workload", WORKLOADS)]
    values: dict[str, Any] = _validate.instance(workload, "workload", Workload)._asdict()
    time = _validate.number(values.pop("think_time"), "workload.think_time")
    if not 0 <= time <= _MAX_TIME:
        raise InputError(f"workload.think_time must be 0 or more seconds, got {time}")
    lows = {"turns": 1, "concurrency": 1, "prefix_tokens": 1 if workload.prefixes else 0}
    numbers = {
        name: _validate.integer(value, f"workload.{name}", lows.get(name, 0), _MAX_TOKENS)
        for name, value in values.items()
    }
    return Workload(think_time=time, **numbers)


def _draw_tokens(mean: int, rng: np.random.Generator) -> int:
    """Draw a log-normal number with this mean; half of all draws are within a factor of 1.4 of the median."""
    return max(1, round(mean * math.exp(0.5 * rng.standard_normal() - 0.125)))


def write_trace(path: str | os.PathLike[str], requests: Iterable[Request], *, overwrite: bool = False) -> None:
    """Write requests as JSON lines; only `overwrite` replaces a file that is no trace.

    Raises
    ------
    InputError
        There is a file that only `overwrite` replaces, or `read_trace` would refuse a request.
    OSError
        The path can't be written to.
    """
    checked = check_requests(requests)
    with Output(path, _KIND, overwrite=overwrite).open() as file:
        for request in checked:
            fields = request._asdict() if request.prefix is not None else dict(zip(_REQUIRED, request[:4], strict=True))
            file.write(json.dumps(fields).encode() + b"\n")


_KIND = Kind("a trace of requests", re.compile(rb'\A\s*\{"time":'))
_REQUIRED = ("time", "session", "prompt", "output")
_ALLOWED = {*_REQUIRED, "prefix", "prefix_tokens"}


def read_trace(path: str | Path) -> list[Request]:
    """Read requests from JSON lines: an object per line with the fields of `Request`; empty lines are skipped.

    Raises
    ------
    InputError
        A line is no JSON, a field is missing, unknown or of the wrong type, a time is negative or earlier than that of
        the line before, a request has no tokens, or a prefix changes its length or its session. The message names the
        file and the line.
    """
    path = as_path(path)
    with path.open("rb") as file:
        requests = _check_requests(
            (
                (_parse_request(line, f"{path}, line {number}"), f"{path}, line {number}")
                for number, line in enumerate(file, 1)
                if line.strip()
            ),
            ": time {} is before {}, that of the line above",
        )
    if not requests:
        raise InputError(f"{path}: holds no requests")
    return requests


def check_requests(requests: Iterable[Request]) -> list[Request]:
    """Return requests if they are such as `read_trace` reads; messages name them by their index.

    Raises
    ------
    InputError
        As `read_trace`.
    """
    checked = enumerate(_validate.sequence(requests, "requests", Request))
    named = ((request, f"requests[{i}]") for i, request in checked)
    return _check_requests(named, " comes before the one it follows: {} s, {} s")


def _check_requests(named: Iterable[tuple[Request, str]], early: str) -> list[Request]:
    """Return requests with checked fields, each given with its name; `early` is said of one before its predecessor."""
    requests: list[Request] = []
    sizes: dict[str, int] = {}
    prefixes: dict[str, str | None] = {}
    for given, where in named:
        request = _check_request(given, where)
        if requests and request.time < requests[-1].time:
            raise InputError(where + early.format(request.time, requests[-1].time))
        if prefixes.setdefault(request.session, request.prefix) != request.prefix:
            raise InputError(f"{where}: session {request.session!r} began with another prefix")
        if request.prefix is not None:
            size = sizes.setdefault(request.prefix, request.prefix_tokens)
            if size != request.prefix_tokens:
                raise InputError(f"{where}: prefix {request.prefix!r} had {size} tokens before")
        requests.append(request)
    return requests


def _parse_request(raw: bytes, where: str) -> Request:
    """Return the request of a line; `where` is its file and number, for messages."""
    try:
        line = raw.decode()
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: no JSON: {error}") from None
    if not isinstance(fields, dict):
        raise InputError(f"{where}: must be an object, got {line.strip()[:40]}")
    missing = [name for name in _REQUIRED if name not in fields]
    unknown = [name for name in fields if name not in _ALLOWED]
    if missing or unknown:
        fault = f"lacks the field {missing[0]!r}" if missing else f"has the unknown field {unknown[0]!r}"
        raise InputError(f"{where}: {fault}; a request has {', '.join(_REQUIRED)}, and may have prefix, prefix_tokens")
    if fields.get("prefix") is not None:
        fields.setdefault("prefix_tokens", None)
    return Request(**fields)


def _check_request(request: Request, where: str) -> Request:
    """Return a request with checked fields."""
    time = _validate.number(request.time, f"{where}: time")
    if not 0 <= time <= _MAX_TIME:
        raise InputError(f"{where}: time must be 0 or more seconds, got {request.time}")
    prompt, output = (
        _validate.integer(getattr(request, name), f"{where}: {name}", 0, _MAX_TOKENS) for name in ("prompt", "output")
    )
    if prompt + output == 0:
        raise InputError(f"{where}: a request needs tokens, prompt and output are 0")
    session, prefix, size = _check_name(request.session, f"{where}: session"), request.prefix, 0
    if prefix is not None:
        prefix = _check_name(prefix, f"{where}: prefix")
        size = _validate.integer(request.prefix_tokens, f"{where}: prefix_tokens", 1, _MAX_TOKENS)
    elif request.prefix_tokens != 0:
        raise InputError(f"{where}: prefix_tokens without a prefix")
    return Request(time=time, session=session, prompt=prompt, output=output, prefix=prefix, prefix_tokens=size)


def _check_name(value: object, name: str) -> str:
    """Return a name, which may be written as a number."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise InputError(f"{name} must be a name, got {value!r}")
    return str(value)
