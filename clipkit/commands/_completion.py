"""Offer the values of options and arguments to a shell that completes a command line.

A shell runs clipkit at each press of the Tab key: nothing heavy is imported here, no file is
opened, and whatever goes wrong, there are just no suggestions.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import typer

from clipkit.datasets.registry import REGISTRY

WORDS = "clipkit.words"  # the key in `Context.meta` of the words before the one to complete
SPLIT_FOLDERS = ("train", "val", "valid", "validation", "test")


def datasets() -> list[str]:
    """Offer the named data sets. Where none fits, shells offer files and folders."""
    return list(REGISTRY)


def models() -> list[str]:
    """Offer the known models and those in the local cache, as huggingface_hub lays it out."""
    from clipkit.models.hub import KNOWN

    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    home = Path(os.environ.get("HF_HOME") or cache / "huggingface")
    names = list(KNOWN)
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: there is no home
        hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
        for folder in sorted(hub.glob("models--*--*")):
            names.append(folder.name.removeprefix("models--").replace("--", "/", 1))
    return list(dict.fromkeys(names))


def splits(ctx: typer.Context) -> list[str]:
    """Offer the splits of the data set or the folder on the command line."""
    words = ctx.meta.get(WORDS, [])
    names: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        if word.startswith("-") or before in ("-o", "--output"):
            continue
        if word in REGISTRY:
            names += ["train", "test"]
        with contextlib.suppress(OSError, ValueError):  # no name of a path
            if Path(word).is_dir():
                names += [name for name in SPLIT_FOLDERS if Path(word, name).is_dir()] or ["all"]
    return list(dict.fromkeys(names))
