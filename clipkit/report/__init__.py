"""Report results as one page, Markdown or HTML: what ran, and the results next to the thesis's.

Every number of a page comes from the files. docs/thesis.md says what each chapter of a results
folder asks.
"""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from clipkit.base import console
from clipkit.base.version import __version__
from clipkit.report import chapters, summary, thesis
from clipkit.report.blocks import Block, Drawing, Page, Picture, Table
from clipkit.report.chapters import ATTRIBUTES_CAPTION
from clipkit.report.collection import of_files
from clipkit.report.experiments import Comparison
from clipkit.report.folder import ResultsFolder
from clipkit.report.formatting import as_markdown, escape
from clipkit.report.html import as_html

__all__ = ["Page", "as_html", "as_markdown", "of_files", "of_folder"]

LIBRARIES = ("numpy", "scikit-learn", "torch", "transformers")
NOTES = (
    "Accuracies are those of the test split. If all images are in one split, probes are fitted on "
    "four fifths of them and scored on the rest, and zero-shot is scored on all. Brackets after "
    "an accuracy hold Wilson's 95 % interval. The interval covers another draw of test images, "
    "but not another draw of training images. A temperature or C that is chosen on a validation "
    "split is chosen on a tenth of the training rows. The classifier is then fitted again, on all "
    "training rows or, with few shots, on a draw from all of them, and scored once. The thesis's "
    "figures are shown only where model and data set are the thesis's. The difference is here "
    "minus thesis, in percentage points for accuracies. Of the prompts, only the 32 generic ones "
    "are the thesis's. All others are clipkit's own, which is a further difference. An untrained "
    "control is one draw of random weights. If there are several, their column holds the mean, and "
    "the brackets the lowest and the highest. Bars and the summary have the most accurate of them."
)


def of_folder(folder: Path, untrained: Sequence[Path] = ()) -> Page:
    """Report a results folder.

    Parameters
    ----------
    folder : Path
        A folder that the Makefile's chapters filled. Results that it lacks are named. A folder
        without img.h5 or with none of the chapters' results is reported by `of_files`.
    untrained : sequence of Path
        Results folders of untrained controls, shown in a separate column.

    Raises
    ------
    ClipkitError
        If a folder is empty, or the history of its img.h5 does not say how it was made, or if one
        of `untrained` is no control of it: of a trained model, another model or other images.
    """
    files = _files(folder)
    for path in untrained:
        files += _files(path)
    if files and not (folder / "img.h5").exists():
        return of_files(files)
    results = ResultsFolder(folder)
    controls = [ResultsFolder(path, results) for path in untrained]
    comparison = Comparison(results, controls, thesis.figures(results.embedding))
    dataset = f"{results.embedding['dataset']['name']}{results.labels}"
    title = f"{_model_name(results)} on {escape(dataset)}"
    blocks: list[Block] = []
    for chapter in chapters.CHAPTERS:
        blocks += chapter(comparison)
    if not blocks and not results.left_out and len(_files(folder)) > 1:
        return of_files(files)
    facts, lead = summary.sum_up_folder(comparison, title), _lead(results, blocks)
    left_out = _warn_of_left_out(results, results.left_out | results.unused())
    used_by_controls: list[Path] = []
    for control in controls:
        left_out += _warn_of_left_out(control, control.left_out)
        used_by_controls += control.used().values()
    tables = [block for block in blocks if isinstance(block, Table)]
    sources = dict.fromkeys(name for table in tables for name in table.sources if name)
    missing = dict.fromkeys(name for table in tables for name in table.missing)
    return Page(
        title,
        [_provenance(comparison, missing), NOTES, *map(escape, results.notes())],
        blocks,
        list(map(escape, left_out)),
        summary=facts,
        lead=lead,
        origins={name: results.origin(name, controls) for name in sources},
        files=results.used(),
        controls=used_by_controls,
    )


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.h5"))


def _lead(results: ResultsFolder, blocks: Sequence[Block]) -> Picture | Drawing | None:
    """Return the picture of the attributes, drawn if the folder has the result alone."""
    for block in blocks:
        if isinstance(block, Picture) and block.path.name == "attributes.png":
            return block
    if results.table("img.attributes"):
        return Drawing(results.read("img.attributes"), ATTRIBUTES_CAPTION)
    return None


def _warn_of_left_out(results: ResultsFolder, left_out: Mapping[str, str]) -> list[str]:
    """Warn of each file that is left out, and return the reasons."""
    folder = results.path.resolve().name
    reasons = [f"{folder}/{name}.h5: {reason}" for name, reason in left_out.items()]
    for reason in reasons:
        console.warn(f"left out {reason}")
    return reasons


def _model_name(results: ResultsFolder) -> str:
    model = results.embedding["model"]
    name = escape(model["name"])
    if "untrained" in model:
        name += f", untrained (seed {escape(model['untrained'])})"
    return name


def _provenance(comparison: Comparison, missing: Collection[str]) -> Table:
    """Return the table of what ran, with the results that are missing."""
    results, embedding = comparison.results, comparison.results.embedding
    model = embedding["model"]
    rows = [
        ["model", _model_name(results)],
        ["weights", escape(_weights(model))],
        ["precision", escape(f"{model['precision']} on {model['device']}")],
    ]
    for control in comparison.controls:
        rows.append(["untrained control", _model_name(control)])
        rows.append(["the control's weights", escape(_weights(control.embedding["model"]))])
    rows += _data_rows(results)
    if missing:
        names = ", ".join(f"{name}.h5" for name in missing)
        rows.append(["results not made", escape(names)])
    versions = [f"clipkit {__version__}", f"Python {platform.python_version()}"]
    versions += [f"{name} {metadata.version(name)}" for name in LIBRARIES]
    rows.append(["embedded by", f"clipkit {escape(embedding['clipkit'])}"])
    rows.append(["reported by", ", ".join(versions)])
    return Table(["what ran", ""], rows, text_columns=2)


def _weights(model: dict[str, Any]) -> str:
    """Return the digest of a model's weights alone, as those of earlier clipkits are."""
    return str(model.get("weights", model["digest"]))


def _data_rows(results: ResultsFolder) -> list[list[str]]:
    dataset: dict[str, Any] = results.embedding["dataset"]
    counts = sorted(results.row_counts.items(), reverse=True)  # train before test
    images = " + ".join(f"{count:,} {split}" for split, count in counts)
    if len(counts) == 1:
        images = f"{counts[0][1]:,}"
    classes = len(results.class_names)
    rows = [["data set", f"{escape(dataset['name'])}: {images} images, {classes} classes"]]
    if "draw" in dataset:
        draw = ", ".join(f"{key} {value}" for key, value in dataset["draw"].items())
        rows.append(["draw", escape(draw)])
    skipped = results.embedding.get("skipped")
    if skipped:
        rows.append(["skipped images", f"{len(skipped)}"])
    for name, split in sorted(dataset["splits"].items(), reverse=True):
        rows.append([escape(f"rows of {name}"), escape(f"sha256:{split['rows']}")])
    return rows
