"""The content of a feature file: `FeatureFile`, its splits, and the names that each kind has."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipkit.base import console, files, probe_arrays
from clipkit.base.errors import LARGEST, SMALLEST, ClipkitError, unknown
from clipkit.base.matrices import BlockMatrix, Float32, Int64, as_float32
from clipkit.base.probe_arrays import ProbeArray
from clipkit.base.views import VIEWS
from clipkit.features.columns import (
    ANY,
    CHECKED_UNITS,
    FLAG,
    OWN_QUESTION,
    Column,
    Unit,
    columns_of_command,
)
from clipkit.features.history import DOT_PRODUCT, Entry, History, canonical_json, drop_none

FORMAT = "clipkit"
VERSION = 1
METADATA = "clipkit"  # the name of the JSON among the arrays of an export
RESULTS = ("result", "probe")  # a probe is a result that holds what was fitted, too
TABLES = ("runs", "claims")  # groups of a result, with a data set for each column
CLAIM_FIELDS = {  # what a result holds of a claim, with the stored type
    "run": "<i8",  # the run that it is about; -1 for the whole result
    "subject": "S",
    "value": "<f8",
    "low": "<f8",
    "high": "<f8",
    "unit": "S",
    "rows": "<i8",
    "against": "S",
    "against_value": "<f8",
    "verdict": "S",
    "because": "S",
    "needs": "<f8",
}
ROW_NUMBERS = "row numbers"  # what the history says of ids that an import did not have
SHOWN_COLUMNS = 4  # in the repr of a result
TEXTS_AT_ONCE = 1 << 14  # a text costs Python ten times its bytes, so few are converted at once


class Layout(NamedTuple):
    """The data sets of a kind of file, at the root and in every split; results have `TABLES`."""

    root: set[str]
    optional_root: set[str]
    split: set[str]
    optional_split: set[str]


PROMPTS = {"texts", "class_index"}
ROW_FACTS = {"labels", "cluster"}
OTHER_TEXTS = ("other_features", "other_texts")  # the control of words: texts about other things
KINDS = {
    "images": Layout(set(), {"class_names"}, {"features", "ids"}, ROW_FACTS),
    "texts": Layout({"features", *PROMPTS}, {"class_names", *OTHER_TEXTS}, set(), set()),
    "logits": Layout(PROMPTS, {"class_names"}, {"features", "ids"}, ROW_FACTS),
    "result": Layout(set(), {"class_names"}, {"predicted", "ids"}, ROW_FACTS),
    "probe": Layout(set(), {"class_names", "texts"}, {"predicted", "ids"}, ROW_FACTS),
}

# The arrays of a kept probe besides those that its classifier declares
PROBE_ARRAYS: dict[str, ProbeArray] = {
    "classifier": ProbeArray({"S"}, "1"),
    "input": ProbeArray({"S"}, "1"),
    "classes": ProbeArray({"<i8"}, "n"),
    "balanced": ProbeArray({"<i8"}, "1"),
    "temperature": ProbeArray({"<f8"}, "1", is_positive=True),
    "mean": ProbeArray({"<f4", "<f8"}, "D"),
    "deviation": ProbeArray({"<f4", "<f8"}, "D", is_positive=True),
    "centre": ProbeArray({"<f4", "<f8"}, "D"),
    "rms": ProbeArray({"<f8"}, "1", is_positive=True),
    "factor": ProbeArray({"<f8"}, "1", is_positive=True),
    "row_hashes": ProbeArray({"<i8"}, "F"),
}
# The stored types that a data set may have (S: fixed-length UTF-8) and its number of dimensions.
TYPES: dict[str, tuple[Set[str], int]] = {
    "features": ({"<f4"}, 2),
    "labels": ({"<i8"}, 1),
    "ids": ({"S"}, 1),
    "predicted": ({"<i8"}, 2),
    "cluster": ({"<i8"}, 1),
    "texts": ({"S"}, 1),
    "class_index": ({"<i8"}, 1),
    "class_names": ({"S"}, 1),
    "other_features": ({"<f4"}, 2),
    "other_texts": ({"S"}, 1),
    "runs": ({"S", "<i8", "<f8"}, 1),
}
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
RESERVED = {"features", "texts", "class_index", "class_names", *TABLES}


@dataclass
class Split:
    """The rows of one split.

    Attributes
    ----------
    features : (N, D) float32 array or BlockMatrix, or None
        An array after `read`, a `BlockMatrix` after `open_file`. Results have none.
    labels : (N,) int64 array or None
        Class of each row; None without labels.
    ids : list of N str
    predicted : (R, N) int64 array or None
        Of results: the class, or the cluster, that each of R runs gave each row.
    cluster : (N,) int64 array or None
        A number that rows share if they depend on each other, in whichever split of the file they
        are; None if each row is separate.
    parts : list of N str, or None
        Of joined splits: the split that each row is from. Not stored.
    """

    features: Any = None
    labels: Int64 | None = None
    ids: list[str] = field(default_factory=list)
    predicted: Int64 | None = None
    cluster: Int64 | None = None
    parts: list[str] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def describe(self) -> str:
        """Return the shape of the rows: `300 x 64`, or `300 rows` without features."""
        if self.features is None:
            return f"{len(self)} rows"
        return f"{len(self)} x {self.features.shape[1]}"

    def __repr__(self) -> str:
        parts = [f"{len(self)} rows"]
        for name in ("features", "labels", "predicted", "cluster"):
            value = getattr(self, name)
            if value is not None:
                parts.append(f"{name} {value.shape}")
        return f"Split({', '.join(parts)})"

    def take(self, rows: NDArray[np.integer[Any]] | Sequence[int]) -> Split:
        """Return a split with the given rows (n,), in their order, and its features in memory."""
        rows = np.asarray(rows, np.int64)
        taken = Split(ids=[self.ids[row] for row in rows.tolist()])
        if self.features is not None:
            taken.features = np.asarray(self.features)[rows]
        if self.labels is not None:
            taken.labels = self.labels[rows]
        if self.predicted is not None:
            taken.predicted = self.predicted[:, rows]
        if self.cluster is not None:
            taken.cluster = self.cluster[rows]
        if self.parts is not None:
            taken.parts = [self.parts[row] for row in rows.tolist()]
        return taken

    def take_in_blocks(self, rows: Int64) -> Split:
        """Return some rows (n,) of images or logits, ascending. Their features stay in blocks."""
        taken = replace(self, features=None, parts=None).take(rows)
        taken.features = BlockMatrix.from_array(self.features).take(rows)
        return taken


@dataclass
class FeatureFile:
    """The content of a feature file. `KINDS` has the fields of each kind.

    Attributes
    ----------
    kind : {"images", "texts", "logits", "result", "probe"}
    history : History
        One entry for each command that made the file, oldest first. A list of dicts becomes one.
    splits : dict of str to Split
        Of images and logits, and of results and probes with predictions.
    features, texts, class_index : (K, D) float32, list of K str, (K,) int64
        Of texts. Logits have `texts` and `class_index` too. -1 marks a prompt of no class. A probe
        has the `texts` of the logits that it was fitted on.
    class_names : list of C str, or None
    other_features, other_texts : (T, D) float32, list of T str, or None
        Of texts: further texts, about other things. They are no prompts. Only `attributes` reads
        them, as the control of words that are alone in their file.
    runs : dict of str to array (R,)
        The columns of a result or probe. NaN marks what does not apply.
    claims : dict of str to array (M,)
        What may be said of a result or probe: the fields of `claims.Claim`, by their names.
    fitted : dict of str to array or list of str
        Of a probe: what was fitted, as `probes.FittedProbe.from_arrays` takes it.
    temperature : float or None
        Of logits: what their cosines were divided by. See `cosines`.
    logit_scale : float or None
        Of logits: exp of the scale that the model learned.
    display_name : str
        What messages call the file: its path, or "standard input". Not stored.
    digest_read, digest_stated : str
        Of a file that was read: the digest of its content, and the one that it states. Another
        program may have computed that from other bytes. Not stored.
    as_read : FeatureFile or None
        Of a file with joined splits (see `matching.choose_rows`): the file without them, of which
        `digest` is the digest. Not stored.
    """

    kind: str
    history: History = field(default_factory=History)
    splits: dict[str, Split] = field(default_factory=dict)
    features: Any = None
    texts: list[str] | None = None
    class_index: Int64 | None = None
    class_names: list[str] | None = None
    other_features: Float32 | None = None
    other_texts: list[str] | None = None
    runs: dict[str, NDArray[Any]] = field(default_factory=dict)
    claims: dict[str, NDArray[Any]] = field(default_factory=dict)
    fitted: dict[str, Any] = field(default_factory=dict)
    temperature: float | None = None
    logit_scale: float | None = None
    display_name: str = "the file"
    digest_read: str = ""
    digest_stated: str = ""
    as_read: FeatureFile | None = None

    def __repr__(self) -> str:
        parts = [self.kind]
        if self.is_result and self.history:
            parts.append(self.history[-1].command)
        if self.run_count:
            columns = [
                *list(self.runs)[:SHOWN_COLUMNS],
                *["..."] * (len(self.runs) > SHOWN_COLUMNS),
            ]
            runs = console.count(self.run_count, "run")
            parts.append(f"{runs}: {' '.join(columns)}")
        parts += [f"{name}: {split.describe()}" for name, split in self.splits.items()]
        if self.features is not None:
            parts.append(f"{self.features.shape[0]} x {self.features.shape[1]}")
        for what, values in (("texts", self.texts), ("classes", self.class_names)):
            if values:
                parts.append(f"{len(values)} {what}")
        return f"FeatureFile({', '.join(parts)})"

    def __getitem__(self, split: str) -> Split:
        """Return a split by its name: ``file["test"]``."""
        if split in self.splits:
            return self.splits[split]
        raise unknown(f"split of {self.display_name}", str(split), self.splits)

    def __contains__(self, split: object) -> bool:
        return split in self.splits

    __iter__ = None  # neither splits nor rows are meant alone

    def __len__(self) -> int:
        """Return the number of runs of a result, of texts, or of images in all splits."""
        if self.is_result:
            return self.run_count
        if self.kind == "texts":
            return len(self.texts or [])
        return sum(map(len, self.splits.values()))

    def __bool__(self) -> bool:
        return True  # a file without rows is a file

    def _repr_html_(self) -> str | None:
        """Return what a notebook shows of a file of this kind; None for its `repr` only."""
        if self.kind not in VIEWS:
            return None
        return VIEWS[self.kind](self)

    def to_pandas(self) -> Any:
        """Return the runs of a result as a DataFrame of pandas, which must be installed.

        Numbers, texts and flags keep their types. The limits of an interval are columns, such as
        `acc1_low` and `acc1_high`. What does not apply is NaN.

        Raises
        ------
        ClipkitError
            If the file is no result, or pandas is not installed.
        """
        if not self.is_result:
            raise ClipkitError(
                f"{self.display_name}: expected a result, got {self.kind}",
                "for rows of features: clipkit convert FILE.h5 FILE.parquet",
            )
        try:
            import pandas
        except ImportError:
            raise ClipkitError("to_pandas needs pandas", "pip install pandas") from None
        known = known_columns(self)
        return pandas.DataFrame(
            {name: _restored(known.get(name), values) for name, values in self.runs.items()}
        )

    @property
    def digest(self) -> str:
        """Digest of the current content, computed at each access: edits change it.

        Without edits, it is the digest that the file states. Joined splits do not change it.
        """
        if self.as_read is not None:
            return self.as_read.digest
        entries = {name: _content_entry(name, value) for name, value in self.datasets().items()}
        digest = file_digest(self.attributes(), entries)
        return self.digest_stated if digest == self.digest_read else digest

    @property
    def default_temperature(self) -> float:
        """The temperature of logits, to use unless another is given."""
        return self.temperature or 1.0

    def cosines(self, split: str) -> BlockMatrix:
        """Return the cosines (N, K) of a split of logits, whatever temperature they were stored at.

        `features` are cosine / `temperature`, so cosine = `features` x `temperature`.

        Raises
        ------
        ClipkitError
            When a block is read whose products are too large for float32, and so no cosines.
        """
        matrix = BlockMatrix.from_array(self.splits[split].features)
        if self.default_temperature == 1:
            return matrix
        return matrix.map(lambda block: self.as_cosines(split, block))

    def as_cosines(self, split: str, logits: Float32) -> Float32:
        """Return some logits of a split as `cosines` does, in any shape."""
        temperature = self.default_temperature
        # a factor of float32 where that can hold it: 1e39 would become Inf, and 1e-46 zero
        factor = np.float32(temperature) if SMALLEST <= temperature <= LARGEST else temperature
        with np.errstate(over="ignore"):
            cosines = as_float32(logits.astype(np.float64) * factor)
        if np.isfinite(cosines).all():
            return cosines
        raise ClipkitError(
            f"{self.display_name}: {split}/features: expected logits of cosines, got values "
            f"that the temperature {temperature:g} takes beyond float32"
        )

    @property
    def is_result(self) -> bool:
        """Whether the file has runs and predictions: a result, or a probe."""
        return self.kind in RESULTS

    def as_result(self) -> FeatureFile:
        """Return the runs and predictions of a result or probe without what was fitted."""
        return replace(self, kind="result", texts=None, fitted={})

    @property
    def run_count(self) -> int:
        """Number R of the runs of a result."""
        return len(next(iter(self.runs.values()), ()))

    def columns(self) -> dict[str, list[Any]]:
        """Return the runs of a result by column, as the command reported them."""
        known = known_columns(self)
        restored = {name: _restored(known.get(name), values) for name, values in self.runs.items()}
        return {name: values.tolist() for name, values in restored.items()}

    def rows(self) -> list[dict[str, Any]]:
        """Return the runs of a result as one dict per run."""
        columns = self.columns()
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    @property
    def split_of_runs(self) -> list[str]:
        """The split that each run was scored on: a probe's `eval_split`, others' `split`, or ""."""
        for name in ("eval_split", "split"):
            if name in self.runs:
                return list(map(str, self.runs[name]))
        return [""] * self.run_count

    def runs_on(self, split: str) -> list[dict[str, Any]]:
        """Return the runs that were scored on a split."""
        rows = self.rows()
        return [rows[run] for run in self.numbers_on(split)]

    def numbers_on(self, split: str) -> list[int]:
        """Return the numbers of the runs that were scored on a split."""
        return [run for run, name in enumerate(self.split_of_runs) if name == split]

    @property
    def is_labelled(self) -> bool:
        """Whether a split has labels."""
        return any(split.labels is not None for split in self.splits.values())

    def set_rows(self, rows: Sequence[dict[str, Any]]) -> None:
        """Set the runs of a result from one dict per run; None becomes NaN."""
        self.runs = {}
        if not rows:
            return
        for name in rows[0]:
            values = [math.nan if row[name] is None else row[name] for row in rows]
            self.runs[name] = np.asarray(values)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "history" and type(value) is list:
            value = History(value)
        super().__setattr__(name, value)

    def model(self) -> Entry | None:
        """Return what the history says of the model that made the features, if it names one."""
        return self.history.model or None

    def last_entry(self, command: str) -> Entry:
        """Return the history's last entry of a command, or an empty one."""
        return self.history.last(command)

    @property
    def is_dot_product(self) -> bool:
        """Whether similarities are dot products, which are next-token logits, and not cosines."""
        return self.history.model.get("similarity") == DOT_PRODUCT

    @property
    def similarity_name(self) -> str:
        """What a similarity of an image with a prompt is called, before its temperature."""
        return "next-token logit" if self.is_dot_product else "cosine"

    @property
    def holds_clusters(self) -> bool:
        """Whether the predictions are cluster numbers, and not classes."""
        return bool(self.history) and self.history[-1].command == "cluster"

    @property
    def holds_ranks(self) -> bool:
        """Whether the runs are of attributes, and predictions, if any, ranks of scores."""
        return bool(self.history) and self.history[-1].command == "attributes"

    @property
    def holds_choices(self) -> bool:
        """Whether predictions are chosen texts of items: those of the first run on a split.

        The other runs on it are of categories of the items.
        """
        return bool(self.history) and self.history[-1].command == "choose"

    def extended_history(self, command: str, **parameters: Any) -> History:
        """Return the history with an entry for a command that made something from this file."""
        return self.history.extended(command, **self.describe_joined(), **parameters)

    @property
    def joined(self) -> dict[str, list[str]]:
        """The splits that each joined split of `matching.choose_rows` is made of."""
        parts = {name: split.parts for name, split in self.splits.items()}
        return {name: list(dict.fromkeys(of_rows)) for name, of_rows in parts.items() if of_rows}

    def describe_joined(self) -> dict[str, Any]:
        """Return what an entry of a history says of joined splits: nothing if there are none."""
        return {"joined": self.joined} if self.joined else {}

    def datasets(self) -> dict[str, Any]:
        """Return every array that the file holds, by its HDF5 name."""
        names = ["features", "texts", "class_index", "class_names", *OTHER_TEXTS]
        arrays = {name: getattr(self, name) for name in names}
        for table in TABLES:
            for name, column in getattr(self, table).items():
                arrays[f"{table}/{name}"] = column
        for name, array in self.fitted.items():
            arrays[f"fitted/{name}"] = array
        for name, split in self.splits.items():
            for key in ("features", "labels", "ids", "predicted", "cluster"):
                arrays[f"{name}/{key}"] = getattr(split, key)
        return drop_none(arrays)

    def set_dataset(self, name: str, value: Any) -> None:
        """Set an array by its HDF5 name: the inverse of `datasets`."""
        group, _, key = name.rpartition("/")
        if group in TABLES:
            getattr(self, group)[key] = np.asarray(value)
        elif group == "fitted" and self.kind == "probe":
            self.fitted[key] = value
        elif group:
            setattr(self.splits.setdefault(group, Split()), key, value)
        else:
            setattr(self, key, value)

    def attributes(self) -> dict[str, Any]:
        """Return the root attributes that the digest covers."""
        attributes: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "kind": self.kind,
            "history": canonical_json(self.history),
        }
        if self.temperature is not None:
            attributes["temperature"] = float(self.temperature)
        if self.logit_scale is not None:
            attributes["logit_scale"] = float(self.logit_scale)
        return attributes

    def matrices(self) -> dict[str, BlockMatrix]:
        """Return all features, by their HDF5 name."""
        matrices = {f"{name}/features": split.features for name, split in self.splits.items()}
        matrices["features"] = self.features
        present = drop_none(matrices)
        return {name: BlockMatrix.from_array(matrix) for name, matrix in present.items()}

    def map_features(self, function: Callable[[BlockMatrix], Any]) -> FeatureFile:
        """Return the same content with a function applied to each matrix of features."""
        splits = {name: replace(split) for name, split in self.splits.items()}
        mapped = replace(self, splits=splits)
        for name, matrix in self.matrices().items():
            mapped.set_dataset(name, function(matrix))
        return mapped

    def in_memory(self) -> FeatureFile:
        """Return the same content with all features read into arrays."""
        return self.map_features(BlockMatrix.read)


