"""The engine that spreads the shards of a run over the machines of a Ray cluster.

Each replica is an actor of Ray: a process with a `Worker`, which loads the model by its name and
encodes the shards that it is sent. This process, the driver, needs neither the model nor a GPU. It
alone reads the list of images, writes shards and decides what is tried again. Whatever a user can
act on is an answer of a worker, not an exception, so that the driver can show it as one line.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipkit import models
from clipkit.base import console, signals
from clipkit.base.errors import ClipkitError, ImageError, UsageError, shorten
from clipkit.base.version import __version__
from clipkit.datasets import remote
from clipkit.datasets.images import readable_formats
from clipkit.embedding.checkpoint import Skipped
from clipkit.embedding.engines import Encoded, LocalEngine, Report, ShardImages, default_workers
from clipkit.embedding.ray_cluster import LOGS, connected, import_ray, last_line, stdout_for_data
from clipkit.features.overview import flatten
from clipkit.models import RunOptions

if TYPE_CHECKING:
    from clipkit.datasets.dataset import ImageSource
    from clipkit.models import Encoder, EncoderDescription

ATTEMPTS = 3  # at a shard, if its worker dies
STARTS = 3  # of a replica, if its workers die one after the other while they load the model
AHEAD = 2  # shards of a replica: it decodes images of one while it encodes the other
CHOSEN = ("model.device", "model.precision")  # by each machine, unless an option sets them
POLL_SECONDS = 0.2  # how soon a signal is noticed
NOTE_SECONDS = 30.0  # after which a note says what is waited for
COUNT_SECONDS = 5.0  # after which machines and GPUs are counted again
OVERDUE_SECONDS = 60.0  # a call to encode a shard that takes longer than this, and longer than
FIRST_SECONDS = 600.0  # the same while no shard is done, which would tell how long one takes
OVERDUE_TIMES = 5.0  # so many times the median of those that are done, may hang
SAME_FILES = "all machines must see the same files; rsync -a keeps the times of copies"


# ---- The driver ----------------------------------------------------------------------------------


@contextlib.contextmanager
def connect(
    load: Callable[[], Encoder], options: RunOptions, replicas: int | None = None
) -> Iterator[RayEngine]:
    """Connect to the cluster at RAY_ADDRESS, or start Ray on this machine, and start workers.

    `load` loads the image tower in each worker. It is pickled, and should hold short texts alone.

    Raises
    ------
    UsageError
        If Ray cannot use the device.
    ClipkitError
        If Ray is not installed or does not answer, or no worker can load the model.
    """
    device = options.device
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(
            f"expected --device auto, cpu or cuda with --engine ray, got {device}",
            "Ray chooses the GPU of each replica",
        )
    # relative paths mean the same in the workers
    arguments = (load, options, str(Path.cwd()), models.num_threads())
    engine = RayEngine(lambda: _open_cluster(arguments, device, replicas), options.batch_size)
    with contextlib.closing(engine):
        engine.start()
        yield engine


@dataclass(frozen=True)
class _Cluster:
    """A connection to Ray."""

    ray: Any
    new_actor: Callable[[], Any]
    replicas: Callable[[], int]  # that are wanted, which follows the cluster unless it was given
    needs: str  # of a replica
    node: str  # that this process runs on


@dataclass(eq=False)
class _Replica:
    """A copy of the model. If its worker dies, another one takes its place."""

    actor: Any = None
    host: str | None = None  # None while the worker waits for its place or loads the model
    pid: int = 0  # of the worker
    shards: list[int] = field(default_factory=list)  # that it encodes
    failed_starts: int = 0  # one after the other
    is_late: bool = False  # and a note has said so


@dataclass(frozen=True)
class _Call:
    """A call to a replica: encode a shard, or load the model if `shard` is None."""

    replica: _Replica
    shard: int | None
    began: float = field(default_factory=lambda: time.monotonic())


class _Queue:
    """The shards of a run, by their positions: which of them wait, are done or are given up."""

    def __init__(self, count: int) -> None:
        self.unfinished = set(range(count))
        self.failed: list[int] = []  # of which ATTEMPTS workers died
        self._waiting = deque(range(count))
        self._suspects: deque[int] = deque()  # of which a worker died
        self._deaths: Counter[int] = Counter()
        self._seconds: list[float] = []  # that each shard took

    def pop(self, *, is_idle: bool) -> int | None:
        """Return the next shard for a replica. Only an idle one may have a suspect."""
        if self._waiting:
            return self._waiting.popleft()
        while self._suspects and is_idle:
            number = self._suspects.popleft()
            if number in self.unfinished:  # a copy may have been encoded
                return number
        return None

    def finish(self, call: _Call) -> bool:
        """Take the answer to a call. Return False if one to a copy of the shard came first."""
        if call.shard not in self.unfinished:
            return False
        self.unfinished.remove(call.shard)
        self._seconds.append(time.monotonic() - call.began)
        return True

    def retry(self, lost: Sequence[int]) -> None:
        """Queue the shards of a worker that died, or give them up."""
        for number in self.unfinished.intersection(lost):
            self._deaths[number] += 1
            if self._deaths[number] < ATTEMPTS:
                self._suspects.append(number)
            else:
                self.unfinished.remove(number)
                self.failed.append(number)

    def is_overdue(self, call: _Call) -> bool:
        """Whether a call to encode takes so long that its worker may hang."""
        if call.shard is None:
            return False
        limit = FIRST_SECONDS
        if self._seconds:
            limit = max(OVERDUE_SECONDS, OVERDUE_TIMES * float(np.median(self._seconds)))
        return time.monotonic() - call.began > limit


class RayEngine:
    """Encode on workers of Ray. `connect` makes it."""

    def __init__(
        self,
        open_cluster: Callable[[], contextlib.AbstractContextManager[_Cluster]],
        batch_size: int,
    ) -> None:
        self.batch_size = batch_size
        self._open_cluster = open_cluster
        self._connection = contextlib.ExitStack()
        self._cluster: _Cluster  # `start` sets it
        self._replicas: list[_Replica] = []
        self._calls: dict[Any, _Call] = {}  # by Ray's reference
        self._first: tuple[str, Started] | None = None  # and its host
        self._active = 0.0  # the time of the last answer or note
        self._counted = 0.0  # the time when replicas were counted
        self._created = 0  # replicas, those that were given up among them
        self._noted = 0  # replicas that the last note counted

    @property
    def model(self) -> EncoderDescription:
        """The image tower, as a worker describes it."""
        assert self._first is not None, "expected a worker that has started"
        return self._first[1].model

    def start(self) -> None:
        """Connect to Ray and start workers, unless that was done, and wait until one is ready."""
        if self._replicas:
            return
        with console.stage("starting the replicas"):
            self._cluster = self._connection.enter_context(self._open_cluster())
            self._active, self._noted, self._created = time.monotonic(), 0, 0
            self._add_replicas()
            while not self._ready():
                for call, reply in self._replies():
                    if isinstance(reply, str):
                        self._replace(call.replica, reply)
                    else:
                        self._admit(call.replica, reply)

    def close(self) -> None:
        """End the workers and disconnect from Ray. `encode` starts others if it is called again."""
        self._replicas, self._calls = [], {}
        self._connection.close()

    def encode(self, shards: Sequence[ShardImages], report: Report) -> Generator[Encoded]:
        """Yield the embeddings of each shard as they come, and disconnect from Ray at the end.

        What is written to standard output afterwards is alone there. A shard whose worker died is
        tried again when all others are done, and alone, so that none is blamed for another. A shard
        whose worker may hang is encoded by an idle replica, too, and the first answer counts.

        Raises
        ------
        ClipkitError
            If workers differ, a worker reports an error, the connection to Ray is lost, or ATTEMPTS
            workers died of one shard. In the last case all other shards come first.
        """
        queue = _Queue(len(shards))
        with contextlib.closing(self):
            if shards:
                self.start()
            while queue.unfinished:
                self._note_replicas()
                self._note_overdue(queue)
                self._hand_out(shards, queue)
                for call, reply in self._replies():
                    if isinstance(reply, str):
                        queue.retry(self._replace(call.replica, reply))
                    elif call.shard is None:
                        self._admit(call.replica, reply)
                    else:
                        call.replica.shards.remove(call.shard)
                        if queue.finish(call):
                            shard = shards[call.shard]
                            encoded = _encoded(shard, reply)
                            report(len(shard.rows), encoded.skipped)
                            yield encoded
        if queue.failed:
            raise _lost_shards([shards[number] for number in sorted(queue.failed)])

    def _ready(self) -> list[_Replica]:
        """Return the replicas that have loaded the model."""
        return [replica for replica in self._replicas if replica.host is not None]

    def _add_replicas(self) -> None:
        """Start the replicas that are wanted and not there, such as for a machine that joined."""
        self._counted = time.monotonic()
        while self._created < self._cluster.replicas():
            self._created += 1
            self._replicas.append(_Replica())
            self._start_worker(self._replicas[-1])

    def _start_worker(self, replica: _Replica) -> None:
        replica.host, replica.shards, replica.is_late = None, [], False
        with _ray_errors():
            replica.actor = self._cluster.new_actor()
            self._calls[replica.actor.start.remote()] = _Call(replica, None)

    def _hand_out(self, shards: Sequence[ShardImages], queue: _Queue) -> None:
        """Give shards to replicas that have loaded the model."""
        for turn in range(AHEAD):
            for replica in self._ready():
                if len(replica.shards) > turn:
                    continue
                number = queue.pop(is_idle=not replica.shards)
                if number is None and not replica.shards:
                    number = self._overdue(queue)
                if number is None:
                    continue
                replica.shards.append(number)
                shard = _cut(shards[number])
                with _ray_errors():
                    self._calls[replica.actor.encode.remote(shard)] = _Call(replica, number)

    def _overdue(self, queue: _Queue) -> int | None:
        """Return a shard that all its workers may hang at, if there is one."""
        calls = self._calls.values()
        punctual = {call.shard for call in calls if not queue.is_overdue(call)}
        for call in calls:
            if call.shard in queue.unfinished - punctual:
                return call.shard
        return None

    def _note_overdue(self, queue: _Queue) -> None:
        """Name each worker that may hang, once, and say what can be done."""
        for call in self._calls.values():
            replica = call.replica
            if replica.is_late or not queue.is_overdue(call):
                continue
            replica.is_late = True
            copies = ""
            if len(self._replicas) > 1:
                copies = ": an idle worker will encode its shards, too"
            console.note(
                f"no answer from process {replica.pid} on {replica.host} for "
                f"{time.monotonic() - call.began:.0f} s{copies}; hint: if it hangs, "
                f"kill -KILL {replica.pid} there ends it, and another takes its place"
            )

    def _replies(self) -> Iterator[tuple[_Call, Reply | str]]:
        """Yield the replies that come within POLL_SECONDS, or why a worker died."""
        if time.monotonic() > self._counted + COUNT_SECONDS:
            self._add_replicas()
        with _ray_errors():
            ready, _ = self._cluster.ray.wait(list(self._calls), timeout=POLL_SECONDS)
        for reference in ready:
            self._active = time.monotonic()
            yield self._calls.pop(reference), self._result(reference)
        is_encoding = any(replica.shards for replica in self._replicas)
        if time.monotonic() > self._active + NOTE_SECONDS and not is_encoding:
            self._active = time.monotonic()
            self._check_node()
            self._note_waiting()

    def _note_waiting(self) -> None:
        """Say whether a worker loads the model, or none has a place."""
        with _ray_errors():
            calls = [replica.actor.__ray_ready__.remote() for replica in self._replicas]
            placed, _ = self._cluster.ray.wait(calls, timeout=POLL_SECONDS)
        what = f"a place with {self._cluster.needs} for a worker; ray status shows what is free"
        if placed:
            what = "a worker, which is loading the model"
        console.note(f"waiting for {what}")

    def _result(self, reference: Any) -> Reply | str:
        errors = self._cluster.ray.exceptions
        with _ray_errors():
            try:
                reply: Reply = self._cluster.ray.get(reference)
            except errors.RayTaskError as error:
                raise ClipkitError(f"a worker failed: {last_line(error)}", LOGS) from error
            except errors.RayError as error:
                return last_line(error)
        return reply

    def _check_node(self) -> None:
        """Refuse to go on if Ray has lost the node of this process: no worker would get a place."""
        nodes = _live_nodes(self._cluster.ray)
        if self._cluster.node not in {node["NodeID"] for node in nodes}:
            raise _lost_connection("its process on this machine has ended")

    def _replace(self, replica: _Replica, reason: str) -> list[int]:
        """Start another worker in place of one that died, and return the shards that it had."""
        self._check_node()
        lost = replica.shards
        for reference, call in list(self._calls.items()):
            if call.replica is replica:
                del self._calls[reference]
        with contextlib.suppress(ClipkitError), _ray_errors():
            self._cluster.ray.kill(replica.actor)
        if replica.host is None:
            replica.failed_starts += 1
        if replica.failed_starts < STARTS:
            which = f"process {replica.pid} on {replica.host}" if replica.host else "as it started"
            console.note(f"lost a worker ({which}), and started another: {reason}")
            self._start_worker(replica)
            return lost
        self._replicas.remove(replica)
        message = f"{STARTS} workers died while they started, the last one of: {reason}"
        if not self._replicas:
            raise ClipkitError(
                message, f"is clipkit installed on all machines, with memory for the model? {LOGS}"
            )
        console.warn(f"{message}; that replica is given up, {len(self._replicas)} are left")
        return lost

    def _admit(self, replica: _Replica, reply: Reply) -> None:
        """Let a worker take part if it describes the model as the first one does."""
        started = _value(reply)
        replica.host, replica.pid, replica.failed_starts = reply.host, started.pid, 0
        if self._first is None:
            for line in started.warnings.splitlines():
                console.write_line(line)
            own = facts_of(started.model)
            _check_same(reply.host, started.facts, socket.gethostname(), own)
            self._first = reply.host, started
        host, first = self._first
        _check_same(reply.host, started.facts, host, first.facts)

    def _note_replicas(self) -> None:
        """Say at first, and when all are ready, how many replicas encode."""
        ready, total = len(self._ready()), len(self._replicas)
        if total > 1 and ready != self._noted and (ready == total or not self._noted):
            self._noted = ready
            console.note(f"{ready} of {total} replicas have loaded the model")


@contextlib.contextmanager
def _ray_errors() -> Iterator[None]:
    """Turn what a call to Ray raises into an error of one line.

    A signal raises afterwards: Ray turns its exception into another one.
    """
    try:
        with signals.deferred():
            yield
    except ClipkitError:
        raise
    except Exception as error:  # Ray raises OSError and plain Exception, too
        raise _lost_connection(last_line(error)) from error


def _lost_connection(reason: str) -> ClipkitError:
    return ClipkitError(
        f"lost the connection to Ray: {reason}", "finished shards are kept; run it again"
    )


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
    if not skipped:  # as usual: the loop over all rows is left out
        return
    reasons = {image["id"]: image["reason"] for image in skipped}
    for row in shard.rows:
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
        raise error.adding_hint(f"it happened on {reply.host}")
    raise error


def _check_same(host: str, facts: dict[str, Any], first: str, expected: dict[str, Any]) -> None:
    """Refuse a worker that describes the model in another way than the first one."""
    for name in sorted(facts | expected):
        got, wanted = facts.get(name, "absent"), expected.get(name, "absent")
        if got == wanted:
            continue
        hint = "install the same versions and models on all machines"
        if name in CHOSEN:
            hint = "set --device and --precision"
        raise ClipkitError(
            f"{host}: expected the {name} of {first}, {shorten(wanted, 80)}, "
            f"got {shorten(got, 80)}",
            hint,
        )


def _lost_shards(shards: Sequence[ShardImages]) -> ClipkitError:
    first = shards[0]
    start = first.images.ids[first.rows.start]
    others = ""
    if len(shards) > 1:
        others = f"; the workers of {len(shards) - 1:,} other shards died, too"
    return ClipkitError(
        f"{first.split}: {ATTEMPTS} workers died while they encoded shard {first.number}, "
        f"{len(first.rows):,} images from {start} on{others}",
        "finished shards are kept; remove the image that ends the process, or run the same command "
        "with --engine local",
    )


@contextlib.contextmanager
def _open_cluster(
    arguments: tuple[Any, ...], device: str, replicas: int | None
) -> Iterator[_Cluster]:
    """Connect to Ray, and say how to start a worker: with these arguments of `Worker`.

    A worker takes one GPU, or as many CPUs of one machine as PyTorch has threads.
    """
    ray = import_ray()
    with stdout_for_data(), connected(ray) as is_own:
        with _ray_errors():
            node = ray.get_runtime_context().get_node_id()
        cpus, gpus = _count(ray, "CPU"), _count(ray, "GPU")
        threads = min(models.num_threads(), max(cpus, default=0)) or 1  # a head may lend no CPU
        name, needed = "CPU", threads
        resources = {"num_cpus": threads, "scheduling_strategy": "SPREAD"}
        if device == "cuda" or (device == "auto" and any(gpus)):
            name, needed = "GPU", 1
            resources = {"num_cpus": 1, "num_gpus": 1}
        needs = console.count(needed, name)
        console.note(
            f"Ray has {sum(cpus):,} CPUs and {sum(gpus):,} GPUs on "
            f"{console.count(len(cpus), 'machine')}; each replica takes {needs}"
        )
        places = sum(count // needed for count in _count(ray, name))
        if is_own and (replicas or 1) > places:  # it never grows
            raise UsageError(
                f"expected room for {console.count(replicas or 1, 'replica')} on this machine, "
                f"with {needs} each, got room for {places:,}",
                "set RAY_ADDRESS to use a cluster; on CPUs, each replica takes OMP_NUM_THREADS",
            )
        actor = ray.remote(Worker).options(
            max_restarts=0, max_task_retries=0, max_concurrency=AHEAD, **resources
        )

        def wanted() -> int:
            counts = _count(ray, name)
            if name == "CPU":  # one per machine
                counts = [min(1, count // needed) for count in counts]
            return replicas or max(1, sum(counts))

        yield _Cluster(ray, lambda: actor.remote(*arguments), wanted, needs, node)


def _live_nodes(ray: Any) -> list[dict[str, Any]]:
    """Return what Ray knows of each machine of the cluster."""
    with _ray_errors():
        return [node for node in ray.nodes() if node["Alive"]]


def _count(ray: Any, resource: str) -> list[int]:
    """Return how many CPUs or GPUs each machine lends."""
    return [int(node["Resources"].get(resource, 0)) for node in _live_nodes(ray)]


# ---- The worker ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Started:
    """The answer of a worker that has loaded the model."""

    model: EncoderDescription
    facts: dict[str, Any]  # which all workers must share
    warnings: str
    pid: int


@dataclass(frozen=True)
class Reply:
    """An answer of a worker. An error of the user is an answer, too."""

    host: str
    value: Any  # Started, ShardReply or ClipkitError


@dataclass(frozen=True, eq=False)
class ShardReply:
    """An encoded shard, and the fingerprint of its images on the worker's machine."""

    encoded: Encoded
    fingerprint: str


