"""`clipkit start`: a folder with the Makefile of a study, and the files that a study needs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipkit.base import suggestions
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.base.files import expand_user
from clipkit.base.options import OUTPUT_PANEL, option
from clipkit.commands import _completion as completion
from clipkit.datasets.registry import REGISTRY

if TYPE_CHECKING:
    from clipkit.datasets.dataset import Dataset

TEMPLATE = Path(__file__).with_name("study.mk")
ATTRIBUTES = ("colour", "setting")  # columns to fill in, or to rename
OF_CLASSES = (
    "img.svm.h5 img.cluster.h5 classes.logits.zeroshot.h5 classes.logits.calibrate.h5 "
    "generic32.logits.svm.h5"
)
TEST = "test"
SPLIT_OFF = f"--split-off {TEST}=0.2"


def start(
    photos: Annotated[
        list[str],
        typer.Argument(
            metavar="PHOTOS|DATASET",
            help="Images as given to clipkit embed: a folder of class folders, a data set, ...",
            autocompletion=completion.datasets,
        ),
    ],
    output: Annotated[
        str, option("FOLDER", "Folder to write.", "--output", "-o", panel=OUTPUT_PANEL)
    ] = "study",
) -> None:
    """Write a folder with the Makefile of a study, whose page says what a model understands.

    classes.tsv has the words for each class. In table.tsv, fill in the attributes of each image,
    and in words.tsv the words for their values. `make` measures what the files allow. A named data
    set gets no table. Nothing is overwritten.

    Example: clipkit start photos/ -o study
    """
    last = photos[-1]
    if len(photos) > 1 and not Path(last).exists() and Path(photos[0]).exists():
        named = suggestions.command("clipkit", "start", *photos[:-1], "-o", last)
        raise UsageError(f"there is no folder {last}", f"to write the study there: {named}")
    folder = Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{output} exists and is not empty", "choose another folder with -o")
    files = _named_files(photos) if photos[0] in REGISTRY else _files_of(photos, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            with (folder / name).open("x", encoding="utf-8", newline="\n") as file:
                file.write(text)
    except OSError as error:
        raise ClipkitError(f"cannot write {output}: {error.strerror}") from error
    quoted = suggestions.command(output)
    typer.echo(f"make -C {quoted}                # CLIP ViT-B/32; its weights are downloaded")
    typer.echo(f"make -C {quoted} MODEL=tiny     # the bundled model, to try it")


def _named_files(names: Sequence[str]) -> dict[str, str]:
    """Return the files for a named data set, which is not read: that may download gigabytes."""
    class_names = REGISTRY[names[0]].class_names
    files = {"Makefile": _makefile(names, "", is_labelled=True)}
    if class_names is not None:
        files["classes.tsv"] = _classes(class_names())
    return files


def _files_of(names: Sequence[str], folder: Path) -> dict[str, str]:
    """Return the files for images, whose paths are seen from the study's folder."""
    from clipkit import datasets

    data = datasets.load(names)
    seen = []
    for name in names:
        path = expand_user(name)
        place = os.path.relpath(path.resolve(), folder.resolve())
        seen.append(place if path.exists() else name)
    embed = "" if TEST in data.splits else SPLIT_OFF
    files = {"Makefile": _makefile(seen, embed, is_labelled=bool(data.class_names))}
    if data.class_names:
        files["classes.tsv"] = _classes(data.class_names)
        files["words.tsv"] = _words(data.class_names)
    files["table.tsv"] = _table(data)
    return files


def _makefile(names: Sequence[str], embed: str, *, is_labelled: bool) -> str:
    words = suggestions.command(*names).replace("$", "$$").replace("#", "\\#")
    text = TEMPLATE.read_text(encoding="utf-8")
    of_classes = OF_CLASSES if is_labelled else ""
    text = text.replace("@DATASET@", words).replace("@OF_CLASSES@", of_classes)
    lines = text.replace("@EMBED@", embed).splitlines()
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _classes(class_names: Sequence[str]) -> str:
    """Return a line for each class: its name, tab, and what prompts call it."""
    from clipkit.prompts import readable

    return "".join(f"{name}\t{readable(name)}\n" for name in class_names)


def _words(class_names: Sequence[str]) -> str:
    """Return a line for each class, as the values of the attribute `class`."""
    from clipkit.prompts import readable

    return "".join(f"class: {name}\ta photo of a {readable(name)}\n" for name in class_names)


def _table(data: Dataset) -> str:
    """Return a table with a line for each image: id, class, and attributes to fill in."""
    empty = "\t" * len(ATTRIBUTES)
    names = "\t".join(ATTRIBUTES)
    lines = [f"id\tclass\t{names}\n" if data.class_names else f"id\t{names}\n"]
    for split in data.splits.values():
        if split.labels is None:
            lines += [f"{image_id}{empty}\n" for image_id in split.ids]
            continue
        for image_id, label in zip(split.ids, split.labels.tolist(), strict=True):
            lines.append(f"{image_id}\t{data.class_names[label]}{empty}\n")
    return "".join(lines)
