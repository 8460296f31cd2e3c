"""Decide what files have in common: the images, the model, the prompts, the classes."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from clipkit.base import console, suggestions
from clipkit.base.errors import ClipkitError, shorten
from clipkit.base.matrices import Int64
from clipkit.base.names import locate
from clipkit.features import model_settings
from clipkit.features.arrays import hint_of, is_array
from clipkit.features.history import Entry
from clipkit.features.model import ROW_NUMBERS, FeatureFile
from clipkit.features.model_settings import Setting, feature_name
from clipkit.features.provenance import (
    IMAGES_ALONE_HINT,
    has_text_tower,
    is_untrained,
    original_splits,
    provenance,
)

SAME_IMAGES = "the same images"
SAME_IDS = "images with the same ids"  # of data sets without a name, or of different ones
ROLES = ("images", "features", "logits")  # of inputs with rows, in a history


class Origin(NamedTuple):
    """What gives the ids of a split their meaning, as far as the history tells."""

    datasets: tuple[str, ...]  # that were embedded
    split: str  # of the data set, or several that were joined
    rows: str  # digest of the rows of that split, or of each
    inputs: tuple[str, ...]  # digests of the imports without ids, or else of the first input
    is_numbered: bool  # whether ids are row numbers, because an import had none
    array_rows: int = 0  # of the array that all numbers are from

    @property
    def key(self) -> tuple[str, ...]:
        """What images of equal ids share if a report may compare results on them."""
        if self.is_numbered:
            return (self.split, *self.inputs)
        return (self.rows,)


def origin(file: FeatureFile, split: str) -> Origin:
    """Return the origin of the ids of a split."""
    rows = ""
    with contextlib.suppress(ClipkitError):  # else the name may stand for several splits
        originals = sorted(original_splits(file, split))
        digests = [_rows_digest(file, name) for name in originals]
        rows = " ".join(filter(None, digests)) or _rows_digest(file, split)
        split = ",".join(originals)
    names = tuple(file.history.dataset_names)
    imports = [entry for entry in file.history if entry.get("ids") == ROW_NUMBERS]
    inputs: list[str] = []
    for entry in imports or file.history:
        inputs += filter(None, map(entry.inputs.get, ROLES))
    if not imports:
        inputs = inputs[:1]
    array_rows = 0
    if imports and is_array(file) and split in file.splits:
        array_rows = len(file.splits[split])
    return Origin(names, split, rows, tuple(inputs), bool(imports), array_rows)


def _rows_digest(file: FeatureFile, split: str) -> str:
    for data in file.history.datasets:
        described = data.object("splits", split)
        if described:
            return str(described.get("rows"))
    return ""


def relate(a: Origin, b: Origin, *, same_rows: bool = False) -> str | None:
    """Return what rows with equal ids are: SAME_IMAGES, SAME_IDS, or None for other images.

    Row numbers of different imports name different images, unless `same_rows` says otherwise, or
    they are of arrays of one length, whose rows nothing else can name.
    """
    if a.is_numbered or b.is_numbered:
        if a.is_numbered and a.key == b.key:
            return SAME_IMAGES
        is_pair_of_arrays = 0 < a.array_rows == b.array_rows
        return SAME_IDS if same_rows or is_pair_of_arrays else None
    if a.datasets == b.datasets != () or a.inputs == b.inputs != ():
        return SAME_IMAGES if a.split == b.split else None
    return SAME_IDS


def matching_split(
    file: FeatureFile, other: FeatureFile, split: str, *, same_rows: bool = False
) -> str | None:
    """Return the split of a file that may hold images of a split of another file, or None.

    If none of that name does, it comes from the same split of the data set.
    """
    wanted = origin(other, split)
    for name in sorted(file.splits, key=lambda name: (name != split, name != "test")):
        found = origin(file, name)
        is_candidate = name == split or found.split == wanted.split
        if is_candidate and relate(found, wanted, same_rows=same_rows):
            return name
    return None


# What decides the direction of a prompt besides its text, by the command that records it.
PROMPT_SETTINGS = {
    "textembed": ("templates", "readable"),
    "logits": ("whiten", "random", "seed"),
}


def _check_has_text_tower(images: FeatureFile) -> None:
    """Refuse embeddings of a model that has learned no scale of cosines with texts."""
    if not has_text_tower(images):
        model = images.history.model
        raise ClipkitError(
            f"{images.display_name}: expected images of a model with a text tower, got those of "
            f"{model.get('name')}, which is for images alone",
            IMAGES_ALONE_HINT,
        )


def _check_has_embeddings(file: FeatureFile) -> None:
    """Refuse what is not in the space that images and texts share."""
    model = file.history.model
    if feature_name(model):
        raise ClipkitError(
            f"{file.display_name}: expected embeddings in the space of images and texts, got "
            f"{_describe_model(model)}",
            "embed again without the options --layer, --norm, --no-projection and --at image",
        )


def no_model_hint(file: FeatureFile) -> str:
    """Return how the history of a file gets the name of its model."""
    line = f"clipkit convert FEATURES {suggestions.command(file.display_name)} --model NAME --force"
    return f"import the features again with their model: {line}"


def check_widths(images: FeatureFile, texts: FeatureFile) -> None:
    """Refuse images and texts, or other embeddings, of different widths."""
    widths, others = ([m.shape[1] for m in f.matrices().values()] for f in (images, texts))
    for width in widths:
        if width != others[0]:
            raise ClipkitError(
                f"{images.display_name} and {texts.display_name}: "
                f"expected one dimension, got {width} and {others[0]}",
                "embed both with one model: the option --model of embed and textembed",
            )


def common_logit_scale(images: FeatureFile, texts: FeatureFile) -> float | None:
    """Check that two files come from one model; return the scale that it learned, if known.

    Models are compared as `is_same_model` does. Both files must hold the same features of it:
    embeddings, or one layer's hidden states. With texts, images must have embeddings.
    """
    a, b = _named_model(images), _named_model(texts)
    is_pair = images.kind != texts.kind == "texts"
    if is_pair:
        _check_has_embeddings(images)
        _check_has_embeddings(texts)
    problem, hint = "", "embed one of them again"
    if not is_same_model(a, b):
        _check_has_text_tower(images)
        problem = "come from different models"
    elif feature_name(a) != feature_name(b):
        problem = "hold different features of one model"
    elif a.get("similarity") != b.get("similarity"):
        problem = "have different similarities"
        hint = "embed both with --as-embedding, or both without"
    elif _questions_differ(a, b) and not (is_pair and a.get("as_embedding")):
        problem = "belong to different questions"
    if problem:
        raise ClipkitError(
            f"{images.display_name} and {texts.display_name} {problem} "
            f"({_describe_model(a)}, {_describe_model(b)})",
            hint_of(hint, images, texts),
        )
    check_settings(images, texts, [one for one in model_settings.SETTINGS if not one.compares])
    scale = a.get("logit_scale", b.get("logit_scale"))
    if scale is None:
        return None
    return float(scale)


def check_settings(first: FeatureFile, other: FeatureFile, settings: Collection[Setting]) -> None:
    """Refuse files that differ in one of some settings of `embed`.

    What `feature_name` says, and questions, differ with the kind of file: `common_logit_scale`
    compares them.
    """
    for setting in settings:
        a, b = setting.value(first.history), setting.value(other.history)
        if a != b and not setting.feature:
            names = f"{first.display_name} and {other.display_name}"
            raise ClipkitError(
                f"{names}: expected one {setting.flag}, got {_shown(a)} and {_shown(b)}",
                hint_of("embed one of them again", first, other),
            )


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return "yes" if value is True else shorten(value)


def have_same_images(a: FeatureFile, b: FeatureFile) -> bool:
    """Whether images were changed in the same way before a model saw them."""
    settings = [one for one in model_settings.SETTINGS if one.is_of_images]
    return all(one.value(a.history) == one.value(b.history) for one in settings)


def _questions_differ(a: Entry, b: Entry) -> bool:
    return "question" in a and "question" in b and a["question"] != b["question"]


def _named_model(file: FeatureFile) -> Entry:
    """Return what a history records of a file's model."""
    model = file.model()
    if model is None:
        raise ClipkitError(
            f"{file.display_name}: expected the name of its model in the history, got none",
            no_model_hint(file),
        )
    return model


