"""Choose among texts for an image and among images for a text: are captions understood?

The measures have the names of CLIP_benchmark. An item is right in `text_acc` if each image is
closer to its own text than to the others, in `image_acc` if each text is closer to its own image,
and in `acc` if both hold. Items of one image have `text_acc` alone.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipkit.analysis import metrics, similarity
from clipkit.analysis.results import Row, choose_split, make_result
from clipkit.base import console
from clipkit.base.errors import ClipkitError, shorten
from clipkit.datasets.items import Items
from clipkit.features.compatibility import (
    check_control,
    check_same_images,
    check_widths,
    common_logit_scale,
)
from clipkit.features.history import History, history_entry
from clipkit.features.model import FeatureFile, Float32, Floats, Int64, Split, as_float32

Bools = NDArray[np.bool_]

MEASURES = ("text_acc", "image_acc", "acc")
ALL = "all"  # the category of all items
PERMUTATIONS, SEED = 200, 42
BLOCK_ROWS = 32  # items whose permuted images are in memory at once
SHOWN = 5  # names in a message
WORD = re.compile(r"\w+")


class Candidates(NamedTuple):
    """The vectors of N items with I images, 1 or 2, and at most T texts each."""

    images: Float32  # (P, D), of length 1
    texts: Float32  # (K, D), of length 1
    image_rows: Int64  # (N, I)
    text_rows: Int64  # (N, T), -1 for none; the first is right for the first image


class Choices(NamedTuple):
    """What is right in each of M measures, and the most similar wrong text of the first image."""

    right: Bools  # (M, N)
    shuffled: Bools  # (M, S, N), after S permutations of the images
    wrong: Int64  # (N,)


def choose(
    images: FeatureFile,
    texts: FeatureFile,
    items: Items,
    split: str | None = None,
    *,
    control: tuple[FeatureFile, FeatureFile] | None = None,
    common: bool = False,
) -> FeatureFile:
    """Count in how many items the right text and image are chosen: what `clipkit choose` reports.

    Parameters
    ----------
    images, texts : FeatureFile
        Of kind images and of kind texts, of the same model. The texts hold all those of the items.
    items : Items
        See `datasets.items.read_items`.
    split : str, optional
        `test` by default, else the first split of the images.
    control : (FeatureFile, FeatureFile), optional
        The same images and texts, embedded by an untrained model.
    common : bool
        Leave out items whose images the file lacks, instead of refusing them.

    Returns
    -------
    FeatureFile
        A result with a row for each of MEASURES, its `split`, and each `category`, all items first:
        the number of `items`, the share `accuracy` of right ones with a 95 % interval that counts
        items of one image together (see `metrics.effective_rows`), and three nulls. `shuffled` and
        `shuffled95` are the mean and the 95 % quantile of the accuracy if the images are permuted
        among the items of a category: what the captions alone give. `angle` is what random
        directions give (see `chance`), and `ceiling` what a model that ignores the order of words
        cannot exceed (see `order_blind_ceiling`). `accuracy_control` and `shuffled_control` are the
        control's. The predictions are texts: the right one, if the item is right.

    Raises
    ------
    UsageError
        If there is no such split.
    ClipkitError
        If the files come from different models, or lack an image or a text of the items.
    """
    split = choose_split(images, split)
    items, rows = _find_images(images, split, items, common)
    candidates = _candidates(images, texts, split, items, rows)
    donors = _permute([item.category for item in items.items])
    choices = evaluate(candidates, donors)
    of_control = None
    inputs = {"images": images.digest, "texts": texts.digest}
    if control is not None:
        check_control(control[0], images, [split])
        check_same_images(control[0], images, [split])
        of_control = evaluate(_candidates(*control, split, items, rows), donors)
        inputs |= {"control images": control[0].digest, "control texts": control[1].digest}
    entry = history_entry(
        "choose",
        splits=[split],
        items=items.source["items"],
        common=common or None,
        inputs=inputs | items.source.get("inputs", {}),
    )
    result = make_result(History([*images.history, *texts.history, entry]), [])
    result.class_names = items.texts()
    result.display_name = images.display_name
    labels = candidates.text_rows[:, 0]
    ids = [item.id for item in items.items]
    for measure, right in zip(MEASURES, choices.right, strict=False):
        predicted = np.where(right, labels, choices.wrong)[None]
        result.splits[measure] = Split(labels=labels, ids=ids, predicted=predicted)
    result.set_rows(_rows(items, candidates, choices, of_control))
    return result


# ---- Items ---------------------------------------------------------------------------------------


def _find_images(
    images: FeatureFile, split: str, items: Items, common: bool
) -> tuple[Items, Int64]:
    """Return the items whose images are in a split, and the rows (N, I) of these images."""
    datasets = {str(data.get("name")) for data in images.history.datasets}
    if items.name == "shapes" and datasets and "shapes" not in datasets:
        got = ", ".join(datasets)
        raise ClipkitError(f"{images.display_name}: expected images of shapes, got {got}")
    counts = {len(item.images) for item in items.items}
    if len(counts) > 1:
        raise ClipkitError(f"{items.name}: expected items of one image or of two, got both")
    ids = images.splits[split].ids
    if len(set(ids)) < len(ids):
        raise ClipkitError(f"{images.display_name}: {split}: expected different ids")
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, row_id in enumerate(ids):
        rows_of[PurePosixPath(row_id).stem].append(row)
    named = dict.fromkeys(name for item in items.items for name in item.images)
    row_of = {name: _find_row(name, ids, rows_of) for name in named}
    unknown = [name for name, row in row_of.items() if row < 0]
    kept = [item for item in items.items if min(map(row_of.__getitem__, item.images)) >= 0]
    where = f"{images.display_name}: {split}"
    if not kept or (unknown and not common and items.name != "shapes"):
        hint = f"ids there look like {shorten(ids[0], 80)!r}"
        if kept:
            hint += "; use the items whose images are there with --common"
        raise ClipkitError(
            f"{where}: expected the images of {items.name}, got no {_list(unknown)}", hint
        )
    if len(kept) < len(items.items) and items.name != "shapes":
        left_out = console.count(len(items.items) - len(kept), "item")
        console.warn(f"{left_out} left out, whose images {where} lacks: {_list(unknown)}")
    rows = np.array([[row_of[name] for name in item.images] for item in kept])
    unused = len(ids) - len(np.unique(rows))
    if unused:
        console.note(f"{where}: {console.count(unused, 'image')} without item")
    return items._replace(items=kept), rows


def _find_row(name: str, ids: Sequence[str], rows_of: dict[str, list[int]]) -> int:
    """Return the only row whose id is a name, or the same file in a folder above; else -1.

    One of the two may lack its ending. `rows_of` has the rows by the stems of their files.
    """
    path = PurePosixPath(name)
    found = []
    for row in rows_of[path.stem]:
        other = PurePosixPath(ids[row])
        if ids[row] == name:
            return row
        folders = zip(reversed(path.parts[:-1]), reversed(other.parts[:-1]), strict=False)
        is_same_ending = path.suffix == other.suffix or "" in (path.suffix, other.suffix)
        if is_same_ending and all(a == b for a, b in folders):
            found.append(row)
    return found[0] if len(found) == 1 else -1


def _list(names: Sequence[str]) -> str:
    """List the first few names, each cut."""
    listed = ", ".join(repr(shorten(name, 80)) for name in names[:SHOWN])
    more = len(names) - SHOWN
    return f"{listed} and {more:,} more" if more > 0 else listed


def _candidates(
    images: FeatureFile, texts: FeatureFile, split: str, items: Items, rows: Int64
) -> Candidates:
    """Return the vectors of items, whose images are in `rows` (N, I) of a split."""
    common_logit_scale(images, texts)
    check_widths(images, texts)
    row_of = {text: row for row, text in enumerate(texts.texts or [])}
    names = items.texts()
    missing = [name for name in names if name not in row_of]
    if missing:
        raise ClipkitError(
            f"{texts.display_name}: expected the texts of {items.name}, got no {_list(missing)}",
            "make them with: clipkit textembed --items TABLE",
        )
    place = {name: number for number, name in enumerate(names)}
    text_rows = np.full((len(rows), max(len(item.texts) for item in items.items)), -1)
    for number, item in enumerate(items.items):
        text_rows[number, : len(item.texts)] = [place[text] for text in item.texts]
    used, image_rows = np.unique(rows, return_inverse=True)
    of_images = np.asarray(images.splits[split].features)[used]
    of_texts = np.asarray(texts.features)[[row_of[name] for name in names]]
    return Candidates(
        as_float32(similarity.normalize(of_images, images.display_name)),
        as_float32(similarity.normalize(of_texts, texts.display_name)),
        image_rows.reshape(rows.shape),
        text_rows,
    )


# ---- Choices -------------------------------------------------------------------------------------


def evaluate(candidates: Candidates, donors: Int64) -> Choices:
    """Choose by the largest cosine, with the items' own images and with those of other items.

    `donors` (S, N) are the items whose images each item gets in each permutation.
    """
    shuffled = []
    with console.progress("choosing", "items") as report_progress:
        for last, cosines in _blocks(candidates, donors):
            shuffled.append(_is_right(cosines))
            report_progress(last, donors.shape[1])
    own = np.arange(donors.shape[1])
    cosines = np.concatenate([block for _, block in _blocks(candidates, own[None])])[:, 0]
    nearest = 1 + cosines[:, 0, 1:].argmax(axis=1)
    wrong = candidates.text_rows[own, nearest]
    return Choices(_is_right(cosines), np.concatenate(shuffled, axis=1).swapaxes(1, 2), wrong)


def _blocks(candidates: Candidates, donors: Int64) -> Iterator[tuple[int, Floats]]:
    """Yield the last row of a block of B items, and their cosines (B, S, I, T) with donors' images.

    A text that an item does not have is infinitely far.
    """
    images, texts, image_rows, text_rows = candidates
    for first in range(0, len(text_rows), BLOCK_ROWS):
        rows = slice(first, first + BLOCK_ROWS)
        of_donors = images[image_rows[donors[:, rows].T]]  # (B, S, I, D)
        own = texts[text_rows[rows]].swapaxes(1, 2)  # (B, D, T)
        in_line = of_donors.reshape(len(own), -1, own.shape[1])  # (B, S * I, D)
        cosines = (in_line @ own).reshape(*of_donors.shape[:3], -1)
        is_absent = text_rows[rows, None, None] < 0
        yield first + len(own), np.where(is_absent, -np.inf, cosines)


def _is_right(cosines: Floats) -> Bools:
    """Return whether the cosines (..., I, T) are right in each measure (M, ...); a tie is not."""
    own = cosines[..., 0, 0]
    if cosines.shape[-2] == 1:
        return np.stack([own > cosines[..., 0, 1:].max(axis=-1)])
    other, own_1, other_1 = cosines[..., 0, 1], cosines[..., 1, 1], cosines[..., 1, 0]
    text = (own > other) & (own_1 > other_1)
    image = (own > other_1) & (own_1 > other)
    return np.stack([text, image, text & image])


# ---- Nulls ---------------------------------------------------------------------------------------


def _permute(categories: Sequence[str]) -> Int64:
    """Return permutations (S, N) of the items, each within its category."""
    random = np.random.RandomState(SEED)
    donors = np.empty((PERMUTATIONS, len(categories)), np.int64)
    numbers = np.unique(categories, return_inverse=True)[1]
    for number in range(numbers.max() + 1):
        members = np.flatnonzero(numbers == number)
        donors[:, members] = [random.permutation(members) for _ in range(PERMUTATIONS)]
    return donors


def chance(candidates: Candidates) -> Floats:
    """Return how often random directions make each item right in each measure (M, N).

    A random direction is closer to one image than to another, and the opposite holds for a second
    one, if it lies in two sectors of the angle between them: angle / 2 pi. So two images decide
    `text_acc`, and two texts `image_acc`. Both hold in a pyramid of these two angles, whose share
    of the sphere is arcsin(sin(a / 2) sin(b / 2)) / pi. At right angles: 1/4, 1/4 and 1/6.

    One image chooses each of its texts equally often.
    """
    images, texts, image_rows, text_rows = candidates
    if image_rows.shape[1] == 1:
        return np.stack([1 / (text_rows >= 0).sum(axis=1)])
    sines = []
    for vectors in (images[image_rows], texts[text_rows]):  # (N, 2, D)
        cosines = np.einsum("nd,nd->n", vectors[:, 0], vectors[:, 1], dtype=np.float64)
        sines.append(np.sqrt((1 - cosines.clip(-1, 1)) / 2))  # of half the angle
    single = np.arcsin(sines) / np.pi
    return np.vstack([single, np.arcsin(sines[0] * sines[1]) / np.pi])


def order_blind_ceiling(items: Items) -> Floats:
    """Return how often a model that ignores the order of words can be right in each item (N,).

    It cannot tell texts of the same words apart. So it is right for one of m such texts at most
    as often as for each other one, and these events exclude each other: 1 / m.
    """
    ceilings = []
    for item in items.items:
        words = [tuple(sorted(WORD.findall(text.casefold()))) for text in item.texts]
        ceilings.append(1 / Counter(words)[words[0]])
    return np.array(ceilings)


# ---- Summaries -----------------------------------------------------------------------------------


def _rows(
    items: Items, candidates: Candidates, choices: Choices, control: Choices | None
) -> list[Row]:
    """Return a row for each measure and category, all items first."""
    angle, ceiling = chance(candidates), order_blind_ceiling(items)
    categories = np.array([item.category for item in items.items])
    groups = [(ALL, np.ones(len(categories), bool))]
    if any(categories):
        for name in dict.fromkeys(categories.tolist()):
            groups.append((name or "none", categories == name))
    rows: list[Row] = []
    for number, measure in enumerate(MEASURES[: len(choices.right)]):
        for name, members in groups:
            row: Row = {"split": measure, "category": name, "items": int(members.sum())}
            right = choices.right[number, members]
            independent = metrics.effective_rows(right, candidates.image_rows[members, 0])
            shuffled = choices.shuffled[number][:, members].mean(axis=1)
            row["accuracy"] = accuracy = float(right.mean())
            row["accuracy_low"], row["accuracy_high"] = metrics.wilson(accuracy, independent)
            row["shuffled"] = float(shuffled.mean())
            row["shuffled95"] = float(np.quantile(shuffled, 0.95))
            row["angle"] = float(angle[number, members].mean())
            row["ceiling"] = float(ceiling[members].mean())
            if control is not None:
                row["accuracy_control"] = float(control.right[number, members].mean())
                row["shuffled_control"] = float(control.shuffled[number][:, members].mean())
            rows.append(row)
    return rows
