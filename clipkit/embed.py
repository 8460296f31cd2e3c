"""A data set through an encoder, into rows: in shards that survive an interruption, so that the next run continues.

A shard is a feature file `NNNNN.h5` of at most 1,024 images in a folder `OUT.partial`, beside `NNNNN.json` (its rows,
and the images that could not be used), which is written last and makes the shard count. `manifest.json` says what
determines the result; a run that would give another one is refused. Batches never cross a shard's edge, so that the
rows do not depend on where a run was interrupted.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clipkit import store
from clipkit.errors import BadImage, ClipkitError, UsageError
from clipkit.files import publishing

SHARD = 1024
Progress = Callable[[int, int], None]


class Images(Protocol):
    """One split of a data set."""

    @property
    def ids(self) -> Sequence[str]:
        """Of each image."""

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Of each image (N), or None."""

    def __len__(self) -> int: ...
    def image(self, i: int, /) -> Any:
        """Image i; raises BadImage."""


class ImageEncoder(Protocol):
    """What turns images into embeddings."""

    def preprocess(self, images: list[Any], /) -> Any:
        """B images -> pixels (B, 3, H, W); called from several threads."""

    def encode_images(self, pixels: Any, /) -> NDArray[np.float32]:
        """Pixels (B, 3, H, W) -> embeddings (B, D)."""


@dataclass(frozen=True)
class Shard:
    """A run of rows of one split: its number in the work folder and its images' numbers in the split."""

    number: int
    split: str
    rows: range


@dataclass
class Batch:
    """Images that were decoded and preprocessed together, and those that could not be."""

    shard: Shard
    last: bool
    rows: list[int]
    pixels: Any
    skipped: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Work:
    """A folder of shards, locked for one process. Use `working` to get one."""

    folder: Path
    shards: list[Shard]

    def done(self, shard: Shard) -> bool:
        """Whether the shard is finished."""
        return self._path(shard, "json").exists()

    def _path(self, shard: Shard, ending: str) -> Path:
        return self.folder / f"{shard.number:05d}.{ending}"

    def save(self, shard: Shard, split: store.Split, skipped: list[dict[str, str]]) -> None:
        """Write a finished shard; its JSON comes last."""
        if len(split):
            file = store.FeatureFile("images", [{"command": "embed", "shard": shard.number}], {shard.split: split})
            store.write(self._path(shard, "h5"), file, force=True)
        _write_json(self._path(shard, "json"), {"rows": len(split), "skipped": skipped})

    def load(self, shard: Shard) -> tuple[store.Split | None, list[dict[str, str]]]:
        """A finished shard's rows (None if it has none) and what it skipped."""
        found = _read_json(self._path(shard, "json"))
        split = store.read(self._path(shard, "h5")).splits[shard.split] if found["rows"] else None
        return split, found["skipped"]

    def remove(self) -> None:
        """Remove the folder, when what it holds was published."""
        shutil.rmtree(self.folder, ignore_errors=True)


def shards_of(splits: Mapping[str, Images]) -> list[Shard]:
    """Cut the splits, in the order of their names, into shards."""
    found: list[Shard] = []
    for name, split in sorted(splits.items()):
        for start in range(0, len(split), SHARD):
            found.append(Shard(len(found), name, range(start, min(start + SHARD, len(split)))))
    return found


@contextlib.contextmanager
def working(
    folder: Path, splits: Mapping[str, Images], manifest: dict[str, Any], *, restart: bool = False
) -> Iterator[Work]:
    """Open, or make, the work folder of a run and hold its lock.

    Parameters
    ----------
    folder : Path
    splits : dict of str to Images
    manifest : dict
        Everything that determines the result, for JSON. A folder made under another one is refused.
    restart : bool
        Drop what an earlier run left.

    Raises
    ------
    ClipkitError
        If another process works here.
    UsageError
        If what determines the result has changed since the shards were made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ClipkitError(f"{folder} must be free; another clipkit is writing there") from error
        if restart:
            for path in folder.iterdir():
                if path.name != "lock":
                    path.unlink()
        path = folder / "manifest.json"
        if path.exists():
            _check_manifest(_read_json(path), json.loads(store.dump(manifest)), folder)
        else:
            _write_json(path, manifest)
        yield Work(folder, shards_of(splits))


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
    BadImage
        If `strict` and an image cannot be used.
    """
    done = sum(len(shard.rows) for shard in work.shards if work.done(shard))
    total = sum(len(shard.rows) for shard in work.shards)
    features: list[NDArray[np.float32]] = []
    rows: list[int] = []
    skipped: list[dict[str, str]] = []
    todo = [shard for shard in work.shards if not work.done(shard)]
    for batch in _batches(todo, splits, encoder, batch_size, workers):
        if strict and batch.skipped:
            raise BadImage(
                f"{batch.skipped[0]['id']} must be an image: {batch.skipped[0]['reason']}",
                "without --strict it is skipped",
            )
        if batch.rows:
            features.append(encoder.encode_images(batch.pixels))
        rows += batch.rows
        skipped += batch.skipped
        done += len(batch.rows) + len(batch.skipped)
        progress(done, total)
        if batch.last:
            split = splits[batch.shard.split]
            labels = None if split.labels is None else split.labels[rows]
            made = store.Split(np.concatenate(features) if rows else None, labels, [split.ids[i] for i in rows])
            work.save(batch.shard, made, skipped)
            features, rows, skipped = [], [], []


