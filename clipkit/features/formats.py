"""Features as other tools keep them, `.npz`, `.npy` and `.parquet`, and predictions as `.csv` and `.parquet`.

Arrays go by the names of the feature file's data sets: ``train/features`` is ``train_features`` in an `.npz` and the
rows whose ``split`` is ``train`` in a `.parquet`. What a feature file knows beside its arrays (kind, history,
temperature, logit_scale) travels as JSON named ``clipkit``, so that nothing is lost on the way there and back.
Pickles are never loaded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from clipkit.errors import ClipkitError, UsageError, WriteError
from clipkit.features import _numpys as numpys
from clipkit.features import _predictions as predictions
from clipkit.features._found import Found, Matrix

__all__ = ["READ", "WRITTEN", "Found", "Matrix", "opened", "write"]

READ = (".npz", ".npy", ".parquet")
WRITTEN = (*READ, ".csv")


@contextlib.contextmanager
def opened(
    path: Path,
    ending: str,
    *,
    shown: str = "",
    split: str | None = None,
    given: Mapping[str, Any] | None = None,
) -> Iterator[Found]:
    """Open another tool's file; features come as matrices that are read a block of rows at a time.

    Parameters
    ----------
    path : Path
        A regular file.
    ending : {".npz", ".npy", ".parquet"}
    shown : str
        How errors name the file; `path` by default.
    split : str, optional
        Only this split; for rows that name none, what to call them (``all`` by default).
    given : mapping, optional
        For `.npz` and `.npy`, what the file lacks: ``texts`` (list of str) or ``labels`` (Path of an `.npy`).

    Raises
    ------
    ClipkitError
        If the file is damaged, holds pickled objects, or holds no features; lengths are checked by the store.
    UsageError
        If there is no such split.
    """
    shown = shown or str(path)
    if path.stat().st_size == 0:
        raise ClipkitError(f"{shown}: empty input: did the command before it fail?")
    if ending == ".parquet":
        if given:
            raise UsageError(
                f"prompts and labels are columns of a .parquet file; got them beside {shown}"
            )
        with _parquet().opened(path, shown, split) as found:
            yield found
    else:
        with numpys.opened(path, ending, shown, split, dict(given or {})) as found:
            yield found


def write(path: Path, ending: str, datasets: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write data sets over `path`, a temporary file of the caller's.

    Parameters
    ----------
    ending : {".npz", ".npy", ".parquet", ".csv"}
    datasets : mapping
        Arrays, lists of str and matrices by the feature file's names.
    about : mapping
        The feature file's attributes; ``kind`` decides what the columns of a table are.

    Raises
    ------
    UsageError
        If a file with this ending cannot hold what is there.
    WriteError
        If the file system refuses the data.
    """
    try:
        if ending == ".npz":
            numpys.write_npz(path, datasets, about)
        elif ending == ".npy":
            numpys.write_npy(path, datasets)
        elif about["kind"] != "result":
            if ending == ".csv":
                hint = "choose .npz or .parquet for features; zeroshot -o and probe -o make results"
                raise UsageError(
                    f"a .csv file takes results; the input holds {about['kind']}", hint
                )
            _parquet().write(path, datasets, about)
        elif ending == ".csv":
            predictions.write_csv(path, datasets)
        else:
            _parquet().write_columns(
                path, predictions.columns(datasets), predictions.frames(datasets)
            )
    except OSError as error:
        hint = "free some space or write elsewhere; nothing was replaced"
        raise WriteError(
            f"{path.parent} must take the whole file; got: {error.strerror or error}", hint
        ) from error


def _parquet() -> ModuleType:
    try:
        from clipkit.features import _parquet as parquet
    except ImportError as error:
        raise ClipkitError(
            "a .parquet file needs pyarrow; it is not installed",
            "pip install 'clipkit-vl[parquet]'",
        ) from error
    return parquet
