"""A process that has loaded everything and forks a clipkit for each request, within milliseconds.

A client connects to the server's socket, sends a `Request` as JSON and the descriptors of its
standard streams, and receives two lines: the process id of the new clipkit and, at its end, its
exit code. A client that leaves early, or closes its half of the connection and waits, ends its
clipkit. There are two clients: `ForkServer` for tests, and a script that stands for `clipkit` under
make and in the commands of docs/.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import importlib
import json
import os
import pkgutil
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NoReturn

LIBRARIES = (
    "h5py",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "matplotlib.mathtext",
    "matplotlib.style",
    "PIL.Image",
    "rich.table",
    "sklearn.cluster",
    "sklearn.svm",
    "torch",
    "transformers.models.clip.modeling_clip",
)
FILE_SYSTEM_CHANGES = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir"}
BRIEF = "TEST_BRIEF"  # where it is set, an MLP trains for fewer steps, and pictures have fewer dots
VARIABLES = (BRIEF, "COLUMNS", "CLIPKIT_MODEL")  # that the stand-in passes on
# a pool of threads would not survive a fork
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
STAND_IN = """\
#!{python} -SE
import json, os, signal, socket, sys
env = {{k: v for k, v in os.environ.items() if k in {variables!r}}}
request = {{"folder": os.getcwd(), "words": sys.argv[1:], "env": env}}
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    signal.signal(signal.SIGTERM, lambda *_: server.shutdown(socket.SHUT_WR))
    socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
    with server.makefile() as answers:
        answers.readline()
        sys.exit(int(answers.readline() or 1))
"""


@dataclass
class Request:
    """A command line of clipkit, and the circumstances under which it runs."""

    folder: str
    words: list[str]
    env: dict[str, str] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)  # such as {"RLIMIT_FSIZE": 2000}
    memory: int | None = None  # bytes beyond what the server has loaded
    close: list[int] = field(default_factory=list)  # numbers of closed standard streams
    event: int | None = None  # send `kill` before this change to the file system below `folder`
    kill: int = signal.SIGKILL
    fake: bool = False  # a model that costs nothing, and takes `slow` seconds per batch
    slow: float = 0
    shard: int | None = None  # rows of a shard
    remote: dict[str, float] = field(default_factory=dict)  # such as {"TIMEOUT_SECONDS": 0.5}


@dataclass
class Outcome:
    """How a clipkit ended: `exit_code` is minus the number of the signal that killed it."""

    exit_code: int
    stdout: bytes
    stderr: str
    seconds: float
    events: int  # changes to the file system below the folder


class Running:
    """A clipkit that was started."""

    def __init__(self, connection: socket.socket, streams: list[IO[bytes]]) -> None:
        self.began = time.monotonic()
        self.connection = connection
        self.streams = streams
        self.answers = connection.makefile()
        self.pid = int(self.answers.readline())

    def wait(self, timeout: float | None = None, kill: int = signal.SIGKILL) -> Outcome:
        """Wait for the end, and send a signal after a timeout."""
        ended, _, _ = select.select([self.connection], [], [], timeout)
        if not ended:
            os.kill(self.pid, kill)
        exit_code = int(self.answers.readline())
        seconds = time.monotonic() - self.began
        stdout, stderr, events = (_content(stream) for stream in self.streams[1:])
        for stream in (self.answers, self.connection, *self.streams):
            stream.close()
        message = stderr.decode("utf-8", "backslashreplace")
        return Outcome(exit_code, stdout, message, seconds, len(events))


def _content(stream: IO[bytes]) -> bytes:
    if not stream.readable():
        return b""
    stream.seek(0)
    return stream.read()


class ForkServer:
    """The client for tests. `venv` is a folder that make takes for clipkit's environment.

    The server starts with the first clipkit. Call `launch` before the stand-in in `venv` runs.
    """

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "socket")
        self.venv = folder / "venv"
        stand_in = self.venv / "bin" / "clipkit"
        stand_in.parent.mkdir(parents=True)
        content = {"python": sys.executable, "address": self.address, "variables": VARIABLES}
        stand_in.write_text(STAND_IN.format(**content))
        stand_in.chmod(0o755)
        (self.venv / ".installed").touch()
        # now, since the test that launches the server may have changed both
        self.folder = Path.cwd()
        self.environment = {**os.environ, **ONE_THREAD}
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Start the server unless it runs: it takes seconds, which a dry run of make can save."""
        if self.process is not None:
            return
        line = [sys.executable, __file__, self.address]
        self.process = subprocess.Popen(
            line, cwd=self.folder, env=self.environment, stdin=subprocess.PIPE
        )
        while not Path(self.address).exists():
            assert self.process.poll() is None
            time.sleep(0.05)

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()

    def run(
        self, folder: Path, *words: object, seconds: float | None = None, **options: Any
    ) -> Outcome:
        """Run clipkit in a folder to its end, or send the signal `kill` after so many seconds."""
        running = self.start(folder, *words, **options)
        return running.wait(seconds, options.get("kill", signal.SIGKILL))

    def start(
        self,
        folder: Path,
        *words: object,
        stdin: str | Path = os.devnull,
        stdout: str | Path | None = None,
        **options: Any,
    ) -> Running:
        """Start clipkit in a folder; the options are those of `Request`."""
        self.launch()
        request = Request(str(folder), [str(word) for word in words], **options)
        out = tempfile.TemporaryFile() if stdout is None else Path(stdout).open("wb")
        err, events = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        streams = [Path(stdin).open("rb"), out, err, events]
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.address)
        message = json.dumps(dataclasses.asdict(request)).encode()
        socket.send_fds(connection, [message], [stream.fileno() for stream in streams])
        return Running(connection, streams)