def row_ids(n: int) -> list[str]:
    """Return row numbers as ids of equal width.

    >>> row_ids(11)[-2:]
    ['09', '10']
    """
    width = len(str(n - 1))
    return [f"{row:0{width}d}" for row in range(n)]


def number_alone(numbers: Int64, first: int) -> Int64:
    """Return cluster numbers (N,), in which each row without one (-1) is alone, from `first`.

    >>> number_alone(np.array([-1, 4, -1]), 5).tolist()
    [5, 4, 6]
    """
    numbers = np.array(numbers, np.int64)  # a copy
    alone = np.flatnonzero(numbers < 0)
    numbers[alone] = np.arange(first, first + len(alone))
    return numbers


def place_of(name: str) -> str:
    """Return the key by which data sets are sorted: by name, but columns stay in their order.

    >>> sorted(["test/ids", "runs/split", "runs/acc1"], key=place_of)
    ['runs/split', 'runs/acc1', 'test/ids']
    """
    group = name.partition("/")[0]
    return f"{group}/" if group in TABLES else name


def known_columns(result: FeatureFile) -> dict[str, Column]:
    """Return the columns that the command which made a result may report, by their names."""
    if not result.history:
        return columns_of_command("", result.runs)
    entry = result.history[-1]
    command = str(entry["command"])
    if command == OWN_QUESTION:  # it says itself what its columns are
        own = map(Column.from_json, entry.object("question").list_of("columns"))
        records = [*ANY, *filter(None, own)]
        return {column.name: column for record in records for column in record.family()}
    return columns_of_command(command, result.runs)


