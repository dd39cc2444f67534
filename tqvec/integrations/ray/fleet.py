"""Fleet: the Ray actors that hold the shards of an index, and how they are asked."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqvec._locks import ForkLock
from tqvec._present import import_optional
from tqvec._types import Floats
from tqvec.errors import UnavailableError
from tqvec.index.probes import Probes
from tqvec.shards.folder import Folder
from tqvec.shards.holder import Answer, Failure, Holder, Request
from tqvec.shards.opened import Choice
from tqvec.shards.sharded import MissingShards

ray = import_optional("ray", "tqvec.ray", "ray")
exceptions = import_optional("ray.exceptions", "tqvec.ray", "ray")

_START = 120.0  # seconds in which actors must have started, at least
_MOST_LOSSES = 5  # of an actor while it opens shards
_PAUSE = 0.2  # seconds before a lost actor without a replica is asked again
_LARGE = 1 << 16  # bytes of an argument from which on it is stored once for all actors


class ShardServer(Holder):
    """A holder that is a Ray actor. It opens shards while it answers, in another thread."""

    def __init__(self, folder: Folder, cache: Path | None, threads: int, part: int, parts: int) -> None:
        import_optional("pyarrow", "shards", "ray").set_cpu_count(threads)
        super().__init__(folder, cache, threads, part, parts)

    def hello(self) -> None:
        """Answer."""

    @ray.method(concurrency_group="loading", max_task_retries=-1)  # type: ignore[untyped-decorator]
    def open(self, request: Request, choice: Choice | None = None) -> Answer:
        """Open all shards that are asked, and return how many these are."""
        return super().open(request, choice)

    @ray.method(concurrency_group="loading")  # type: ignore[untyped-decorator]
    def keep(self, manifests: Sequence[str]) -> None:
        """Close shards that none of some manifests has."""
        super().keep(manifests)

    def scan(self, request: Request, choice: Choice | None, shifted: Floats, k: int) -> Answer:
        """Return the best `k` rows for each query, as `Hits`."""
        return super().scan(request, choice, shifted.copy(), k)  # kernels take no arrays that can't be written

    def scan_lists(self, request: Request, choice: Choice | None, shifted: Floats, k: int, probes: Probes) -> Answer:
        """Return the same of the lists that each query probes."""
        own = Probes(probes.first.copy(), probes.lists.copy())
        return super().scan_lists(request, choice, shifted.copy(), k, own)


class Member:
    """An actor of a fleet.

    Ray starts it again when its process or its node is lost. One that Ray has given up is replaced.

    Parameters
    ----------
    start : callable
        Returns a new actor.
    """

    def __init__(self, start: Callable[[], Any]) -> None:
        self._start = start
        self._lock = ForkLock()
        self.actor = start()
        self.calls: set[Any] = set()  # that this process waits for
        self._losses, self._lost = 0, 0.0  # one after the other without an answer, and when the last was noted
        self._busy: Any = None  # a call that ends when it can answer again

    def is_ready(self) -> bool:
        """Return whether it can answer at once, as far as is known."""
        busy = self._busy
        if busy is not None and ray.wait([busy], timeout=0)[0]:
            self._busy = busy = None
        return busy is None

    def wait_for(self, call: Any) -> Any:
        """Let others be asked before it until a call to it ends, and return the call."""
        self._busy = call
        return call

    def load(self, request: Request) -> Any:
        """Let it open shards, and return the call."""
        return self.wait_for(self.actor.open.remote(request))

    def note_answer(self) -> None:
        """Take note that it answered."""
        self._losses = 0

    def note_loss(self, error: Exception, sent: float) -> bool:
        """Take note that it was lost, by a call of this time, and return whether no other call has told that."""
        with self._lock:
            if sent < self._lost:
                return False
            self._losses, self._lost = self._losses + 1, time.monotonic()
            if self._losses > 1 and isinstance(error, exceptions.ActorDiedError):  # Ray does not start it again
                self.actor, self._losses = self._start(), 0
            return True


class Question(NamedTuple):
    """What actors are asked.

    Attributes
    ----------
    request : Request
    choice : Choice, object reference or None
    method : str
    arguments : tuple
    """

    request: Request
    choice: Any
    method: str
    arguments: tuple[Any, ...]

    def send(self, member: Member) -> Any:
        """Ask an actor, and return the call."""
        return getattr(member.actor, self.method).remote(self.request, self.choice, *self.arguments)


class Inquiry:
    """A question to the replicas of one part, until one has answered.

    Parameters
    ----------
    question : Question
    members : list of Member
    patience : float
        Seconds after which another one is asked.
    """

    def __init__(self, question: Question, members: Sequence[Member], patience: float) -> None:
        self._question, self._members, self._patience = question, members, patience
        self.calls: dict[Any, tuple[Member, float]] = {}  # who is asked, and since when
        self.next = 0.0  # when another member is to be asked
        self.answer: Answer | None = None
        self.reason = "no answer"
        self._failed: dict[int, Answer] = {}  # of members that can't open all shards, by `id`

    def ask(self) -> None:
        """Ask a member that is not being asked: one that is ready, and has the fewest calls to answer."""
        asked = {id(member) for member, _ in self.calls.values()} | self._failed.keys()
        free = [member for member in self._members if id(member) not in asked]
        if not free:
            self.next = float("inf")
            return
        member, now = min(free, key=lambda each: (not each.is_ready(), len(each.calls))), time.monotonic()
        call = self._question.send(member)
        member.calls.add(call)
        self.calls[call] = member, now
        self.next = now + self._patience

    def take(self, call: Any) -> None:
        """Take the result of a call."""
        member, sent = self.calls.pop(call)
        member.calls.discard(call)
        now = time.monotonic()
        try:
            answer = ray.get(call)
            member.note_answer()
            if answer.failures:
                self._failed[id(member)], self.next = answer, now
            if not answer.failures or len(self._failed) == len(self._members):
                self.answer = answer
        except exceptions.RayTaskError as error:
            if not isinstance(error.cause, OSError):
                raise error.cause from None
            self.reason, self.next = str(error.cause), now + _PAUSE
        except (exceptions.RayActorError, exceptions.ObjectLostError) as error:
            self.reason = f"its actor was lost, and is not there again ({type(error).__name__})"
            if member.note_loss(error, sent):
                member.load(self._question.request)
            has_other = any(other is not member and other.is_ready() for other in self._members)
            self.next = min(self.next, now if has_other else now + _PAUSE)

    def end(self) -> None:
        """Leave the calls that are still open: who has them is slow, and is asked after others until they end."""
        for call, (member, _) in self.calls.items():
            member.calls.discard(call)
            member.wait_for(call)


class Fleet:
    """Actors that hold shards: for each part of the shards some replicas.

    Parameters
    ----------
    members : list of list of Member
        The replicas of each part.
    timeout : float
        Seconds that a question may take.
    patience : float
        Seconds after which a replica is asked what another one has not answered.
    """

    def __init__(self, members: Sequence[Sequence[Member]], timeout: float, patience: float) -> None:
        self.members, self._timeout, self._patience = members, timeout, patience
        self._last_choice: tuple[str, Any] = "", None

    def wait_for_start(self) -> None:
        """Wait until all actors have started; UnavailableError if that takes long."""
        limit = max(self._timeout, _START)
        calls = [member.actor.hello.remote() for replicas in self.members for member in replicas]
        started, waiting = ray.wait(calls, num_returns=len(calls), timeout=limit)
        if waiting:
            cpus = ray.cluster_resources().get("CPU", 0)
            raise UnavailableError(
                f"{len(waiting)} of {len(calls)} actors did not start in {limit:g} s; the cluster has "
                f"{cpus:g} CPUs, and {ray.available_resources().get('CPU', 0):g} are free: ask for fewer actors, "
                "replicas or threads, or for more time"
            )
        ray.get(started)

    def open(self, request: Request) -> None:
        """Let all actors open their shards, and wait until one replica of each part has.

        Raises
        ------
        MissingShards
            Some can't be opened.
        UnavailableError
            An actor ends each time it opens its shards.
        """
        losses: Counter[int] = Counter()
        calls = {member.load(request): (part, member) for part, all in enumerate(self.members) for member in all}
        parts = {part for part, _ in calls.values()}
        while parts:
            (done,), _ = ray.wait(list(calls), num_returns=1)
            part, member = calls.pop(done)
            try:
                failures = ray.get(done).failures
            except exceptions.RayTaskError as error:
                raise error.cause from None
            except exceptions.RayActorError as error:
                losses[part] += 1
                if losses[part] > _MOST_LOSSES * len(self.members[part]):
                    raise UnavailableError(
                        f"an actor has ended {losses[part]} times while it opened its shards, as where memory or a "
                        f"disk is short ({error}); ask for more actors, or look at its node"
                    ) from error
                member.note_loss(error, time.monotonic())
                calls[member.load(request)] = part, member
                continue
            if failures:
                raise MissingShards(failures)
            parts.discard(part)

    def keep(self, manifests: Sequence[str]) -> None:
        """Let all actors close shards that none of some manifests has; nobody waits for that."""
        for replicas in self.members:
            for member in replicas:
                member.actor.keep.remote(manifests)

    def ask(
        self, parts: Sequence[Sequence[str]], request: Request, choice: Choice | None, method: str, *arguments: Any
    ) -> list[Any]:
        """Call a method of one replica of each part, and return what they answer.

        Parameters
        ----------
        parts : sequence of sequence of str
            Names of the shards of each part that are asked; parts without any are not.
        request, choice, method, arguments
            As of `Sharded`.

        Raises
        ------
        MissingShards
            Some can't answer.
        """
        question = Question(request, self._stored_choice(choice), method, tuple(map(_stored, arguments)))
        inquiries = {
            part: Inquiry(question, self.members[part], self._patience) for part, names in enumerate(parts) if names
        }
        try:
            self._wait(inquiries.values(), time.monotonic() + self._timeout)
        finally:
            for inquiry in inquiries.values():
                inquiry.end()
        failures: dict[str, Failure] = {}
        for part, inquiry in inquiries.items():
            if inquiry.answer is None:
                reason = f"{inquiry.reason} in {self._timeout:g} s"
                failures |= dict.fromkeys(parts[part], Failure(reason, False))
            else:
                failures |= inquiry.answer.failures
        if failures:
            raise MissingShards(failures)
        return [inquiry.answer.value for inquiry in inquiries.values() if inquiry.answer is not None]

    def close(self) -> None:
        """End all actors."""
        for replicas in self.members:
            for member in replicas:
                ray.kill(member.actor)

    def _wait(self, inquiries: Any, deadline: float) -> None:
        """Ask until all are answered, or the time is over."""
        pending = list(inquiries)
        while pending and (now := time.monotonic()) < deadline:
            for inquiry in pending:
                if now >= inquiry.next:
                    inquiry.ask()
            calls = {ref: inquiry for inquiry in pending for ref in inquiry.calls}
            rest = max(0.0, min(deadline, *(inquiry.next for inquiry in pending)) - time.monotonic())
            if not calls:
                time.sleep(rest)
                continue
            done, _ = ray.wait(list(calls), num_returns=1, timeout=rest)
            if len(calls) > 1 and done:  # and all others that have come meanwhile
                done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0)
            for ref in done:
                if calls[ref].answer is None:
                    calls[ref].take(ref)
            pending = [inquiry for inquiry in pending if inquiry.answer is None]

    def _stored_choice(self, choice: Choice | None) -> Any:
        """A choice, or where it is stored if it is large; that of the last choice is kept."""
        if choice is None:
            return None
        token, stored = self._last_choice
        if token != choice.token:
            size = len(ray.cloudpickle.dumps(choice))
            stored = choice if size < _LARGE else ray.put(choice)
            self._last_choice = choice.token, stored
        return stored


def _stored(argument: Any) -> Any:
    """An argument, or where it is stored if it is a large array."""
    return ray.put(argument) if getattr(argument, "nbytes", 0) > _LARGE else argument


def start_fleet(
    server: type[ShardServer],
    arguments: tuple[Folder, Path | None, int],
    parts: int,
    replicas: int,
    timing: tuple[float, float],
) -> Fleet:
    """Start the actors of a fleet.

    Parameters
    ----------
    server : type
        Of the actors.
    arguments : tuple
        Of `ShardServer`: folder, cache and threads.
    parts, replicas : int
    timing : (float, float)
        Timeout and patience of the fleet.
    """
    threads = arguments[2]
    remote = ray.remote(
        num_cpus=threads, max_restarts=-1, scheduling_strategy="SPREAD", concurrency_groups={"loading": 1}
    )(server)

    def starter(part: int) -> Callable[[], Any]:
        return lambda: remote.remote(*arguments, part, parts)

    return Fleet([[Member(starter(part)) for _ in range(replicas)] for part in range(parts)], *timing)
