"""Offer the values of options and arguments to a shell that completes a command line.

A shell runs clipkit at each press of the Tab key: nothing heavy is imported here, no file is
opened, and whatever goes wrong, there are just no suggestions.
"""

from __future__ import annotations

import functools
import os
import re
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
    """Offer the splits of the data set or the folder on the command line."""
    words = ctx.meta.get(WORDS, [])
    names: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        path = Path(word)
        if word.startswith("-") or before in ("-o", "--output"):
            continue
        if word in DATASETS:
            names += SPLITS
        elif path.is_dir():
            names += _split_folders(path)
    return list(dict.fromkeys(names))


def _split_folders(folder: Path) -> list[str]:
    known = ("train", "val", "valid", "validation", "test")
    return [name for name in known if (folder / name).is_dir()] or ["all"]
