"""Ray within a process, images that end the process which decodes them, and files of images.

Ray's workers import this module.
"""

from __future__ import annotations

import functools
import io
import os
import signal
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipkit import datasets
from clipkit.base import console
from clipkit.datasets import ImageDataset


@dataclass
class Deadly:
    """Images of which some send a signal to their process.

    `log` counts how often, and `most` limits it.
    """

    images: Any
    is_deadly: np.ndarray  # (N,) bool
    log: Path
    most: int
    signal: int

    def image(self, i: int) -> Any:
        if self.is_deadly[i] and (not self.log.exists() or self.log.stat().st_size < self.most):
            with self.log.open("a") as log:
                log.write("x")
            os.kill(os.getpid(), self.signal)
        return self.images.image(i)

    def take(self, rows: Any) -> Deadly:
        return Deadly(
            self.images.take(rows), self.is_deadly[rows], self.log, self.most, self.signal
        )

    def fingerprint(self) -> str:
        return self.images.fingerprint()


def make_deadly(row: int, log: Path, most: int = 1000, number: int = signal.SIGKILL) -> None:
    """Let every data set from now on have one deadly image in its split test."""
    load = datasets.load

    def load_deadly(*names: Any, **options: Any) -> Any:
        data = load(*names, **options)
        split = data.splits["test"]
        source = Deadly(split.source, np.arange(len(split)) == row, log, most, number)
        data.splits["test"] = ImageDataset(split.ids, split.labels, source)
        return data

    datasets.load = load_deadly


@dataclass(eq=False)
class Call:
    """A reference of Ray to the result of a call."""

    worker: int
    method: str
    result: Callable[[], Any]


class FakeRay:
    """Ray in this process. What is called is done when `get` asks for its result.

    Attributes
    ----------
    dies : callable
        Whether the worker of this number dies of a call of this method, and so does the one that
        Ray starts in its place.
    hangs : callable
        Whether the worker of this number gives no answer to a call of this method, for now.
    after : callable
        What happens on this machine after a call of this method.
    is_alive : bool
        Whether the node of this process lives.
    seconds : float
        The time, which passes only while all workers hang.
    """

    class exceptions:  # noqa: N801 (a module of Ray)
        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            pass

    def __init__(self, dies: Callable[[int, str], bool] = lambda *_: False) -> None:
        self.dies = dies
        self.hangs: Callable[[int, str], bool] = lambda *_: False
        self.after: Callable[[str], Any] = lambda _: None
        self.is_alive = True
        self.seconds = 0.0
        self.workers = 0
        self.killed: set[int] = set()
        self.cpus = [2, 2]  # of the nodes
        self.gpus = [0, 0]
        self.options: dict[str, Any] = {}  # of the workers

    def is_initialized(self) -> bool:
        return True

    def get_runtime_context(self) -> FakeRay:
        return self

    def get_node_id(self) -> str:
        return "0"

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {
                **{"NodeID": str(number), "Alive": self.is_alive},
                "Resources": {"CPU": cpus, "GPU": gpus},
            }
            for number, (cpus, gpus) in enumerate(zip(self.cpus, self.gpus, strict=False))
        ]

    def remote(self, worker: Any) -> SimpleNamespace:
        def options(**options: Any) -> SimpleNamespace:
            self.options = options
            return SimpleNamespace(remote=functools.partial(self.actor, worker))

        return SimpleNamespace(options=options)

    def actor(self, worker: Any, *options: Any) -> SimpleNamespace:
        actor, number = worker(*options), self.workers
        self.workers += 1

        def method(name: str) -> SimpleNamespace:
            def remote(*arguments: Any) -> Call:
                return Call(number, name, lambda: self._call(actor, number, name, arguments))

            return SimpleNamespace(remote=remote)

        names = ("start", "encode", "__ray_ready__")
        return SimpleNamespace(number=number, **{name: method(name) for name in names})

    def _call(self, actor: Any, number: int, name: str, arguments: Any) -> Any:
        if number in self.killed:
            raise self.exceptions.RayError("It was killed.")
        if self.dies(number, name):
            raise self.exceptions.RayError("The worker died.\nNo module named 'clipkit'")
        try:
            return getattr(actor, name)(*arguments)
        finally:
            console.set_quiet(False)  # the worker is in this process

    def wait(self, references: list[Call], timeout: float) -> tuple[list[Call], list[Call]]:
        for reference in references:
            if reference.worker in self.killed or not self.hangs(
                reference.worker, reference.method
            ):
                return [reference], [other for other in references if other is not reference]
        self.seconds += 70
        return [], references

    def get(self, reference: Call) -> Any:
        reply = reference.result()
        self.after(reference.method)
        return reply

    def kill(self, actor: Any) -> None:
        self.killed.add(actor.number)


def write_images(images: list[Image.Image], folder: Path, form: str) -> ImageDataset:
    """Write images as files, a tar or a Parquet file, and read them."""
    contents = []
    for image in images:
        stream = io.BytesIO()
        image.save(stream, "PNG")
        contents.append(stream.getvalue())
    if form == "files":
        for number, content in enumerate(contents):
            (folder / f"{number:04}.png").write_bytes(content)
        return datasets.load(str(folder)).splits["all"]
    path = folder / f"images.{form}"
    if form == "tar":
        with tarfile.open(path, "w") as archive:
            for number, content in enumerate(contents):
                member = tarfile.TarInfo(f"{number:04}.png")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    else:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        column = pa.array([{"bytes": content, "path": None} for content in contents])
        pq.write_table(pa.table({"image": column}), path, row_group_size=100)
    return datasets.load(str(path)).splits["all"]
