"""The engine that spreads the shards of a run over the machines of a Ray cluster.

Each replica is an actor of Ray: a process that loads the model by its name and encodes the shards
that it is sent. This process, the driver, needs neither the model nor a GPU. It alone reads the
list of images, writes shards and decides what is tried again.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipkit import console, models, signals
from clipkit.embedding.checkpoint import Skipped
from clipkit.embedding.engines import Encoded, Report, ShardImages
from clipkit.embedding.ray_cluster import LOGS, connected, import_ray, last_line, stdout_for_data
from clipkit.embedding.ray_worker import (
    SAME_FILES,
    Reply,
    ShardReply,
    Started,
    Worker,
    facts_of,
)
from clipkit.errors import ClipkitError, ImageError, UsageError

if TYPE_CHECKING:
    from clipkit.models import Description, Encoder

ATTEMPTS = 3  # at a shard whose worker dies
STARTS = 3  # of workers that die while they load the model, one after the other
AHEAD = 2  # shards of a replica: it decodes images of one while it encodes the other
POLL_SECONDS = 0.2  # how soon a signal is noticed
PATIENCE_SECONDS = 30.0  # after which a note says what is waited for


@dataclass(eq=False)
class _Replica:
    """A worker as the driver sees it."""

    actor: Any
    host: str | None = None  # None while it waits for its place or loads the model


class RayEngine:
    """Encode on workers of Ray. `connect` makes it.

    Attributes
    ----------
    batch_size : int
    replicas : int
        The number of workers, of which some may still wait for their places.
    """

    def __init__(
        self,
        ray: Any,
        new_actor: Callable[[], Any],
        replicas: int,
        batch_size: int,
        connection: contextlib.ExitStack,
    ) -> None:
        self.batch_size = batch_size
        self.replicas = replicas
        self._ray = ray
        self._new_actor = new_actor
        self._connection = connection
        self._workers: list[_Replica] = []
        self._calls: dict[Any, tuple[_Replica, int | None]] = {}  # None is the worker's start
        self._failed_starts = 0
        self._first: tuple[str, Started] | None = None  # and its host
        for _ in range(replicas):
            self._add_worker()
        self._wait_for_first()

    @property
    def model(self) -> Description:
        """The image tower, as a worker describes it."""
        assert self._first is not None, "expected a worker that has started"
        return self._first[1].model

    def encode(self, shards: Sequence[ShardImages], report: Report) -> Generator[Encoded]:
        """Yield the embeddings of each shard as they come, and disconnect from Ray at the end.

        A shard whose worker died is tried again when all others are done, and alone, so that none
        is blamed for another.

        Raises
        ------
        ClipkitError
            If workers differ, a worker reports an error, or ATTEMPTS workers died of one shard. In
            the last case all other shards come first.
        """
        waiting = deque(range(len(shards)))
        suspects: deque[int] = deque()
        deaths: Counter[int] = Counter()
        with self._connection:
            while waiting or suspects or self._running():
                self._hand_out(shards, waiting, suspects)
                for worker, number, reply in self._replies():
                    if reply is None:
                        lost = self._replace(worker) + ([] if number is None else [number])
                        deaths.update(lost)
                        suspects += [one for one in lost if deaths[one] < ATTEMPTS]
                    elif number is None:
                        self._admit(worker, reply)
                    else:
                        encoded = _encoded(shards[number], reply)
                        report(len(shards[number].rows), encoded.skipped)
                        yield encoded
        failed = sorted(number for number, count in deaths.items() if count >= ATTEMPTS)
        if failed:
            raise _lost_shards([shards[number] for number in failed])

    def _add_worker(self) -> None:
        worker = _Replica(self._new_actor())
        self._workers.append(worker)
        self._calls[worker.actor.start.remote()] = worker, None

    def _wait_for_first(self) -> None:
        """Wait until a worker has described the model."""
        began = time.monotonic()
        is_noted = False
        while self._first is None:
            for worker, _, reply in self._replies():
                if reply is None:
                    self._replace(worker)
                else:
                    self._admit(worker, reply)
            if not is_noted and time.monotonic() > began + PATIENCE_SECONDS:
                is_noted = True
                console.note("waiting for a worker of Ray; ray status shows what is free")

    def _running(self) -> bool:
        """Whether shards are being encoded."""
        return any(number is not None for _, number in self._calls.values())

    def _hand_out(
        self, shards: Sequence[ShardImages], waiting: deque[int], suspects: deque[int]
    ) -> None:
        """Give shards to workers that have loaded the model."""
        loads = Counter(id(worker) for worker, _ in self._calls.values())
        for turn in range(AHEAD):
            for worker in self._workers:
                if worker.host is None or loads[id(worker)] > turn:
                    continue
                if waiting:
                    number = waiting.popleft()
                elif suspects and not loads[id(worker)]:
                    number = suspects.popleft()
                else:
                    continue
                loads[id(worker)] += 1
                self._calls[worker.actor.encode.remote(_cut(shards[number]))] = worker, number

    def _replies(self) -> Iterator[tuple[_Replica, int | None, Reply | None]]:
        """Yield the replies that come within POLL_SECONDS; None is that of a worker that died."""
        try:
            with signals.deferred():  # Ray turns the exception of a signal into another one
                ready, _ = self._ray.wait(list(self._calls), timeout=POLL_SECONDS)
        except self._ray.exceptions.RayError as error:
            message = f"lost the connection to Ray: {last_line(error)}"
            raise ClipkitError(message, "finished shards are kept; run it again") from error
        for call in ready:
            worker, number = self._calls.pop(call)
            with signals.deferred():
                reply = self._result(call)
            yield worker, number, reply

    def _result(self, call: Any) -> Reply | None:
        try:
            reply: Reply = self._ray.get(call)
        except self._ray.exceptions.RayTaskError as error:
            raise ClipkitError(f"a worker failed: {last_line(error)}", LOGS) from error
        except self._ray.exceptions.RayError as error:
            console.detail(f"a worker was lost: {last_line(error)}")
            return None
        return reply

    def _replace(self, worker: _Replica) -> list[int]:
        """Start another worker in place of one that died, and return the shards that it had."""
        if worker.host is None:
            self._failed_starts += 1
        if self._failed_starts == STARTS:
            raise ClipkitError(
                f"{STARTS} workers died while they started",
                f"is clipkit installed on all machines, with memory for the model? {LOGS}",
            )
        lost = [
            number
            for other, number in self._calls.values()
            if other is worker and number is not None
        ]
        self._calls = {call: task for call, task in self._calls.items() if task[0] is not worker}
        self._workers.remove(worker)
        with contextlib.suppress(Exception):
            self._ray.kill(worker.actor)
        self._add_worker()
        return lost

    def _admit(self, worker: _Replica, reply: Reply) -> None:
        """Let a worker take part if it describes the model as the first one does."""
        started = _value(reply)
        self._failed_starts = 0
        worker.host = reply.host
        if self._first is None:
            for line in started.warnings.splitlines():
                console.write_line(line)
            here = facts_of(started.model)
            _check_same(reply.host, started.facts, socket.gethostname(), here)
            self._first = reply.host, started
        host, first = self._first
        _check_same(reply.host, started.facts, host, first.facts)


def _cut(shard: ShardImages) -> ShardImages:
    """Return a shard that holds its own rows alone."""
    images = shard.images.take(np.arange(shard.rows.start, shard.rows.stop))
    rows = range(len(images))
    return ShardImages(shard.number, shard.split, replace(images, labels=None), rows)


def _encoded(shard: ShardImages, reply: Reply) -> Encoded:
    """Return what a worker made of a shard, with the numbers of the rows in the split.

    A worker must see the files that this machine sees, and may only skip what this one would.
    """
    answer: ShardReply = _value(reply)
    first = shard.rows.start
    rows = np.arange(first, shard.rows.stop)
    if shard.images.source.take(rows).fingerprint() != answer.fingerprint:
        raise ClipkitError(
            f"{reply.host}: expected the images that {socket.gethostname()} has, got others or "
            f"none, among {len(rows):,} from {shard.images.ids[first]} on",
            SAME_FILES,
        )
    _check_skipped(shard, answer.encoded.skipped, reply.host)
    return replace(answer.encoded, rows=[shard.rows[row] for row in answer.encoded.rows])


def _check_skipped(shard: ShardImages, skipped: Sequence[Skipped], host: str) -> None:
    """Refuse a worker that skipped an image which this machine can read."""
    reasons = {image["id"]: image["reason"] for image in skipped}
    for row in shard.rows if skipped else ():
        name = shard.images.ids[row]
        if name not in reasons:
            continue
        try:
            shard.images.image(row)
        except ImageError:
            continue
        raise ClipkitError(
            f"{host}: expected to read {name}, as {socket.gethostname()} can, got: {reasons[name]}",
            "all machines must be allowed to read the images, and reach those at URLs",
        )


def _value(reply: Reply) -> Any:
    """Return what a worker answered, or raise its error, which names another host."""
    if not isinstance(reply.value, ClipkitError):
        return reply.value
    error = reply.value
    if reply.host != socket.gethostname() and reply.host not in error.message:
        where = f"it happened on {reply.host}"
        error.hint = f"{error.hint}; {where}" if error.hint else where
    raise error


def _check_same(host: str, facts: dict[str, Any], first: str, expected: dict[str, Any]) -> None:
    """Refuse a worker that describes the model in another way than the first one."""
    for name in sorted(facts | expected):
        got, wanted = facts.get(name, "absent"), expected.get(name, "absent")
        if got != wanted:
            raise ClipkitError(
                f"{host}: expected the {name} of {first}, {str(wanted)[:80]}, got {str(got)[:80]}",
                "install the same versions and models on all machines, or set --device and "
                "--precision",
            )


def _lost_shards(shards: Sequence[ShardImages]) -> ClipkitError:
    first = shards[0]
    start = first.images.ids[first.rows.start]
    others = ""
    if len(shards) > 1:
        others = f"; so did those of {len(shards) - 1:,} other shards"
    return ClipkitError(
        f"{first.split}: {ATTEMPTS} workers died while they encoded shard {first.number}, "
        f"{len(first.rows):,} images from {start} on{others}",
        "finished shards are kept; remove the image that ends the process, or run the same command "
        "with --engine local",
    )


@contextlib.contextmanager
def connect(
    load: Callable[[], Encoder],
    *,
    device: str,
    batch_size: int,
    num_workers: int | None = None,
    replicas: int | None = None,
) -> Iterator[RayEngine]:
    """Connect to the cluster at RAY_ADDRESS, or start Ray on this machine, and start workers.

    Parameters
    ----------
    load : callable
        Loads the image tower, in each worker. It is pickled, and should hold short texts alone.
    device : str
        What `load` loads it on: ``auto``, ``cpu`` or ``cuda``.
    batch_size : int
    num_workers : int, optional
        Threads of each worker that decode images.
    replicas : int, optional
        The number of workers: by default one per GPU, or one per machine.

    Raises
    ------
    UsageError
        If Ray cannot use the device.
    ClipkitError
        If Ray is not installed or does not answer, or no worker can load the model.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(
            f"expected --device auto, cpu or cuda with --engine ray, got {device}",
            "Ray chooses the GPU of each replica",
        )
    ray = import_ray()
    with contextlib.ExitStack() as connection:
        with console.stage("starting the replicas"):
            connection.enter_context(stdout_for_data())
            connection.enter_context(connected(ray, replicas or 0))
            gpus = int(ray.cluster_resources().get("GPU", 0)) if device != "cpu" else 0
            if device == "cuda" and not gpus:
                raise ClipkitError("expected a GPU in Ray's cluster, got none", "use --device cpu")
            nodes = sum(node["Alive"] for node in ray.nodes())
            resources = {"num_gpus": 1} if gpus else {"scheduling_strategy": "SPREAD"}
            actor = ray.remote(Worker).options(
                num_cpus=1, max_restarts=0, max_task_retries=0, max_concurrency=AHEAD, **resources
            )
            options = (load, str(Path.cwd()), models.num_threads(), batch_size, num_workers)

            def new_actor() -> Any:
                return actor.remote(*options)

            engine = RayEngine(ray, new_actor, replicas or gpus or nodes, batch_size, connection)
        yield engine
