"""A server's day with a cache: bytes, time and error of one policy under one workload.

Requests are served one after the other. Before one starts, those of its tokens that are not in the first tier are
loaded from others, and computed again if they are nowhere. While it runs, what does not fit stays in the other tiers
and is read from there for every generated token; what fits nowhere is not attended to. Tokens are held in blocks, and
time is added up a block at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from tqvec import _validate
from tqvec.errors import InputError
from tqvec.kvcache.planning.models import Model, find_model
from tqvec.kvcache.planning.planner import Group, Sizes, groups_of
from tqvec.kvcache.policy import Policy
from tqvec.kvcache.quality.captured import Layer, made_layer, measure_loss
from tqvec.kvcache.simulation.memory_tiers import EVICTIONS, GONE, Blocks, Store, Tier
from tqvec.kvcache.simulation.report import Report, summary
from tqvec.kvcache.simulation.timing import Clock
from tqvec.kvcache.simulation.traces import Request

BLOCK = 256  # tokens


@dataclass(frozen=True)
class Server:
    """What requests run on.

    Parameters
    ----------
    tiers : sequence of Tier
        The first is the memory that attention works in.
    eviction : {"lru", "oldest", "window", "belady"}
        Which blocks a full tier gives up; `Store` has the rules. "window": sequences also keep no more than their first
        block and the newest `window` tokens, rounded up to blocks.
    window : int
    prefill : float
        Tokens of a prompt that the model computes a second, apart from what the cache does. Default: any number.
    block : int
        Tokens that are held together, a multiple of the policy's chunk.
    """

    tiers: Sequence[Tier]
    eviction: str = "lru"
    window: int = 4096
    prefill: float = math.inf
    block: int = BLOCK

    def __post_init__(self) -> None:
        _validate.choice(self.eviction, "eviction", EVICTIONS)
        _validate.integer(self.window, "window", 1, 2**40)
        _validate.integer(self.block, "block", 1, 2**20)
        if not self.tiers:
            raise InputError("tiers must have at least one")
        if not _validate.number(self.prefill, "prefill") > 0:
            raise InputError(f"prefill must be more than 0 tokens a second, got {self.prefill}")


def simulate(
    requests: Sequence[Request],
    model: str | Path | Model,
    policy: str | Policy,
    server: Server,
    clock: Clock | None = None,
    tensors: list[Layer] | None = None,
    tell: Callable[[], None] | None = None,
    threads: int | None = None,
) -> Report:
    """Serve requests with a model's cache.

    Parameters
    ----------
    requests : sequence of Request
        In order of time (`read_trace`, `generate`).
    model : str, Path or Model
        As for `plan`.
    policy : str or Policy
        A policy, or the name of a preset.
    server : Server
    clock : Clock, optional
        Rates; by default they are measured here, which takes some seconds.
    tensors : list of Layer, optional
        To measure the error on; default: `made_layer`.
    tell : callable, optional
        Called after each request.
    threads : int, optional
        For the measurements.

    Returns
    -------
    Report

    Raises
    ------
    InputError
        An unknown model or policy, a block that chunks do not fill, or requests out of order.
    """
    for i, (before, after) in enumerate(pairwise(requests), 1):
        if after.time < before.time:
            raise InputError(f"requests[{i}] comes before the one it follows: {after.time} s, {before.time} s")
    known = model if isinstance(model, Model) else find_model(model)
    rule = policy if isinstance(policy, Policy) else Policy.from_name(policy)
    groups = groups_of(known, rule)
    if rule.hot is not None and server.block % rule.chunk:
        raise InputError(f"block must be a multiple of the policy's chunk, {rule.chunk}; got {server.block}")
    if not any(group.kind.kv_heads for group in groups):
        raise InputError(f"model {known.name} has no layer with keys and values")
    name = policy if isinstance(policy, str) else "policy"
    report = Report(known.name, name, server.eviction, Sizes(groups).rate())
    if clock is None:
        clock = Clock.calibrated(groups, rule, threads)
    run = _Run(groups, server, clock, report)
    for number, (request, next_uses) in enumerate(_with_next_uses(requests)):
        run.serve(number, request, next_uses)
        if tell is not None:
            tell()
    run.finish()
    if tensors is None:
        kind = next(group.kind for group in groups if group.kind.kv_heads)
        tensors = [made_layer(kind.head_dim)]
    report.loss = measure_loss(tensors, rule, round(report.attended, 3))
    return report


def _with_next_uses(requests: Sequence[Request]) -> Iterator[tuple[Request, tuple[float, float]]]:
    """Each request with the numbers of the next ones of its session and of its prefix."""
    found: list[tuple[float, float]] = []
    later: dict[tuple[str, str | None], float] = {}
    for number in range(len(requests) - 1, -1, -1):
        request = requests[number]
        keys: tuple[tuple[str, str | None], ...] = (("session", request.session), ("prefix", request.prefix))
        found.append((later.get(keys[0], math.inf), later.get(keys[1], math.inf)))
        later.update(dict.fromkeys(keys, number))
    return zip(requests, reversed(found), strict=True)


class _Session:
    """A sequence of tokens: some blocks that others have too, and its own."""

    def __init__(self, prefix: Blocks | None, block: int):
        self.prefix = prefix
        self.own = Blocks()
        self.tokens = 0 if prefix is None else len(prefix) * block

    @property
    def sequences(self) -> list[Blocks]:
        return [self.own] if self.prefix is None else [self.prefix, self.own]


class _Run:
    """A simulation under way."""

    def __init__(self, groups: list[Group], server: Server, clock: Clock, report: Report):
        self.server, self.clock, self.report = server, clock, report
        self.store = Store(list(server.tiers), server.eviction)
        self.now = 0.0
        self._sizes = Sizes(groups)
        self._overhead = max(0, self._sizes(server.block) - round(report.bytes_per_token * server.block))
        self._ends = [0]  # bytes of a sequence of so many blocks
        self._sessions: dict[str, _Session] = {}
        self._prefixes: dict[str, Blocks] = {}
        self._waits: list[float] = []
        self._firsts: list[float] = []
        self._decoded: list[tuple[int, int, float]] = []  # context, tokens, seconds of all
        self._attended = [0.0, 0.0]  # tokens that generated ones attended to, and might have
        report.seconds = dict.fromkeys(("prompt", "decode", "moving", "reading", "again"), 0.0)
        report.moved = {tier.name: {"down": 0, "up": 0, "read": 0} for tier in server.tiers[1:]}

    def serve(self, number: int, request: Request, next_uses: tuple[float, float]) -> None:
        """A request from its coming to its last token."""
        start = self.now = max(self.now, request.time)
        session = self._sessions.get(request.session)
        if session is None:
            session = self._sessions[request.session] = self._begun(request)
        else:
            self._resume(session)
        self._prompt(session, request.prompt)
        self._waits.append(start - request.time)
        self._firsts.append(self.now - start)
        self._decode(session, request.output)
        self.store.running = []
        uses = next_uses[:1] if session.prefix is None else (next_uses[1], next_uses[0])
        for sequence, next_use in zip(session.sequences, uses, strict=True):
            sequence.last, sequence.next = number, next_use
            self.store.idle(sequence)
        if math.isinf(next_uses[0]):
            del self._sessions[request.session]
        self.report.requests += 1
        self.report.tokens += request.tokens

    def finish(self) -> None:
        """Fill in what is known in the end."""
        report = self.report
        report.attended = self._attended[0] / self._attended[1] if self._attended[1] else 1.0
        report.peak = {tier.name: size for tier, size in zip(self.server.tiers, self.store.peak, strict=True)}
        for tier, moved in zip(self.server.tiers[1:], self.store.moved[1:], strict=True):
            report.moved[tier.name] |= {"down": moved.down, "up": moved.up}
        report.waiting, report.first_token = (
            summary(np.array(times), np.ones(len(times))) for times in (self._waits, self._firsts)
        )
        counts = np.array([n for _, n, _ in self._decoded], np.float64)
        each = np.array([seconds / n for _, n, seconds in self._decoded])
        report.token = summary(each, counts)
        report.steps = [(context, seconds / n) for context, n, seconds in self._decoded]

    def _spend(self, cause: str, seconds: float) -> None:
        self.report.seconds[cause] += seconds
        self.now += seconds

    @contextmanager
    def _moving(self) -> Iterator[None]:
        """Count the time of what is moved between tiers meanwhile."""
        before = list(self.store.moved)
        yield
        self._spend("moving", self.store.seconds(before))

    def _begun(self, request: Request) -> _Session:
        """A new session, with its prefix: whole blocks of it are shared with other sessions, the rest is its own."""
        size = self.server.block
        shared = request.prefix_tokens // size if request.prefix is not None else 0
        prefix = self._prefixes.setdefault(str(request.prefix), Blocks()) if shared else None
        session = _Session(prefix, size)
        self._resume(session)
        if prefix is not None and not len(prefix):
            with self._moving():
                for block in range(shared):
                    self.store.new_block(prefix, self._block_size(block))
            session.tokens = shared * size
            self.report.tokens += session.tokens
            self._spend("prompt", self._computing(0, session.tokens))
        self._prompt(session, request.prefix_tokens - shared * size)
        return session

    def _computing(self, before: int, n: int) -> float:
        """Seconds for tokens of a prompt."""
        return self.clock.prompt(before, n) + n / self.server.prefill

    def _block_size(self, block: int) -> int:
        """Bytes that the block of this number in a sequence adds to those before."""
        while len(self._ends) < block + 2:
            self._ends.append(self._sizes(len(self._ends) * self.server.block))
        return max(0, self._ends[block + 1] - self._ends[block])

    def _resume(self, session: _Session) -> None:
        """Bring what there is of a sequence into the first tier, and compute again what is nowhere."""
        self.store.running = session.sequences
        size, again = self.server.block, 0
        forgets = self.server.eviction == "window"
        with self._moving():
            for sequence in session.sequences:
                where = sequence.where.copy()
                gone, lower = np.flatnonzero(where == GONE), np.flatnonzero(where > 0)
                self.report.context += (where.size - forgets * gone.size) * size
                self.report.found += (where.size - gone.size - lower.size) * size
                self.report.loaded += lower.size * size
                for block in lower[::-1]:
                    self.store.bring(sequence, int(block))
                if not forgets:
                    again += sum(self.store.bring(sequence, int(block)) for block in gone)
        self.report.recomputed += again * size
        if again:
            self._spend("again", self._computing(session.tokens - again * size, again * size))

    def _grow(self, session: _Session, n: int) -> None:
        """Room for `n` more tokens."""
        size, own = self.server.block, session.own
        first = 0 if session.prefix is None else len(session.prefix)
        with self._moving():
            while (first + len(own)) * size < session.tokens + n:
                bytes_ = self._block_size(first + len(own))
                if first and not len(own):
                    bytes_ += self._overhead  # its own 16-bit tokens and states
                self.store.new_block(own, bytes_)
            if self.server.eviction == "window":
                newest = (session.tokens + n - self.server.window) // size - 1 - first
                for block in range(0 if first else 1, max(0, newest)):
                    self.store.forget(own, block)
        session.tokens += n

    def _prompt(self, session: _Session, n: int) -> None:
        if n:
            before = session.tokens
            self._grow(session, n)
            self._spend("prompt", self._computing(before, n))

    def _decode(self, session: _Session, n: int) -> None:
        """Generate tokens, as many at a time as are left in the last block."""
        size = self.server.block
        while n:
            some = min(n, size - session.tokens % size)
            self._grow(session, some)
            context = session.tokens - some + 1 + np.arange(some)
            missing = sum(np.count_nonzero(sequence.where == GONE) for sequence in session.sequences) * size
            there = np.maximum(context - missing, 1)
            reading = self._reading(session, some)
            own = float(np.sum(self.clock.decode(there)))
            self._spend("decode", own)
            self._spend("reading", reading)
            self._decoded.append((int(context[some // 2]), some, own + reading))
            self._attended[0] += float(there.sum())
            self._attended[1] += float(context.sum())
            n -= some

    def _reading(self, session: _Session, n: int) -> float:
        """Seconds for reading what is in other tiers, for each of `n` tokens anew."""
        total = 0.0
        for level, tier in enumerate(self.server.tiers[1:], 1):
            size = sum(int(sequence.size[sequence.where == level].sum()) for sequence in session.sequences)
            if size:
                self.report.moved[tier.name]["read"] += n * size
                total += n * (size / tier.bandwidth + tier.latency)
        return total