@dataclass(eq=False)
class Worker:
    """Encode with a copy of the model, in an own process.

    `folder` is the driver's working folder, and `threads` the number of PyTorch's threads, on
    which the last bits depend.
    """

    load: Callable[[], Encoder]
    options: RunOptions
    folder: str
    threads: int
    engine: LocalEngine | None = None

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
        notes = io.StringIO()
        console.set_quiet(True)  # warnings stay
        with contextlib.redirect_stderr(notes):
            encoder = self.load()
        workers = self.options.num_workers or default_workers()
        self.engine = LocalEngine(encoder, self.options.batch_size, workers)
        model = models.EncoderDescription(encoder.details, encoder.parts, columns=encoder.columns)
        return Started(model, facts_of(model), notes.getvalue(), os.getpid())

    def _encode(self, shard: ShardImages) -> ShardReply:
        assert self.engine is not None, "expected a worker that has started"
        self._set_threads()  # OpenMP keeps the number for each thread that calls it
        source = shard.images.source
        _check_stored_files(source)
        (encoded,) = self.engine.encode([shard], lambda *_: None)
        return ShardReply(encoded, source.fingerprint())

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


def _check_stored_files(source: ImageSource) -> None:
    """Refuse tars and Parquet files on this machine that differ from the driver's.

    They travel with the size and state that the driver found, and so does their fingerprint.
    """
    files = [*getattr(source, "files", ()), *(part.file for part in getattr(source, "parts", ()))]
    for file in files:
        if not file.is_remote and remote.open_file(file.name) != file:
            raise ClipkitError(
                f"{socket.gethostname()}: {remote.display_url(file.name)}: expected the size and "
                "time of modification that the file had when the command began, got others",
                SAME_FILES,
            )


def facts_of(model: EncoderDescription) -> dict[str, Any]:
    """Return what must be equal on all machines, by name."""
    return {
        "clipkit": __version__,
        "image formats": " ".join(readable_formats()),
        **flatten({"model": model.details, "model files": model.parts}, "."),
    }
