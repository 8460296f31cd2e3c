"""The checkpoint of a run: a folder of shards, from which an interrupted run continues.

- `NNNNN.h5` is a shard: a feature file with the embeddings of at most 1,024 images of one split.
  Its history names the run, the shard's number and the images that were skipped.
- `manifest.json` holds everything that determines the result. A run with another manifest is
  refused.
- `lock` is locked (flock) while a process writes here. The system frees it when that process ends,
  in whatever way.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from clipkit import console, features
from clipkit.errors import ClipkitError, UsageError
from clipkit.features import BlockMatrix, FeatureFile, Float32, History, Split
from clipkit.features.describe import flatten
from clipkit.files import atomic_write

if TYPE_CHECKING:
    from clipkit.datasets import ImageDataset

SHARD_ROWS = 1024
VERSION = 2  # of the folder; version 1 had NNNNN.json beside each shard

# The files of a folder, by regular expression.
SHARDS = r"\d{5}\.(h5|json)"
MANIFEST = r"manifest\.json"
TEMPORARY = r"\.(manifest\.json|\d{5}\.h5)\..*\.tmp"
LOCK = "lock"
MANIFEST_KEY = "images per shard"  # which every manifest of ours has
MAX_MANIFEST_BYTES = 2**24
MAX_THREADS = 1024  # of PyTorch, that a manifest may ask for
RETRIES = 100  # of opening a lock: other processes may remove its folder meanwhile

Skipped = dict[str, str]  # an image that cannot be used: its split, its id and the reason


@dataclass
class Shard:
    """The rows of one split that are stored in one file."""

    number: int  # among the shards of all splits
    split: str
    rows: range
    embedded: Split | None = None  # once it is finished; its features are read from the file
    skipped: list[Skipped] = field(default_factory=list)


@dataclass
class Checkpoint:
    """A folder of shards that is locked for this process. `open_checkpoint` opens it."""

    folder: Path
    run: str  # SHA-256 of the manifest; each shard names the run that it belongs to
    shards: list[Shard]

    def pending(self) -> list[Shard]:
        """Return the shards that are not finished, in order."""
        return [shard for shard in self.shards if shard.embedded is None]

    def skipped(self) -> list[Skipped]:
        """Return the images that finished shards skipped, in the order of the data set."""
        return [image for shard in self.shards for image in shard.skipped]

    def save(self, shard: Shard, embedded: Split, skipped: list[Skipped]) -> None:
        """Write a finished shard.

        A shard that skipped all its images has no file; a run that continues tries them again.
        """
        if len(embedded):
            history = self._history(shard, skipped)
            file = FeatureFile("images", history, {shard.split: embedded})
            features.write(self._path(shard), file, force=True)
        self._finish(shard, embedded, skipped)

    def load(self, shard: Shard) -> None:
        """Take over a shard that an earlier process wrote. It must belong to this run."""
        path = self._path(shard)
        file = features.read(path, kinds=["images"], trusted=True)
        entry = file.history[0] if file.history else {}
        skipped = entry.get("skipped", [])
        embedded = file.splits.get(shard.split, Split())
        is_ours = file.history == self._history(shard, skipped)
        if not is_ours or len(embedded) + len(skipped) != len(shard.rows):
            raise ClipkitError(f"{path}: expected shard {shard.number} of this run, got another")
        self._finish(shard, embedded, skipped)

    def _finish(self, shard: Shard, embedded: Split, skipped: list[Skipped]) -> None:
        def iter_blocks() -> Iterator[Float32]:
            yield features.read(self._path(shard), trusted=True).splits[shard.split].features

        if len(embedded):
            embedded = replace(embedded, features=BlockMatrix(embedded.features.shape, iter_blocks))
        shard.embedded = embedded
        shard.skipped = skipped

    def is_empty(self) -> bool:
        """Whether no image was embedded, so that there is nothing to continue."""
        return not any(shard.embedded for shard in self.shards)

    def join(self) -> dict[str, Split]:
        """Join all shards into splits, whose features are read shard by shard."""
        assert not self.pending(), "expected every shard to be finished"
        splits = {}
        for name in dict.fromkeys(shard.split for shard in self.shards):
            shards = [shard for shard in self.shards if shard.split == name]
            parts = [shard.embedded for shard in shards if shard.embedded]
            if not parts:
                reason = shards[0].skipped[0]["reason"]
                hint = "check the paths and the images"
                if not self.is_empty():
                    hint = "fix the images, and add --restart"
                raise ClipkitError(
                    f"{name}: expected at least one usable image, got none: {reason}", hint
                )
            splits[name] = _concatenate(parts)
        return splits

    def remove(self) -> None:
        """Remove the folder after its content was published, unless it holds other files, too."""
        # in this order, a killed process leaves a folder that the next run can use
        for pattern in (SHARDS, MANIFEST, TEMPORARY, LOCK):
            _remove_files(self.folder, pattern)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _path(self, shard: Shard) -> Path:
        return self.folder / f"{shard.number:05d}.h5"

    def _history(self, shard: Shard, skipped: list[Skipped]) -> History:
        return [{"command": "embed", "run": self.run, "shard": shard.number, "skipped": skipped}]


def _concatenate(parts: list[Split]) -> Split:
    """Join the rows of several splits."""
    ids = [row_id for part in parts for row_id in part.ids]
    labels = None
    if parts[0].labels is not None:
        labels = np.concatenate([part.labels for part in parts])
    width = parts[0].features.shape[1]

    def iter_blocks() -> Iterator[Float32]:
        for part in parts:
            yield from part.features.iter_blocks()

    return Split(BlockMatrix((len(ids), width), iter_blocks), labels, ids)


@contextlib.contextmanager
def open_checkpoint(
    folder: Path,
    splits: Mapping[str, ImageDataset],
    parameters: dict[str, Any],
    *,
    restart: bool = False,
) -> Iterator[Checkpoint]:
    """Open the checkpoint of a run, or begin one, and hold its lock.

    `parameters` are everything but the images that determines the result, as JSON can hold it. A
    run with other parameters or images is refused, unless `restart` drops its shards or it has
    none.
    """
    manifest = {
        **parameters,
        "image files": {name: split.source.fingerprint() for name, split in splits.items()},
        MANIFEST_KEY: SHARD_ROWS,
        "checkpoint version": VERSION,
    }
    text = features.canonical_json(manifest)
    content = json.loads(text)
    path = folder / "manifest.json"
    _check_ours(folder, _read_manifest(path))  # before a lock is put there
    with _locked(folder):
        earlier = _read_manifest(path)
        if restart or earlier is None or not _has_files(folder, SHARDS):
            _remove_files(folder, SHARDS)
            with atomic_write(str(path), force=True) as temporary:
                temporary.write_text(text, encoding="utf-8")
            earlier = content
        _check_manifest(path, earlier, content)
        _remove_files(folder, TEMPORARY)
        run = hashlib.sha256(text.encode()).hexdigest()
        checkpoint = Checkpoint(folder, run, _cut_into_shards(splits))
        for shard in checkpoint.shards:
            shard_path = checkpoint._path(shard)
            if not shard_path.exists():
                continue
            if not shard_path.is_file():  # reading a FIFO would wait forever
                raise _not_ours(folder, f"{shard_path.name} that is not a file")
            try:
                checkpoint.load(shard)
            except ClipkitError as error:
                console.warn(f"embedding the images of a damaged shard again: {error.message}")
        yield checkpoint


def earlier_threads(folder: Path) -> int | None:
    """Return the number of PyTorch's threads in an interrupted run, or None if it is not known."""
    manifest = _read_manifest(folder / "manifest.json")
    _check_ours(folder, manifest)
    number = (manifest or {}).get("threads")
    is_usable = isinstance(number, int) and 1 <= number <= MAX_THREADS
    return number if is_usable and _has_files(folder, SHARDS) else None