def _batches(
    todo: list[Shard], splits: Mapping[str, Images], encoder: ImageEncoder, size: int, workers: int
) -> Iterator[Batch]:
    """Batches in order, a few of them being prepared ahead in threads."""

    def prepare(shard: Shard, part: range) -> Batch:
        images, rows, skipped = [], [], []
        for i in part:
            try:
                images.append(splits[shard.split].image(i))
                rows.append(i)
            except BadImage as error:
                skipped.append({"id": splits[shard.split].ids[i], "reason": error.message})
        pixels = encoder.preprocess(images) if images else None
        return Batch(shard, part.stop == shard.rows.stop, rows, pixels, skipped)

    ahead: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for shard in todo:
                for start in range(shard.rows.start, shard.rows.stop, size):
                    ahead.append(pool.submit(prepare, shard, range(start, min(start + size, shard.rows.stop))))
                    if len(ahead) > workers + 1:
                        yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def collect(
    work: Work, *, normalize: Callable[[Any], Any] | None = None
) -> tuple[dict[str, store.Split], list[dict[str, str]]]:
    """Join the shards: splits whose features are read shard by shard when they are written, and what was skipped.

    Raises
    ------
    ClipkitError
        If no image of a split could be used.
    """
    parts: dict[str, list[Shard]] = {}
    width = 0
    splits: dict[str, store.Split] = {}
    skipped: list[dict[str, str]] = []
    for shard in work.shards:
        made, bad = work.load(shard)
        skipped += [{"split": shard.split, **item} for item in bad]
        joined = splits.setdefault(shard.split, store.Split())
        if made is not None:
            parts.setdefault(shard.split, []).append(shard)
            width = made.features.shape[1]
            joined.ids += made.ids
            if made.labels is not None:
                joined.labels = made.labels if joined.labels is None else np.concatenate([joined.labels, made.labels])
    for name, split in splits.items():
        if name not in parts:
            raise ClipkitError(f"at least one image of {name} must be usable; none is: {skipped[0]['reason']}")
        split.features = store.Rows((len(split), width), functools.partial(_rows, work, parts[name], normalize))
    return splits, skipped


def _rows(work: Work, parts: list[Shard], normalize: Callable[[Any], Any] | None) -> Iterator[NDArray[np.float32]]:
    for shard in parts:
        made, _ = work.load(shard)
        if made is not None:
            yield made.features if normalize is None else normalize(made.features)


def _check_manifest(old: dict[str, Any], new: dict[str, Any], folder: Path) -> None:
    before, now = _flat(old), _flat(new)
    changed = [f"{k} was {before.get(k)}, is {now.get(k)}" for k in sorted(before | now) if before.get(k) != now.get(k)]
    if changed:
        hint = "run the old command to continue, or add --restart to start over"
        raise UsageError(f"{folder} must be continued as it was begun; {'; '.join(changed[:3])}", hint)


def _flat(value: Any, at: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {at: value}
    return {key: leaf for name, part in value.items() for key, leaf in _flat(part, f"{at}.{name}".strip(".")).items()}


def _write_json(path: Path, value: Any) -> None:
    with publishing(str(path), force=True) as temporary:
        temporary.write_text(store.dump(value), encoding="utf-8")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ClipkitError(f"{path} must be whole; it is damaged", "add --restart to start over") from error


def default_workers() -> int:
    """Threads that decode: the cores that this process may use, at most 8."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