def serve(address: str) -> NoReturn:
    """Load everything, then fork for each connection until standard input is closed."""
    _load()
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    clients: dict[int, socket.socket] = {}
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address + ".new")
        server.listen(16)
        Path(address + ".new").rename(address)
        while True:
            timeout = 0.002 if clients else None  # how often ends are looked for
            ready, _, _ = select.select([0, server, *clients.values()], [], [], timeout)
            if 0 in ready:
                os._exit(0)  # the interpreter's own end would take a second
            if server in ready:
                connection, _ = server.accept()
                message, streams, _, _ = socket.recv_fds(connection, 1 << 16, 4)
                pid = os.fork()
                if not pid:
                    for other in (server, connection, *clients.values()):
                        other.close()
                    become_clipkit(Request(**json.loads(message)), streams)
                for stream in streams:
                    os.close(stream)
                connection.sendall(b"%d\n" % pid)
                clients[pid] = connection
            for pid, connection in list(clients.items()):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    with contextlib.suppress(BrokenPipeError):
                        connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
                    clients.pop(pid).close()
                elif connection in ready:  # the client has left
                    os.kill(pid, signal.SIGTERM)
                    os.waitpid(pid, 0)
                    clients.pop(pid).close()


def _load() -> None:
    for name in LIBRARIES:
        importlib.import_module(name)
    import torch

    import clipkit

    torch.set_num_threads(1)
    for module in pkgutil.walk_packages(clipkit.__path__, "clipkit."):
        if not module.name.endswith((".__main__", ".train")):
            importlib.import_module(module.name)
    _warm_up()


def _warm_up() -> None:
    """Do once what every clipkit would do first: it takes longer than a short command."""
    import pyarrow as pa
    import typer.main
    from typer.testing import CliRunner

    from clipkit import cli
    from clipkit.base import signals

    command: Any = typer.main.get_command(cli.app)
    for group in (command, command.commands["plot"]):
        for one in group.commands.values():
            list(one.params)  # each is made once
    typer.main.get_command = lambda _: command  # type: ignore[assignment]
    CliRunner().invoke(cli.app, ["info", "no.h5"])  # loads what Typer imports late
    signals._disarmed = False  # it has ended
    pa.array([1.0])  # Arrow reserves 1 GiB of address space, which a limit of memory would count
    gc.freeze()  # the children would copy the memory that collecting garbage touches


