"""Which rows a command uses: the splits, the ids, rows without a partner, rows that were fitted.

Every command that chooses splits of a file, or matches the rows of a file with a table, captions,
items, images or another file, calls this module. So all have the same rules and messages.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipkit.base import console, suggestions
from clipkit.base.errors import MAX_LISTED, ClipkitError, UsageError, listed, shorten, unknown
from clipkit.base.matrices import BlockMatrix, Int64
from clipkit.features.clusters import fill_clusters, has_clusters
from clipkit.features.model import ROW_NUMBERS, FeatureFile, Split

ALL = "all"  # stands for all splits of a file that has no split of this name
ENDING = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,4}")  # no number: a.1 and a.2 are two ids
MAX_FOLDERS = 8  # that are distinguished: each is a pass over the ids
COMMON_HINT = "--common leaves them out"
FORM_HINT = "write the ids as the images have them; folders and endings may be left out"


# ---- Splits --------------------------------------------------------------------------------------


def default_split(splits: Iterable[str]) -> str:
    """Return the split `test` if there is one, else the first."""
    names = list(splits)
    return "test" if "test" in names else names[0]


def choose_split(file: FeatureFile, split: str | None = None) -> tuple[FeatureFile, str]:
    """Return a file and its split with the rows to use: by default `test`, else the first split.

    See `choose_splits`.
    """
    if not file.splits:
        raise ClipkitError(f"{file.display_name}: expected a split, got none")
    if split is None:
        split = default_split(file.splits)
    file, names = choose_splits(file, [split])
    return file, names[0]


def choose_splits(
    file: FeatureFile, names: Sequence[str] | None = None
) -> tuple[FeatureFile, list[str]]:
    """Return a file, with splits that are joined, and the names of the splits to use.

    Parameters
    ----------
    file : FeatureFile
        With splits.
    names : sequence of str, optional
        Split names; by default, all splits, one by one. ``a,b`` are the rows of a and of b
        together, in the order of the file, as a split `a-b`. ``all`` are the rows of all splits
        together, unless a split has this name.

    Raises
    ------
    UsageError
        If there is no such split, or splits of a result would be joined.
    ClipkitError
        If an id would be there twice.
    """
    file, chosen = join_named(file, names or list(file.splits))
    for name in chosen:
        if name not in file.splits:
            raise _unknown_split(file, name)
    return file, list(dict.fromkeys(chosen))


def join_named(file: FeatureFile, names: Iterable[Any]) -> tuple[FeatureFile, list[Any]]:
    """Join splits as `choose_splits` does; keep what names no splits to join, such as a fraction.

    Return the file, with the joined splits, and the names with those of the joined splits.
    """
    chosen: list[Any] = []
    joined: dict[str, Split] = {}
    for name in names:
        parts = _parts(file, name)
        if len(parts) > 1:
            joined_name = ALL if len(parts) == len(file.splits) else "-".join(parts)
            while joined_name in file.splits:
                joined_name += "-2"
            joined[joined_name] = _join(file, parts)
            chosen.append(joined_name)
        else:
            chosen += parts or [name]
    if joined:
        file = replace(file, splits={**file.splits, **joined}, as_read=file)
    return file, chosen


def join_alike(file: FeatureFile, other: FeatureFile) -> FeatureFile:
    """Join splits of a file, such as a control, as those of another file are joined."""
    joined = {}
    for name, parts in other.joined.items():
        if name not in file.splits and file.splits.keys() >= set(parts):
            joined[name] = _join(file, parts)
    if not joined:
        return file
    return replace(file, splits={**file.splits, **joined}, as_read=file)


def _parts(file: FeatureFile, name: object) -> list[str]:
    """Return the splits that ``a,b`` or ``all`` stands for, in the order of the file, or []."""
    if not isinstance(name, str) or name in file.splits:
        return []
    if name == ALL:
        return list(file.splits)
    words = _words(name)
    if not file.splits.keys() >= set(words):
        return []
    return [split for split in file.splits if split in words]


def _words(name: str) -> list[str]:
    return [word.strip() for word in name.split(",")]


def _unknown_split(file: FeatureFile, name: str) -> UsageError:
    """Return the error for a name of which a word is no split."""
    for word in _words(name):
        if word not in file.splits:
            name = word
            break
    known = list(file.splits)
    if len(known) > 1:
        known = [*known, ALL]
    # a split of another name is seldom a misspelt one: all are named
    error = unknown(f"split of {file.display_name}", name, known)
    if known:
        error.hint = f"known: {listed(known, MAX_LISTED)}"
    return error


def _join(file: FeatureFile, names: Sequence[str]) -> Split:
    """Return the rows of several splits as one. It has labels if all of them have labels."""
    if file.is_result:
        raise UsageError(
            f"{file.display_name}: expected one split of a result, got {', '.join(names)}",
            f"choose one of them: {suggestions.command('--split', names[0])}",
        )
    known = file.splits
    if has_clusters(known):
        known = fill_clusters(known)
    splits = [known[name] for name in names]
    different = {row_id for split in splits for row_id in split.ids}
    if _has_row_numbers(file) and len(different) < sum(map(len, splits)):
        splits = [_name_rows(name, known[name]) for name in names]
    part_of: dict[str, str] = {}
    parts: list[str] = []
    for name, split in zip(names, splits, strict=True):
        shared = part_of.keys() & set(split.ids)
        if shared:
            first = min(shared)
            raise ClipkitError(
                f"{file.display_name}: expected different ids in {part_of[first]} and {name}, got "
                f"{shorten(first)!r} in both",
                "use one split after the other",
            )
        part_of |= dict.fromkeys(split.ids, name)
        parts += [name] * len(split)
    matrices: list[Any] = [split.features for split in splits]
    if all(isinstance(matrix, np.ndarray) for matrix in matrices):
        joined = Split(np.concatenate(matrices), parts=parts)
    else:
        joined = Split(BlockMatrix.join(matrices), parts=parts)
    joined.ids = [row_id for split in splits for row_id in split.ids]
    labels = [split.labels for split in splits if split.labels is not None]
    if len(labels) == len(splits):
        joined.labels = np.concatenate(labels)
    clusters = [split.cluster for split in splits if split.cluster is not None]
    if clusters:
        joined.cluster = np.concatenate(clusters)
    return joined


def _has_row_numbers(file: FeatureFile) -> bool:
    """Whether the ids of a file are row numbers, since an import had none."""
    return any(entry.get("ids") == ROW_NUMBERS for entry in file.history)


def _name_rows(name: str, split: Split) -> Split:
    """Return a split whose row numbers begin with its name: `train/00`."""
    return replace(split, ids=[f"{name}/{row_id}" for row_id in split.ids])


# ---- Ids -----------------------------------------------------------------------------------------


class Found(NamedTuple):
    """Where ids were found, and how."""

    places: Int64  # (N,), among the known ids; -1 for an id that is not there
    rule: str  # "" if ids are equal, else such as "by their file names"


def find_ids(ids: Sequence[str], known: Sequence[str]) -> Found:
    """Find ids among others that differ: by the first rule that finds most of them.

    Ids may be equal; or be equal without leading folders, on one side or both; or without the
    endings of file names; or without both. A rule counts only if ids still differ on both sides.

    >>> find_ids(["a/1.jpg", "a/2.jpg"], ["/data/a/2.jpg", "/data/a/1.jpg"])
    Found(places=array([1, 0]), rule='without leading folders')
    """
    wanted = dict.fromkeys(ids)
    # an id that is there twice has no place: which one is not said
    times = Counter(filter(wanted.__contains__, known))
    best = {row_id: place for place, row_id in enumerate(known) if times.get(row_id) == 1}
    best_rule = ""
    candidates: list[int] = []  # the known ids that some rule may find
    if len(best) < len(wanted):
        name = partial(_form, parts=1, has_ending=False)  # that any rule leaves of an id
        names = set(map(name, wanted))
        candidates = [place for place, row_id in enumerate(known) if name(row_id) in names]
    if len(candidates) > len(best):  # else no rule finds more
        for rule, form in _rules([*wanted, *(known[place] for place in candidates)]):
            place_of = {form(known[place]): place for place in candidates}
            found = {}
            for row_id in wanted:
                place = place_of.get(form(row_id), -1)
                if place >= 0:
                    found[row_id] = place
            if len(found) > len(best) and _tells_apart(form, wanted) and _tells_apart(form, known):
                best, best_rule = found, rule
            if len(best) == min(len(wanted), len(known)):
                break
    return Found(np.array([best.get(row_id, -1) for row_id in ids], np.int64), best_rule)


def _tells_apart(form: Callable[[str], str], ids: Collection[str]) -> bool:
    return len(set(map(form, ids))) == len(ids)


def _rules(ids: Sequence[str]) -> Iterator[tuple[str, Callable[[str], str]]]:
    """Yield rules: what a note says of them, and the part of an id that has to be equal."""
    folders = max(row_id.count("/") for row_id in ids)
    lengths = range(min(folders, MAX_FOLDERS), 0, -1)
    for parts in lengths:
        how = "without leading folders" if parts > 1 else "by their file names"
        yield how, partial(_form, parts=parts)
    yield "without endings", partial(_form, has_ending=False)
    for parts in lengths:
        how = "without leading folders and endings"
        if parts == 1:
            how = "by their file names without endings"
        yield how, partial(_form, parts=parts, has_ending=False)


def _form(row_id: str, parts: int = 0, has_ending: bool = True) -> str:
    """Return the last parts of an id, or all parts if `parts` is 0, with or without its ending."""
    form = "/".join(row_id.split("/")[-parts:])
    stem, ending = posixpath.splitext(form)
    if has_ending or not ENDING.fullmatch(ending):
        return form
    return stem


# ---- Partners ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rows:
    """Rows to match with others, and what messages call them."""

    ids: Sequence[str]
    noun: str  # such as "images"
    where: str  # the file, such as "test of img.h5"
    others: Mapping[str, Sequence[str]] = field(default_factory=dict)  # ids of its other splits
    split: str = ""
    splits: Sequence[str] = ()  # of the rows, where messages name them

    def example(self, row: int) -> str:
        """Return the id of a row for a message."""
        row_id = repr(shorten(self.ids[row]))
        return f"{row_id} of {self.splits[row]!r}" if self.splits else row_id

    @classmethod
    def of(cls, file: FeatureFile, split: str, noun: str = "images") -> Rows:
        """Return the rows of a split of a file; their ids must differ."""
        ids = file.splits[split].ids
        if len(set(ids)) < len(ids):
            raise ClipkitError(
                f"{file.display_name}: {split}: expected different ids, got {len(set(ids)):,} in "
                f"{len(ids):,} rows"
            )
        used = file.joined.get(split, [split])
        others = {}
        if not file.is_result:  # whose splits cannot be joined
            splits = (file.as_read or file).splits
            others = {name: rows.ids for name, rows in splits.items() if name not in used}
        return cls(ids, noun, f"{split} of {file.display_name}", others, ",".join(used))


def match(rows: Rows, others: Rows, partner: str, *, common: bool, hint: str = "") -> Int64:
    """Return the place (N,) of each row's partner among others, by their ids; -1 for none.

    If some have none, a note says which rule matched ids that are not equal. Rows without a partner
    are left out with a note, or refused unless `common`. If there is no partner at all, that is an
    error. `hint` says what else to do about it than `--common`.
    """
    found = find_ids(rows.ids, others.ids)
    note_rule(rows, found)
    check_partners(rows, others, found.places, partner, common, hint)
    return found.places


def note_rule(rows: Rows, found: Found) -> None:
    """Note how ids were found if they are not equal, and some were not."""
    count = np.count_nonzero(found.places >= 0)
    if found.rule and count < len(rows.ids):
        console.note(f"matched {count:,} of {len(rows.ids):,} ids of {rows.where} {found.rule}")


def check_partners(
    rows: Rows, others: Rows, places: Int64, partner: str, common: bool, hint: str = ""
) -> None:
    """Note rows without a partner, or refuse them unless `common`; see `match`.

    A row without a line of a table stays if it is used without values.
    """
    alone = np.flatnonzero(places < 0)
    if not len(alone):
        return
    missing = [rows.ids[row] for row in alone.tolist()]
    number = f"{len(missing):,} of {len(rows.ids):,} {rows.noun} of {rows.where}"
    elsewhere = find_elsewhere(missing, others)
    are_all_missing = len(missing) == len(rows.ids)
    if common and not are_all_missing:
        more = f"; hint: {elsewhere}" if elsewhere else ""
        done = "no values for" if partner == "line" else "left out"
        console.note(f"{done} {number} without {partner} in {others.where}{more}")
        return
    if not hint and are_all_missing:
        hint = f"embed the same images for {others.where}" if partner == "image" else FORM_HINT
    hint = hint or COMMON_HINT
    verb = "has" if len(missing) == 1 else "have"
    unused = set(range(len(others.ids))).difference(places.tolist())
    raise ClipkitError(
        f"{number} {verb} no {partner} in {others.where}. Ids there look like "
        f"{others.example(min(unused, default=0))}, those of the {rows.noun} like "
        f"{rows.example(int(alone[0]))}",
        elsewhere or hint,
    )


def find_elsewhere(missing: Sequence[str], others: Rows) -> str:
    """Say which other splits of a file have missing ids, and how to use them; "" for none."""
    counts = {}
    for name, ids in others.others.items():
        if not set(others.ids).isdisjoint(ids):
            continue  # splits number their rows
        count = np.count_nonzero(find_ids(missing, ids).places >= 0)
        if count:
            counts[name] = count
    if not counts:
        return ""
    first, *more = counts.items()
    verb = "is" if first[1] == 1 else "are"
    places = [f"{first[1]:,} of them {verb} in {first[0]}"]
    places += [f"{count:,} in {name}" for name, count in more]
    split = ",".join([others.split, *counts])
    if len(counts) == len(others.others):
        split = ALL
    return f"{' and '.join(places)}: {suggestions.command('--split', split)}"


# ---- Rows that were fitted or chosen with --------------------------------------------------------


def row_keys(file: FeatureFile, split: str) -> list[tuple[str, str]]:
    """Return what tells the rows (N,) of a split from all others of the file: split and id."""
    rows = file.splits[split]
    parts, ids = rows.parts or [split] * len(rows), rows.ids
    if rows.parts and _has_row_numbers(file):  # they may have been named after their splits
        pairs = zip(parts, ids, strict=True)
        ids = [row_id.removeprefix(f"{part}/") for part, row_id in pairs]
    return list(zip(parts, ids, strict=True))


def count_shared_rows(hashes: Int64, X_eval: NDArray[Any] | BlockMatrix) -> int:
    """Count the rows that have their hashes among others: they are equal to the bit.

    Features of few values, such as the cosines with one prompt, coincide by chance. If that may be
    (see `coincide_by_chance`), how often is estimated from the equal ones among the other rows,
    and a count of up to twice what chance explains is returned as 0.

    Parameters
    ----------
    hashes : array (N,)
        Of other rows, as `hash_rows` gives them.
    X_eval : array (M, D)
    """
    shared = int(np.isin(hash_rows(X_eval), hashes).sum())
    pairs = len(hashes) * len(X_eval)
    if not shared or not coincide_by_chance(np.asarray(X_eval), pairs):
        return shared
    by_chance = pairs * _equal_pairs(hashes, 1)
    if shared <= 2 * by_chance:
        return 0
    return shared


def may_share_rows(X: NDArray[Any] | BlockMatrix, X_eval: NDArray[Any] | BlockMatrix) -> bool:
    """Whether a row of `X_eval` (M, D) begins as one of `X` (N, D), as rows equal to the bit do.

    If not, no row needs a hash, which takes many times as long.
    """
    return bool(np.isin(_first_columns(X_eval), _first_columns(X)).any())


def _first_columns(X: NDArray[Any] | BlockMatrix) -> NDArray[np.integer[Any]]:
    """Return the bits of the first two columns of each row (N, D) as a number (N,)."""
    blocks = BlockMatrix.from_array(X).iter_blocks()
    bits = b"".join(np.ascontiguousarray(block[:, :2], "<f4").tobytes() for block in blocks)
    return np.frombuffer(bits, "<u8" if X.shape[1] > 1 else "<u4")


def coincide_by_chance(X: NDArray[Any], pairs: int) -> bool:
    """Whether, among so many pairs of different images, equal rows may be expected.

    If columns were independent, two images would share a row with the product of the probabilities
    that they share a value of each column. The square root of the product allows for columns that
    are correlated. The probabilities are estimated from the rows (N, D).
    """
    expected = float(pairs)
    for values in X.T:
        expected *= _equal_pairs(values, 10) ** 0.5
        if expected < 1:
            return False
    return True


def _equal_pairs(values: NDArray[Any], further: int) -> float:
    """Return the share of equal pairs of N values, estimated with one more and further pairs."""
    counts = np.unique(values, return_counts=True)[1]
    pairs = len(values) * (len(values) - 1) // 2
    return float((1 + (counts * (counts - 1) // 2).sum()) / (further + pairs))


def hash_rows(X: NDArray[Any] | BlockMatrix) -> Int64:
    """Return a number (N,) for each row (N, D): the BLAKE2b digest, of 8 bytes, of its float32."""
    blocks = BlockMatrix.from_array(X).iter_blocks()
    rows = (row for block in blocks for row in np.ascontiguousarray(block, "<f4"))
    digests = b"".join(hashlib.blake2b(row, digest_size=8).digest() for row in rows)
    return np.frombuffer(digests, "<i8")
