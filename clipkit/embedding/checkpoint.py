"""The checkpoint of a run: a folder of shards, from which an interrupted run continues.

- `NNNNN.h5` is a shard: a feature file with the embeddings of at most 1,024 images of one split.
  Its history names the run, the shard's number and the images that were skipped.
- `NNNNN.json` is that history alone, of a shard without usable images that a part has finished.
- `manifest.json` holds everything that determines the result. A run with another manifest is
  refused.
- `lock` is locked (flock) while a process writes here. The system frees it when that process ends,
  in whatever way. The parts of a run share it. A whole run, and the part that publishes, have it
  alone. Where a file system has no locks, several may publish: they write the same bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from clipkit import features
from clipkit.base import console
from clipkit.base.errors import ClipkitError, UsageError, shorten
from clipkit.base.files import atomic_write, read_bytes
from clipkit.base.matrices import BlockMatrix, Float32
from clipkit.features.model import FeatureFile, Split
from clipkit.features.overview import flatten

if TYPE_CHECKING:
    from clipkit.datasets.dataset import ImageDataset

SHARD_ROWS = 1024

# The files of a folder: two regular expressions and two names.
SHARDS = r"\d{5,}\.(h5|json)"
TEMPORARY = r"\.(manifest\.json|\d{5,}\.(h5|json))\..*\.tmp"
LOCK = "lock"
MANIFEST = "manifest.json"
MANIFEST_KEY = "images per shard"  # which every manifest of a run has
MAX_THREADS = 1024  # of PyTorch, that a manifest may ask for
ALL_COLUMNS = slice(None)
RETRIES = 100  # of opening a lock: other processes may remove its folder meanwhile
LOCK_SECONDS = 10.0  # that a part waits for one that begins a run or publishes the file
POLL_SECONDS = 0.1

Skipped = dict[str, str]  # an image that cannot be used: its split, its id and the reason


class LockedError(ClipkitError):
    """Report that another process writes to the folder."""


@dataclass(frozen=True)
class Part:
    """The share of a run that one of several processes encodes: part `number` of `count`."""

    number: int  # from 1
    count: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """Read a part as the command line writes it.

        >>> Part.parse("2/7")
        Part(number=2, count=7)
        """
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if match and 1 <= int(match[1]) <= int(match[2]):
            return cls(int(match[1]), int(match[2]))
        raise UsageError(
            f"expected --part I/N with I from 1 to N, got {shorten(text)!r}",
            "the second of seven processes has --part 2/7",
        )

    def __str__(self) -> str:
        return f"part {self.number} of {self.count}"

    def has(self, shard: int) -> bool:
        """Whether the shard with this number belongs to the part."""
        return shard % self.count == self.number - 1


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
    """A folder of shards that is locked for this process."""

    folder: Path
    run: str  # SHA-256 of the manifest; each shard names the run that it belongs to
    shards: list[Shard]
    part: Part | None = None  # None is the whole run

    def own(self) -> list[Shard]:
        """Return the shards that this process encodes, in order: all, or its part."""
        part = self.part
        return [shard for shard in self.shards if part is None or part.has(shard.number)]

    def pending(self) -> list[Shard]:
        """Return the shards that this process has to encode, in order."""
        return [shard for shard in self.own() if shard.embedded is None]

    def skipped(self) -> list[Skipped]:
        """Return the images that finished shards skipped, in the order of the data set."""
        return [image for shard in self.shards for image in shard.skipped]

    def save(self, shard: Shard, embedded: Split, skipped: list[Skipped]) -> None:
        """Write a finished shard.

        A shard that skipped all its images has no embeddings; a run that continues tries them
        again. A part writes down its history, so that the other parts see that it is finished.
        """
        history = self._history(shard, skipped)
        if len(embedded):
            file = FeatureFile("images", history, {shard.split: embedded})
            features.write(self._path(shard), file, force=True)
        elif self.part is not None:
            _write_text(self._empty_path(shard), features.canonical_json(history), force=True)
        self._finish(shard, embedded, skipped)

    def load_finished(self, *, with_empty: bool) -> None:
        """Take over the finished shards of this process. A damaged one counts as unfinished.

        `with_empty` takes over shards without usable images, too.
        """
        # on a network file system, asking for each of 100,000 files takes minutes
        names = {path.name for path in self.folder.iterdir()}
        for shard in self.own():
            path, empty = self._path(shard), self._empty_path(shard)
            if path.name in names and not path.is_file():  # reading a FIFO would wait forever
                raise _foreign(self.folder, f"{path.name} that is not a file")
            try:
                if path.name in names:
                    file = features.read(path, kinds=["images"])
                    self._take(path, shard, file.history, file.splits.get(shard.split, Split()))
                elif with_empty and empty.name in names and empty.is_file():
                    self._take(empty, shard, _read_json(empty), Split())
            except ClipkitError as error:
                console.warn(f"embedding the images of a damaged shard again: {error.message}")

    def _take(self, path: Path, shard: Shard, history: Any, embedded: Split) -> None:
        """Take over a shard that an earlier process wrote. It must belong to this run."""
        skipped: list[Skipped] = []
        if isinstance(history, list) and history and isinstance(history[0], dict):
            skipped = history[0].get("skipped", [])
        is_of_run = history == self._history(shard, skipped)
        if not is_of_run or len(embedded) + len(skipped) != len(shard.rows):
            raise ClipkitError(f"{path}: expected shard {shard.number} of this run, got another")
        self._finish(shard, embedded, skipped)

    def _finish(self, shard: Shard, embedded: Split, skipped: list[Skipped]) -> None:
        def iter_blocks() -> Iterator[Float32]:
            with features.open_file(self._path(shard)) as file:
                yield from file.splits[shard.split].features.iter_blocks()

        if len(embedded):
            embedded = replace(embedded, features=BlockMatrix(embedded.features.shape, iter_blocks))
        shard.embedded = embedded
        shard.skipped = skipped

    def drop_own(self) -> None:
        """Remove the shards of a part that starts over; other parts keep theirs."""
        for shard in self.own():
            self._path(shard).unlink(missing_ok=True)
            self._empty_path(shard).unlink(missing_ok=True)

    def is_empty(self) -> bool:
        """Whether no image was embedded, so that there is nothing to continue."""
        return not any(shard.embedded for shard in self.shards)

    def join(self, columns: slice = ALL_COLUMNS) -> dict[str, Split]:
        """Join all shards into splits with features that are read shard by shard.

        Only `columns` of the features are taken, such as those of one layer.
        """
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
            splits[name] = _concatenate(parts, columns)
        return splits

    def remove(self) -> None:
        """Remove the folder after its content was published, unless it holds other files, too."""
        # in this order, a killed process leaves a folder that the next run can use
        for pattern in (SHARDS, re.escape(MANIFEST), TEMPORARY, LOCK):
            _remove_files(self.folder, pattern)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _path(self, shard: Shard) -> Path:
        return self.folder / f"{shard.number:05d}.h5"

    def _empty_path(self, shard: Shard) -> Path:
        return self._path(shard).with_suffix(".json")

    def _history(self, shard: Shard, skipped: list[Skipped]) -> features.History:
        entry = {"command": "embed", "run": self.run, "shard": shard.number, "skipped": skipped}
        return features.History([entry])


def _concatenate(parts: list[Split], columns: slice) -> Split:
    """Join the rows of several splits, and take columns of their features."""
    ids: list[str] = []
    for part in parts:
        ids += part.ids
    labels = None
    if parts[0].labels is not None:
        labels = np.concatenate([part.labels for part in parts])
    width = len(range(*columns.indices(parts[0].features.shape[1])))

    def iter_blocks() -> Iterator[Float32]:
        for part in parts:
            for block in part.features.iter_blocks():
                yield np.ascontiguousarray(block[:, columns])

    return Split(BlockMatrix((len(ids), width), iter_blocks), labels, ids)


# The order on disk. A process looks at the folder before it puts a lock there, so that nothing of
# another program is touched. It takes the lock, writes the manifest, and then shards, one by one;
# each file gets its name when it is whole. Whoever publishes writes the outputs first and removes
# the folder last: shards, manifest, temporary files, lock. So a process that is killed at any time
# leaves shards that name their run, or a published file, or both.


@contextlib.contextmanager
def open_whole(
    folder: Path,
    splits: Mapping[str, ImageDataset],
    parameters: dict[str, Any],
    *,
    restart: bool = False,
) -> Iterator[Checkpoint]:
    """Open the checkpoint of a run, or begin one, and hold its lock alone.

    `parameters` hold all that determines the result, except the images, in types that JSON has. A
    run with other parameters or images is refused, unless `restart` drops its shards or it has
    none.
    """
    text = _manifest(splits, parameters)
    _check_folder(folder)
    with _locked(folder):
        _begin(folder, text, restart=restart)
        checkpoint = _read(folder, splits, text, restart=restart)
        _remove_files(folder, TEMPORARY)
        checkpoint.load_finished(with_empty=False)
        yield checkpoint


@contextlib.contextmanager
def open_part(
    folder: Path,
    splits: Mapping[str, ImageDataset],
    parameters: dict[str, Any],
    part: Part,
    *,
    restart: bool = False,
) -> Iterator[Checkpoint]:
    """Open the checkpoint of a run for one of its parts, or begin one, and share its lock.

    `restart` drops all shards of another run, but only the part's shards of the same run.
    """
    text = _manifest(splits, parameters)
    _check_folder(folder)
    # if other parts are at work, there is a manifest, which stays
    with contextlib.suppress(LockedError), _locked(folder):
        is_other = _read_manifest(folder) != json.loads(text)
        _begin(folder, text, restart=restart and is_other)
    with _locked(folder, shared=True, seconds=LOCK_SECONDS):
        if not (folder / MANIFEST).exists():  # other parts may write it now
            with contextlib.suppress(UsageError):
                _write_text(folder / MANIFEST, text, force=False)
        checkpoint = _read(folder, splits, text, part, restart=restart)
        if restart:
            checkpoint.drop_own()
        checkpoint.load_finished(with_empty=False)
        yield checkpoint


@contextlib.contextmanager
def open_to_publish(
    folder: Path, splits: Mapping[str, ImageDataset], parameters: dict[str, Any]
) -> Iterator[Checkpoint]:
    """Open a checkpoint with the shards that all parts have finished, and hold its lock alone.

    Raises
    ------
    LockedError
        If other parts are at work.
    """
    text = _manifest(splits, parameters)
    with _locked(folder, seconds=LOCK_SECONDS, create=False):
        checkpoint = _read(folder, splits, text)
        checkpoint.load_finished(with_empty=True)
        yield checkpoint


def _read(
    folder: Path,
    splits: Mapping[str, ImageDataset],
    text: str,
    part: Part | None = None,
    *,
    restart: bool = False,
) -> Checkpoint:
    """Check that a folder has this manifest, and return its shards; none is loaded.

    A folder of a run with other parameters or images is refused with a list of what differs.
    """
    earlier = _read_manifest(folder)
    if not earlier:
        hint = "add --restart to start over"
        raise ClipkitError(f"{folder / MANIFEST}: expected JSON, got a damaged file", hint)
    before = flatten(earlier, ".")
    now = flatten(json.loads(text), ".")
    changes = []
    for name in sorted(before | now):
        old = before.get(name, "absent")
        new = now.get(name, "absent")
        if old != new:
            changes.append(f"{name} was {shorten(old)}, is {shorten(new)}")
    if changes:
        hint = "run the old command to continue, or add --restart to start over"
        if restart:
            hint = "other parts of that run are at work: stop them first"
        raise UsageError(f"{folder} belongs to another run: {'; '.join(changes)}", hint)
    shards: list[Shard] = []
    for name, split in sorted(splits.items()):
        for rows in _shard_rows(len(split), earlier[MANIFEST_KEY], earlier.get("batch_size", 1)):
            shards.append(Shard(len(shards), name, rows))
    run = hashlib.sha256(text.encode()).hexdigest()
    return Checkpoint(folder, run, shards, part)


def check_shard_size(size: int | None) -> int:
    """Return the number of images in a shard, SHARD_ROWS by default."""
    if size is not None and not 1 <= size <= SHARD_ROWS:
        raise UsageError(f"shard-size: expected 1 to {SHARD_ROWS} images, got {size}")
    return SHARD_ROWS if size is None else size


def _shard_rows(count: int, size: int, batch_size: int) -> Iterator[range]:
    """Yield the rows of each shard of a split.

    Smaller shards divide those of SHARD_ROWS, between two of their batches, so that the batches,
    and with them the last bits of embeddings, are the same for every size.
    """
    step = size
    if size < SHARD_ROWS:
        step = max(size // batch_size, 1) * batch_size
    for start in range(0, count, SHARD_ROWS):
        block = range(start, min(start + SHARD_ROWS, count))
        for first in block[::step]:
            yield range(first, min(first + step, block.stop))


def finished_shards(folder: Path) -> set[int]:
    """Return the numbers of the shards in a folder."""
    # a network file system may remember that a single file was absent, but lists a folder anew
    return {int(path.stem) for path in _find_files(folder, SHARDS)}


def _manifest(splits: Mapping[str, ImageDataset], parameters: dict[str, Any]) -> str:
    manifest = {
        MANIFEST_KEY: SHARD_ROWS,
        **parameters,
        "image files": {name: split.source.fingerprint() for name, split in splits.items()},
    }
    return features.canonical_json(manifest)


def _begin(folder: Path, text: str, *, restart: bool) -> None:
    """Write the manifest of a run that has no shards or starts over. The folder is locked."""
    path = folder / MANIFEST
    if restart or not path.exists() or not _find_files(folder, SHARDS):
        _remove_files(folder, SHARDS)
        _write_text(path, text, force=True)


def _write_text(path: Path, text: str, *, force: bool) -> None:
    with atomic_write(str(path), force=force) as temporary:
        temporary.write_text(text, encoding="utf-8")


def earlier_threads(folder: Path) -> int | None:
    """Return the number of PyTorch's threads in an interrupted run, or None if it is not known."""
    _check_folder(folder)
    number = (_read_manifest(folder) or {}).get("threads")
    if isinstance(number, int) and 1 <= number <= MAX_THREADS:
        return number
    return None


