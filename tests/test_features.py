"""The feature file: what is written is read back, with the same bytes for the same content."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import h5py
import numpy as np
import pytest
from factories import content, fails_with, feature_file, fitted, random_features, write_feature_file
from fuzz import seeds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from strategies import TEXT, feature_files

import clipkit.features.hdf5 as hdf5
from clipkit.base.errors import ClipkitError, UsageError, WriteError
from clipkit.base.matrices import BLOCK_BYTES, block_rows, chunk_rows
from clipkit.features import (
    BlockMatrix,
    Entry,
    FeatureFile,
    Split,
    matching,
    open_file,
    read,
    row_ids,
    write,
)
from clipkit.features.model import KINDS
from clipkit.probes import CLASSIFIERS

FEW = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)


def one_split(features: Any) -> FeatureFile:
    return FeatureFile("images", splits={"all": Split(features, None, row_ids(len(features)))})


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_has_the_one_version_and_is_read_back(kind, tmp_path):
    file = feature_file(kind)
    if file.is_result:
        file.splits["test"].cluster = np.array([0, 0, 1, 1, 2, 2])
    write(tmp_path / "x.h5", file)
    with h5py.File(tmp_path / "x.h5") as h5:
        assert h5.attrs["version"] == 1
    assert seeds.same(read(tmp_path / "x.h5"), file)


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        (np.array([0, 1, 2, 3, 4, -1]), "test/cluster: expected numbers from 0, got -1"),
        (np.array([0]), "expected equal lengths"),
        (np.full(6, 0.5), "test/cluster: expected whole numbers, got numbers"),
        (np.zeros((6, 1), int), "test/cluster: expected 1 dimensions, got 2"),
    ],
)
def test_a_cluster_is_a_whole_number_for_each_row(cluster, message, tmp_path):
    file = feature_file("result")
    file.splits["test"].cluster = np.array([3, 3, 5, 5, 5, 7])
    assert file.splits["test"].take([1, 2]).cluster.tolist() == [3, 5]
    file.splits["test"].cluster = cluster
    with pytest.raises(ClipkitError, match=message):
        write(tmp_path / "x.h5", file)
    texts = feature_file("texts")
    texts.splits = {"test": replace(feature_file("images").splits["test"])}
    texts.splits["test"].cluster = np.zeros(6, int)
    with pytest.raises(ClipkitError, match="is not part of a file of texts"):
        write(tmp_path / "x.h5", texts)


@pytest.mark.long
@FEW
@given(file=feature_files())
def test_what_is_written_is_read_back_and_written_again_with_the_same_bytes(file, tmp_path):
    path = tmp_path / "x.h5"
    digest = write(path, file, force=True)
    assert digest == file.digest
    first = path.read_bytes()
    again = read(path)
    assert seeds.same(again, file)
    assert again.digest == digest
    write(path, again, force=True)
    assert path.read_bytes() == first


def test_the_digest_follows_every_edit_of_what_was_read(tmp_path):
    file = read(write_feature_file(tmp_path / "x.h5"))
    with h5py.File(tmp_path / "x.h5") as h5:
        stated = h5.attrs["digest"].decode()
    assert file.digest == stated  # of a history that clipkit would store with fewer spaces
    file.splits["test"].features *= 2
    assert write(tmp_path / "y.h5", file) == file.digest != stated
    assert read(tmp_path / "y.h5").digest == file.digest
    file.splits["test"].features /= 2
    assert file.digest == stated


ARRAYS = st.one_of(
    arrays.arrays(
        st.sampled_from(["<f4", "<f8", "<i8", "<i4", "S3", ">f4", "?"]),
        arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    ),
    st.lists(TEXT.filter(bool), min_size=1, max_size=4).map(np.array),
)
PATHS = (
    "features texts class_index class_names other_features other_texts more a/b/c "
    "train/features train/labels train/ids test/predicted runs/k runs/features"
)
ATTRIBUTES = "format version kind history temperature logit_scale more"
VALUES = st.none() | st.integers(-3, 3) | st.floats() | TEXT | st.lists(st.integers(), max_size=2)


@FEW
@given(
    kind=st.sampled_from(["images", "texts", "logits", "result", "video"]),
    keep=st.booleans(),
    datasets=st.dictionaries(st.sampled_from(PATHS.split()), st.none() | ARRAYS, max_size=6),
    attributes=st.dictionaries(st.sampled_from(ATTRIBUTES.split()), VALUES, max_size=2),
)
def test_any_structure_is_read_or_refused_in_one_line(kind, keep, datasets, attributes, tmp_path):
    base = "images" if kind == "video" else kind
    datasets = {**({} if keep else dict.fromkeys(content(base)[1])), **datasets}
    path = tmp_path / "x.h5"
    path.unlink(missing_ok=True)
    try:
        write_feature_file(path, base, attributes={"kind": kind, **attributes}, datasets=datasets)
    except (TypeError, ValueError, OSError):  # what h5py itself does not write
        return
    message = ""
    try:
        file = read(path)
    except ClipkitError as error:
        message = error.message
    else:
        write(tmp_path / "again.h5", file, force=True)  # what is read can be written
    assert "\n" not in message


@pytest.mark.long
def test_bytes_depend_neither_on_the_time_nor_on_the_blocks_of_the_source(tmp_path):
    features = random_features(3000, 2000)
    assert features.nbytes > BLOCK_BYTES

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, 3000, 700):
            yield features[start : start + 700]

    for name, matrix in (("a", features), ("b", BlockMatrix(features.shape, blocks))):
        write(tmp_path / f"{name}.h5", one_split(matrix))
        time.sleep(1.1)  # HDF5 keeps times in seconds
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    assert np.array_equal(read(tmp_path / "a.h5").splits["all"].features, features)


def test_storage_is_as_the_format_says(tmp_path):
    write(tmp_path / "x.h5", one_split(np.zeros((700, 8), "f4")))
    with h5py.File(tmp_path / "x.h5") as h5:
        features = h5["all/features"]
        assert (features.dtype, features.chunks) == ("<f4", (512, 8))
        assert (features.fletcher32, features.compression) == (True, None)
        assert h5["all/ids"].dtype == "S3"


def test_a_file_that_a_reader_would_refuse_is_not_published(tmp_path, monkeypatch):
    """Staged: the writer overlooks a rule that the reader knows."""
    checks = [lambda file: None, hdf5.validate]
    monkeypatch.setattr(hdf5, "validate", lambda file: checks.pop(0)(file))
    with fails_with("history, entry 1: "):
        write(tmp_path / "x.h5", history(model="m"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("width", [1, 512, 5000, 2_000_000])
def test_blocks_are_whole_chunks_of_bounded_size(width):
    assert block_rows(width) % chunk_rows(width) == 0
    assert chunk_rows(width) * width * 4 <= max(1 << 22, width * 4)
    assert block_rows(width) * width * 4 <= max(BLOCK_BYTES, width * 4)


def test_the_last_block_is_given_only_if_the_digest_matches(tmp_path):
    features = np.zeros((3000, 2000), np.float32)
    rows = {"train/features": features, "train/ids": row_ids(3000), "train/labels": None}
    path = write_feature_file(tmp_path / "x.h5", datasets={**rows, "test/features": features[:6]})
    data = bytearray(path.read_bytes())
    data[data.find(features[:500].tobytes()) + 100] ^= 1
    path.write_bytes(data)
    blocks: list[np.ndarray] = []
    with open_file(path) as file, fails_with("does not match its SHA-256"):
        blocks.extend(file.splits["train"].features.iter_blocks())
    assert 0 < sum(map(len, blocks)) < 3000


@pytest.mark.parametrize(
    "storage",
    [
        {},
        {"chunks": (7, 5), "fletcher32": True},
        {"chunks": (1, 5)},
        {"chunks": (7, 2), "fletcher32": True},
        {"chunks": (40, 5), "maxshape": (None, 5)},
        {"chunks": (7, 8), "maxshape": (None, None)},
    ],
)
def test_features_are_read_however_they_are_stored(tmp_path, monkeypatch, storage):
    features, path = np.arange(150, dtype="<f4").reshape(30, 5), tmp_path / "x.h5"
    write(path, one_split(features))
    with h5py.File(path, "r+", libver="v110") as h5:
        sha256 = h5["all/features"].attrs["sha256"]
        del h5["all/features"]
        stored = h5.create_dataset("all/features", data=features, **storage)
        stored.attrs["sha256"] = sha256
    monkeypatch.setattr(hdf5, "block_rows", lambda width: 4)
    with open_file(path) as file:
        blocks = list(file.splits["all"].features.iter_blocks())
    assert [len(block) for block in blocks] == [4] * 7 + [2]
    np.testing.assert_array_equal(np.concatenate(blocks), features)


def test_a_file_that_ends_within_its_features_is_damaged(tmp_path):
    """It was cut after it was opened."""
    path = tmp_path / "x.h5"
    write(path, one_split(np.zeros((3000, 2000), np.float32)))
    with open_file(path) as file:
        os.truncate(path, path.stat().st_size // 2)
        with fails_with("cannot read all/features: it is damaged"):
            file.in_memory()


@pytest.mark.parametrize("n_reads", [0, 2, 8])
def test_a_file_that_the_system_cannot_read_is_not_called_damaged(n_reads, tmp_path, monkeypatch):
    """A disk fails after some reads. HDF5 passes on its errors without their numbers."""
    path, preadv, done = tmp_path / "x.h5", os.preadv, []
    write(path, one_split(np.zeros((3000, 2000), np.float32)))

    def fail(*words: Any) -> int:
        done.append(words)
        if len(done) > n_reads:
            raise OSError(errno.EIO, "Input/output error")
        return preadv(*words)

    monkeypatch.setattr(os, "preadv", fail)
    with fails_with(f"cannot read {path}: Input/output error"):
        read(path)


@pytest.mark.parametrize("name", ["x.h5", "/dev/null"])
def test_an_error_of_the_disk_while_a_file_is_written_is_not_lost(tmp_path, monkeypatch, name):
    syncs: list[int] = []

    def sync(descriptor: int) -> None:
        syncs.append(descriptor)
        if len(syncs) == 1:  # as Linux reports it
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", sync)
    if name == "/dev/null":  # a stream is not synced
        write(name, feature_file())
        assert not syncs
        return
    with fails_with("Input/output error", WriteError):
        write(tmp_path / name, feature_file())
    assert not list(tmp_path.iterdir())
    assert len(syncs) == 1


def images(features: Any = ((1,),), labels: Any = None, ids: Any = ("x",), **rest: Any) -> Any:
    """Return a file of one split, called `name` or a."""
    split = Split(np.asarray(features, "f4"), labels, list(ids), rest.pop("predicted", None))
    return FeatureFile("images", splits={rest.pop("name", "a"): split}, **rest)


def history(**parameters: Any) -> FeatureFile:
    file: FeatureFile = images(history=[{"command": "x", **parameters}])
    return file


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


def changed(kind: str, **fields: Any) -> FeatureFile:
    """Return a valid file of six rows a split, or three prompts, with other fields."""
    return replace(feature_file(kind), **fields)


TWO_RUNS = {"k": np.arange(2), "acc1": np.ones(1)}
HUGE = np.full((1, 1), 2**62)
EMPTY = "expected at least one row, got the shape"
TUPLE = "a/ids: expected a list of texts, got tuple"
WIDTH = "expected features of equal width, got train/features 4, test/features"
SCALE = "logit_scale: expected a finite number above 0, got"
BIAS = "logit_bias: expected a finite number, got"
ROW = Split(np.ones((1, 1), "f4"), None, ["x"])
MANY_SPLITS = {f"s{i}": ROW for i in range(4096)}  # and class_names
MANY_COLUMNS = {f"c{i}": np.ones(1) for i in range(4097)}
OTHERS = {"other_features": np.ones((2, 4), "f4"), "other_texts": ["x", "y"]}
NANS = np.full((2, 4), np.nan)
INVALID = [
    (FeatureFile("video"), "kind: expected one of images, texts, logits, result, probe, got"),
    (FeatureFile("images"), "expected at least one split, got none"),
    (FeatureFile("images", splits={"a": Split(ids=["x"])}), "expected a/features in a file of"),
    (images(texts=["x"]), "texts is not part of a file of images"),
    (images(predicted=np.zeros((1, 1), int)), "a/predicted is not part of a file of images"),
    (images(name="a/b"), "split: expected up to 100 letters, digits, '.', '_' and '-', got 'a/b'"),
    (images(name="runs"), "name of a split: expected no reserved name, got 'runs'"),
    (FeatureFile("result", runs={"a b": np.ones(1)}), "name of a column: expected up to 100"),
    (images([[1], [np.inf], [np.nan]], ids="xyz"), "in 2 of 3 rows, the first is row 1"),
    (images([[1], [1]]), "expected equal lengths, got a/features 2, a/ids 1"),
    (images(np.ones((0, 1)), ids=[]), f"a/features: {EMPTY} (0, 1)"),
    (images(class_names=[]), f"class_names: {EMPTY} (0,)"),
    (images([1]), "a/features: expected 2 dimensions, got 1"),
    (changed("texts", features=np.array([["x"]])), "features: expected numbers, got texts"),
    (changed("texts", texts=None), "expected texts in a file of texts, got none"),
    (changed("texts", class_index=np.full(3, -2)), "in -1..1 (2 class names), got -2..-2"),
    (changed("texts", other_texts=["x"]), "other_features and other_texts, got one of them"),
    (changed("texts", **OTHERS | {"other_texts": ["x"]}), "other_features 2, other_texts 1"),
    (changed("texts", **OTHERS | {"other_features": np.ones((2, 1))}), "other_features 1"),
    (changed("texts", **OTHERS | {"other_features": NANS}), "other_features: expected finite"),
    (changed("logits", **OTHERS), "other_features is not part of a file of logits"),
    (changed("logits", texts=list("abcd"), class_index=np.zeros(4, int)), "3, texts 4"),
    (feature_file(datasets={"test/features": np.ones((6, 2))}), f"{WIDTH} 2"),
    (changed("logits", temperature=None), "expected a temperature in a file of logits, got none"),
    (changed("logits", temperature=0.0), "temperature: "),
    (FeatureFile("result", runs=TWO_RUNS), "got runs/k 2, runs/acc1 1"),
    (FeatureFile("result", splits={"a": Split(ids=["x"], predicted=HUGE)}), "0..1048575, got 4611"),
    (images(ids=["x\0"]), "a/ids: expected texts without NUL characters, got 'x\\x00'"),
    (images(ids=["\ud800"]), "a/ids: "),
    (images(ids=["y" * 99 + "\0"]), f"NUL characters, got '{'y' * 80} ...'"),
    (images(ids=[1]), "a/ids: "),
    (images(labels=[0, 1]), "a/labels: expected an array, got list"),
    (FeatureFile("images", splits={"a": Split(np.eye(1), None, ("x",))}), TUPLE),
    (images(labels=np.array([0.5])), "a/labels: "),
    (images(labels=np.array([{}])), "a/labels: "),
    (images(labels=np.array([[0]])), "a/labels: "),
    (images(labels=np.array([2]), class_names=["x", "y"]), "in 0..1 (2 class names), got 2..2"),
    (images(labels=np.array([-1])), "a/labels: expected values in 0..1048575, got -1..-1"),
    (images(temperature=1.0), "expected no temperature in a file of images, got 1.0"),
    (images(logit_scale=float("nan")), f"{SCALE} nan"),
    (images(logit_scale=10**400), f"{SCALE} 1000"),
    (images(history={}), "history: expected a list, got dict"),
    (images(history=[{}]), "history, entry 1: expected an object with the name of a command"),
    (history(x={1, 2}), "history: expected plain JSON, got Object of type set"),
    (history(x=float("nan")), "history: "),
    (history(x=nested(15)), "history: expected at most 16 levels, got more"),
    (history(x=nested(100_000)), "history: "),
    (history(model={"digest": "d"}), "history, entry 1: expected a model with a name"),
    (history(model={"name": "m", "logit_scale": "high"}), f"history, entry 1: {SCALE} high"),
    (history(model={"name": "m", "logit_bias": True}), f"history, entry 1: {BIAS} True"),
    (history(C=[1, {"x": -(10**400)}]), "expected numbers in the range of a 64-bit float, got -10"),
    (changed("images", splits=MANY_SPLITS), "/: expected at most 4,096 names, got 4,097"),
    (FeatureFile("result", runs=MANY_COLUMNS), "runs: "),
    (FeatureFile("result", runs={"k": np.array([2**63], "u8")}), "whole numbers of 64 bits, got 9"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "message"), INVALID, ids=[text for _, text in INVALID])
def test_what_breaks_the_format_is_not_written(file, message, tmp_path):
    with fails_with(message):
        write(tmp_path / "x.h5", file)
    with fails_with("expected an output that ends in .h5, got x.npz", UsageError):
        write("x.npz", file)
    assert not list(tmp_path.iterdir())


MANY_CLASSES = {"classes": np.arange(5001), "coefficients": np.zeros((5, 5001))}
INVALID_PROBES: list[tuple[str, dict[str, Any], str]] = [
    ("svm", {"classifier": ["forest"]}, f"expected {', '.join(CLASSIFIERS)}, got 'forest'"),
    ("svm", {"input": ["pixels"]}, "fitted/input: expected embeddings, logits, probs, got 'pix"),
    ("svm", {"input": ["probs"]}, "expected fitted/temperature of svm on probs, got none"),
    ("svm", {"temperature": np.ones(1)}, "fitted/temperature is not part of svm on embeddings"),
    ("svm", {"classifier": ["knn"]}, "expected fitted/neighbours of knn on embeddings, got none"),
    ("svm", {"more": np.ones(1)}, "fitted/more is not part of a file of probe"),
    ("svm", {"classes": np.array([0])}, "fitted/classes: expected 2 to 5,000 classes, got 1"),
    ("logreg", MANY_CLASSES, "fitted/classes: "),
    ("svm", {"classes": np.array([1, 1])}, "fitted/classes: expected ascending numbers without"),
    ("svm", {"classes": np.array([0, 2])}, "fitted/classes: "),
    ("svm", {"classes": np.arange(3)}, "fitted/hyperplanes: expected the shape (3, 5), got (1, 5)"),
    ("svm", {"hyperplanes": np.ones((1, 5))}, "fitted/hyperplanes: "),
    ("svm", {"hyperplanes": np.ones((1, 1), "f4")}, "expected a probe of at least one column"),
    ("svm", {"hyperplanes": np.full((1, 5), np.nan, "f4")}, "hyperplanes: expected finite numbers"),
    ("svm", {"deviation": None}, "expected fitted/deviation of svm on embeddings, got none"),
    ("svm", {"mean": None}, "fitted/deviation is not part of svm on embeddings"),
    ("svm", {"deviation": np.zeros(4, "f4")}, "fitted/deviation: expected numbers above 0, got 0"),
    ("svm", {"rms": np.ones(2)}, "fitted/rms: expected the shape (1,), got (2,)"),
    ("svm", {"factor": np.array([-1.0])}, "fitted/factor: "),
    ("svm", {"balanced": np.array([2])}, "fitted/balanced: expected 0 or 1, got 2"),
    ("logreg", {"coefficients": np.ones((5, 3))}, "got (5, 3)"),
    ("mlp", {"output": np.ones((3, 2), "f4")}, "fitted/output: "),
    ("knn", {"row_classes": np.array([0, 1, 2])}, "row_classes: "),
    ("svm", {"neighbours": np.array([5])}, "fitted/neighbours is not part of svm on embeddings"),
    ("knn", {"neighbours": np.array([0])}, "fitted/neighbours: "),
    ("knn", {"row_classes": np.array([0, 1])}, "row_classes: "),
]  # fmt: skip


@pytest.mark.parametrize(
    ("classifier", "changes", "message"),
    INVALID_PROBES,
    ids=[text for _, _, text in INVALID_PROBES],
)
def test_what_was_fitted_must_fit_together_when_it_is_written_and_read(
    classifier, changes, message, tmp_path
):
    arrays = {"coefficients": None, "centre": None, **fitted(classifier), **changes}
    named = {f"fitted/{name}": array for name, array in arrays.items()}
    with fails_with(message):
        read(write_feature_file(tmp_path / "x.h5", "probe", datasets=named))
    file = feature_file("probe")
    file.fitted = {name: array for name, array in arrays.items() if array is not None}
    with fails_with(message):
        write(tmp_path / "y.h5", file)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_what_was_fitted_is_read_back_in_its_types(classifier, tmp_path):
    file = replace(feature_file("probe"), fitted=fitted(classifier))
    write(tmp_path / "x.h5", file)
    back = read(tmp_path / "x.h5")
    assert seeds.same(back, file)
    for name, array in file.fitted.items():
        assert np.asarray(back.fitted[name]).dtype == np.asarray(array).dtype


def test_a_split_called_fitted_is_reserved_in_probes_alone(tmp_path):
    write(tmp_path / "x.h5", images(name="fitted"))
    assert "fitted" in read(tmp_path / "x.h5").splits
    probe = feature_file("probe")
    probe.splits["fitted"] = probe.splits["test"]
    with fails_with("got 'fitted'"):
        write(tmp_path / "y.h5", probe)


@pytest.mark.parametrize(
    "file",
    [
        history(x=nested(14)),
        history(model={"name": "m", "logit_scale": 100, "logit_bias": -15}),
        history(C=10**300),
        FeatureFile("images", splits={f"s{i}": ROW for i in range(4096)}),
        FeatureFile("result", runs={"seen": np.array([2**63 - 1], "u8")}),
        images(labels=np.array([255], "u1")),
        images(labels=np.array([True])),
        FeatureFile("result"),
        images(logit_scale=np.float32(0.5)),
    ],
)
@pytest.mark.long
def test_what_only_just_follows_the_format_is_written_and_read(file, tmp_path):
    write(tmp_path / "x.h5", file)
    assert read(tmp_path / "x.h5").history == file.history


@pytest.mark.parametrize(
    ("temperature", "logit"),
    [(0.5, 0.25), (1e-46, 1e38), (1e-39, 1e38), (1e39, 1e-39), (1e300, 0), (1e-320, 1)],
)
def test_a_temperature_that_float32_cannot_hold_is_undone_exactly(temperature, logit):
    file = changed("logits", temperature=temperature)
    stored = np.full((6, 3), logit, np.float32)
    file.splits["test"].features = stored
    expected = stored.astype(np.float64) * temperature
    np.testing.assert_allclose(file.cosines("test").read(), expected, rtol=1e-6, atol=1e-45)


def test_a_whole_number_as_temperature_is_stored_as_a_float(tmp_path):
    file = changed("logits", temperature=1)
    write(tmp_path / "one.h5", file)
    cosines = read(tmp_path / "one.h5").cosines("test").read()
    np.testing.assert_array_equal(cosines, file.splits["test"].features)


def test_logits_that_are_no_cosines_at_their_temperature_are_refused():
    with fails_with("test/features: expected logits of cosines, got values"):
        changed("logits", temperature=1e45).cosines("test").read()


def test_take_selects_rows_of_everything_that_a_split_holds():
    features = BlockMatrix.from_array(np.eye(3))
    few = Split(features, np.arange(3), list("abc"), np.array([[3, 4, 5]])).take([2, 0])
    assert few.features.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert few.ids == ["c", "a"]
    assert (few.labels.tolist(), few.predicted.tolist()) == ([2, 0], [[5, 3]])
    assert Split(ids=["a", "b"]).take([1]).features is None
    in_blocks = BlockMatrix((6, 1), lambda: iter(np.arange(6, dtype="f4").reshape(3, 2, 1)))
    assert in_blocks.take(np.array([1, 2, 5])).read().tolist() == [[1], [2], [5]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_shown_in_one_short_line(kind):
    file = replace(feature_file(kind), class_names=["x" * 1000] * 1000)
    assert repr(file).startswith(f"FeatureFile({kind}, ")
    assert len(repr(file)) < 200
    for split in file.splits.values():
        split.ids = ["x" * 1000] * 1000
        assert len(repr(split)) < 100


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        ("images", "FeatureFile(images, test: {n} x 4, train: {n} x 4)"),
        ("result", "FeatureFile(result, zeroshot, 2 runs: split acc1, test: {n} rows)"),
    ],
)
def test_a_file_is_shown_with_its_shapes_and_a_result_with_its_command(kind, shown):
    n = 3
    ids = list("abc")
    file = FeatureFile(kind, [{"command": "zeroshot"}])
    if kind == "images":
        for name in ("test", "train"):
            file.splits[name] = Split(random_features(n), ids=ids)
    else:
        file.splits["test"] = Split(ids=ids, predicted=np.zeros((2, n), np.int64))
        file.set_rows([{"split": "test", "acc1": 0.5}, {"split": "test", "acc1": 0.25}])
    assert repr(file) == shown.format(n=n)


def test_a_split_is_an_item_of_its_file():
    file = feature_file("images")
    name = next(iter(file.splits))
    assert file[name] is file.splits[name]
    assert name in file
    assert "nowhere" not in file
    with fails_with("unknown split of the file 'nowhere'", UsageError):
        file["nowhere"]
    with pytest.raises(TypeError):
        iter(file)


def test_the_length_of_a_file_is_its_images_texts_or_runs():
    images, texts, result = map(feature_file, ("images", "texts", "result"))
    assert len(images) == sum(len(split.ids) for split in images.splits.values()) > 0
    assert len(texts) == len(texts.texts) > 0
    result.set_rows([{"split": "test", "acc1": 0.5}] * 3)
    assert len(result) == 3
    assert FeatureFile("result")  # also without runs


def test_runs_become_a_data_frame_with_typed_columns():
    pandas = pytest.importorskip("pandas")
    file = FeatureFile("result")
    run = {"split": "test", "k": 5, "fitted": True, "acc1": 0.5, "acc1_low": 0.25, "chance": None}
    file.set_rows([run, run | {"split": "train"}])
    frame = file.to_pandas()
    assert list(frame.columns) == list(run)
    assert [frame[name].dtype.kind for name in ("k", "fitted", "acc1", "acc1_low")] == list("ibff")
    assert frame["split"].tolist() == ["test", "train"]
    assert pandas.isna(frame["chance"]).all()


def test_a_data_frame_needs_pandas_and_a_result(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with fails_with("to_pandas needs pandas"):
        FeatureFile("result").to_pandas()
    with fails_with("the file: expected a result, got texts"):
        feature_file("texts").to_pandas()


def test_rows_of_a_result_are_its_runs():
    file = FeatureFile("result")
    rows = [{"split": "a", "k": 1, "acc1": 0.5}, {"split": "b", "k": 2, "acc1": 1.0}]
    file.set_rows(rows)
    assert file.rows() == rows
    file.set_rows([{"acc1": None}])
    assert np.isnan(file.runs["acc1"]).all()
    file.set_rows([])
    assert (file.runs, file.rows()) == ({}, [])


def test_splits_are_chosen_by_name():
    file = FeatureFile("images", splits={"train": Split(), "test": Split()})
    assert matching.choose_splits(file) == (file, ["train", "test"])
    assert matching.choose_splits(file, ["test", "test"]) == (file, ["test"])
    assert matching.choose_split(file) == (file, "test")
    with fails_with("unknown split of the file 'tset'", UsageError):
        matching.choose_splits(file, ["tset"])


def test_an_object_of_a_history_is_found_by_names_that_may_have_dots():
    entry = Entry(dataset={"splits": {"v1.0": {"images": 6}}, "name": "birds"})
    assert entry.object("dataset", "splits", "v1.0") == {"images": 6}
    assert entry.object("dataset", "name", "v1.0") == {}
    assert entry.member("dataset.name") == "birds"
    assert entry.member("dataset.name.first") is None
