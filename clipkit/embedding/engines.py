"""Engines encode the shards of a run: `LocalEngine` in this process, `RayEngine` on a cluster.

The embeddings of a shard are a function of its images, the model and the batch size. They depend
neither on other shards nor on the order, the process or the machine. So an engine only turns shards
into embeddings; the caller reads the data set, writes files and decides what continues.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from joblib import cpu_count  # type: ignore[import-untyped]
from numpy.typing import NDArray

from clipkit import models
from clipkit.base import console
from clipkit.base.errors import ImageError
from clipkit.base.matrices import Float32
from clipkit.base.prefetch import prefetch_map
from clipkit.embedding.checkpoint import Skipped
from clipkit.models.options import RunOptions

if TYPE_CHECKING:
    from clipkit.datasets.dataset import ImageDataset
    from clipkit.models import Encoder, EncoderDescription

MOST_WORKERS = 8  # threads by default

Report = Callable[[int, list[Skipped]], None]  # the number of further images, and the skipped ones


@dataclass(frozen=True, eq=False)
class ShardImages:
    """The images of a shard."""

    number: int  # in the run
    split: str
    images: ImageDataset  # of the whole split
    rows: range  # of the split: the N images of the shard


@dataclass(frozen=True, eq=False)
class Encoded:
    """The embeddings of a shard."""

    shard: int  # its number
    rows: list[int]  # of the split: the n images that can be used
    embeddings: Float32 | None  # (n, D), None if n is 0
    skipped: list[Skipped]
    turned: int = 0  # images that their EXIF data turn, which is ignored


@runtime_checkable
class Engine(Protocol):
    """Encodes shards."""

    @property
    def model(self) -> EncoderDescription:
        """The image tower that encodes."""
        ...

    @property
    def batch_size(self) -> int:
        """Images that are encoded at once."""
        ...

    def encode(self, shards: Sequence[ShardImages], report: Report) -> Generator[Encoded]:
        """Yield the embeddings of each shard once, in any order.

        `report` is called after each batch or shard with its number of images and those that were
        skipped. What it raises stops the engine.
        """
        ...


def default_workers() -> int:
    """Return the number of threads that decode: as many as there are cores, at most 8."""
    return min(MOST_WORKERS, int(cpu_count()))


def load_encoder(name: str, options: RunOptions) -> Encoder:
    """Load the image tower of a run, in the process that encodes with it."""
    return models.load(name, tower="image", options=replace(options, non_blocking=True))


@dataclass(frozen=True)
class LocalEngine:
    """Encode in this process, while threads decode and preprocess the next batches.

    Several threads may call `encode`: one decodes images while the model encodes for another.
    """

    encoder: Encoder
    batch_size: int
    num_workers: int
    _turn: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def model(self) -> EncoderDescription:
        """The encoder."""
        return self.encoder

    def encode(self, shards: Sequence[ShardImages], report: Report) -> Generator[Encoded]:
        """Yield the embeddings of each shard, in order. Threads prepare later batches, too."""
        tasks = []
        for shard in shards:
            for start in range(0, len(shard.rows), self.batch_size):
                tasks.append((shard, shard.rows[start : start + self.batch_size]))
        prepare = functools.partial(_prepare_batch, self.encoder)
        batches = prefetch_map(prepare, tasks, self.num_workers, ahead=self.num_workers + 1)
        console.detail(
            f"{self.num_workers} threads decode images, {self.batch_size} images in a batch"
        )
        with contextlib.closing(batches):
            for shard in shards:
                rows: list[int] = []
                skipped: list[Skipped] = []
                embeddings: list[NDArray[np.float32]] = []
                turned = 0
                while len(rows) + len(skipped) < len(shard.rows):  # no batch crosses its edge
                    batch = next(batches)
                    if batch.rows:
                        with self._turn:
                            embeddings.append(self.encoder.encode_images(batch.pixels))
                    rows += batch.rows
                    skipped += batch.skipped
                    turned += batch.turned
                    report(len(batch.rows) + len(batch.skipped), batch.skipped)
                # (B, D) each -> (n, D); waits for the device
                joined = np.concatenate(embeddings) if embeddings else None
                yield Encoded(shard.number, rows, joined, skipped, turned)


@dataclass(frozen=True)
class Batch:
    """Images of one shard that were decoded and preprocessed together."""

    rows: list[int]  # of the split: the B images that can be used
    pixels: Any  # Tensor (B, 3, H, W), or None if B is 0
    skipped: list[Skipped]
    turned: int = 0  # see `Encoded`


def _prepare_batch(encoder: Encoder, task: tuple[ShardImages, range]) -> Batch:
    """Decode and preprocess the images of a batch."""
    from clipkit.datasets.images import is_turned  # loads Pillow

    shard, batch_rows = task
    images: list[Any] = []
    rows: list[int] = []
    skipped: list[Skipped] = []
    for row in batch_rows:
        try:
            images.append(shard.images.image(row))
            rows.append(row)
        except ImageError as error:
            image = {"split": shard.split, "id": shard.images.ids[row], "reason": error.message}
            skipped.append(image)
    pixels = encoder.preprocess(images) if images else None
    return Batch(rows, pixels, skipped, sum(map(is_turned, images)))
