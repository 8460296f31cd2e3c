"""Write a `FeatureFile` for other tools: .npz, .npy, .parquet and, of results, .csv."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from clipkit.base.errors import ClipkitError, UsageError
from clipkit.base.matrices import Int64
from clipkit.base.names import distinct_names
from clipkit.features import npz
from clipkit.features.columns import SETTINGS
from clipkit.features.history import drop_none
from clipkit.features.model import METADATA, FeatureFile

CSV_LINE_END = "\r\n"
Thumbnails = Mapping[str, Iterator[bytes]]  # of each split, an encoded image per row
RUN_PARAMETERS = (*SETTINGS, "fit_split")


def write_npz(path: Path, file: FeatureFile, _: Thumbnails | None = None) -> None:
    """Write all arrays of a file, and its other content as JSON."""
    arrays = {name.replace("/", "_"): array for name, array in file.datasets().items()}
    npz.write_npz(path, {**arrays, METADATA: np.array(_metadata(file))})


def write_npy(path: Path, file: FeatureFile, _: Thumbnails | None = None) -> None:
    """Write the only matrix of a file."""
    matrices = file.matrices()
    if len(matrices) != 1:
        names = ", ".join(name.removesuffix("/features") for name in matrices)
        raise UsageError(
            f"expected one matrix of features for an .npy file, got {names}",
            "choose one with --split, or write an .npz",
        )
    with path.open("wb") as stream:
        npz.write_array(stream, *matrices.values())


def write_parquet(path: Path, file: FeatureFile, thumbnails: Thumbnails | None = None) -> None:
    """Write a table: a row per image or prompt, or per prediction."""
    from clipkit.features import parquet

    if file.is_result:
        parquet.write_table(path, _result_columns(file), _result_frames(file))
        return
    arrays: dict[str, Any] = {"class_names": file.class_names}
    if file.kind == "logits":
        arrays["texts"] = file.texts
        arrays["class_index"] = np.asarray(file.class_index).tolist()
    if file.other_features is not None:
        arrays["other_features"] = file.other_features.tolist()
        arrays["other_texts"] = file.other_texts
    parquet.write_features(path, file, _metadata(file, **arrays), thumbnails)


def _metadata(file: FeatureFile, **arrays: Any) -> str:
    """Return a file's attributes, and arrays that have no other place, as JSON."""
    content = drop_none({**file.attributes(), "history": file.history, **arrays})
    return json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False)


def write_csv(path: Path, file: FeatureFile, _: Thumbnails | None = None) -> None:
    """Write the predictions, or else the runs, of a result."""
    columns = _result_columns(file)
    with path.open("w", encoding="utf-8", newline="") as stream:
        out = csv.writer(_CsvLines(stream), lineterminator=CSV_LINE_END)
        out.writerow(columns)
        for frame in _result_frames(file):
            for row in zip(*(frame[name] for name in columns), strict=True):
                out.writerow(map(_csv_cell, row))


class _CsvLines:
    """End lines as usual on Unix. Before Python 3.13, csv quotes only what ends its own lines."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, line: str) -> None:
        """Write a row, which csv passes as a whole."""
        self._stream.write(line.removesuffix(CSV_LINE_END) + "\n")


def _csv_cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and math.isnan(value):
        return ""
    return value


def _result_columns(file: FeatureFile) -> dict[str, type]:
    """Return the columns of a result's table, and what they hold: str, bool, int or float."""
    runs = {name: type(values[0]) for name, values in file.columns().items()}
    if not file.splits or file.holds_ranks:
        return runs
    columns: dict[str, type] = {"split": str, "id": str, "label": int, "predicted": int}
    if file.class_names:
        columns["label"] = str
        if not file.holds_clusters:
            columns["predicted"] = str
    for name in RUN_PARAMETERS:
        if name in runs:
            columns[name] = runs[name]
            if runs[name] is bool:  # written as 0 and 1
                columns[name] = int
    return {**columns, "run": int}


def _result_frames(file: FeatureFile) -> Iterator[dict[str, list[Any]]]:
    """Yield the table run by run, a row per image; or all runs at once, if they predict nothing."""
    if not file.splits or file.holds_ranks:
        yield file.columns()
        return
    class_names = distinct_names(file.class_names or [])
    names_of_predicted = [] if file.holds_clusters else class_names
    for name, split in file.splits.items():
        runs = file.runs_on(name)
        if file.holds_choices:
            runs = runs[:1]
        predicted = np.asarray(split.predicted)
        if len(runs) != len(predicted):
            where = f"{file.display_name}: {name}/predicted"
            raise ClipkitError(f"{where}: expected {len(runs)} runs, got {len(predicted)}")
        n = len(split)
        labels: list[Any] = [None] * n
        if split.labels is not None:
            labels = _classes(split.labels, class_names)
        for number, run in enumerate(runs):
            frame = {"split": [name] * n, "id": split.ids, "label": labels}
            frame["predicted"] = _classes(predicted[number], names_of_predicted)
            for parameter in RUN_PARAMETERS:
                value = run.get(parameter)
                if isinstance(value, bool):
                    value = int(value)
                frame[parameter] = [value] * n
            yield {**frame, "run": [number] * n}


def _classes(labels: Int64, class_names: Sequence[str]) -> list[Any]:
    """Return labels by name, or as they are where classes have no names."""
    numbers: list[int] = labels.tolist()
    if not class_names:
        return numbers
    return [class_names[number] for number in numbers]


# Functions that write a feature file to a path, with thumbnails if the format has them
WRITERS: dict[str, Callable[[Path, FeatureFile, Thumbnails | None], None]] = {
    ".npz": write_npz,
    ".npy": write_npy,
    ".parquet": write_parquet,
    ".csv": write_csv,
}