def _restored(column: Column | None, values: NDArray[Any]) -> NDArray[Any]:
    """Return values as the command reported them: a file stores true and false as 1 and 0."""
    is_flag = column is not None and column.unit is FLAG
    if is_flag and values.dtype.kind == "i" and np.isin(values, (0, 1)).all():
        return values.astype(bool)
    return values


def is_features(name: str) -> bool:
    """Whether the data set of this name is a matrix of features, which comes in blocks."""
    group, _, key = name.rpartition("/")
    return key == "features" and group not in TABLES


def key_of(name: str) -> str:
    """Return the entry of `TYPES` that a data set's name stands for.

    >>> key_of("train/labels"), key_of("runs/features"), key_of("texts")
    ('labels', 'runs', 'texts')
    """
    group, _, key = name.rpartition("/")
    return "runs" if group == "runs" else key


def find_probe_array(name: str) -> ProbeArray | None:
    """Return what an array of a kept probe of any classifier must be; None for another name."""
    return PROBE_ARRAYS.get(name) or probe_arrays.find(name)


def stored_types(name: str) -> tuple[Set[str], int]:
    """Return the types in which a data set may be stored, and its number of dimensions.

    >>> stored_types("train/labels"), stored_types("fitted/rms")
    (({'<i8'}, 1), ({'<f8'}, 1))
    """
    key = key_of(name)
    if name.startswith("claims/"):
        return {CLAIM_FIELDS[key]}, 1
    if unit := unit_of(name):
        return unit.types, TYPES[key][1]
    if key in TYPES:
        return TYPES[key]
    array = find_probe_array(key)
    assert array is not None  # `is_allowed` has refused other names
    return array.types, len(array.axes.split())


