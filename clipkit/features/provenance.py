"""Name the model, data set and prompts that the numbers of a file come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clipkit.base import console
from clipkit.base.errors import ClipkitError
from clipkit.features.model import FeatureFile

LONGEST = 60  # characters of a part: a history may hold any text
IMAGES_ALONE_HINT = "use them with: clipkit probe, cluster, variance"  # without a text tower


class Provenance(NamedTuple):
    """The provenance of a file. A part that the history does not name is empty."""

    model: str  # `clip-vit-base-patch32`, `untrained tiny` for a control, or `tiny layer 4 cls`
    dataset: str
    prompts: str  # the name of a prompt file, or the templates of the classes' prompts


def provenance(file: FeatureFile) -> Provenance:
    """Return the model, data set and prompts that the history of a file names.

    The different names of files that were joined are joined by " + ".

    >>> entry = {"command": "embed", "model": {"name": "org/m"}, "dataset": {"name": "shapes"}}
    >>> provenance(FeatureFile("images", [entry]))
    Provenance(model='m', dataset='shapes', prompts='')
    """
    datasets: dict[str, None] = {}  # in the order of the history
    prompts: dict[str, None] = {}
    for data in dataset_entries(file):
        if "name" in data:
            datasets[Path(_text(data["name"])).name] = None
    for entry in file.history:
        if entry.get("command") == "textembed":
            prompts[_prompts(entry)] = None
    return Provenance(_model(file), _join(datasets), _join(prompts))


def dataset_entries(file: FeatureFile) -> list[dict[str, Any]]:
    """Return what the history says of each data set that was embedded."""
    entries = [entry.get("dataset") for entry in file.history]
    return [entry for entry in entries if isinstance(entry, dict)]


def prompts_entry(texts: FeatureFile) -> str | int:
    """Return what a history says of prompts that were used: their name, or else their number."""
    return provenance(texts).prompts or len(texts.texts or [])


def is_untrained(file: FeatureFile) -> bool:
    """Whether the history names an untrained model."""
    return (file.model() or {}).get("untrained") is not None


def check_control(control: FeatureFile, images: FeatureFile, splits: Sequence[str]) -> None:
    """Refuse a control of a trained model or with the images' own embeddings; warn if unsure."""
    rows = [[file.splits[name].features for name in splits] for file in (images, control)]
    is_same = all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(*rows, strict=True))
    if is_same or (control.model() is not None and not is_untrained(control)):
        got = images.display_name if is_same else _model(control)
        raise ClipkitError(
            f"{control.display_name}: expected an untrained model's embeddings, got those of {got}",
            "make a control with: clipkit embed --untrained 7",
        )
    if control.model() is None:
        console.warn(
            f"{control.display_name}: the history names no model, so this control may be trained"
        )


def _join(names: Iterable[str]) -> str:
    return _text(" + ".join(name for name in names if name))


def add_provenance(
    rows: Iterable[Mapping[str, Any]], file: FeatureFile
) -> Iterator[dict[str, Any]]:
    """Yield rows about a file with `model`, `dataset`, `prompts` and `shots` as further columns.

    None stands for what the history does not name, and for the shots of a probe on all rows.
    """
    parts: dict[str, Any] = {"shots": shots(file)}
    parts |= {name: part or None for name, part in provenance(file)._asdict().items()}
    for row in rows:
        yield {**row, **parts, **row}  # a row keeps its own columns, which come first


def shots(file: FeatureFile) -> int | None:
    """Return the rows per class of the probe that made a file; None for all, or several numbers."""
    numbers = [entry["shots"] for entry in file.history if "shots" in entry]
    if not numbers or not isinstance(numbers[-1], int):
        return None
    return numbers[-1]


