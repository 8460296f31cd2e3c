"""The engine that spreads the shards of a run over the machines of a Ray cluster.

Each replica is an actor of Ray: a process that loads the model by its name and encodes the shards
that it is sent. This process, the driver, needs neither the model nor a GPU. It alone reads the
list of images, writes shards and decides what is tried again.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import socket
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipkit import console, models, signals
from clipkit.datasets.images import readable_formats
from clipkit.embedding.engines import (
    Encoded,
    LocalEngine,
    Report,
    ShardImages,
    default_workers,
)
from clipkit.errors import ClipkitError, UsageError
from clipkit.features.describe import flatten
from clipkit.models.guards import import_library
from clipkit.version import __version__

if TYPE_CHECKING:
    from clipkit.models import Description, Encoder

ATTEMPTS = 3  # at a shard whose worker dies
STARTS = 3  # of workers that die while they load the model, one after the other
AHEAD = 2  # shards of a replica: it decodes images of one while it encodes the other
POLL_SECONDS = 0.2  # how soon a signal is noticed
ADDRESS_SECONDS = 5.0  # for an address to accept a connection
CONNECT_SECONDS = 60.0  # for Ray to answer or to start
CLOSE_SECONDS = 20.0  # for Ray to end
PATIENCE_SECONDS = 30.0  # after which a note says what is waited for
LOGS = "Ray's logs are in /tmp/ray/session_latest/logs on each machine"


@dataclass(frozen=True)
class Started:
    """What a worker tells when it has loaded the model."""

    model: Description
    facts: dict[str, Any]  # which must be those of all workers
    warnings: str


@dataclass(frozen=True)
class Reply:
    """An answer of a worker. An error of the user is an answer, too."""

    host: str
    value: Any  # Started, ShardReply or ClipkitError


@dataclass(frozen=True, eq=False)
class ShardReply:
    """An encoded shard; `fingerprint` is that of its images if some were skipped."""

    encoded: Encoded
    fingerprint: str | None


class Worker:
    """A copy of the model, in a process of its own.

    Parameters
    ----------
    load : callable
        Loads the image tower; it holds the model's name and options.
    folder : str
        The driver's working folder, so that relative paths mean the same here.
    threads : int
        The number of PyTorch's threads, on which the last bits depend.
    batch_size : int
    num_workers : int, optional
        Threads that decode images.
    """

    def __init__(
        self,
        load: Callable[[], Encoder],
        folder: str,
        threads: int,
        batch_size: int,
        num_workers: int | None,
    ) -> None:
        self.load = load
        self.folder = folder
        self.threads = threads
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.engine: LocalEngine | None = None

    def start(self) -> Reply:
        """Load the model and describe it."""
        return self._answer(self._start)

    def encode(self, shard: ShardImages) -> Reply:
        """Encode a shard that holds its rows and no others."""
        return self._answer(lambda: self._encode(shard))

    def _start(self) -> Started:
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise ClipkitError(
                f"{socket.gethostname()}: cannot enter the folder {self.folder}: {error.strerror}",
                "run the command in a folder that all machines have",
            ) from error
        self._set_threads()
        said = io.StringIO()
        console.set_quiet(True)  # warnings stay
        with contextlib.redirect_stderr(said):
            encoder = self.load()
        self.engine = LocalEngine(encoder, self.batch_size, self.num_workers or default_workers())
        model = models.Description(encoder.details, encoder.parts, columns=encoder.columns)
        return Started(model, _facts(model), said.getvalue())

    def _encode(self, shard: ShardImages) -> ShardReply:
        assert self.engine is not None, "expected a worker that has started"
        self._set_threads()  # OpenMP keeps the number for each thread that calls it
        (encoded,) = self.engine.encode([shard], lambda *_: None)
        if not encoded.skipped:
            return ShardReply(encoded, None)
        return ShardReply(encoded, shard.images.source.fingerprint())

    def _set_threads(self) -> None:
        models.set_num_threads(self.threads)
        number = models.num_threads()
        if number != self.threads:
            raise ClipkitError(
                f"{socket.gethostname()}: expected PyTorch to use {self.threads} threads, "
                f"got {number}",
                "set OMP_NUM_THREADS of the command to a number that all machines can give",
            )

    def _answer(self, work: Callable[[], Any]) -> Reply:
        host = socket.gethostname()
        try:
            return Reply(host, work())
        except ClipkitError as error:
            return Reply(host, error)
        except MemoryError:
            hint = "use a smaller --batch-size, or fewer --replicas"
            return Reply(host, ClipkitError(f"not enough memory on {host}", hint))


def _facts(model: Description) -> dict[str, Any]:
    """Return what must be equal on all machines, by name."""
    return {
        "clipkit": __version__,
        "image formats": " ".join(readable_formats()),
        **flatten({"model": model.details, "model files": model.parts}, "."),
    }


@dataclass(eq=False)
class _Replica:
    """A worker as the driver sees it."""

    actor: Any
    host: str | None = None  # None while it waits for its place or loads the model


class RayEngine:
    """Encode on workers of Ray. `connect` makes it."""

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
                        encoded = self._check(shards[number], reply)
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
        # Ray turns the exception of a signal into another one
        with signals.deferred():
            ready, _ = self._ray.wait(list(self._calls), timeout=POLL_SECONDS)
        for call in ready:
            worker, number = self._calls.pop(call)
            with signals.deferred():
                reply = self._result(call)
            yield worker, number, reply

    def _result(self, call: Any) -> Reply | None:
        try:
            reply: Reply = self._ray.get(call)
        except self._ray.exceptions.RayTaskError as error:
            raise ClipkitError(f"a worker failed: {_last_line(error)}", LOGS) from error
        except self._ray.exceptions.RayError as error:
            console.detail(f"a worker was lost: {_last_line(error)}")
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
            here = _facts(started.model)
            _check_same(reply.host, started.facts, socket.gethostname(), here)
            self._first = reply.host, started
        host, first = self._first
        _check_same(reply.host, started.facts, host, first.facts)

    def _check(self, shard: ShardImages, reply: Reply) -> Encoded:
        """Return a shard with the numbers of its rows in the split."""
        answer: ShardReply = _value(reply)
        encoded = answer.encoded
        if answer.fingerprint is not None:
            rows = np.arange(shard.rows.start, shard.rows.stop)
            if shard.images.source.take(rows).fingerprint() != answer.fingerprint:
                image = encoded.skipped[0]
                raise ClipkitError(
                    f"{reply.host}: expected the images that {socket.gethostname()} has, got "
                    f"others or none: {image['id']}: {image['reason']}",
                    "all machines must see the same files",
                )
        return replace(encoded, rows=[shard.rows[row] for row in encoded.rows])


def _cut(shard: ShardImages) -> ShardImages:
    """Return a shard that holds its own rows alone."""
    images = shard.images.take(np.arange(shard.rows.start, shard.rows.stop))
    rows = range(len(images))
    return ShardImages(shard.number, shard.split, replace(images, labels=None), rows)


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


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


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
    ray = _import_ray()
    with contextlib.ExitStack() as connection:
        with console.stage("starting the replicas"):
            connection.enter_context(_stdout_for_data())
            connection.enter_context(_connected(ray, replicas or 0))
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


def _import_ray() -> Any:
    if importlib.util.find_spec("ray") is None:
        raise ClipkitError(
            "--engine ray needs Ray, which is not installed",
            "install it: pip install 'clipkit-vl[ray]'",
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    return import_library("ray")


@contextlib.contextmanager
def _stdout_for_data() -> Iterator[None]:
    """Keep what Ray prints, such as the death of a worker, from standard output: it may be a file.

    Nothing else writes there meanwhile, since the output is published after the connection ends.
    """
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)  # what is printed by code that is not Python's
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


@contextlib.contextmanager
def _connected(ray: Any, cpus: int) -> Iterator[None]:
    """Connect to Ray, and disconnect at the end. A cluster that this starts ends with it.

    A thread does both. Outside of the main thread, Ray installs no handlers of signals, and a
    cluster that does not answer can be given up. The thread lives as long as the connection, since
    the system ends the processes of a cluster with the thread that started them.
    """
    if ray.is_initialized():  # the caller's own
        yield
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {}
    if address == "local":
        options = {"include_dashboard": False, "num_cpus": max(cpus, os.cpu_count() or 1)}
    else:
        _check_address(address)
    began, ended = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def hold() -> None:
        try:
            ray.init(address, log_to_driver=False, configure_logging=False, **options)
        except BaseException as error:
            errors.append(error)
        began.set()
        ended.wait()
        ray.shutdown()

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    where = "start Ray" if address == "local" else f"connect to Ray at {address}"
    try:
        if not began.wait(CONNECT_SECONDS):
            raise ClipkitError(f"cannot {where}: no answer within {CONNECT_SECONDS:g} s", LOGS)
        if errors:
            raise ClipkitError(f"cannot {where}: {_last_line(errors[0])}") from errors[0]
        yield
    finally:
        ended.set()
        if began.is_set():
            thread.join(CLOSE_SECONDS)


def _check_address(address: str) -> None:
    """Refuse an address where nothing answers: Ray would wait for minutes."""
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if not host or not port.isdecimal() or "/" in host:
        raise UsageError(
            f"RAY_ADDRESS: expected HOST:PORT, got {address!r}",
            "it is what ray start --head prints; run the command on a machine of the cluster",
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), ADDRESS_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ClipkitError(
            f"cannot connect to Ray at {address}: {reason}",
            "start the cluster, or unset RAY_ADDRESS to use this machine",
        ) from error
