"""Feature files made by hand, and what tests expect of a refusal."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from clipkit.base import probe_arrays
from clipkit.base.errors import ClipkitError
from clipkit.base.probe_arrays import ProbeArray
from clipkit.datasets.dataset import Dataset, ImageDataset
from clipkit.features import FeatureFile, History, Split, row_ids, write
from clipkit.features.model import KINDS

MODEL = {"name": "m", "digest": "sha256:1", "weights": "sha256:2", "logit_scale": 100.0}
ROWS = 6


def messages(stderr: str) -> str:
    """Return standard error without the progress of long work, which a busy machine shows."""
    state = r"running for|done in|stopped a|[\d,]+ of [\d,]+ |[\d,]+ \w+ in \d"
    progress = rf"^clipkit: (embedding [^:]*: |Ray has |[^:\n]*: ({state})).*\n"
    return re.sub(progress, "", stderr, flags=re.MULTILINE)


def refused(result: Any, exit_code: int, *parts: str) -> str:
    """Return the only line on stderr of a run that failed as it should; it holds the parts."""
    assert result.exit_code == exit_code, result.stderr
    assert not result.stdout
    stderr = messages(result.stderr)
    assert stderr.count("\n") == 1, stderr
    assert stderr.startswith("clipkit")
    assert "Traceback" not in stderr
    assert ": unexpected" not in stderr
    for part in parts:
        assert part in stderr
    return stderr


@functools.cache
def blas_ignores_addresses() -> bool:
    """Tell whether a product has the same bits wherever its inputs lie.

    It has with OpenBLAS, which copies its inputs first, but not with MKL.
    """
    generator = np.random.default_rng(0)
    numbers = generator.standard_normal((64, 64)).astype("f4")
    memory = np.empty(64 * 64 + 16, "f4")
    products = set()
    for start in range(0, 16, 4):  # every address modulo 64 that memory may begin at
        moved = memory[start : start + 64 * 64].reshape(64, 64)
        moved[:] = numbers
        products.add((moved @ numbers).tobytes())
    return len(products) == 1


def assert_computed_alike(actual: Any, expected: Any) -> None:
    """Compare numbers of the same products in the same order, of inputs that lie elsewhere."""
    if blas_ignores_addresses():
        np.testing.assert_array_equal(actual, expected)
    else:
        expected = np.asarray(expected)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@contextlib.contextmanager
def fails_with(message: str, error: type[ClipkitError] = ClipkitError) -> Iterator[Any]:
    """Check that the block raises an error of one line that holds this text."""
    with pytest.raises(error) as caught:
        yield caught
    assert message in caught.value.message
    assert "\n" not in caught.value.message


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@contextlib.contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """Check that no file in the folder is made, removed or changed, not even a temporary one."""
    before = contents(folder)
    yield
    assert contents(folder) == before


def random_features(n: int = ROWS, width: int = 4, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, width)).astype("<f4")


def write_images(root: Path, *names: str) -> Path:
    """Write images of 4 x 4 pixels, each with its number as red value."""
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (i, 0, 0)).save(root / name, "PNG")
    return root


def red_of(split: ImageDataset, row: int) -> int:
    """Return the red value of an image's first pixel."""
    return split.image(row).getpixel((0, 0))[0]


def red_values(split: ImageDataset) -> list[int]:
    return [red_of(split, row) for row in range(len(split))]


def labels_of(data: Dataset) -> dict[str, list[int]]:
    """Return the labels of each split."""
    return {name: split.labels.tolist() for name, split in data.splits.items()}