def identities(files: Sequence[FeatureFile]) -> list[dict[str, str | None]]:
    """Return for each of M files the columns that tell its rows from those of the others.

    Those are `model`, `dataset` and `prompts`, if they differ, and `file`, if they do not suffice.

    >>> first, second = FeatureFile("result"), FeatureFile("result", display_name="b.h5")
    >>> identities([first]), identities([first, second])
    ([{}], [{'file': 'the file'}, {'file': 'b.h5'}])
    """
    parts = [provenance(file) for file in files]
    columns: list[dict[str, str | None]] = [{} for _ in files]
    if len(set(parts)) < len(files):
        columns = [{"file": file.display_name} for file in files]
    for name, of_files in zip(Provenance._fields, zip(*parts, strict=True), strict=True):
        if len(set(of_files)) > 1:
            for column, part in zip(columns, of_files, strict=True):
                column[name] = part or None
    return columns


def original_split(file: FeatureFile, split: str) -> str:
    """Return the split from which `embed --split-off`, `split` or `probe --val` made a split.

    Raises
    ------
    ClipkitError
        If files were joined after splits were divided: then a name may stand for several splits.
    """
    original: dict[str, str] = {}
    for entry in file.history:
        if entry["command"] == "concat" and original:
            raise ClipkitError(
                f"{file.display_name}: expected splits of the data set, got splits that were "
                "divided and then joined"
            )
        source, parts = _division(file, entry)
        original |= dict.fromkeys(parts, original.get(source, source))
    return original.get(split, split)


def _division(file: FeatureFile, entry: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return the split that a command divided, and the splits that it made, if it did so."""
    if entry["command"] == "probe" and str(entry.get("val", "")) not in ("", *file.splits):
        held_out = [name for name in file.splits if name != entry.get("eval_split")]
        return str(entry.get("fit_split")), held_out
    if entry["command"] == "split" and isinstance(entry.get("rows"), dict):
        return str(entry.get("source")), [*entry["rows"]]
    data = entry.get("dataset")
    if not isinstance(data, dict) or not isinstance(data.get("split_off"), dict):
        return "", []
    source, fractions = str(data["split_off"].get("from")), data["split_off"].get("fractions")
    if not isinstance(fractions, dict) or not isinstance(data.get("splits"), dict):
        return "", []
    parts = [*fractions]
    if source in fractions or source not in data["splits"]:
        parts.append("train")  # what is left of a split of another name
    return source, parts


def _model(file: FeatureFile) -> str:
    model = file.model()
    if model is None or "name" not in model:
        return ""
    name = Path(_text(model["name"])).name
    if "untrained" in model:
        name = f"untrained {name}"
    return " ".join(filter(None, [name, feature_name(model)]))


def feature_name(model: Mapping[str, Any]) -> str:
    """Return which features of a model an entry of a history names: "" for its embeddings.

    >>> feature_name({"name": "m", "layer": 4, "layers": 12, "pool": "mean", "norm": True})
    'layer 4 mean normed'
    >>> feature_name({"name": "m", "projection": "none"}), feature_name({"name": "m"})
    ('without projection', '')
    """
    if "layer" not in model:
        return "without projection" if model.get("projection") == "none" else ""
    layer = model["layer"]
    number = f"layer {layer}"
    if isinstance(layer, list):  # of an encoder of several layers
        number = f"layers {', '.join(map(str, layer))}"
    parts = [number, str(model.get("pool", ""))]
    if model.get("norm"):
        parts.append("normed")
    return _text(" ".join(filter(None, parts)))


def _prompts(entry: dict[str, Any]) -> str:
    """Return the name of a prompt file, the only template, or the number of templates."""
    templates = entry.get("templates")
    if isinstance(templates, list) and templates:
        return _text(templates[0]) if len(templates) == 1 else f"{len(templates)} templates"
    return _text(entry.get("prompts", ""))


def _text(value: Any) -> str:
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def has_text_tower(file: FeatureFile) -> bool:
    """Whether the model of images may have a text tower: it learned a scale, or is not known."""
    model = file.model() or {}
    return model.get("tower") != "image" or "logit_scale" in model