def check_same_images(control: FeatureFile, images: FeatureFile, splits: Sequence[str]) -> None:
    """Refuse a control that is not of the same data set, or has other ids in a split."""
    for split in splits:
        wanted = origin(images, split)  # that rows are the same is what the user says of a control
        is_same = split in control.splits and relate(origin(control, split), wanted, same_rows=True)
        if not have_same_images(control, images):
            is_same = None
        if not is_same or control.splits[split].ids != images.splits[split].ids:
            raise ClipkitError(
                f"{control.display_name}: expected the {split} images of {images.display_name}, "
                "got others",
                "embed the same images, with the same options and --untrained 7",
            )


def check_control(control: FeatureFile, images: FeatureFile, splits: Sequence[str]) -> None:
    """Refuse a control of other images, a trained model or equal embeddings; warn if unsure."""
    check_same_images(control, images, splits)
    trained = None
    if _has_equal_features(control, images, splits):
        trained = images.display_name
    elif control.model() is not None and not is_untrained(control):
        trained = provenance(control).model
    if trained is not None:
        raise ClipkitError(
            f"{control.display_name}: expected an untrained model's embeddings, got those of "
            f"{trained}",
            "make a control with: clipkit embed --untrained 7",
        )
    if control.history.model.get("question") != images.history.model.get("question"):
        raise ClipkitError(
            f"{control.display_name}: expected the question of {images.display_name}, got another",
            "make the control with the same: clipkit embed --untrained 7 --ask QUESTION",
        )
    if control.model() is None:
        console.warn(
            f"{control.display_name}: the history names no model, so this control may be trained"
        )