def content(kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return attributes and data sets of a small valid file, by their HDF5 names.

    Images and logits have the splits train and test of 6 rows in 2 classes, texts and logits have 3
    prompts, results and probes have 2 runs with predictions for test. The probe reads images.
    """
    history = json.dumps([{"command": "embed", "model": MODEL}])
    attributes = {"format": "clipkit", "version": 1, "kind": kind, "history": history}
    if kind == "logits":
        attributes |= {"temperature": 1.0, "logit_scale": 100.0}
    layout = KINDS[kind]
    arrays = {"texts": ["a", "b", "c"], "class_index": np.array([0, 1, -1])}
    arrays["features"] = random_features(3)
    datasets = {name: arrays[name] for name in layout.root}
    datasets["class_names"] = ["cat", "dog"]
    if kind == "probe":
        datasets |= {f"fitted/{name}": array for name, array in fitted().items()}
    if "predicted" in layout.split:
        datasets |= {"runs/acc1": np.array([0.5, 0.25]), **split("test")}
        datasets["test/predicted"] = np.zeros((2, ROWS), int)
    if "features" in layout.split:
        datasets |= split("train") | split("test")
        for seed, name in enumerate(("train", "test")):
            features = random_features(seed=seed)
            datasets[f"{name}/features"] = features if kind == "images" else features[:, :3] / 10
    return attributes, datasets


def fitted(classifier: str = "logreg") -> dict[str, Any]:
    """Return the arrays of a probe of 2 classes that reads 4 columns of embeddings."""
    arrays = {
        "classifier": [classifier],
        "input": ["embeddings"],
        "classes": np.array([0, 1]),
        "balanced": np.array([0]),
        "mean": np.ones(4, "<f4"),
        "deviation": np.ones(4, "<f4"),
        "rms": np.array([1.5]),
        "factor": np.array([1.0]),
    }
    model = probe_arrays.MODELS[classifier]
    for name, array in model.arrays.items():
        arrays[name] = _probe_array(array)
    if model.has_centre:
        arrays["centre"] = np.zeros(4, "<f4")
    return arrays


def _probe_array(array: ProbeArray) -> NDArray[Any]:
    """Return an array of a probe of 2 classes, 4 columns, 3 units and 3 fitted rows."""
    sizes = {"1": 1, "n": 2, "P": 1, "D": 4, "H": 3, "M": 3}
    shape = [sizes[axis.strip("+")] + axis.count("+") for axis in array.axes.split()]
    if array.holds_classes:
        return np.arange(shape[0]) % 2
    if array.is_positive:
        return np.ones(shape, min(array.types))
    return np.random.default_rng(0).standard_normal(shape).astype(min(array.types))


def split(name: str, n: int = ROWS) -> dict[str, Any]:
    """Return ids and labels of a split, by their HDF5 names."""
    ids = [f"{row}.png" for row in range(n)]
    return {f"{name}/ids": ids, f"{name}/labels": np.arange(n) % 2}


def feature_file(
    kind: str = "images",
    *,
    attributes: Mapping[str, Any] | None = None,
    datasets: Mapping[str, Any] | None = None,
) -> FeatureFile:
    """Return a small valid file in memory, changed as `write_feature_file` says."""
    root, arrays = _changed(kind, attributes, datasets)
    file = FeatureFile(kind, json.loads(root["history"]))
    file.temperature = root.get("temperature")
    file.logit_scale = root.get("logit_scale")
    for name, value in arrays.items():
        file.set_dataset(name, value)
    return file


def result_file(
    rows: list[dict[str, Any]],
    labels: ArrayLike,
    predicted: ArrayLike,
    history: History,
    class_names: list[str] | None = None,
) -> FeatureFile:
    """Return a result in memory with its runs' predictions (R, N) for the split test."""
    result = FeatureFile("result", history, class_names=class_names)
    labels = np.array(labels)
    ids = row_ids(len(labels))
    result.splits["test"] = Split(labels=labels, ids=ids, predicted=np.array(predicted))
    result.set_rows(rows)
    return result


def saved(path: Path, file: FeatureFile) -> Path:
    """Write a file with clipkit, also over another one, and return its path."""
    write(path, file, force=True)
    return path


def write_feature_file(
    path: Path,
    kind: str = "images",
    *,
    attributes: Mapping[str, Any] | None = None,
    datasets: Mapping[str, Any] | None = None,
) -> Path:
    """Write a file with h5py alone, as docs/format.md says, and return its path.

    Attributes and data sets replace those of a small valid file or are added to them; None leaves
    one out. The digests are right, whatever the file holds. A history may be a list.
    """
    return write_content(path, *_changed(kind, attributes, datasets))


def write_content(path: Path, root: dict[str, Any], arrays: Mapping[str, Any]) -> Path:
    """Write root attributes and data sets with h5py alone, whatever they are, with their digests.

    The root attributes are those that the digest covers. They are changed.
    """
    entries = {}
    with h5py.File(path, "w", libver="v110") as h5:
        for name, value in arrays.items():
            array = stored(value)
            digest = hashlib.sha256(array.tobytes()).hexdigest()
            h5.create_dataset(name, data=array).attrs["sha256"] = np.bytes_(digest)
            entries[name] = {"dtype": array.dtype.str, "shape": list(array.shape), "sha256": digest}
        covered = {"attributes": root, "datasets": entries}
        text = json.dumps(covered, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        root["digest"] = "sha256:" + hashlib.sha256(_utf8(text)).hexdigest()
        root["complete"] = 1
        for name, value in root.items():
            h5.attrs[name] = np.bytes_(_utf8(value)) if isinstance(value, str) else value
    return path


def _changed(
    kind: str, attributes: Mapping[str, Any] | None, datasets: Mapping[str, Any] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    root, arrays = content(kind)
    root |= attributes or {}
    arrays |= datasets or {}
    if isinstance(root["history"], list):
        root["history"] = json.dumps(root["history"])
    return (
        {name: value for name, value in root.items() if value is not None},
        {name: value for name, value in arrays.items() if value is not None},
    )


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def stored(value: Any) -> NDArray[Any]:
    """Return an array in the type that the format stores it in."""
    array = np.asarray(value)
    if array.dtype.kind == "U":
        return np.array([text.encode() for text in array.tolist()])
    return array.astype("<i8") if array.dtype.kind == "i" else array


def check_means_of_controls(measure, controls):
    """Check that several controls have the mean and the range of what each of them has alone."""
    several = measure(controls).rows()
    alone = [measure([control]).rows() for control in controls]
    names = [name for name in several[0] if name.endswith("_control")]
    assert any(row[f"{name}_low"] < row[f"{name}_high"] for row in several for name in names)
    for number, row in enumerate(several):
        rows = [of_control[number] for of_control in alone]
        expected = dict(rows[0])
        for name in names:
            values = [of_control[name] for of_control in rows]
            expected[name] = pytest.approx(np.mean(values))
            expected |= {f"{name}_low": min(values), f"{name}_high": max(values)}
        if "control_p" in row:  # of the test against the control that is nearest
            expected["control_p"] = max(of_control["control_p"] for of_control in rows)
        assert row == expected


def untrained(*files, seed=7):
    """Return copies of files as an untrained model makes them, with random features."""
    copies = []
    random = np.random.default_rng(seed)
    for file in files:
        copy = deepcopy(file)
        copy.history[0]["model"]["untrained"] = seed
        for part in [copy, *copy.splits.values()]:
            if part.features is not None:
                part.features = random.standard_normal(part.features.shape).astype(np.float32)
        copies.append(copy)
    return copies


def write_photos(folder: Path, count: int = 40) -> list[tuple[str, str]]:
    """Write different photos of cats and dogs, red and blue, and return their names and colours."""
    rows = []
    for number in range(count):
        colour = ("red", "blue")[number % 2]
        image = Image.new("RGB", (count, 30), colour)
        image.putpixel((number, 0), (255, 255, 255))
        name = f"IMG_{number:04}"
        path = folder / ("cat" if number < count // 2 else "dog") / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        rows.append((name, colour))
    return rows