def unit_of(name: str) -> Unit | None:
    """Return the unit of a column of a result, if clipkit knows the column and checks it."""
    if key_of(name) != "runs":
        return None
    return CHECKED_UNITS.get(name.removeprefix("runs/"))


def is_split_name(name: str) -> bool:
    """Whether a split of any feature file may have a name.

    >>> is_split_name("test-2019"), is_split_name("a b"), is_split_name("runs")
    (True, False, False)
    """
    return NAME.fullmatch(name) is not None and name not in RESERVED


def allowed_names(kind: str) -> tuple[set[str], set[str]]:
    """Return the names that may stand at the root and in a split of a file of this kind."""
    layout = KINDS[kind]
    return layout.root | layout.optional_root, layout.split | layout.optional_split


def is_allowed(kind: str, name: str) -> bool:
    """Whether a file of this kind may hold a data set of this name.

    >>> is_allowed("images", "train/labels"), is_allowed("images", "runs/acc1")
    (True, False)
    """
    group, _, key = name.rpartition("/")
    if group == "runs":
        return kind in RESULTS
    if group == "claims":
        return kind in RESULTS and key in CLAIM_FIELDS
    if group == "fitted" and kind == "probe":
        return find_probe_array(key) is not None
    root, split = allowed_names(kind)
    return key in (split if group else root)


