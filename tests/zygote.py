"""A process that has loaded everything and forks a clipkit for each request: a start takes milliseconds, not seconds.

Run as a script it serves requests, one JSON object a line; `Zygote` is the client. What is run in the child is
`clipkit.cli.main`, as the entry point does, with the child's own files, limits and signals.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

CHANGES = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir"}


@dataclass
class Outcome:
    """How a child ended: `code` is its exit code, or minus the signal that killed it."""

    code: int
    stdout: bytes
    stderr: str
    seconds: float
    events: int  # changes to the file system that the child was about to make


class Zygote:
    """The client: starts the server, sends requests."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, folder: Path, *words: object, **wish: Any) -> Outcome:
        """Run clipkit in a folder and wait for its end.

        Wishes: `kill` (signal number) after `seconds`, or before the change number `event` to the file system below
        the folder; `stdin`, `stdout`: paths; `limits`: resource limits by name; `memory`: bytes beside
        what is taken; `env`; `shard`: rows a shard; `fake`:
        an encoder that costs nothing; `close`: standard streams that are closed; `slow`: seconds a batch takes.
        """
        self.start(folder, *words, **wish)
        return self.wait()

    def start(self, folder: Path, *words: object, **wish: Any) -> int:
        """Start clipkit; its process id."""
        self.out, self.err, self.count = (
            self.scratch / name for name in ("stdout", "stderr", "events")
        )
        names = {
            "stdout": str(self.out),
            "stderr": str(self.err),
            "count": str(self.count),
            "cwd": str(folder),
        }
        return self._ask({**names, "words": [str(word) for word in words], **wish})["pid"]

    def wait(self) -> Outcome:
        """Wait for the child that was started last."""
        ended = self._ask({"wait": True})
        out = self.out.read_bytes() if self.out.is_file() else b""
        events = len(self.count.read_bytes()) if self.count.exists() else 0
        return Outcome(ended["code"], out, self.err.read_text(), ended["seconds"], events)

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def close(self) -> None:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.close()
        self.server.wait()
        self.server.stdout.close()


@functools.cache
def shared() -> Zygote:
    """The one server of a test run."""
    server = Zygote(Path(tempfile.mkdtemp(prefix="clipkit-zygote-")))
    atexit.register(shutil.rmtree, server.scratch)
    atexit.register(server.close)
    return server


def child(wish: dict[str, Any]) -> None:
    """Become the clipkit that was asked for."""
    os.chdir(wish["cwd"])
    os.environ.update(wish.get("env", {}))
    for number, name, flags in (
        (0, "stdin", os.O_RDONLY),
        (1, "stdout", os.O_WRONLY),
        (2, "stderr", os.O_WRONLY),
    ):
        flags |= 0 if number == 0 else os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(wish.get(name, os.devnull), flags, 0o666), number)
    for number in wish.get("close", []):
        os.close(number)
    _streams(wish.get("close", []))
    import resource

    for name, limit in wish.get("limits", {}).items():
        resource.setrlimit(getattr(resource, name), (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if "memory" in wish:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(
            resource.RLIMIT_AS, (pages * resource.getpagesize() + wish["memory"],) * 2
        )
    from clipkit import cli
    from clipkit.embedding import shards

    shards.SHARD = wish.get("shard", shards.SHARD)
    if wish.get("fake"):
        _fake(wish.get("slow", 0.0))
    _watch(wish)
    sys.argv = ["clipkit", *wish["words"]]
    cli.main()


def _streams(closed: list[int]) -> None:
    """Python's own streams anew, over the descriptors as they are now."""
    encodings: dict[str, Any] = {"encoding": "utf-8", "closefd": False}
    sys.stdin = None if 0 in closed else open(0, **encodings)
    sys.stdout = None if 1 in closed else open(1, "w", **encodings)
    sys.stderr = (
        None if 2 in closed else open(2, "w", errors="backslashreplace", buffering=1, **encodings)
    )


def _fake(slow: float) -> None:
    import numpy as np

    from clipkit import models

    class Encoder:
        details = {"name": "fake", "digest": "sha256:0", "logit_scale": 100.0}

        def preprocess(self, images: list[Any]) -> Any:
            return np.stack([np.asarray(image.resize((4, 4)), np.float32) for image in images])

        def encode_images(self, pixels: Any) -> Any:
            time.sleep(slow)
            return pixels.reshape(len(pixels), -1) / 255

    models.load = lambda *_, **__: Encoder()  # type: ignore[assignment, return-value]


def _watch(wish: dict[str, Any]) -> None:
    """Count the changes to the file system below the folder; before one of them, send the signal."""
    here, at = os.path.realpath(wish["cwd"]), wish.get("event")
    count = os.open(wish["count"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    seen = 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen
        writes = (
            event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if not (writes or event in CHANGES) or not isinstance(args[0], (str, os.PathLike)):
            return
        if os.path.realpath(os.path.dirname(os.path.abspath(os.fspath(args[0])))).startswith(here):
            seen += 1
            os.write(count, b".")
            if seen == at:
                os.kill(os.getpid(), wish["kill"])

    sys.addaudithook(hook)


def serve() -> None:
    """Fork a child for each request."""
    import torch

    torch.set_num_threads(1)  # a pool of threads would not survive the fork
    for name in (
        "h5py",
        "PIL.Image",
        "transformers.models.clip.modeling_clip",
        "clipkit.cli",
        "clipkit.embedding",
    ):
        importlib.import_module(name)
    for name in ("datasets", "models", "store", "scores", "tables", "metrics", "prompts"):
        importlib.import_module(f"clipkit.{name}")
    with contextlib.suppress(ImportError):  # what is loaded late anyway
        importlib.import_module("typer._adapters")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    pid, wish, began = 0, {}, 0.0
    for line in sys.stdin:
        request = json.loads(line)
        if "words" in request:
            wish, began = request, time.monotonic()
            pid = os.fork()
            if not pid:
                answers.close()
                signal.signal(signal.SIGINT, signal.default_int_handler)
                leave(wish)
            answer = {"pid": pid}
        else:
            answer = {"code": reap(pid, wish, began), "seconds": time.monotonic() - began}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def leave(wish: dict[str, Any]) -> NoReturn:
    """Run the child to its exit code; where nothing is to be learned from the interpreter's end, that is skipped."""
    try:
        child(wish)
    except SystemExit as left:
        if not wish.get("fake"):
            raise
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        os._exit(left.code if isinstance(left.code, int) else 1 if left.code else 0)
    sys.exit(0)


def reap(pid: int, wish: dict[str, Any], began: float) -> int:
    """The end of a child, which is sent its signal if it lives for so long."""
    if "seconds" in wish:
        while time.monotonic() - began < wish["seconds"]:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.002)
        os.kill(pid, wish["kill"])
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    serve()
