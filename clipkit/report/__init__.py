"""A results folder -> one Markdown page: what ran, and what was found beside what the thesis printed.

The numbers of a page are those of the files in the folder; docs/thesis.md says what each chapter asks.
"""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import clipkit
from clipkit.report import chapters, thesis
from clipkit.report.markdown import paragraph, table
from clipkit.report.results import Results

__all__ = ["markdown"]

LIBRARIES = ("numpy", "scikit-learn", "torch", "transformers")
NOTES = (
    "Accuracies are of the test split, with Wilson's 95 % interval. What is chosen on a validation split is chosen on "
    "a tenth of the training rows, fitted again with them, and scored once. The thesis's figures stand only where "
    "model and data set are the thesis's; the difference is here minus thesis, of accuracies in percentage points. Of "
    "the prompts only the 32 generic ones are the thesis's; all others are clipkit's own words, and differ in that too."
)


def markdown(folder: Path, untrained: Path | None = None) -> str:
    """The report of a results folder.

    Parameters
    ----------
    folder : Path
        What the Makefile's chapters left; whatever is there is reported.
    untrained : Path, optional
        The same of the model's untrained twin, for a column of its own.

    Raises
    ------
    ClipkitError
        If a folder holds no img.h5, or a file in it is not what its name says.
    """
    here = Results(folder)
    twin = None if untrained is None else Results(untrained)
    run = chapters.Run(here, twin, thesis.figures(here.embedded))
    model, data = here.embedded["model"], here.embedded["dataset"]
    parts = [f"# {_model(model)} on {data['name']}", _what_ran(here, twin), NOTES]
    for chapter in (chapters.chapter2, chapters.chapter3, chapters.chapter4, chapters.chapter5):
        parts += chapter(run)
    return "\n\n".join(map(paragraph, parts)) + "\n"


def _model(model: dict[str, Any]) -> str:
    return str(model["name"]) + (
        f", untrained (seed {model['untrained']})" if "untrained" in model else ""
    )


def _what_ran(here: Results, twin: Results | None) -> str:
    model, data = here.embedded["model"], here.embedded["dataset"]
    rows = [["model", _model(model)], ["weights", str(model["digest"])]]
    rows.append(["precision", f"{model['precision']} on {model['device']}"])
    if twin is not None:
        other = twin.embedded["model"]
        rows += [["untrained twin", _model(other)], ["its weights", str(other["digest"])]]
    splits = [f"{count:,} {name}" for name, count in sorted(here.counts.items(), reverse=True)]
    rows.append(
        [
            "data set",
            f"{data['name']}: {' + '.join(splits)} images, {len(here.class_names)} classes",
        ]
    )
    if "draw" in data:
        rows.append(["draw", ", ".join(f"{key} {value}" for key, value in data["draw"].items())])
    if here.embedded.get("skipped"):
        rows.append(["skipped images", f"{len(here.embedded['skipped'])}"])
    rows += [
        [f"rows of {name}", f"sha256:{split['rows']}"]
        for name, split in sorted(data["splits"].items())[::-1]
    ]
    versions = [
        f"Python {platform.python_version()}",
        *(f"{name} {metadata.version(name)}" for name in LIBRARIES),
    ]
    rows.append(["embedded by", f"clipkit {here.embedded['clipkit']}"])
    rows.append(["reported by", ", ".join([f"clipkit {clipkit.__version__}", *versions])])
    return table(["what ran", ""], rows, words=2)
