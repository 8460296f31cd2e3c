"""The engine that spreads the shards of a run over the machines of a Ray cluster.

Each replica is an actor of Ray: a process with a `Worker`, which loads the model by its name and
encodes the shards that it is sent. If the process dies, Ray starts it again and repeats its calls.
This process, the driver, needs neither the model nor a GPU. It alone reads the list of images and
writes shards. Whatever a user can act on is an answer of a worker, not an exception, so that the
driver can show it as one line.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipkit import models
from clipkit.base import console
from clipkit.base.errors import ClipkitError, ImageError, UsageError, shorten
from clipkit.base.version import __version__
from clipkit.datasets import remote
from clipkit.datasets.images import readable_formats
from clipkit.embedding.checkpoint import Skipped
from clipkit.embedding.engines import Encoded, LocalEngine, Report, ShardImages, default_workers
from clipkit.embedding.ray_cluster import LOGS, Pool, last_line, open_pool, ray_errors
from clipkit.features.overview import flatten
from clipkit.models.options import RunOptions

if TYPE_CHECKING:
    from clipkit.datasets.dataset import ImageSource
    from clipkit.models import Encoder, EncoderDescription

ATTEMPTS = 3  # at a shard: one beside another shard, and then alone
AHEAD = 2  # shards of a replica: it decodes images of one while it encodes the other
CHOSEN = ("model.device", "model.precision")  # by each machine, unless an option sets them
POLL_SECONDS = 0.2  # how soon a signal is noticed
SHORTEST_SECONDS = 30.0  # before which no worker counts as one that hangs
NOTE_SECONDS = 30.0  # after which a note says what is waited for if no shard is encoded,
SILENT_SECONDS = 600.0  # and if shards are
COUNT_SECONDS = 5.0  # after which machines and GPUs are counted again
HANG_TIMES = 5.0  # a worker hangs that takes so many times what a shard usually takes, and loading
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

    def open_workers() -> contextlib.AbstractContextManager[Pool]:
        # relative paths mean the same in the workers
        arguments = (load, options, str(Path.cwd()), models.num_threads())
        return open_pool(Worker, arguments, device, replicas, AHEAD)

    engine = RayEngine(open_workers, options.batch_size)
    with contextlib.closing(engine):
        engine.start()
        yield engine


@dataclass(eq=False)
class _Replica:
    """A copy of the model: an actor, whose process Ray starts again if it dies."""

    actor: Any
    host: str | None = None  # of its process; None until that has loaded the model
    pid: int = 0
    shards: list[int] = field(default_factory=list)  # that it encodes


@dataclass(frozen=True)
class _Call:
    """A call to a replica: encode a shard, or load the model if `shard` is None."""

    replica: _Replica
    shard: int | None
    began: float = field(default_factory=lambda: time.monotonic())


class _Queue:
    """The shards of a run, by their positions: which of them wait, are done or are given up."""

    def __init__(self, count: int) -> None:
        self.unfinished = count
        self.failed: list[int] = []
        self._waiting = deque(range(count))
        self._suspects: deque[int] = deque()  # of which workers died
        self._losses: Counter[int] = Counter()
        self._seconds: list[float] = []  # that each shard took

    def pop(self, *, is_idle: bool) -> int | None:
        """Return the next shard for a replica. Only an idle one may have a suspect."""
        if self._waiting:
            return self._waiting.popleft()
        return self._suspects.popleft() if self._suspects and is_idle else None

    def finish(self, call: _Call) -> None:
        """Take note of a shard that is encoded."""
        self.unfinished -= 1
        self._seconds.append(time.monotonic() - call.began)

    def retry(self, number: int) -> None:
        """Queue a shard whose worker died, or give it up."""
        self._losses[number] += 1
        if self._losses[number] < ATTEMPTS:
            self._suspects.append(number)
        else:
            self.unfinished -= 1
            self.failed.append(number)

    def limit(self, number: int, loading: float) -> float:
        """Return the seconds after which the worker of a shard hangs. A retry has more.

        A first shard has no limit: nothing tells how long it takes.
        """
        if not self._seconds:
            return math.inf
        usual = float(np.median(self._seconds))
        # a call may include a new start, which takes as long for short shards as for long ones
        seconds = HANG_TIMES ** (1 + self._losses[number]) * usual + loading
        return max(seconds, SHORTEST_SECONDS)


class RayEngine:
    """Encode on workers of Ray. `connect` makes it."""

    def __init__(
        self, open_workers: Callable[[], contextlib.AbstractContextManager[Pool]], batch_size: int
    ) -> None:
        self.batch_size = batch_size
        self._open_workers = open_workers
        self._connection = contextlib.ExitStack()
        self._pool: Pool  # `start` sets it
        self._replicas: list[_Replica] = []
        self._calls: dict[Any, _Call] = {}  # by Ray's reference
        self._first: Reply | None = None
        self._loading = 0.0  # seconds, of the slowest worker
        self._active = 0.0  # the time of the last answer or note
        self._counted = 0.0  # the time when replicas were counted
        self._given_up = 0  # replicas

    @property
    def model(self) -> EncoderDescription:
        """The image tower, as a worker describes it."""
        assert self._first is not None, "expected a worker that has started"
        model: EncoderDescription = self._first.model
        return model

    def start(self) -> None:
        """Connect to Ray and start workers, unless that was done, and wait until one is ready."""
        if self._replicas:
            return
        with console.stage("starting the replicas"):
            self._pool = self._connection.enter_context(self._open_workers())
            self._active, self._counted, self._given_up = time.monotonic(), 0.0, 0
            self._add_replicas()
            while not self._ready():
                for _ in self._replies():
                    pass  # no shard was sent

    def close(self) -> None:
        """End the workers and disconnect from Ray. `encode` starts others if it is called again."""
        self._replicas, self._calls = [], {}
        self._connection.close()

    def encode(self, shards: Sequence[ShardImages], report: Report) -> Generator[Encoded]:
        """Yield the embeddings of each shard as they come, and disconnect from Ray at the end.

        What is written to standard output afterwards is alone there. If a worker dies, Ray repeats
        its calls once. Shards whose workers died again are tried when all others are done, and each
        alone, so that none is blamed for another. A worker that hangs is killed.

        Raises
        ------
        ClipkitError
            If workers differ, a worker reports an error, the connection to Ray is lost, or workers
            died of a shard. In the last case all other shards come first.
        """
        queue = _Queue(len(shards))
        with contextlib.closing(self):
            if shards:
                self.start()
            while queue.unfinished:
                self._hand_out(shards, queue)
                for call, reply in self._replies():
                    assert call.shard is not None
                    if reply is None:
                        queue.retry(call.shard)
                        continue
                    queue.finish(call)
                    encoded = _encoded(shards[call.shard], reply)
                    report(len(shards[call.shard].rows), encoded.skipped)
                    yield encoded
                self._end_hung(queue)
        if queue.failed:
            raise _lost_shards([shards[number] for number in sorted(queue.failed)])

    def _ready(self) -> list[_Replica]:
        """Return the replicas that have loaded the model."""
        return [replica for replica in self._replicas if replica.host is not None]

    def _add_replicas(self) -> None:
        """Start the replicas that are wanted and not there, such as for a machine that joined."""
        self._counted = time.monotonic()
        wanted = max(1, self._pool.wanted() - self._given_up)
        with ray_errors():
            while len(self._replicas) < wanted:
                replica = _Replica(self._pool.new_actor())
                self._replicas.append(replica)
                self._calls[replica.actor.start.remote()] = _Call(replica, None)

    def _hand_out(self, shards: Sequence[ShardImages], queue: _Queue) -> None:
        """Give shards to replicas that have loaded the model."""
        for turn in range(AHEAD):
            for replica in self._ready():
                if len(replica.shards) > turn:
                    continue
                number = queue.pop(is_idle=not replica.shards)
                if number is None:
                    continue
                replica.shards.append(number)
                with ray_errors():
                    reference = replica.actor.encode.remote(_cut(shards[number]))
                self._calls[reference] = _Call(replica, number)

    def _end_hung(self, queue: _Queue) -> None:
        """Kill the workers that hang. Ray then reports that their calls have failed."""
        for call in self._calls.values():
            replica = call.replica
            if call.shard is None or replica not in self._replicas:
                continue
            seconds = time.monotonic() - call.began
            if seconds > queue.limit(call.shard, self._loading):
                console.note(
                    f"no answer from process {replica.pid} on {replica.host} for {seconds:.0f} s, "
                    "so it was killed; another worker takes its place"
                )
                self._remove(replica)

    def _remove(self, replica: _Replica) -> None:
        """End a replica for good. `_add_replicas` starts another one."""
        self._replicas.remove(replica)
        self._counted = 0.0
        with contextlib.suppress(ClipkitError), ray_errors():
            self._pool.ray.kill(replica.actor)

    def _replies(self) -> Iterator[tuple[_Call, Reply | None]]:
        """Yield the answers about shards within POLL_SECONDS; None if workers died of a call."""
        if time.monotonic() > self._counted + COUNT_SECONDS:
            self._add_replicas()
        with ray_errors():
            ready, _ = self._pool.ray.wait(list(self._calls), timeout=POLL_SECONDS)
        errors = self._pool.ray.exceptions
        for reference in ready:
            self._active = time.monotonic()
            call = self._calls.pop(reference)
            reply: Reply | None = None
            with ray_errors():
                try:
                    reply = self._pool.ray.get(reference)
                except errors.RayTaskError as error:
                    raise ClipkitError(f"a worker failed: {last_line(error)}", LOGS) from error
                except errors.RayError as error:
                    self._lose(call, last_line(error))
            if reply is not None:
                self._admit(call.replica, reply)
            if call.shard is not None:
                call.replica.shards.remove(call.shard)
                yield call, reply
        self._note_waiting()

    def _lose(self, call: _Call, reason: str) -> None:
        """Remove a replica whose workers died of a call, also the one that Ray had restarted."""
        self._pool.check_node()
        replica = call.replica
        if replica not in self._replicas:  # a note has said so
            return
        self._remove(replica)
        if call.shard is not None:
            console.note(f"lost a worker (process {replica.pid} on {replica.host}): {reason}")
            return
        self._given_up += 1
        message = f"workers died while they started, the last one of: {reason}"
        if not self._replicas:
            raise ClipkitError(
                message, f"is clipkit installed on all machines, with memory for the model? {LOGS}"
            )
        console.warn(f"{message}; that replica is given up, {len(self._replicas)} are left")

    def _note_waiting(self) -> None:
        """Say once in a while whether workers encode or load the model, or none has a place."""
        is_encoding = any(replica.shards for replica in self._replicas)
        silence = SILENT_SECONDS if is_encoding else NOTE_SECONDS
        if time.monotonic() <= self._active + silence:
            return
        self._active = time.monotonic()
        self._pool.check_node()
        with ray_errors():
            calls = [replica.actor.__ray_ready__.remote() for replica in self._replicas]
            placed, _ = self._pool.ray.wait(calls, timeout=POLL_SECONDS)
        what = f"a place with {self._pool.needs} for a worker; ray status shows what is free"
        if is_encoding:
            what = f"shards: no worker has answered for {silence:.0f} s"
        elif placed:
            what = "a worker, which is loading the model"
        console.note(f"waiting for {what}")

    def _admit(self, replica: _Replica, reply: Reply) -> None:
        """Let a worker take part if it describes the model as the first one does."""
        here = socket.gethostname()
        if isinstance(reply.value, ClipkitError):
            if reply.host == here or reply.host in reply.value.message:
                raise reply.value
            raise reply.value.adding_hint(f"it happened on {reply.host}")
        if self._first is None:
            for line in reply.warnings.splitlines():
                console.write_line(line)
            _check_same(reply, here, facts_of(reply.model))
            self._first = reply
        _check_same(reply, self._first.host, self._first.facts)
        self._loading = max(self._loading, reply.loading)
        is_new = replica.host is None
        if not is_new and replica.pid != reply.pid:
            lost = f"process {replica.pid} on {replica.host}"
            console.note(f"lost a worker ({lost}), and Ray started another")
        replica.host, replica.pid = reply.host, reply.pid
        ready, total = len(self._ready()), len(self._replicas)
        if is_new and total > 1 and ready in (1, total):
            console.note(f"{ready} of {total} replicas have loaded the model")


def _cut(shard: ShardImages) -> ShardImages:
    """Return a shard that holds its own rows alone."""
    images = shard.images.take(np.arange(shard.rows.start, shard.rows.stop))
    rows = range(len(images))
    return ShardImages(shard.number, shard.split, replace(images, labels=None), rows)


def _encoded(shard: ShardImages, reply: Reply) -> Encoded:
    """Return what a worker made of a shard, with the numbers of the rows in the split.

    A worker must see the files that this machine sees, and may only skip what this one would.
    """
    answer = reply.value
    assert isinstance(answer, ShardReply)
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
    for row in shard.rows if reasons else ():
        name = shard.images.ids[row]
        if name not in reasons:
            continue
        with contextlib.suppress(ImageError):
            shard.images.image(row)
            raise ClipkitError(
                f"{host}: expected to read {name}, as {socket.gethostname()} can, "
                f"got: {reasons[name]}",
                "all machines must be allowed to read the images, and reach those at URLs",
            )


def _check_same(reply: Reply, first: str, expected: dict[str, Any]) -> None:
    """Refuse a worker that describes the model in another way than the first one."""
    for name in sorted(reply.facts | expected):
        got, wanted = reply.facts.get(name, "absent"), expected.get(name, "absent")
        if got == wanted:
            continue
        hint = "install the same versions and models on all machines"
        if name in CHOSEN:
            hint = "set --device and --precision"
        raise ClipkitError(
            f"{reply.host}: expected the {name} of {first}, {shorten(wanted)}, got {shorten(got)}",
            hint,
        )


def _lost_shards(shards: Sequence[ShardImages]) -> ClipkitError:
    first = shards[0]
    start = first.images.ids[first.rows.start]
    others = ""
    if len(shards) > 1:
        others = f"; the workers of {len(shards) - 1:,} other shards died, too"
    return ClipkitError(
        f"{first.split}: workers died while they encoded shard {first.number}, "
        f"{len(first.rows):,} images from {start} on{others}",
        "finished shards are kept; remove the image that ends the process, or run the same command "
        "with --engine local",
    )


# ---- The worker ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ShardReply:
    """An encoded shard, and the fingerprint of its images on the worker's machine."""

    encoded: Encoded
    fingerprint: str