def _cut_into_shards(splits: Mapping[str, ImageDataset]) -> list[Shard]:
    """Cut the splits, in the order of their names, into shards."""
    shards: list[Shard] = []
    for name, split in sorted(splits.items()):
        for start in range(0, len(split), SHARD_ROWS):
            rows = range(start, min(start + SHARD_ROWS, len(split)))
            shards.append(Shard(len(shards), name, rows))
    return shards


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Make the folder and hold its lock."""
    for _ in range(RETRIES):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = _open_lock(folder / LOCK)
        except FileNotFoundError:  # another process has just finished and removed the folder
            continue
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ClipkitError(
                    f"{folder}: another clipkit is writing there",
                    "wait for it, or choose another output",
                ) from error
            except OSError:  # a file system without locks
                pass
            if _is_at(lock, folder / LOCK):
                yield
                return
    raise ClipkitError(f"cannot lock {folder}: other programs keep removing it")


def _open_lock(path: Path) -> IO[bytes]:
    """Open a lock file, which is made if there is none: neither a link nor a device or FIFO."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        lock = os.fdopen(os.open(path, flags, 0o666), "r+b", buffering=0)
    except FileNotFoundError:
        raise
    except OSError as error:
        if path.is_symlink() or path.exists():
            raise _not_ours(path.parent, f"a {LOCK} that is not a file of clipkit's") from error
        raise ClipkitError(f"cannot write {path}: {error.strerror}") from error
    status = os.fstat(lock.fileno())
    if not stat.S_ISREG(status.st_mode) or status.st_size:
        lock.close()
        raise _not_ours(path.parent, f"a {LOCK} that is not a file of clipkit's")
    return lock


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Whether an open file is still the one at this path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _remove_files(folder: Path, pattern: str) -> None:
    for path in sorted(folder.iterdir()):
        if re.fullmatch(pattern, path.name):
            path.unlink()


