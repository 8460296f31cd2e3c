"""What the reliability tests share: refusals, folders that must not change, feature files made by hand."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

MODEL = {"name": "m", "digest": "sha256:1", "logit_scale": 100.0}


def refused(result: Any, code: int, *parts: str) -> str:
    """A run that failed as it must: this exit code, nothing on stdout, one line on stderr that says these things."""
    got = (
        result.exit_code
        if hasattr(result, "exit_code")
        else result.code
        if hasattr(result, "code")
        else result.returncode
    )
    assert got == code, result.stderr
    assert not result.stdout
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("clipkit")
    assert "Traceback" not in result.stderr
    assert "unexpected" not in result.stderr
    for part in parts:
        assert part in result.stderr
    return str(result.stderr)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@contextlib.contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """Nothing in the folder is made, removed or changed meanwhile: no temporary file, no harm to an earlier output."""
    before = contents(folder)
    yield
    assert contents(folder) == before


def features(n: int = 6, width: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, width)).astype("<f4")


def content(kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Attributes and data sets of a small sound file."""
    history = [{"command": "embed", "model": MODEL}]
    names, index, ids = ["cat", "dog"], np.array([0, 1, -1]), [f"{i}.png" for i in range(6)]
    rows = {"ids": ids, "labels": np.arange(6) % 2}
    splits = {f"{split}/{key}": value for split in ("train", "test") for key, value in rows.items()}
    matrices = {"train/features": features(), "test/features": features(seed=1)}
    texts = {"texts": ["a", "b", "c"], "class_index": index}
    if kind == "images":
        found: dict[str, Any] = splits | matrices
    elif kind == "texts":
        found = texts | {"features": features(3)}
    elif kind == "logits":
        found = splits | texts | {name: value[:, :3] / 10 for name, value in matrices.items()}
    else:
        found = {"runs/acc1": np.array([0.5, 0.25])} | {
            f"test/{key}": value for key, value in rows.items()
        }
        found["test/predicted"] = np.zeros((2, 6), int)
    attributes: dict[str, Any] = {
        "format": "clipkit",
        "version": 1,
        "kind": kind,
        "history": json.dumps(history),
    }
    if kind == "logits":
        attributes |= {"temperature": 1.0, "logit_scale": 100.0}
    return attributes, found | {"class_names": names}


def forge(
    path: Path,
    kind: str = "images",
    *,
    attributes: dict[str, Any] | None = None,
    datasets: dict[str, Any] | None = None,
) -> Path:
    """A file as docs/format.md says, written with h5py alone; its digests are right, whatever it holds.

    What is given replaces what a sound file holds; None takes it out.
    """
    root, found = content(kind)
    root = {k: v for k, v in (root | (attributes or {})).items() if v is not None}
    found = {k: v for k, v in (found | (datasets or {})).items() if v is not None}
    with h5py.File(path, "w", libver="v110") as h5:
        entries = {}
        for name, value in found.items():
            array = stored(value)
            shas = hashlib.sha256(array.tobytes()).hexdigest()
            h5.create_dataset(name, data=array).attrs["sha256"] = np.bytes_(shas)
            entries[name] = {"dtype": array.dtype.str, "shape": list(array.shape), "sha256": shas}
        text = json.dumps(
            {"attributes": root, "datasets": entries},
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
        )
        digest = "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        for name, value in {**root, "digest": digest, "complete": 1}.items():
            h5.attrs[name] = (
                np.bytes_(value.encode("utf-8", "surrogatepass"))
                if isinstance(value, str)
                else value
            )
    return path


def stored(value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind == "U":
        return np.array([text.encode() for text in array.tolist()])
    return array.astype("<i8") if array.dtype.kind == "i" else array
