"""A worker of the Ray engine: a process on some machine that holds a copy of the model.

This module knows nothing of Ray. Whatever a user can act on is an answer, not an exception, so that
the driver can show it as one line.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clipkit import models
from clipkit.base import console
from clipkit.base.errors import ClipkitError
from clipkit.base.version import __version__
from clipkit.datasets import remote
from clipkit.datasets.images import readable_formats
from clipkit.embedding.engines import Encoded, LocalEngine, ShardImages, default_workers
from clipkit.features.describe import flatten

if TYPE_CHECKING:
    from clipkit.datasets.dataset import ImageSource
    from clipkit.models import Encoder, EncoderDescription

SAME_FILES = "all machines must see the same files; rsync -a keeps the times of copies"


@dataclass(frozen=True)
class Started:
    """The answer of a worker that has loaded the model."""

    model: EncoderDescription
    facts: dict[str, Any]  # which must be those of all workers
    warnings: str


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


class Worker:
    """Encode with a copy of the model, in its own process.

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
        notes = io.StringIO()
        console.set_quiet(True)  # warnings stay
        with contextlib.redirect_stderr(notes):
            encoder = self.load()
        self.engine = LocalEngine(encoder, self.batch_size, self.num_workers or default_workers())
        model = models.EncoderDescription(encoder.details, encoder.parts, columns=encoder.columns)
        return Started(model, facts_of(model), notes.getvalue())

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
    """Refuse tars and Parquet files on this machine that are not those of the driver.

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