def check_version(name: str, version: int) -> None:
    """Refuse every version of the format but the one that is read and written."""
    if version > VERSION:
        message = f"{name}: format version {version} was made by a newer clipkit"
        raise ClipkitError(message, "update clipkit")
    if version != VERSION:
        raise ClipkitError(f"{name}: expected the format version {VERSION}, got {version}")


def stored_array(value: Any, name: str = "") -> NDArray[Any]:
    """Return texts or numbers other than features as a file stores them under a name.

    Numbers are little-endian, of 64 bits. Other texts have float32, and what was fitted may have
    it. Texts are UTF-8, padded to the longest.
    """
    if isinstance(value, list) or value.dtype.kind == "U":
        longest = max((len(str(text).encode()) for text in value), default=0)
        stored = np.empty(len(value), f"S{max(1, longest)}")
        for start in range(0, len(value), TEXTS_AT_ONCE):
            texts = value[start : start + TEXTS_AT_ONCE]
            stored[start : start + TEXTS_AT_ONCE] = [str(text).encode() for text in texts]
        return stored
    return np.asarray(value.astype(number_code(value, name)))


def number_code(value: NDArray[Any], name: str) -> str:
    """Return the type that numbers other than features are stored in under a name."""
    if value.dtype.kind != "f":
        return "<i8"
    if name == "other_features" or (name.startswith("fitted/") and value.dtype == np.float32):
        return "<f4"
    return "<f8"


def digest_entry(dtype: str, shape: Sequence[int], sha256: str) -> dict[str, Any]:
    """Return what the digest of a file covers of a data set."""
    return {"dtype": dtype, "shape": list(shape), "sha256": sha256}


def _content_entry(name: str, value: Any) -> dict[str, Any]:
    if not is_features(name):
        array = stored_array(value, name)
        return digest_entry(array.dtype.str, array.shape, sha256_of([array]))
    matrix = BlockMatrix.from_array(value)
    return digest_entry("<f4", matrix.shape, matrix.sha256 or sha256_of(matrix.iter_blocks()))


def sha256_of(blocks: Iterable[NDArray[Any]]) -> str:
    """Return the SHA-256 of the bytes of arrays, in C order."""
    sha = hashlib.sha256()
    for block in blocks:
        sha.update(np.ascontiguousarray(block).data)
    return sha.hexdigest()


def file_digest(attributes: dict[str, Any], entries: dict[str, dict[str, Any]]) -> str:
    """Return the digest of a file with these root attributes and data sets."""
    text = canonical_json({"attributes": attributes, "datasets": entries})
    return files.digest(text.encode())
