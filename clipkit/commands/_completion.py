"""Offer the values of options and arguments to a shell that completes a command line.

A shell runs clipkit at each press of the Tab key: nothing heavy is imported here, no file is read
in whole, and whatever goes wrong, there are just no suggestions.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import typer

WORDS = "clipkit.words"  # the key in `Context.meta` of the words before the one to complete
# Importing the registry costs 0.1 s for numpy; a test holds these names equal to it.
DATASETS = (
    *("cifar10", "cifar100", "food101", "imagenette", "tiny-imagenet", "fashion-mnist"),
    *("digits", "shapes"),
)
SPLITS = ("train", "test")  # of the named data sets
TIMEOUT_SECONDS = 1  # for reading the names of the splits of all files together
FIXED_VALUE = re.compile(r"[a-z0-9-]+")  # in a metavar; what is in capitals stands for something

Complete = Callable[[typer.Context, str], list[str]]


def safely(complete: Complete) -> Complete:
    """Return a completion that offers nothing if it fails, and writes nothing."""

    @functools.wraps(complete)
    def complete_safely(ctx: typer.Context, incomplete: str) -> list[str]:
        try:
            return complete(ctx, incomplete)
        except Exception:
            return []

    return complete_safely


def of_metavar(metavar: str) -> Complete | None:
    """Return the completion of the values that a metavar lists, or None if it lists none.

    >>> of_metavar("auto|cpu|cuda:N")(None, "")
    ['auto', 'cpu']
    """
    words = metavar.split("|")
    values = [word for word in words if FIXED_VALUE.fullmatch(word)]
    if len(words) < 2 or not values:
        return None

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        return values

    return complete


@safely
def datasets(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer the named data sets. Where none fits, shells offer files and folders."""
    return list(DATASETS)


@safely
def models(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer the known models and those fetched before."""
    from clipkit.models.hub import KNOWN

    return list(dict.fromkeys([*KNOWN, *_fetched_models()]))


def _fetched_models() -> list[str]:
    """Return the repositories in the local cache, as huggingface_hub lays it out."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    home = Path(os.environ.get("HF_HOME") or cache / "huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    names = []
    for folder in sorted(hub.glob("models--*--*")):
        names.append(folder.name.removeprefix("models--").replace("--", "/", 1))
    return names


@safely
def splits(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer the splits of the feature files, the data set or the folder on the command line."""
    words = ctx.meta.get(WORDS, [])
    names: list[str] = []
    paths: list[Path] = []
    for before, word in zip(["", *words], words, strict=False):
        path = Path(word)
        if word.startswith("-") or before in ("-o", "--output"):
            continue
        if word in DATASETS:
            names += SPLITS
        elif path.is_dir():
            names += _split_folders(path)
        elif path.is_file():
            paths.append(path)
    if paths:
        names += _splits_of_files(paths)
    return list(dict.fromkeys(names))


def _split_folders(folder: Path) -> list[str]:
    known = ("train", "val", "valid", "validation", "test")
    return [name for name in known if (folder / name).is_dir()] or ["all"]


def _splits_of_files(paths: list[Path]) -> list[str]:
    """Read the names of the splits in a subprocess, which a crafted file may crash or keep busy."""
    if sys.platform != "linux":  # as in features.isolation
        return []
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read_end)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(TIMEOUT_SECONDS)
            _write_splits(paths, write_end)
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text.decode("utf-8", "replace").split()


def _write_splits(paths: list[Path], pipe: int) -> None:
    """Write the names of the splits of feature files, one a line; say nothing of bad files."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    from clipkit.features.checked_file import split_names

    for path in paths:
        with contextlib.suppress(Exception):
            os.write(pipe, "".join(f"{name}\n" for name in split_names(path)).encode())