@contextlib.contextmanager
def _locked(
    folder: Path, *, shared: bool = False, seconds: float = 0, create: bool = True
) -> Iterator[None]:
    """Make the folder and hold its lock, shared or alone; wait for it at most `seconds`."""
    operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    for _ in range(RETRIES):
        try:
            if create:
                folder.mkdir(parents=True, exist_ok=True)
            lock = _open_lock(folder / LOCK)
        except FileNotFoundError:  # another process has just finished and removed the folder
            if not create:
                raise
            continue
        with lock:
            if not _lock(lock, operation, seconds):
                raise LockedError(
                    f"{folder}: another clipkit is writing there",
                    "wait for it, or choose another output",
                )
            if _is_at(lock, folder / LOCK):
                yield
                return
    raise ClipkitError(f"cannot lock {folder}: other programs keep removing it")


def _lock(lock: IO[bytes], operation: int, seconds: float) -> bool:
    """Lock a file; wait at most `seconds` for other processes. Return whether that succeeded."""
    last = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(lock, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= last:
                return False
            time.sleep(POLL_SECONDS)
        except OSError:  # a file system without locks
            return True
        else:
            return True


def _open_lock(path: Path) -> IO[bytes]:
    """Open a lock file, which is made if there is none: neither a link nor a device or FIFO."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        lock = os.fdopen(os.open(path, flags, 0o666), "r+b", buffering=0)
    except FileNotFoundError:
        raise
    except OSError as error:
        if path.is_symlink() or path.exists():
            raise _foreign(path.parent, f"a {LOCK} that is not a file of clipkit's") from error
        raise ClipkitError(f"cannot write {path}: {error.strerror}") from error
    status = os.fstat(lock.fileno())
    if not stat.S_ISREG(status.st_mode) or status.st_size:
        lock.close()
        raise _foreign(path.parent, f"a {LOCK} that is not a file of clipkit's")
    return lock


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Whether an open file is still the one at this path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _remove_files(folder: Path, pattern: str) -> None:
    for path in _find_files(folder, pattern):
        path.unlink(missing_ok=True)  # another part may remove it where there are no locks


def _find_files(folder: Path, pattern: str) -> list[Path]:
    """Return the files with names that match a pattern, in name order."""
    return [path for path in sorted(folder.iterdir()) if re.fullmatch(pattern, path.name)]


def _read_manifest(folder: Path) -> Any:
    """Return the content of a manifest, {} if it is no JSON, or None if there is no such file."""
    path = folder / MANIFEST
    if not os.path.lexists(path):
        return None
    if not path.is_file():
        raise _foreign(folder, "another manifest.json")
    return _read_json(path)


def _read_json(path: Path) -> Any:
    """Return the content of a JSON file; one that holds no JSON gives an empty object."""
    try:
        return json.loads(read_bytes(str(path)))
    except (ValueError, RecursionError):
        return {}


def _check_folder(folder: Path) -> None:
    """Refuse a folder that somebody else filled: nothing in it must be replaced or removed."""
    manifest = _read_manifest(folder)
    if manifest is None:
        try:
            names = sorted(path.name for path in folder.iterdir())
        except FileNotFoundError:
            return
        for name in names:
            if re.fullmatch(f"{LOCK}|{TEMPORARY}", name):
                continue  # a run that is killed at once leaves it
            # another part may have begun the run after the manifest was read
            if not (folder / MANIFEST).exists():
                raise _foreign(folder, f"{name} and no manifest.json")
    elif manifest and (not isinstance(manifest, dict) or MANIFEST_KEY not in manifest):
        raise _foreign(folder, "another manifest.json")


def _foreign(folder: Path, content: str) -> UsageError:
    return UsageError(
        f"{folder}: expected shards of an earlier run or an empty folder, got {content}",
        "move that folder away, or choose another output",
    )