def become_clipkit(request: Request, streams: list[int]) -> NoReturn:
    """Run `clipkit.cli.main`, as the entry point does, with the request's streams and limits."""
    from clipkit import cli
    from clipkit.datasets import remote
    from clipkit.embedding import checkpoint
    from clipkit.plots import style
    from clipkit.probes import mlp

    os.chdir(request.folder)
    os.environ.update(request.env)
    tempfile.tempdir = None  # TMPDIR may have changed
    events = os.dup(streams[3]) if len(streams) > 3 else None
    _set_streams(streams, request.close)
    _set_limits(request)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _hold_signals()
    if request.shard:
        checkpoint.SHARD_ROWS = request.shard
    for name, value in request.remote.items():
        setattr(remote, name, value)
    if BRIEF in os.environ:
        mlp.STEPS = 100
        style.DPI = 40
    if request.fake:
        _fake_models(request.slow)
    if events is not None:
        _watch(request, events)
    sys.argv = ["clipkit", *request.words]
    cli.main()


def _hold_signals() -> None:
    """Deliver early signals once clipkit handles them: on a busy machine, it begins late."""
    from clipkit.base import signals

    install = signals.install

    def install_and_release() -> None:
        install()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.SIGNALS)

    signals.install = install_and_release


def _set_streams(streams: list[int], closed: list[int]) -> None:
    """Put the client's streams in place of ours, and open Python's own anew over them."""
    for number, stream in enumerate(streams[:3]):
        os.dup2(stream, number)
    for stream in streams:
        os.close(stream)
    for number in closed:
        os.close(number)
    options: dict[str, Any] = {"encoding": "utf-8", "closefd": False}
    stdin, stdout, stderr = (number not in closed for number in range(3))
    sys.stdin = os.fdopen(0, **options) if stdin else None
    sys.stdout = os.fdopen(1, "w", **options) if stdout else None
    options |= {"errors": "backslashreplace", "buffering": 1}
    sys.stderr = os.fdopen(2, "w", **options) if stderr else None


def _set_limits(request: Request) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name, limit in request.limits.items():
        resource.setrlimit(getattr(resource, name), (limit, limit))
    if request.memory is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + request.memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _fake_models(seconds: float) -> None:
    """Make every model one whose embeddings are the pixels of small images, or a text's noise."""
    import zlib

    import numpy as np

    from clipkit import models

    class Encoder:
        def __init__(self) -> None:
            self.parts = {"weights": "sha256:0"}
            self.columns: dict[int, slice] = {}
            self.details = {
                "name": "fake",
                "digest": "sha256:0",
                "logit_scale": 100.0,
                **self.parts,
                "precision": "fp32",
                "device": "cpu",
                "preprocessing": {"size": {"height": 4, "width": 4}, "resample": "bicubic"},
            }

        def preprocess(self, images: list[Any]) -> Any:
            return np.stack([np.asarray(image.resize((4, 4)), np.float32) for image in images])

        def encode_images(self, pixels: Any) -> Any:
            time.sleep(seconds)
            return pixels.reshape(len(pixels), -1) / 255

        def encode_texts(self, texts: list[str], **_: Any) -> Any:
            seeds = [zlib.crc32(text.encode()) for text in texts]
            noise = [np.random.default_rng(seed).standard_normal(48) for seed in seeds]
            return np.array(noise, np.float32)

        def cleaned_by_ftfy(self, texts: list[str]) -> None:
            """Say that no text was changed."""

    models.load = lambda *_, **__: Encoder()  # type: ignore[assignment, return-value]


def _watch(request: Request, events: int) -> None:
    """Write a dot for each change to the file system below the folder, before it is made."""
    folder = Path(request.folder).resolve()
    count = 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal count
        is_write = event == "open" and isinstance(args[2], int) and args[2] & os.O_ACCMODE
        if not is_write and event not in FILE_SYSTEM_CHANGES:
            return
        if not isinstance(args[0], (str, os.PathLike)):
            return
        if Path(args[0]).absolute().parent.resolve().is_relative_to(folder):
            count += 1
            os.write(events, b".")
            if count == request.event:
                os.kill(os.getpid(), request.kill)

    sys.addaudithook(hook)


if __name__ == "__main__":
    serve(sys.argv[1])
