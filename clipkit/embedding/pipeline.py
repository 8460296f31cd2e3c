"""Images through an encoder: decoded ahead in threads, encoded in batches, kept in shards, joined at the end."""

from __future__ import annotations

import contextlib
import functools
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clipkit.embedding.checkpoint import Images, Shard, Work
from clipkit.errors import ClipkitError, ImageError
from clipkit.features import BlockMatrix, Split

Progress = Callable[[int, int], None]


class ImageEncoder(Protocol):
    """What turns images into embeddings."""

    def preprocess(self, images: list[Any], /) -> Any:
        """B images -> pixels (B, 3, H, W); called from several threads."""

    def encode_images(self, pixels: Any, /) -> NDArray[np.float32]:
        """Pixels (B, 3, H, W) -> embeddings (B, D), or an array-like that numpy waits for when a shard is joined."""


@dataclass
class Batch:
    """Images that were decoded and preprocessed together, and those that could not be."""

    shard: Shard
    last: bool
    rows: list[int]
    pixels: Any
    skipped: list[dict[str, str]] = field(default_factory=list)


def run(
    work: Work,
    splits: Mapping[str, Images],
    encoder: ImageEncoder,
    batch_size: int,
    workers: int,
    strict: bool,
    progress: Progress,
) -> None:
    """Encode every shard that is not finished yet; decoding and preprocessing overlap with encoding.

    Raises
    ------
    ImageError
        If `strict` and an image cannot be used.
    """
    finished = [shard for shard in work.shards if work.done(shard)]
    if strict:
        for shard in finished:
            _refuse_skipped(work.load(shard)[1])
    done = sum(len(shard.rows) for shard in finished)
    total = sum(len(shard.rows) for shard in work.shards)
    features: list[NDArray[np.float32]] = []
    rows: list[int] = []
    skipped: list[dict[str, str]] = []
    todo = [shard for shard in work.shards if not work.done(shard)]
    with contextlib.closing(_batches(todo, splits, encoder, batch_size, workers)) as batches:
        for batch in batches:
            if strict:
                _refuse_skipped(batch.skipped)
            split = splits[batch.shard.split]
            if batch.rows:
                features.append(encoder.encode_images(batch.pixels))
            rows += batch.rows
            skipped += batch.skipped
            done += len(batch.rows) + len(batch.skipped)
            progress(done, total)
            if batch.last:
                labels, ids = (
                    None if split.labels is None else split.labels[rows],
                    [split.ids[i] for i in rows],
                )
                joined = np.concatenate(features) if rows else None
                if joined is not None:
                    _check_finite(joined, ids)
                made = Split(joined, labels, ids)
                work.save(batch.shard, made, skipped)
                features, rows, skipped = [], [], []


def _refuse_skipped(skipped: list[dict[str, str]]) -> None:
    if skipped:
        hint = "without --strict it is skipped"
        raise ImageError(f"{skipped[0]['id']}: {skipped[0]['reason']}", hint)


def _check_finite(embeddings: NDArray[np.float32], ids: list[str]) -> None:
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(bad):
        raise ClipkitError(
            f"embeddings must be finite; the model gave NaN or Inf for {ids[bad[0]]} and {len(bad) - 1} more beside it",
            "try --precision fp32",
        )


def _batches(
    todo: list[Shard], splits: Mapping[str, Images], encoder: ImageEncoder, size: int, workers: int
) -> Generator[Batch]:
    """Batches in order, a few of them being prepared ahead in threads."""

    def prepare(shard: Shard, part: range) -> Batch:
        images, rows, skipped = [], [], []
        for i in part:
            try:
                images.append(splits[shard.split].image(i))
                rows.append(i)
            except ImageError as error:
                skipped.append({"id": splits[shard.split].ids[i], "reason": error.message})
        pixels = encoder.preprocess(images) if images else None
        return Batch(shard, part.stop == shard.rows.stop, rows, pixels, skipped)

    ahead: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for shard in todo:
                for start in range(shard.rows.start, shard.rows.stop, size):
                    ahead.append(
                        pool.submit(
                            prepare, shard, range(start, min(start + size, shard.rows.stop))
                        )
                    )
                    if len(ahead) > workers + 1:
                        yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def collect(
    work: Work, *, normalize: Callable[[Any], Any] | None = None
) -> tuple[dict[str, Split], list[dict[str, str]]]:
    """Join the shards: splits whose features are read shard by shard when they are written, and what was skipped.

    Raises
    ------
    ClipkitError
        If no image of a split could be used.
    """
    parts: dict[str, list[Shard]] = {}
    width = 0
    splits: dict[str, Split] = {}
    skipped: list[dict[str, str]] = []
    for shard in work.shards:
        made, bad = work.load(shard)
        skipped += [{"split": shard.split, **item} for item in bad]
        joined = splits.setdefault(shard.split, Split())
        if made is not None:
            parts.setdefault(shard.split, []).append(shard)
            width = made.features.shape[1]
            joined.ids += made.ids
            if made.labels is not None:
                joined.labels = (
                    made.labels
                    if joined.labels is None
                    else np.concatenate([joined.labels, made.labels])
                )
    for name, split in splits.items():
        if name not in parts:
            raise ClipkitError(
                f"at least one image of {name} must be usable; none is: {skipped[0]['reason']}",
                "mend them, and add --restart",
            )
        split.features = BlockMatrix(
            (len(split), width), functools.partial(_rows, work, parts[name], normalize)
        )
    return splits, skipped


def _rows(
    work: Work, parts: list[Shard], normalize: Callable[[Any], Any] | None
) -> Iterator[NDArray[np.float32]]:
    for shard in parts:
        made, _ = work.load(shard)
        if made is not None:
            yield made.features if normalize is None else normalize(made.features)


def default_workers() -> int:
    """Threads that decode: the cores that this process may use, at most 8."""
    return min(
        8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
