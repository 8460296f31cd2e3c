"""The feature file: what is written is read back, the same bytes for the same content, and every version is read."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from factories import content, write_feature_file
from fuzz import seeds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from clipkit.errors import ClipkitError
from clipkit.features import BlockMatrix, FeatureFile, Split, open_file, read, write
from clipkit.features.model import BLOCK_BYTES, block_rows, chunk_rows

DATA = Path(__file__).parent / "data"
DIGESTS = {
    "images": "sha256:5a504880b9477976f2b84ff2fd4c65b7349f98a0b9627c20717aff7a93415341",
    "texts": "sha256:8096df71075dee3deb2c6fc0e4bf1f113ececa548969310aa2f0f31987b436de",
    "logits": "sha256:3069631ebc3d1405aaa4071d420694204311012ed0bc594782bb94f1cd5dcaf2",
    "result": "sha256:4def534d511473e76fa0a4f7ca8d4b8f99ce4e207b9513ba0e205628ac05a97b",
}
TMP = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25
)


def made() -> dict[str, FeatureFile]:
    spec = importlib.util.spec_from_file_location("make", DATA / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    files: dict[str, FeatureFile] = module.files()
    return files


@pytest.mark.parametrize("kind", DIGESTS)
def test_files_of_version_1_are_read_for_ever(kind: str) -> None:
    file = read(DATA / f"v1-{kind}.h5")
    assert seeds.same(file, made()[kind])
    assert file.digest == DIGESTS[kind]


@pytest.mark.parametrize("kind", DIGESTS)
def test_this_version_writes_the_same_content_with_the_same_digest(
    kind: str, tmp_path: Path
) -> None:
    assert write(tmp_path / "x.h5", made()[kind]) == DIGESTS[kind]


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True).filter(
    lambda name: name not in ("features", "texts", "class_index", "class_names", "runs")
)
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8)  # fmt: skip
HISTORY = st.lists(
    st.dictionaries(TEXT.filter(lambda key: key != "model"), JSON, max_size=3).map(
        lambda d: {**d, "command": "x"}
    ),
    max_size=3,
)


@st.composite
def matrix(draw: st.DrawFn, n: int, width: int) -> Any:
    return draw(arrays.arrays(np.float32, (n, width), elements=FLOATS))


@st.composite
def feature_files(draw: st.DrawFn) -> FeatureFile:
    kind = draw(st.sampled_from(["images", "texts", "logits"]))
    file = FeatureFile(kind, draw(HISTORY))
    k, width = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    if draw(st.booleans()):
        file.class_names = draw(st.lists(TEXT, min_size=1, max_size=3))
    classes = len(file.class_names or "abc")
    if kind != "images":
        file.texts = draw(st.lists(TEXT, min_size=k, max_size=k))
        file.class_index = np.array(
            draw(st.lists(st.integers(-1, classes - 1), min_size=k, max_size=k))
        )
    if kind == "texts":
        file.features = draw(matrix(k, width))
        return file
    if kind == "logits":
        file.temperature, file.logit_scale = (
            draw(st.floats(1e-3, 1e3)),
            draw(st.none() | st.floats(1e-3, 1e3)),
        )
    for name in draw(st.lists(NAMES, min_size=1, max_size=3, unique=True)):
        n = draw(st.integers(1, 6))
        labels = (
            np.array(draw(st.lists(st.integers(0, classes - 1), min_size=n, max_size=n)))
            if draw(st.booleans())
            else None
        )
        file.splits[name] = Split(
            draw(matrix(n, k if kind == "logits" else width)),
            labels,
            draw(st.lists(TEXT, min_size=n, max_size=n)),
        )
    return file


@TMP
@given(file=feature_files())
def test_what_is_written_is_read_back(file: FeatureFile, tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    digest = write(path, file, force=True)
    first = path.read_bytes()
    again = read(path, trusted=True)
    assert seeds.same(again, file)
    assert again.digest == digest
    write(path, again, force=True)
    assert path.read_bytes() == first


ARRAYS = st.one_of(
    arrays.arrays(st.sampled_from(["<f4", "<f8", "<i8", "<i4", "S3", ">f4", "?"]), arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)),
    st.lists(TEXT.filter(bool), min_size=1, max_size=4).map(np.array),
)  # fmt: skip
PATHS = st.sampled_from(
    [
        "features",
        "texts",
        "class_index",
        "class_names",
        "train/features",
        "train/labels",
        "train/ids",
        "test/predicted",
        "runs/k",
        "more",
        "a/b/c",
    ]
)
VALUES = st.one_of(
    st.integers(-3, 3),
    st.floats(),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    arrays.arrays("i8", (2,)),
)


@TMP
@given(
    kind=st.sampled_from(["images", "texts", "logits", "result", "video"]),
    keep=st.booleans(),
    datasets=st.dictionaries(PATHS, st.none() | ARRAYS, max_size=6),
    attributes=st.dictionaries(st.sampled_from(["format", "version", "kind", "history", "temperature", "logit_scale", "more"]), st.none() | VALUES, max_size=2),
)  # fmt: skip
def test_any_structure_is_read_or_refused_in_one_line(
    kind: str, keep: bool, datasets: dict[str, Any], attributes: dict[str, Any], tmp_path: Path
) -> None:
    base = "images" if kind == "video" else kind
    sound = {} if keep else dict.fromkeys(content(base)[1])
    path = tmp_path / "x.h5"
    path.unlink(missing_ok=True)
    texts = {
        name: value
        if isinstance(value, str)
        else value.tolist()
        if isinstance(value, np.ndarray)
        else value
        for name, value in attributes.items()
    }
    try:
        write_feature_file(
            path, base, attributes={"kind": kind, **texts}, datasets={**sound, **datasets}
        )
    except (TypeError, ValueError, OSError):  # what h5py itself does not write
        return
    try:
        found = read(path, trusted=True)
    except ClipkitError as error:
        found, message = None, error.message
    if found is None:
        assert "\n" not in message
        return
    assert found.kind == kind
    write(tmp_path / "again.h5", found, force=True)  # what is read can be written


def test_bytes_do_not_depend_on_the_time_or_on_how_rows_come(tmp_path: Path) -> None:
    features = np.random.default_rng(0).standard_normal((3000, 2000)).astype(np.float32)
    assert features.nbytes > BLOCK_BYTES

    def pieces() -> Iterator[np.ndarray]:
        for start in range(0, 3000, 700):
            yield features[start : start + 700]

    ids = [str(i) for i in range(3000)]
    for name, rows in (("a", features), ("b", BlockMatrix(features.shape, pieces))):
        write(
            tmp_path / f"{name}.h5",
            FeatureFile("images", [{"command": "x"}], {"all": Split(rows, None, ids)}),
        )
        time.sleep(1.1)  # HDF5 keeps times in seconds
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    assert np.array_equal(read(tmp_path / "a.h5").splits["all"].features, features)


def test_storage_is_as_the_format_says(tmp_path: Path) -> None:
    write(tmp_path / "x.h5", seeds.files()["unlabelled"])
    with h5py.File(tmp_path / "x.h5") as h5:
        features = h5["all/features"]
        assert (features.dtype, features.chunks, features.fletcher32, features.compression) == (
            "<f4",
            (512, 8),
            True,
            None,
        )
        assert h5["all/ids"].dtype == "S8"


def test_complete_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import clipkit.features.hdf5 as writer

    order: list[str] = []
    real = writer._set_attribute

    def record(at: Any, name: str, value: Any) -> None:
        order.append(name)
        real(at, name, value)

    monkeypatch.setattr(writer, "_set_attribute", record)
    write(tmp_path / "x.h5", seeds.files()["images"])
    assert order[-2:] == ["digest", "complete"]


@pytest.mark.parametrize("width", [1, 512, 5000, 2_000_000])
def test_blocks_are_whole_chunks_of_bounded_size(width: int) -> None:
    assert block_rows(width) % chunk_rows(width) == 0
    assert chunk_rows(width) * width * 4 <= max(1 << 22, width * 4)
    assert block_rows(width) * width * 4 <= max(BLOCK_BYTES, width * 4)


def test_rows_stream_and_the_last_block_passes_only_if_the_digest_is_right(tmp_path: Path) -> None:
    features = np.zeros((3000, 2000), np.float32)
    ids = [str(i) for i in range(3000)]
    write_feature_file(
        tmp_path / "x.h5",
        datasets={
            "train/features": features,
            "train/ids": ids,
            "train/labels": None,
            "test/features": features[:6],
        },
    )
    data = bytearray((tmp_path / "x.h5").read_bytes())
    at = data.find(features[:500].tobytes())
    data[at + 100] ^= 1
    (tmp_path / "x.h5").write_bytes(data)
    seen = 0
    with (
        open_file(tmp_path / "x.h5") as file,
        pytest.raises(ClipkitError, match="train/features must match its SHA-256"),
    ):
        for block in file.splits["train"].features.blocks():
            seen += len(block)
    assert 0 < seen < 3000


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "NaN": ({"splits": {"a": Split(np.array([[np.nan]], "f4"), None, ["x"])}}, "a/features must be finite; got NaN or Inf in 1 rows, the first is row 0"),
    "lengths": ({"splits": {"a": Split(np.ones((2, 1), "f4"), None, ["x"])}}, "lengths must agree; got a/ids 1, a/features 2"),
    "no rows": ({"splits": {"a": Split(np.ones((0, 1), "f4"), None, [])}}, "must hold at least one row"),
    "no splits": ({}, "must hold at least one split"),
    "split's name": ({"splits": {"a/b": Split(np.ones((1, 1), "f4"), None, ["x"])}}, "a split's name must be letters"),
    "reserved": ({"splits": {"runs": Split(np.ones((1, 1), "f4"), None, ["x"])}}, "a split's name must be letters"),
    "1-D": ({"splits": {"a": Split(np.ones(1, "f4"), None, ["x"])}}, "a/features must be a matrix (N, D); got 1 dimensions"),
    "NUL": ({"splits": {"a": Split(np.ones((1, 1), "f4"), None, ["x\0"])}}, "a/ids must not hold NUL characters"),
    "surrogate": ({"splits": {"a": Split(np.ones((1, 1), "f4"), None, ["\ud800"])}}, "a/ids must be UTF-8"),
    "float labels": ({"splits": {"a": Split(np.ones((1, 1), "f4"), np.array([0.5]), ["x"])}}, "a/labels must be <i8 of 1 dimensions; got 1 of <f8"),
    "no class names": ({"class_names": [], "splits": {"a": Split(np.ones((1, 1), "f4"), None, ["x"])}}, "must hold at least one row; got class_names 0"),
    "temperature": ({"temperature": 1.0, "splits": {"a": Split(np.ones((1, 1), "f4"), None, ["x"])}}, "must have a temperature if it holds logits, and only then"),
}  # fmt: skip


@pytest.mark.parametrize(("parts", "says"), BAD.values(), ids=BAD)
def test_what_breaks_the_format_is_not_written(
    parts: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(ClipkitError) as caught:
        write(tmp_path / "x.h5", FeatureFile("images", **parts))
    assert says in caught.value.message
    assert not list(tmp_path.iterdir())
