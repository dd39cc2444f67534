"""Workloads: who asks when, with how many tokens. Read from and written to JSON lines, or made."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tqvec import _validate
from tqvec.errors import InputError

_MOST = 2**31  # tokens of a request
_LAST = 1e12  # seconds


class Request(NamedTuple):
    """A prompt and the answer to it.

    Attributes
    ----------
    time : float
        Seconds from the start at which it comes.
    session : str
        Whose tokens go before: a session's requests are one sequence of tokens.
    prompt, output : int
        Tokens that are new, and that are generated.
    prefix : str or None
        What this session's tokens begin with, and those of others with the same prefix.
    prefix_tokens : int
        How many these are.
    """

    time: float
    session: str
    prompt: int
    output: int
    prefix: str | None = None
    prefix_tokens: int = 0

    @property
    def tokens(self) -> int:
        """New ones, the prefix apart."""
        return self.prompt + self.output


class Workload(NamedTuple):
    """A kind of workload; numbers of tokens are means.

    Attributes
    ----------
    turns : int
        Requests of a session.
    first, prompt, output : int
        Tokens of the first prompt, of the others, and of an answer.
    think : float
        Seconds from an answer to the next request.
    together : int
        Sessions that are under way at a time.
    prefixes, prefix_tokens : int
        How many prefixes there are, each with so many tokens; every session begins with one of them.
    """

    turns: int
    first: int
    prompt: int
    output: int
    think: float
    together: int
    prefixes: int = 0
    prefix_tokens: int = 0


WORKLOADS = {
    "chat": Workload(8, 300, 150, 250, 20.0, 16),
    "documents": Workload(4, 24_000, 100, 300, 60.0, 3),
    "shared": Workload(3, 250, 150, 250, 20.0, 24, prefixes=4, prefix_tokens=6_000),
}
"""chat
    many short turns.
documents
    a long text, then a few questions about it.
shared
    many users whose sessions begin with one of a few long texts, such as instructions.
"""


def generate(workload: str | Workload, tokens: int, seed: int = 0) -> list[Request]:
    """Make a trace, of whole sessions, in order of time.

    Parameters
    ----------
    workload : str or Workload
        A name of `WORKLOADS`, or one of your own.
    tokens : int
        At least so many are in it, each prefix counted once.
    seed : int

    Returns
    -------
    list of Request
    """
    kind = WORKLOADS[_validate.choice(workload, "workload", WORKLOADS)] if isinstance(workload, str) else workload
    total = _validate.integer(tokens, "tokens", 1, _MOST)
    rng = np.random.default_rng(_validate.integer(seed, "seed", 0, 2**63))
    lasting = kind.turns * kind.think
    requests: list[Request] = []
    made, session, start = kind.prefixes * kind.prefix_tokens, 0, 0.0
    while made < total:
        prefix = f"prefix-{rng.integers(kind.prefixes)}" if kind.prefixes else None
        time = start
        for turn in range(kind.turns):
            prompt, output = (_around(mean, rng) for mean in (kind.prompt if turn else kind.first, kind.output))
            requests.append(Request(time, f"session-{session}", prompt, output, prefix, kind.prefix_tokens))
            made += prompt + output
            time += float(rng.exponential(kind.think))
        session += 1
        start += float(rng.exponential(lasting / kind.together))
    return sorted(requests, key=lambda request: request.time)


def _around(mean: int, rng: np.random.Generator) -> int:
    """A log-normal number with this mean; half of all are within a factor of 1.4 of its median."""
    return max(1, round(mean * math.exp(0.5 * rng.standard_normal() - 0.125)))


def write_trace(path: str | Path, requests: Iterable[Request]) -> None:
    """Write requests as JSON lines."""
    with Path(path).open("w", encoding="utf-8") as file:
        for request in requests:
            fields = request._asdict() if request.prefix is not None else dict(zip(_NEEDED, request[:4], strict=True))
            file.write(json.dumps(fields) + "\n")


_NEEDED = ("time", "session", "prompt", "output")
_ALLOWED = {*_NEEDED, "prefix", "prefix_tokens"}


def read_trace(path: str | Path) -> list[Request]:
    """Read requests from JSON lines, one an object with the fields of `Request`; empty lines are skipped.

    Raises
    ------
    InputError
        Names the file and the line: no JSON, a field that is missing, unknown or of the wrong type, a negative time or
        one before that of the line above, no tokens, or a prefix that changes its length or its session's mind.
    """
    requests: list[Request] = []
    sizes: dict[str, int] = {}
    begun: dict[str, str | None] = {}
    with Path(path).open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            request = _request(line, where)
            if requests and request.time < requests[-1].time:
                raise InputError(f"{where}: time {request.time} is before {requests[-1].time}, that of the line above")
            if begun.setdefault(request.session, request.prefix) != request.prefix:
                raise InputError(f"{where}: session {request.session!r} began with another prefix")
            if request.prefix is not None:
                known = sizes.setdefault(request.prefix, request.prefix_tokens)
                if known != request.prefix_tokens:
                    raise InputError(f"{where}: prefix {request.prefix!r} had {known} tokens before")
            requests.append(request)
    if not requests:
        raise InputError(f"{path}: holds no requests")
    return requests


def _request(line: str, where: str) -> Request:
    """What a line says."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: no JSON: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"{where}: must be an object, got {line.strip()[:40]}")
    missing = [name for name in _NEEDED if name not in found]
    unknown = [name for name in found if name not in _ALLOWED]
    if missing or unknown:
        told = f"lacks the field {missing[0]!r}" if missing else f"has the unknown field {unknown[0]!r}"
        raise InputError(f"{where}: {told}; a request has {', '.join(_NEEDED)}, and may have prefix, prefix_tokens")
    time = _validate.number(found["time"], f"{where}: time")
    if not 0 <= time <= _LAST:
        raise InputError(f"{where}: time must be 0 or more seconds, got {found['time']}")
    prompt, output = (_validate.integer(found[name], f"{where}: {name}", 0, _MOST) for name in ("prompt", "output"))
    if prompt + output == 0:
        raise InputError(f"{where}: a request needs tokens, prompt and output are 0")
    session, prefix, size = _text(found["session"], f"{where}: session"), found.get("prefix"), 0
    if prefix is not None:
        prefix = _text(prefix, f"{where}: prefix")
        size = _validate.integer(found.get("prefix_tokens"), f"{where}: prefix_tokens", 1, _MOST)
    elif "prefix_tokens" in found and found["prefix_tokens"] != 0:
        raise InputError(f"{where}: prefix_tokens without a prefix")
    return Request(time, session, prompt, output, prefix, size)


def _text(value: Any, name: str) -> str:
    """A name; numbers will do."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise InputError(f"{name} must be a name, got {value!r}")
    return str(value)