def _has_equal_features(control: FeatureFile, images: FeatureFile, splits: Sequence[str]) -> bool:
    for split in splits:
        a, b = control.splits[split].features, images.splits[split].features
        if not np.array_equal(np.asarray(a), np.asarray(b)):
            return False
    return True


def is_same_model(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Return whether two entries of histories describe one model.

    Models are compared by their digests. If one has none, names are compared.

    >>> a = {"name": "m", "digest": "sha256:1"}
    >>> is_same_model(a, {"name": "n", "digest": "sha256:1"}), is_same_model(a, {"name": "n"})
    (True, False)
    """
    if a.get("untrained") != b.get("untrained"):
        return False
    if not (a.get("digest") and b.get("digest")):
        return bool(a.get("name") == b.get("name"))
    return bool(a["digest"] == b["digest"])


def check_same_prompts(first: FeatureFile, other: FeatureFile) -> None:
    """Check that two files of logits have the same prompts as columns.

    Equal texts may stand for different directions: templates and descriptions make other ensembles
    of one class, and all whitened or random directions have the same names.
    """
    both = f"{first.display_name} and {other.display_name}"
    hint = "make logits of both with the same prompts in the same order"
    texts, others = first.texts or [], other.texts or []
    if len(texts) != len(others):
        raise ClipkitError(f"{both}: expected {len(texts)} prompts, got {len(others)}", hint)
    for number, (a, b) in enumerate(zip(texts, others, strict=True), 1):
        if a != b:
            message = f"prompt {number}: expected {shorten(a)!r}, got {shorten(b)!r}"
            raise ClipkitError(f"{both} have different prompts: {message}", hint)
    for command, names in PROMPT_SETTINGS.items():
        check_same_settings(first, other, command, names)
    if first.last_entry("logits").get("whiten") and _differ(first, other, "logits", "texts"):
        raise ClipkitError(f"{both} have the directions of different prompts", hint)
    are_described = _is_described(first) and _is_described(other)
    if are_described and _differ(first, other, "textembed", "classes"):
        raise ClipkitError(f"{both} have prompts of different files of classes", hint)


def _is_described(file: FeatureFile) -> bool:
    """Whether a file of classes, which may describe them, gave the prompts."""
    return bool(file.last_entry("textembed").get("classes") == "file")


def _differ(first: FeatureFile, other: FeatureFile, command: str, name: str) -> bool:
    """Whether a command had another input, as the histories have it."""
    a, b = first.last_entry(command).inputs, other.last_entry(command).inputs
    return a.get(name) != b.get(name)


def check_same_settings(
    first: FeatureFile, other: FeatureFile, command: str, names: Sequence[str]
) -> None:
    """Check that a command was run with the same settings, if both files record it."""
    a, b = first.last_entry(command), other.last_entry(command)
    if not a or not b:
        return
    for name in names:
        if a.get(name) != b.get(name):
            values = f"{shorten(a.get(name))}, got {shorten(b.get(name))}"
            raise ClipkitError(
                f"{first.display_name} and {other.display_name}: expected {name} of {command} to "
                f"be {values}",
                f"run clipkit {command} again with the same settings",
            )


def _describe_model(model: Entry) -> str:
    name = str(model["name"])
    if model.get("untrained") is not None:
        name += f" untrained {model['untrained']}"
    if feature_name(model):
        name += f" {feature_name(model)}"
    for key in ("similarity", "question"):
        if key in model:
            name += f" {shorten(model[key])!r}"
    if model.get("digest"):
        name += f" {str(model['digest'])[:15]}"
    return name


def align_classes(images: FeatureFile, texts: FeatureFile) -> Int64 | None:
    """Return the prompts' class indices in the images' numbering; -1 if they name other classes."""
    if not texts.class_names or not images.class_names:
        return texts.class_index
    if texts.class_names == images.class_names:
        return texts.class_index
    names = f"{texts.display_name} and {images.display_name}"
    counts, image_counts = Counter(texts.class_names), Counter(images.class_names)
    if counts == image_counts:
        repeated, count = counts.most_common(1)[0]
        if count > 1:
            raise ClipkitError(
                f"{names} have the same classes in another order, but {count} of them are called "
                f"{repeated!r}",
                "embed the classes of the images: clipkit textembed --classes img.h5",
            )
        number_of = dict(zip(images.class_names, range(len(images.class_names)), strict=True))
        numbers = map(number_of.__getitem__, texts.class_names)
        return np.array([*numbers, -1], np.int64)[texts.class_index]  # -1 is the last
    words = _words_of_attribute(images, texts)
    if words is not None:
        return words
    example = next(iter((counts - image_counts) or (image_counts - counts)))
    console.warn(
        f"{names} name different classes "
        f"(for example {example!r}): the prompts serve as features, not for zeroshot"
    )
    return np.full(len(texts.texts or []), -1)


def _words_of_attribute(images: FeatureFile, texts: FeatureFile) -> Int64 | None:
    """Return the value (K) of prompts such as `colour: red`, if images are relabelled by colour."""
    column = images.last_entry("relabel").get("column")
    values = [f"{column}: {value}" for value in images.class_names or []]
    if column is None or not set(values).issubset(texts.class_names or []):
        return None
    codes = locate(texts.class_names or [], values)
    return np.array([*codes, -1], np.int64)[texts.class_index]  # -1 is the last


def unite_classes(files: Sequence[FeatureFile]) -> tuple[list[str] | None, list[Int64 | None]]:
    """Return the classes of all files, and per file the new number (C,) of each of its classes.

    The numbers are None if they do not change.
    """
    named = [file for file in files if file.class_names]
    unchanged: list[Int64 | None] = [None] * len(files)
    if not named:
        return None, unchanged
    if all(file.class_names == named[0].class_names for file in files):
        return named[0].class_names, unchanged
    united: dict[str, int] = {}
    numbers: list[Int64 | None] = []
    for file in files:
        names = file.class_names or []
        if not names and _has_labels(file):
            raise ClipkitError(
                f"{file.display_name}: expected class names, as in {named[0].display_name}, "
                "got none"
            )
        for name, count in Counter(names).most_common(1):
            if count > 1:
                raise ClipkitError(
                    f"{file.display_name}: expected each class name once, got {name!r} "
                    f"{count} times"
                )
        new = [united.setdefault(name, len(united)) for name in names]
        numbers.append(np.array(new, np.int64))
    return list(united), numbers


def _has_labels(file: FeatureFile) -> bool:
    return file.is_labelled or (file.class_index is not None and int(np.max(file.class_index)) >= 0)