@dataclass(frozen=True, eq=False)
class Reply:
    """An answer of a worker. An error of the user is an answer, too."""

    host: str
    pid: int
    value: ShardReply | ClipkitError | None  # None if the model was loaded
    model: Any = None  # EncoderDescription
    facts: dict[str, Any] = field(default_factory=dict)  # which all workers must share
    warnings: str = ""
    loading: float = 0.0  # seconds


@dataclass(eq=False)
class Worker:
    """Encode with a copy of the model, in an own process, which may be a new one at any call.

    `folder` is the driver's working folder, and `threads` the number of PyTorch's threads, on
    which the last bits depend.
    """

    load: Callable[[], Encoder]
    options: RunOptions
    folder: str
    threads: int
    engine: LocalEngine | None = None
    loaded: dict[str, Any] = field(default_factory=dict)  # what replies say of the model
    lock: Any = field(default_factory=threading.Lock)

    def start(self) -> Reply:
        """Load the model and describe it."""
        return self._answer(lambda _: None)

    def encode(self, shard: ShardImages) -> Reply:
        """Encode a shard that holds its rows and no others."""
        return self._answer(lambda engine: _encode(engine, shard))

    def _answer(self, work: Callable[[LocalEngine], ShardReply | None]) -> Reply:
        here = socket.gethostname(), os.getpid()
        try:
            self._set_threads()  # OpenMP keeps the number for each thread that calls it
            with self.lock:
                engine = self.engine = self.engine or self._load()
            return Reply(*here, work(engine), **self.loaded)
        except ClipkitError as error:
            return Reply(*here, error)
        except MemoryError:
            hint = "use a smaller --batch-size, or fewer --replicas"
            return Reply(*here, ClipkitError(f"not enough memory on {here[0]}", hint))

    def _load(self) -> LocalEngine:
        began = time.monotonic()
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise ClipkitError(
                f"{socket.gethostname()}: cannot enter the folder {self.folder}: {error.strerror}",
                "run the command in a folder that all machines have",
            ) from error
        notes = io.StringIO()
        console.set_quiet(True)  # warnings stay
        with contextlib.redirect_stderr(notes):
            encoder = self.load()
        model = models.EncoderDescription(encoder.details, encoder.parts, columns=encoder.columns)
        self.loaded = {"model": model, "facts": facts_of(model), "warnings": notes.getvalue()}
        self.loaded["loading"] = time.monotonic() - began
        workers = self.options.num_workers or default_workers()
        return LocalEngine(encoder, self.options.batch_size, workers)

    def _set_threads(self) -> None:
        models.set_num_threads(self.threads)
        number = models.num_threads()
        if number != self.threads:
            raise ClipkitError(
                f"{socket.gethostname()}: expected PyTorch to use {self.threads} threads, "
                f"got {number}",
                "set OMP_NUM_THREADS of the command to a number that all machines can give",
            )


def _encode(engine: LocalEngine, shard: ShardImages) -> ShardReply:
    source = shard.images.source
    _check_stored_files(source)
    (encoded,) = engine.encode([shard], lambda *_: None)
    return ShardReply(encoded, source.fingerprint())


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
