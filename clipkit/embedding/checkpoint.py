"""The work folder of a run: its lock, its manifest, and the shards that are finished."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clipkit import features
from clipkit.errors import ClipkitError, UsageError
from clipkit.files import atomic_write

SHARD = 1024
# What a work folder holds, in the order in which it is removed: what is left after each step is sound.
OURS = [r"\d{5}\.json", r"\d{5}\.h5", r"manifest\.json", r"\..*\.tmp", r"lock"]


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
        """Image i; raises ImageError."""

    def fingerprint(self) -> str:
        """What changes when the images do."""


@dataclass(frozen=True)
class Shard:
    """A run of rows of one split: its number in the work folder and its images' numbers in the split."""

    number: int
    split: str
    rows: range


@dataclass(frozen=True)
class Work:
    """A folder of shards, locked for one process. Use `working` to get one."""

    folder: Path
    shards: list[Shard]
    run: str  # SHA-256 of what determines the result
    damaged: list[int] = field(default_factory=list)  # shards that were found so and dropped

    def done(self, shard: Shard) -> bool:
        """Whether the shard is finished."""
        return self._path(shard, "json").exists()

    def _path(self, shard: Shard, ending: str) -> Path:
        return self.folder / f"{shard.number:05d}.{ending}"

    def _history(self, shard: Shard) -> features.History:
        return [{"command": "embed", "run": self.run, "shard": shard.number}]

    def save(self, shard: Shard, split: features.Split, skipped: list[dict[str, str]]) -> None:
        """Write a finished shard; its JSON comes last."""
        if len(split):
            file = features.FeatureFile("images", self._history(shard), {shard.split: split})
            features.write(self._path(shard, "h5"), file, force=True)
        _write_json(
            self._path(shard, "json"), {"rows": len(split), "run": self.run, "skipped": skipped}
        )

    def load(self, shard: Shard) -> tuple[features.Split | None, list[dict[str, str]]]:
        """A finished shard's rows (None if it has none) and what it skipped."""
        path = self._path(shard, "json")
        try:
            found = _read_json(path)
            skipped, count = found["skipped"], found["rows"]
            sound = found["run"] == self.run and len(skipped) + count == len(shard.rows)
            split = None
            if sound and count:
                file = features.read(self._path(shard, "h5"), trusted=True)
                split = file.splits.get(shard.split)
                sound = (
                    file.history == self._history(shard)
                    and split is not None
                    and len(split) == count
                )
        except (KeyError, TypeError):
            sound = False
        if not sound:
            raise ClipkitError(
                f"{path} must belong to its shard and to this run; it does not",
                "run the command again",
            )
        return split, skipped

    def drop_damaged(self) -> None:
        """Drop finished shards that are not sound; they are made again."""
        for shard in filter(self.done, self.shards):
            try:
                self.load(shard)
            except ClipkitError:
                self._path(shard, "json").unlink()
                self.damaged.append(shard.number)

    def remove(self) -> None:
        """Remove the folder, when what it holds was published."""
        _clear(self.folder, OURS)


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
    wanted = json.loads(features.canonical_json(manifest))
    with _locked(folder):
        path = folder / "manifest.json"
        if restart or not path.exists():
            _clear(folder, OURS[:4])
            _write_json(path, wanted)
        _check_manifest(_read_json(path), wanted, folder)
        _clear(folder, OURS[3:4])
        work = Work(
            folder,
            shards_of(splits),
            hashlib.sha256(features.canonical_json(wanted).encode()).hexdigest(),
        )
        work.drop_damaged()
        yield work


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Make the folder and hold its lock, which the system frees when the process ends in whatever way."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = (folder / "lock").open("a")
        except FileNotFoundError:  # another process has just finished and removed the folder
            continue
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                hint = "wait for it, or choose another output"
                raise ClipkitError(
                    f"{folder} must be free; another clipkit is writing there", hint
                ) from error
            except OSError:  # a file system without locks
                pass
            if _is_at(lock, folder / "lock"):
                yield
                return


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether an open file is still the one at this path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _clear(folder: Path, names: list[str]) -> None:
    """Remove what is ours in a work folder, kind by kind, and the folder if nothing else is in it."""
    for pattern in names:
        for path in sorted(folder.iterdir()):
            if re.fullmatch(pattern, path.name):
                path.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()


def _check_manifest(old: dict[str, Any], new: dict[str, Any], folder: Path) -> None:
    before, now = _flat(old), _flat(new)
    changed = [
        f"{k} was {str(before.get(k))[:60]}, is {str(now.get(k))[:60]}"
        for k in sorted(before | now)
        if before.get(k) != now.get(k)
    ]
    if changed:
        hint = "run the old command to continue, or add --restart to start over"
        raise UsageError(
            f"{folder} must be continued as it was begun; {'; '.join(changed[:3])}", hint
        )


def _flat(value: Any, at: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {at: value}
    return {
        key: leaf
        for name, part in value.items()
        for key, leaf in _flat(part, f"{at}.{name}".strip(".")).items()
    }


def _write_json(path: Path, value: Any) -> None:
    with atomic_write(str(path), force=True) as temporary:
        temporary.write_text(features.canonical_json(value), encoding="utf-8")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ClipkitError(
            f"{path} must be whole; it is damaged", "add --restart to start over"
        ) from error
