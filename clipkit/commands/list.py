"""`clipkit list`: the names that commands understand, from the registries themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from clipkit.base.console import count
from clipkit.base.errors import unknown
from clipkit.commands._options import Format, NoHeader

Described = Iterable[tuple[str, str]]  # names, and what is known of each


def _bundled(kind: str, noun: str) -> Described:
    """Yield the bundled files of a kind, with the number of their lines."""
    from clipkit.prompts import bundled

    for name, path in bundled.list_files(kind).items():
        lines = sum(bool(line.strip()) for line in _lines(path))
        yield name, count(lines, noun)


def _lines(path: Path) -> Sequence[str]:
    return path.read_text(encoding="utf-8").splitlines()


def _attributes() -> Described:
    """Yield the attributes whose values have bundled words, as lines of `attribute: value`."""
    from clipkit.prompts import bundled

    for source, path in bundled.list_files("attributes").items():
        values: dict[str, set[str]] = {}
        for line in _lines(path):
            attribute, _, value = line.partition("\t")[0].partition(": ")
            values.setdefault(attribute, set()).add(value)
        for attribute, known in values.items():
            yield attribute, f"{len(known)} values, of {source}"


def _groups() -> Described:
    """Yield the bundled groups of classes, as lines of class, tab, group."""
    from clipkit.prompts import bundled

    for name, path in bundled.list_files("groups").items():
        groups = [line.partition("\t")[2] for line in _lines(path)]
        yield name, f"{len(set(groups))} groups of {len(groups)} classes"


def _datasets() -> Described:
    from clipkit.datasets.registry import REGISTRY

    for name, data_set in REGISTRY.items():
        about = []
        if data_set.class_names is not None:
            about.append(f"{len(data_set.class_names())} classes")
        if data_set.size:
            about.append(f"downloads {data_set.size}")
        yield name, ", ".join(about)


def _models() -> Described:
    from clipkit.models.hub import ALIASES, BUNDLED, KNOWN

    for name in KNOWN:
        yield name, "bundled" if name in BUNDLED else ALIASES.get(name, name)


def _pictures() -> Described:
    from clipkit.plots import PICTURES

    for name, picture in PICTURES.items():
        yield name, str(picture.draw.__doc__).partition("\n")[0]


def _questions() -> Described:
    from clipkit import analysis

    for name in analysis.names():
        yield name, analysis.find(name).question


LISTS: dict[str, Callable[[], Described]] = {
    "prompts": partial(_bundled, "", "prompt"),
    "templates": partial(_bundled, "templates", "template"),
    "attributes": _attributes,
    "groups": _groups,
    "datasets": _datasets,
    "models": _models,
    "pictures": _pictures,
    "questions": _questions,
}


def list(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="WHAT",
            help=f"One of {', '.join(LISTS)} (default: all).",
            autocompletion=lambda: [*LISTS],
        ),
    ] = None,
    format: Format = None,
    no_header: NoHeader = False,
) -> None:
    """List the names that commands understand: prompt sets, templates, data sets, models, ...

    The bundled prompts, templates, words for attributes and groups of classes are installed with
    clipkit. Models and data sets with other names work, too: folders, files and repositories.

    Example: clipkit list templates
    """
    from clipkit.base import tables

    if what is not None and what not in LISTS:
        raise unknown("list", what, LISTS)
    rows: Any = []
    for kind in [what] if what is not None else LISTS:
        for name, about in LISTS[kind]():
            row = {"name": name, "about": about}
            rows.append(row if what is not None else {"list": kind, **row})
    tables.emit(rows, tables.View(format, None, no_header))
