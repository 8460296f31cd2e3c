"""What the history of a file says of where it is from: model, data set, prompts and splits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clipkit.base import suggestions
from clipkit.base.errors import ClipkitError, shorten
from clipkit.base.files import STREAM, display_name
from clipkit.features.history import Entry
from clipkit.features.model import FeatureFile
from clipkit.features.model_settings import feature_name, name_suffix

IMAGES_ALONE_HINT = "use them with: clipkit probe, cluster, variance"  # without a text tower


class Provenance(NamedTuple):
    """The provenance of a file. A part that the history does not name is empty."""

    model: str  # `clip-vit-base-patch32`, `untrained tiny`, `tiny layer 4 cls`, `tiny at 32 px`
    dataset: str
    prompts: str  # the name of a prompt file, or the templates of the classes' prompts


def provenance(file: FeatureFile) -> Provenance:
    """Return the model, data set and prompts that the history of a file names.

    The different names of files that were joined are joined by " + ".

    >>> from clipkit.features.model import FeatureFile
    >>> entry = {"command": "embed", "model": {"name": "org/m"}, "dataset": {"name": "shapes"}}
    >>> provenance(FeatureFile("images", [entry]))
    Provenance(model='m', dataset='shapes', prompts='')
    """
    datasets = map(_name, file.history.datasets)
    prompts = [_prompts(entry) for entry in file.history if entry.command == "textembed"]
    return Provenance(_model(file), _join(datasets), _join(prompts))


def is_untrained(file: FeatureFile) -> bool:
    """Whether the history names an untrained model."""
    return file.history.model.get("untrained") is not None


def prompts_entry(texts: FeatureFile) -> str | int:
    """Return what a history says of prompts that were used: their name, or else their number."""
    return provenance(texts).prompts or len(texts.texts or [])


def _name(entry: Mapping[str, Any]) -> str:
    """Return the name of a model or data set without its folders; "" if it has none."""
    return Path(shorten(entry.get("name", ""))).name


def _join(names: Iterable[str]) -> str:
    """Join different names in the order of the history."""
    return shorten(" + ".join(filter(None, dict.fromkeys(names))))


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
    latest = None
    for entry in file.history:
        latest = entry.get("shots", latest)
    return latest if isinstance(latest, int) else None


def identities(files: Sequence[FeatureFile]) -> list[dict[str, str | None]]:
    """Return for each of M files the columns that tell its rows from the other files' rows.

    Those are `model`, `dataset` and `prompts`, if they differ, and `file`, if they do not suffice.

    >>> from clipkit.features.model import FeatureFile
    >>> first, second = FeatureFile("result"), FeatureFile("result", display_name="b.h5")
    >>> identities([first]), identities([first, second])
    ([{}], [{'file': 'the file'}, {'file': 'b.h5'}])
    """
    parts = list(map(provenance, files))
    columns: list[dict[str, str | None]] = [{} for _ in files]
    if len(set(parts)) < len(files):
        columns = [{"file": file.display_name} for file in files]
    for name, *of_files in zip(Provenance._fields, *parts, strict=True):
        if len(set(of_files)) > 1:
            for column, part in zip(columns, of_files, strict=True):
                column[name] = part or None
    return columns


def original_splits(file: FeatureFile, split: str) -> list[str]:
    """Return the splits of the data set that the rows of a split come from.

    `embed --split-off`, `split` and `probe --val` divide a split, and a command that reads
    `--split a,b` joins several.

    Raises
    ------
    ClipkitError
        If files were joined after splits were divided: then a name may stand for several splits.
    """
    original: dict[str, list[str]] = {}
    for entry in file.history:
        joined = entry.object("joined")
        is_of_several = entry.command == "concat" and len(entry.list_of("files")) != 1
        if is_of_several and original:
            raise ClipkitError(
                f"{file.display_name}: expected splits of the data set, got splits that were "
                "divided and then joined"
            )
        original |= _originals_of_joined(joined, original)
        source, parts = _division(file, entry)
        original |= dict.fromkeys(parts, original.get(source, [source]))
    original |= _originals_of_joined(file.joined, original)
    return original.get(split, [split])


def _originals_of_joined(
    joined: Mapping[str, Any], original: Mapping[str, list[str]]
) -> dict[str, list[str]]:
    """Return the original splits of each joined split, given those of its parts."""
    of_joined = {}
    for name, parts in joined.items():
        names: dict[str, None] = {}
        for part in parts if isinstance(parts, list) else []:
            names |= dict.fromkeys(original.get(str(part), [str(part)]))
        of_joined[name] = list(names)
    return of_joined


def _division(file: FeatureFile, entry: Entry) -> tuple[str, list[str]]:
    """Return the split that a command divided, and the splits that it made, if it did so."""
    if entry.command == "probe" and str(entry.get("val", "")) not in ("", *file.splits):
        held_out = [name for name in file.splits if name != entry.get("eval_split")]
        return str(entry.get("fit_split")), held_out
    if entry.command == "split":
        return str(entry.get("source")), [*entry.object("rows")]
    splits = entry.dataset.object("splits")
    parts = [*entry.dataset.object("split_off", "fractions")]
    if not parts or not splits:
        return "", []
    source = str(entry.dataset.object("split_off").get("from"))
    if source in parts or source not in splits:
        parts.append("train")  # what is left of a split of another name
    return source, parts


def _model(file: FeatureFile) -> str:
    model = file.history.model
    name = _name(model)
    if name and "untrained" in model:
        name = f"untrained {name}"
    parts = [name, feature_name(model), name_suffix(file.history)]
    return " ".join(filter(None, parts))


def _prompts(entry: Entry) -> str:
    """Return the name of a prompt file, the only template, or the number of templates."""
    templates = entry.list_of("templates")
    if len(templates) > 1:
        return f"{len(templates)} templates"
    if templates:
        return shorten(templates[0])
    return shorten(entry.get("prompts", ""))


def texts_hint(file: FeatureFile) -> str:
    """Return the lines that add texts to images, for a command that takes both."""
    name = suggestions.path(file.display_name)
    if name == display_name(STREAM):
        return "add texts: - TEXTS"
    texts = Path(name).with_suffix(".classes.h5").name
    make = suggestions.command("clipkit", "textembed", "--classes", name, "-o", texts)
    return f"add texts: {suggestions.made(make, {file.display_name: [name, texts]})}"


def has_text_tower(file: FeatureFile) -> bool:
    """Whether the model of images may have a text tower: it learned a scale, or is not known."""
    model = file.history.model
    signs = ("logit_scale", "question", "python")
    return model.get("tower") != "image" or not model.keys().isdisjoint(signs)