def _has_files(folder: Path, pattern: str) -> bool:
    return any(re.fullmatch(pattern, path.name) for path in folder.iterdir())


def _read_manifest(path: Path) -> Any:
    """Return the content of a manifest, or None if there is no such file.

    A file that holds no JSON gives an empty object.
    """
    if not os.path.lexists(path):
        return None
    if not path.is_file() or path.stat().st_size > MAX_MANIFEST_BYTES:
        raise _not_ours(path.parent, "another manifest.json")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return {}


def _check_ours(folder: Path, manifest: Any) -> None:
    """Refuse a folder that somebody else filled: nothing in it must be replaced or removed."""
    if manifest is None and folder.exists():
        for path in sorted(folder.iterdir()):
            # a run that was killed at once leaves its lock and temporary files
            if path.name != LOCK and not re.fullmatch(TEMPORARY, path.name):
                raise _not_ours(folder, f"{path.name} and no manifest.json")
    elif manifest and (not isinstance(manifest, dict) or MANIFEST_KEY not in manifest):
        raise _not_ours(folder, "another manifest.json")


def _not_ours(folder: Path, content: str) -> UsageError:
    return UsageError(
        f"{folder}: expected shards of an earlier run or an empty folder, got {content}",
        "move that folder away, or choose another output",
    )


def _check_manifest(path: Path, earlier: dict[str, Any], manifest: dict[str, Any]) -> None:
    if not earlier:
        hint = "add --restart to start over"
        raise ClipkitError(f"{path}: expected JSON, got a damaged file", hint)
    before = flatten(earlier, ".")
    now = flatten(manifest, ".")
    changes = []
    for name in sorted(before | now):
        old = before.get(name, "absent")
        new = now.get(name, "absent")
        if old != new:
            changes.append(f"{name} was {str(old)[:60]}, is {str(new)[:60]}")
    if changes:
        raise UsageError(
            f"{path.parent} belongs to another run: {'; '.join(changes)}",
            "run the old command to continue, or add --restart to start over",
        )
