"""Simulate a server with a cache: bytes and time of one policy under one workload, and its error on some tensors.

Requests are served one after the other. Before a request starts, its tokens in other tiers are loaded to the first, and
tokens that were dropped are computed again. While it runs, tokens that don't fit the first tier are read from the
others for every generated token; tokens that fit no tier are not attended to. Tokens are held in blocks, and time is
added up a block at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tqvec import _validate
from tqvec._present import brief
from tqvec.errors import InputError
from tqvec.kvcache.planning.models import Model, as_model
from tqvec.kvcache.planning.planner import LayerGroup, SequenceBytes, group_layers
from tqvec.kvcache.planning.weights import StreamedWeights
from tqvec.kvcache.policy import Policy, as_policy
from tqvec.kvcache.quality.captured import CapturedLayer, check_layers, measure_loss, synthesize_layer
from tqvec.kvcache.simulation.memory_tiers import EVICTIONS, GONE, BlockSequence, BlockStore, MemoryTier, check_tiers
from tqvec.kvcache.simulation.report import SimulationReport, summarise
from tqvec.kvcache.simulation.timing import Clock, check_clock
from tqvec.kvcache.simulation.traces import Request, check_requests

BLOCK = 256  # tokens


@dataclass(frozen=True)
class Server:
    """A server: its memory tiers, its rule of eviction, and the speed of its model.

    Parameters
    ----------
    tiers : sequence of MemoryTier
        Attention works in the first.
    eviction : {"lru", "oldest", "window", "belady"}
        The block that a full tier evicts: of the sequence that was not used for the longest time, the oldest one, or of
        the sequence that will not be used for the longest time ("belady", which no real server can know). "window" is
        "lru", and sequences keep only their first block and the newest `window` tokens, rounded up to blocks.
    window : int
        Newest tokens that `eviction="window"` keeps.
    prefill : float
        Tokens of a prompt that the model computes per second, apart from the cache's work. Default: infinity.
    block : int
        Tokens that are held together, a multiple of the policy's chunk.
    weights : StreamedWeights, optional
        Weights that are read from a disk, once per prompt and once per generated token. Tiers hold keys and values
        alone, so their resident bytes are in none. Default: weights are in memory.
    """

    tiers: Sequence[MemoryTier]
    eviction: str = "lru"
    window: int = 4096
    prefill: float = math.inf
    block: int = BLOCK
    weights: StreamedWeights | None = None

    def __repr__(self) -> str:
        return brief(self)

    def __post_init__(self) -> None:
        _validate.choice(self.eviction, "eviction", EVICTIONS)
        if not _validate.number(self.prefill, "prefill") > 0:
            raise InputError(f"prefill must be more than 0 tokens per second, got {self.prefill}")
        object.__setattr__(self, "tiers", check_tiers(self.tiers))
        if self.weights is not None:
            object.__setattr__(self, "weights", _validate.instance(self.weights, "weights", StreamedWeights).check())
        for name, high in (("window", 2**40), ("block", 2**20)):
            object.__setattr__(self, name, _validate.integer(getattr(self, name), name, 1, high))


def simulate(
    requests: Sequence[Request],
    model: str | Path | Model,
    policy: str | Policy,
    server: Server,
    *,
    clock: Clock | None = None,
    tensors: Sequence[CapturedLayer] | None = None,
    progress: Callable[[], None] | None = None,
    threads: int | None = None,
) -> SimulationReport:
    """Serve requests with a model's cache, and report bytes and time, and the error of attention on some tensors.

    Parameters
    ----------
    requests : sequence of Request
        In order of time, as of `read_trace` or `generate_requests`.
    model : str, Path or Model
        As for `plan`.
    policy : str or Policy
        A policy, or the name of a preset.
    server : Server
    clock : Clock, optional
        Rates of this machine. Default: they are measured, which takes some seconds.
    tensors : sequence of CapturedLayer, optional
        Tensors to measure the error on, by a cache without a rope; `measure_loss` takes one. Default: those of
        `synthesize_layer`, of the model's head dimension. They are no model's, so their error compares policies only.
    progress : callable, optional
        Called after each request.
    threads : int, optional
        Threads of the measurements.

    Returns
    -------
    SimulationReport

    Raises
    ------
    InputError
        The model or policy is unknown, the block is no multiple of the chunk, or a field of a request, the model, the
        clock or a tensor is wrong; the message names it.
    """
    requests, server = check_requests(requests), _validate.instance(server, "server", Server)
    shape, rules = as_model(model), as_policy(policy)
    groups = group_layers(shape, rules)
    if rules.recent is not None and server.block % rules.chunk:
        raise InputError(f"block must be a multiple of the policy's chunk, {rules.chunk}; got {server.block}")
    if not any(group.kind.kv_heads for group in groups):
        raise InputError(f"model {shape.name} has no layer with keys and values")
    _validate.function(progress, "progress")
    if tensors is None:
        kind = next(group.kind for group in groups if group.kind.kv_heads)
        tensors = [synthesize_layer(kind.head_dim)]
    tensors = check_layers(tensors, "tensors")
    if clock is not None:
        clock = check_clock(clock, groups)
    name = policy if isinstance(policy, str) else "policy"
    report = SimulationReport(shape.name, name, server.eviction, SequenceBytes(groups).per_token())
    if clock is None:
        clock = Clock.calibrate(groups, rules, threads=threads)
    run = _Simulation(groups, server, clock, report)
    for number, (request, next_uses) in enumerate(_pair_with_next_uses(requests)):
        run.serve(number, request, next_uses)
        if progress is not None:
            progress()
    run.finish()
    report.loss = measure_loss(tensors, rules, kept=round(report.attended, 3))
    return report


def _pair_with_next_uses(requests: Sequence[Request]) -> Iterator[tuple[Request, tuple[float, float]]]:
    """Pair each request with the numbers of the next requests of its session and of its prefix."""
    next_uses: list[tuple[float, float]] = []
    later: dict[tuple[str, str | None], float] = {}
    for number in range(len(requests) - 1, -1, -1):
        request = requests[number]
        keys: tuple[tuple[str, str | None], ...] = (("session", request.session), ("prefix", request.prefix))
        next_uses.append((later.get(keys[0], math.inf), later.get(keys[1], math.inf)))
        later.update(dict.fromkeys(keys, number))
    return zip(requests, reversed(next_uses), strict=True)


class _Session:
    """A sequence of tokens: blocks of a prefix that other sessions share, and its own blocks."""

    def __init__(self, prefix: BlockSequence | None, block: int):
        self.prefix = prefix
        self.own = BlockSequence()
        self.tokens = 0 if prefix is None else len(prefix) * block

    @property
    def sequences(self) -> list[BlockSequence]:
        return [self.own] if self.prefix is None else [self.prefix, self.own]


class _Simulation:
    """A simulation in progress."""

    def __init__(self, groups: list[LayerGroup], server: Server, clock: Clock, report: SimulationReport):
        self.server, self.clock, self.report = server, clock, report
        self.store = BlockStore(list(server.tiers), server.eviction)
        self.now = 0.0
        self._sizes = SequenceBytes(groups)
        self._overhead = max(0, self._sizes(server.block) - round(report.bytes_per_token * server.block))
        self._ends = [0]  # bytes of a sequence, by its number of blocks
        self._sessions: dict[str, _Session] = {}
        self._prefixes: dict[str, BlockSequence] = {}
        self._waits: list[float] = []
        self._firsts: list[float] = []
        self._decoded: list[tuple[int, int, float]] = []  # context, tokens, seconds of all tokens
        self._attended = [0.0, 0.0]  # tokens that generated tokens attended to, and all tokens before them
        self._pass = 0.0 if server.weights is None else server.weights.seconds
        self._computed = 0  # tokens of the request in progress that were computed in the pass of its prompt
        report.seconds = dict.fromkeys(("prompt", "decode", "moving", "reading", "again", "weights"), 0.0)
        report.moved = {tier.name: {"down": 0, "up": 0, "read": 0} for tier in server.tiers[1:]}

    def serve(self, number: int, request: Request, next_uses: tuple[float, float]) -> None:
        """Serve a request up to its last token."""
        start = self.now = max(self.now, request.time)
        self._computed = 0
        session = self._sessions.get(request.session)
        if session is None:
            session = self._sessions[request.session] = self._begin(request)
        else:
            self._resume(session)
        self._prompt(session, request.prompt)
        if self._computed:
            self._spend("weights", self._pass)
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
        """Fill in the totals of the report."""
        report = self.report
        report.attended = self._attended[0] / self._attended[1] if self._attended[1] else 1.0
        report.peak = {tier.name: size for tier, size in zip(self.server.tiers, self.store.peak, strict=True)}
        for tier, traffic in zip(self.server.tiers[1:], self.store.traffic[1:], strict=True):
            report.moved[tier.name] |= {"down": traffic.down, "up": traffic.up}
        report.waiting, report.first_token = (
            summarise(np.array(times), np.ones(len(times))) for times in (self._waits, self._firsts)
        )
        counts = np.array([n for _, n, _ in self._decoded], np.float64)
        each = np.array([seconds / n for _, n, seconds in self._decoded])
        report.token = summarise(each, counts)
        report.steps = [(context, seconds / n) for context, n, seconds in self._decoded]

    def _spend(self, cause: str, seconds: float) -> None:
        self.report.seconds[cause] += seconds
        self.now += seconds

    @contextmanager
    def _moving(self) -> Iterator[None]:
        """Count the time of moves between tiers in this context."""
        before = list(self.store.traffic)
        yield
        self._spend("moving", self.store.seconds(before))

    def _begin(self, request: Request) -> _Session:
        """Begin a session with its prefix: whole blocks are shared with other sessions, the rest is its own."""
        size = self.server.block
        shared = request.prefix_tokens // size if request.prefix is not None else 0
        prefix = self._prefixes.setdefault(str(request.prefix), BlockSequence()) if shared else None
        session = _Session(prefix, size)
        self._resume(session)
        if prefix is not None and not len(prefix):
            with self._moving():
                for block in range(shared):
                    self.store.new_block(prefix, self._block_size(block))
            session.tokens = shared * size
            self.report.tokens += session.tokens
            self._compute("prompt", 0, session.tokens)
        self._prompt(session, request.prefix_tokens - shared * size)
        return session

    def _compute(self, cause: str, before: int, n: int) -> None:
        """Spend the time of `n` tokens behind `before` others, the model's own time included."""
        self._computed += n
        self._spend(cause, self.clock.prompt_time(before, n) + n / self.server.prefill)

    def _block_size(self, block: int) -> int:
        """Return the bytes that a block, given by its number, adds to a sequence."""
        while len(self._ends) < block + 2:
            self._ends.append(self._sizes(len(self._ends) * self.server.block))
        return max(0, self._ends[block + 1] - self._ends[block])

    def _resume(self, session: _Session) -> None:
        """Bring the blocks of a session into the first tier, and compute dropped ones again."""
        self.store.running = session.sequences
        size, again = self.server.block, 0
        drops = self.server.eviction == "window"
        with self._moving():
            for sequence in session.sequences:
                where = sequence.where.copy()
                gone, lower = np.flatnonzero(where == GONE), np.flatnonzero(where > 0)
                self.report.context += (where.size - drops * gone.size) * size
                self.report.hits += (where.size - gone.size - lower.size) * size
                self.report.loaded += lower.size * size
                for block in lower[::-1]:
                    self.store.bring(sequence, int(block))
                if not drops:
                    again += sum(self.store.bring(sequence, int(block)) for block in gone)
        self.report.recomputed += again * size
        if again:
            self._compute("again", session.tokens - again * size, again * size)

    def _grow(self, session: _Session, n: int) -> None:
        """Add blocks for `n` more tokens."""
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
                    self.store.drop(own, block)
        session.tokens += n

    def _prompt(self, session: _Session, n: int) -> None:
        if n:
            before = session.tokens
            self._grow(session, n)
            self._compute("prompt", before, n)

    def _decode(self, session: _Session, n: int) -> None:
        """Generate tokens, up to the end of a block at a time."""
        size = self.server.block
        while n:
            some = min(n, size - session.tokens % size)
            self._grow(session, some)
            context = session.tokens - some + 1 + np.arange(some)
            missing = sum(np.count_nonzero(sequence.where == GONE) for sequence in session.sequences) * size
            attended = np.maximum(context - missing, 1)
            reading = self._reading_time(session, some)
            own = float(np.sum(self.clock.decode_time(attended)))
            self._spend("decode", own)
            self._spend("reading", reading)
            self._spend("weights", some * self._pass)
            self._decoded.append((int(context[some // 2]), some, own + reading + some * self._pass))
            self._attended[0] += float(attended.sum())
            self._attended[1] += float(context.sum())
            n -= some

    def _reading_time(self, session: _Session, n: int) -> float:
        """Return the seconds of reading the blocks in other tiers, once for each of `n` tokens."""
        total = 0.0
        for level, tier in enumerate(self.server.tiers[1:], 1):
            size = sum(int(sequence.size[sequence.where == level].sum()) for sequence in session.sequences)
            if size:
                self.report.moved[tier.name]["read"] += n * size
                total += n * (size / tier.bandwidth + tier.latency)
        return total
