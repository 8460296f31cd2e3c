"""Offer the values of options and arguments to a shell that completes a command line.

A shell runs clipkit at each press of the Tab key: nothing heavy is imported unless a file on the
line is asked for its splits or attributes, and whatever goes wrong, there are just no suggestions.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import typer

from clipkit.base.files import expand_user, user_cache
from clipkit.datasets.registry import REGISTRY

SPLIT_FOLDERS = ("train", "val", "valid", "validation", "test")


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Drop errors and notes, which would stand in the line that the user writes."""
    with contextlib.suppress(Exception), contextlib.redirect_stderr(io.StringIO()):
        yield


def datasets() -> list[str]:
    """Offer the named data sets. Where none fits, shells offer files and folders."""
    return list(REGISTRY)


def prompt_sets() -> list[str]:
    """Offer the bundled prompt sets. Where none fits, shells offer files."""
    from clipkit.prompts import bundled

    return list(bundled.list_files())


def templates() -> list[str]:
    """Offer the bundled sets of templates."""
    from clipkit.prompts import bundled

    return list(bundled.list_files("templates"))


def class_sources() -> list[str]:
    """Offer the named data sets, and the bundled words for attributes."""
    from clipkit.prompts import bundled

    words = [f"attributes/{name}" for name in bundled.list_files("attributes")]
    return [*REGISTRY, *words]


def models() -> list[str]:
    """Offer the known models and those in the local cache, as huggingface_hub lays it out."""
    from clipkit.models.hub import KNOWN

    home = os.environ.get("HF_HOME") or user_cache() / "huggingface"
    names = list(KNOWN)
    with contextlib.suppress(OSError):
        hub = expand_user(os.environ.get("HF_HUB_CACHE") or Path(home, "hub"))
        for folder in sorted(hub.glob("models--*--*")):
            names.append(folder.name.removeprefix("models--").replace("--", "/", 1))
    return list(dict.fromkeys(names))


def splits(ctx: typer.Context) -> list[str]:
    """Offer the splits of the data set, the folder or the feature file on the command line."""
    names: list[str] = []
    for word in _arguments(ctx):
        if word in REGISTRY:
            names += ["train", "test"]
        with _silence():  # it may be no name of a path, or damaged
            if Path(word).is_dir():
                names += [name for name in SPLIT_FOLDERS if Path(word, name).is_dir()] or ["all"]
            elif Path(word).suffix == ".h5" and Path(word).is_file():
                names += _splits_of(word)
    return list(dict.fromkeys(names))


def _arguments(ctx: typer.Context) -> list[str]:
    """Return the arguments, and the values of options that may name a data set or a file.

    In front of an option without its value, arguments are not parsed.
    """
    words = list(ctx.args)
    for value in ctx.params.values():
        values = value if isinstance(value, list | tuple) else [value]
        words += [word for word in values if isinstance(word, str)]
    return words


def _splits_of(path: str) -> list[str]:
    from clipkit.features.hdf5 import open_file

    with open_file(path) as file:
        return list(file.splits)


def metrics() -> list[str]:
    """Offer the metrics of attributes."""
    from clipkit.statistics.score_metrics import METRICS

    return list(METRICS)


def attributes(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer the attributes of the table on the command line, also behind the `*` between two."""
    names: list[str] = []
    if ctx.params.get("table"):
        with _silence():  # there may be no such table, or it is damaged
            from clipkit.features.annotations import attribute_names

            names += attribute_names(ctx.params["table"])
    return _behind(incomplete, "*", names)


def columns(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer the columns of the command's reports, also behind the comma of others."""
    from clipkit.features.columns import printed_by

    known = dict.fromkeys(column.name for column in printed_by(str(ctx.info_name)))
    return _behind(incomplete, ",", list(known))


def _behind(incomplete: str, mark: str, names: list[str]) -> list[str]:
    """Return names that may follow the last mark of a word, with what stands in front of it."""
    written, found, _ = incomplete.rpartition(mark)
    taken = written.split(mark)
    return [f"{written}{found}{name}" for name in names if name not in taken]
