"""clipkit convert: what goes out comes back, what others write comes in, and bad files end in one line."""

from __future__ import annotations

import csv
import io
import json
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shell import clipkit, ok, rows

from clipkit.features import FeatureFile, Split, formats, read, write, write_into
from clipkit.features.formats import found, numpys

RNG = np.random.default_rng(0)
MODEL = {"command": "embed", "model": {"name": "a/b", "digest": "sha256:1", "logit_scale": 14.3}}


def images(*, history: Any = (MODEL,), n: int = 5) -> FeatureFile:
    splits = {
        "test": Split(
            RNG.normal(size=(n, 4)).astype("f4"), np.arange(n) % 2, [f"é/{i}.jpg" for i in range(n)]
        ),
        "train_a": Split(RNG.normal(size=(3, 4)).astype("f4"), None, ["x", "", "z"]),
    }
    return FeatureFile("images", list(history), splits, class_names=["cat", "dog", "未"])


def texts() -> FeatureFile:
    features = RNG.normal(size=(3, 4)).astype("f4")
    return FeatureFile(
        "texts",
        [MODEL],
        features=features,
        texts=["a", "b, c", ""],
        class_index=np.array([0, -1, 1]),
        class_names=["cat", "dog"],
    )


def logits() -> FeatureFile:
    file = FeatureFile(
        "logits",
        [MODEL],
        texts=["p", "q"],
        class_index=np.array([-1, 0]),
        class_names=["cat"],
        temperature=0.07,
    )
    file.splits = {"all": Split(RNG.normal(size=(4, 2)).astype("f4"), None, list("abcd"))}
    file.logit_scale = 14.3
    return file


def result() -> FeatureFile:
    runs = {
        "classifier": np.array(["svm"] * 3),
        "C": np.array([1.0, 10.0, 1.0]),
        "temperature": np.array([np.nan] * 3),
        "eval_split": np.array(["val", "val", "test"]),
        "acc1": np.array([0.5, 1.0, 1.0]),
    }
    splits = {
        "val": Split(labels=np.array([0, 1]), ids=["u", "v"], predicted=np.array([[0, 0], [0, 1]])),
        "test": Split(labels=np.array([1]), ids=["w,\n"], predicted=np.array([[1]])),
    }
    return FeatureFile(
        "result", [{"command": "probe"}], splits, class_names=["cat", "dog"], runs=runs
    )


def put(path: Path, file: FeatureFile) -> Path:
    write(path, file)
    return path


def same(a: FeatureFile, b: FeatureFile) -> None:
    """Equal in everything but the history, which is one entry longer."""
    assert b.history[:-1] == a.history
    assert b.history[-1]["command"] == "convert"
    digests = []
    for file in (a, b):
        file.history = []
        with io.BytesIO() as buffer:
            write_into(buffer, file)  # type: ignore[arg-type]
        digests.append(file.digest)
    assert digests[0] == digests[1]


def refused(
    code: int, *words: object, output: Path | None = None, stdin: bytes | None = None
) -> str:
    """Run a command that must fail in one line, leaving no output and no temporary file; return the line."""
    run = clipkit("convert", *words, stdin=stdin)
    assert run.exit_code == code, run.stderr
    line = run.stderr.removesuffix("\n")
    assert line.startswith("clipkit convert: ")
    assert "\n" not in line
    assert "bug in clipkit" not in line
    if output is not None:
        assert not output.exists()
        assert not list(output.parent.glob(".*.tmp"))
    return line


@pytest.mark.parametrize("ending", ["npz", "parquet"])
@pytest.mark.parametrize("make", [images, texts, logits])
def test_there_and_back(tmp_path: Path, make: Any, ending: str) -> None:
    here, out, back = put(tmp_path / "a.h5", make()), tmp_path / f"b.{ending}", tmp_path / "c.h5"
    ok("convert", here, out)
    ok("convert", out, back)
    same(read(here), read(back))
    first = out.read_bytes()
    ok("convert", here, out, "--force")
    assert out.read_bytes() == first


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)


@st.composite
def feature_files(draw: Any) -> FeatureFile:
    width = draw(st.integers(1, 4))

    def matrix(n: int) -> Any:
        return draw(
            hnp.arrays(
                np.float32,
                (n, width),
                elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
            )
        )

    class_names = draw(st.none() | st.lists(names, min_size=1, max_size=3))
    top = len(class_names) - 1 if class_names else 9
    if draw(st.booleans()):
        k = draw(st.integers(1, 4))
        index = np.array(draw(st.lists(st.integers(-1, top), min_size=k, max_size=k)))
        said = draw(st.lists(names, min_size=k, max_size=k))
        return FeatureFile(
            "texts", features=matrix(k), texts=said, class_index=index, class_names=class_names
        )
    splits = {}
    for name in draw(
        st.lists(
            st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,5}", fullmatch=True),
            min_size=1,
            max_size=3,
            unique=True,
        )
    ):
        n = draw(st.integers(1, 4))
        labels = draw(
            st.none() | st.lists(st.integers(0, top), min_size=n, max_size=n).map(np.array)
        )
        splits[name] = Split(matrix(n), labels, draw(st.lists(names, min_size=n, max_size=n)))
    return FeatureFile("images", splits=splits, class_names=class_names)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(file=feature_files(), ending=st.sampled_from([".npz", ".parquet"]))
def test_any_file_comes_back_equal(tmp_path: Path, file: FeatureFile, ending: str) -> None:
    here, out, back = tmp_path / "a.h5", tmp_path / f"b{ending}", tmp_path / "c.h5"
    write(here, file, force=True)
    ok("convert", here, out, "--force")
    ok("convert", out, back, "--force")
    same(read(here), read(back))


def test_npz_is_what_numpy_reads(tmp_path: Path) -> None:
    file = images()
    ok("convert", put(tmp_path / "a.h5", file), tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert sorted(arrays) == [
            "class_names", "clipkit", "test_features", "test_ids", "test_labels", "train_a_features", "train_a_ids",
        ]  # fmt: skip
        np.testing.assert_array_equal(arrays["test_features"], file.splits["test"].features)
        assert arrays["test_ids"].tolist() == file.splits["test"].ids
        assert json.loads(arrays["clipkit"].item())["history"] == [MODEL]


def test_parquet_is_a_table(tmp_path: Path) -> None:
    ok("convert", put(tmp_path / "a.h5", images(n=2)), tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet").to_pydict()
    assert list(table) == ["split", "id", "label", "class_name", "feature"]
    assert table["split"] == ["test"] * 2 + ["train_a"] * 3
    assert table["label"] == [0, 1, None, None, None]
    assert table["class_name"] == ["cat", "dog", None, None, None]


def test_npy_is_one_matrix(tmp_path: Path) -> None:
    file = images()
    here = put(tmp_path / "a.h5", file)
    assert "choose one with --split" in refused(
        2, here, tmp_path / "a.npy", output=tmp_path / "a.npy"
    )
    ok("convert", here, tmp_path / "a.npy", "--split", "test")
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), file.splits["test"].features)
    prompts = texts()
    ok("convert", put(tmp_path / "t.h5", prompts), tmp_path / "t.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "t.npy"), prompts.features)


def test_split_restricts_both_ways(tmp_path: Path) -> None:
    here = put(tmp_path / "a.h5", images())
    ok("convert", here, tmp_path / "one.npz", "--split", "test")
    assert "train_a_features" not in np.load(tmp_path / "one.npz")
    for ending in ("npz", "parquet"):
        ok("convert", here, tmp_path / f"all.{ending}")
        ok("convert", tmp_path / f"all.{ending}", tmp_path / f"{ending}.h5", "--split", "train_a")
        assert list(read(tmp_path / f"{ending}.h5").splits) == ["train_a"]
        assert "did you mean test?" in refused(
            2, tmp_path / f"all.{ending}", tmp_path / "x.h5", "--split", "tset"
        )
        ok("convert", put(tmp_path / f"{ending}-t.h5", texts()), tmp_path / f"t.{ending}")
        assert "have no splits" in refused(
            2, tmp_path / f"t.{ending}", tmp_path / "x.h5", "--split", "test"
        )


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8", "<i4", "|u1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_number_types_and_orders(tmp_path: Path, dtype: str, order: Any) -> None:
    features = RNG.integers(0, 99, (700, 3)).astype(dtype, order=order)
    np.save(tmp_path / "a.npy", features)
    np.savez_compressed(tmp_path / "a.npz", features=features, labels=np.arange(700.0))
    for source in ("a.npy", "a.npz"):
        ok("convert", tmp_path / source, tmp_path / f"{source}.h5")
        split = read(tmp_path / f"{source}.h5").splits["all"]
        np.testing.assert_array_equal(split.features, features.astype("f4"))
        assert split.ids[:2] == ["000", "001"]
    assert split.labels is not None
    np.testing.assert_array_equal(split.labels, np.arange(700))


def test_blocks_join(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numpys, "BLOCK_BYTES", 100)
    features = RNG.normal(size=(37, 5))
    np.savez(tmp_path / "a.npz", features=features, fortran_features=np.asfortranarray(features))
    with formats.opened(tmp_path / "a.npz", ".npz") as got:
        for split in ("all", "fortran"):
            blocks = list(got.arrays[f"{split}/features"].blocks())
            assert len(blocks) > 5
            np.testing.assert_array_equal(np.concatenate(blocks), features.astype("f4"))


def test_labels_that_are_names(tmp_path: Path) -> None:
    features = np.ones((3, 2), "f4")
    np.savez(
        tmp_path / "a.npz",
        train_features=features,
        train_labels=["dog", "cat", "dog"],
        test_features=features,
        test_labels=["emu"] * 3,
    )
    ok("convert", tmp_path / "a.npz", tmp_path / "a.h5")
    file = read(tmp_path / "a.h5")
    assert file.class_names == ["cat", "dog", "emu"]
    assert [
        split.labels.tolist() for split in file.splits.values() if split.labels is not None
    ] == [
        [2, 2, 2],
        [1, 0, 1],
    ]
    np.save(tmp_path / "f.npy", features)
    np.save(tmp_path / "y.npy", ["b", "a", "b"])
    ok(
        "convert",
        tmp_path / "f.npy",
        tmp_path / "f.h5",
        "--labels",
        tmp_path / "y.npy",
        "--split",
        "train",
    )
    file = read(tmp_path / "f.h5")
    assert file.class_names == ["a", "b"]
    assert file.splits["train"].labels is not None
    assert file.splits["train"].labels.tolist() == [1, 0, 1]


def test_strange_tables(tmp_path: Path) -> None:
    """Lists, categories, other integer types, names for some labels only, and a column that has no place."""
    table = {
        "features": pa.array([[1.0, 2], [3, 4], [5, 6]]),
        "id": pa.array([7, 8, 9]),
        "label": pa.array([2, 0, 2], pa.uint8()),
        "class_name": pa.array(["emu", "cat", "emu"]).dictionary_encode(),
        "width": pa.array([1, 2, 3]),
    }
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    run = ok("convert", tmp_path / "a.parquet", tmp_path / "a.h5")
    assert "left out, having no place in a feature file: width" in run.stderr
    file = read(tmp_path / "a.h5")
    assert file.class_names == ["cat", "1", "emu"]
    assert file.splits["all"].ids == ["7", "8", "9"]
    np.testing.assert_array_equal(file.splits["all"].features, [[1, 2], [3, 4], [5, 6]])
    del table["label"]
    pq.write_table(pa.table(table), tmp_path / "b.parquet")
    ok("convert", tmp_path / "b.parquet", tmp_path / "b.h5")
    assert read(tmp_path / "b.h5").class_names == ["cat", "emu"]


def test_prompts_beside_their_embeddings(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.eye(2))
    (tmp_path / "p.txt").write_text("a dog\na cat\n")
    ok(
        "convert",
        tmp_path / "t.npy",
        tmp_path / "t.h5",
        "--prompts",
        tmp_path / "p.txt",
        "--model",
        "ViT-B/32",
    )
    file = read(tmp_path / "t.h5", kinds=["texts"])
    assert file.texts == ["a dog", "a cat"]
    assert file.class_index is not None
    assert file.class_index.tolist() == [-1, -1]
    assert file.history[0]["model"] == {"name": "openai/clip-vit-base-patch32"}
    (tmp_path / "p.txt").write_text("a dog\n")
    assert "features 2, texts 1" in refused(
        1,
        tmp_path / "t.npy",
        tmp_path / "x.h5",
        "--prompts",
        tmp_path / "p.txt",
        output=tmp_path / "x.h5",
    )


def test_model_lets_logits_join_both_sides(tmp_path: Path) -> None:
    np.savez(tmp_path / "i.npz", features=RNG.normal(size=(4, 3)))
    np.savez(tmp_path / "t.npz", features=RNG.normal(size=(2, 3)), texts=["a", "b"])
    for side, model in (("i", "ViT-B-32"), ("t", "openai/clip-vit-base-patch32")):
        ok("convert", tmp_path / f"{side}.npz", tmp_path / f"{side}.h5", "--model", model)
        ok("convert", tmp_path / f"{side}.npz", tmp_path / f"{side}-nobody.h5")
    ok("logits", tmp_path / "i.h5", tmp_path / "t.h5", "-o", tmp_path / "l.h5")
    run = clipkit("logits", tmp_path / "i-nobody.h5", tmp_path / "t.h5", "-o", tmp_path / "x.h5")
    assert run.exit_code == 1
    assert "convert --model" in run.stderr
    ok("convert", put(tmp_path / "known.h5", images()), tmp_path / "known.npz")
    assert "says a/b" in refused(
        2, tmp_path / "known.npz", tmp_path / "x.h5", "--model", "tiny", output=tmp_path / "x.h5"
    )


def test_pipes(tmp_path: Path) -> None:
    here = put(tmp_path / "l.h5", logits())
    ok("convert", "-", tmp_path / "l.npz", stdin=here.read_bytes())
    piped = ok("convert", tmp_path / "l.npz").stdout_bytes
    report = ok("entropy", "-", stdin=piped).stdout
    assert rows(report) == rows(ok("entropy", here).stdout)


def test_predictions_by_name(tmp_path: Path) -> None:
    here = put(tmp_path / "r.h5", result())
    ok("convert", here, tmp_path / "r.csv")
    with (tmp_path / "r.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["split", "id", "label", "predicted", "classifier", "C", "temperature"],
            ["test", "w,\n", "dog", "dog", "svm", "1.0", ""],
            ["val", "u", "cat", "cat", "svm", "1.0", ""],
            ["val", "v", "dog", "cat", "svm", "1.0", ""],
            ["val", "u", "cat", "cat", "svm", "10.0", ""],
            ["val", "v", "dog", "dog", "svm", "10.0", ""],
        ]
    ok("convert", here, tmp_path / "r.parquet", "--split", "val")
    table = pq.read_table(tmp_path / "r.parquet").to_pydict()
    assert table["predicted"] == ["cat", "cat", "cat", "dog"]
    assert table["temperature"] == [None] * 4
    ok("convert", here, tmp_path / "r.npz")
    assert np.load(tmp_path / "r.npz")["val_predicted"].tolist() == [[0, 0], [0, 1]]
    assert "it holds result" in refused(
        1, tmp_path / "r.npz", tmp_path / "x.h5", output=tmp_path / "x.h5"
    )


def test_results_of_the_commands_themselves(tmp_path: Path) -> None:
    """zeroshot and cluster write a split of their own; clusters have no names; entropy predicts nothing."""
    file = logits()
    file.class_index, file.splits["all"].labels = np.array([0, 0]), np.zeros(4, int)
    here = put(tmp_path / "l.h5", file)
    for command in (["zeroshot"], ["cluster", "-k", "2"], ["entropy"]):
        ok(*command, here, "-o", tmp_path / f"{command[0]}.h5")
        ok("convert", tmp_path / f"{command[0]}.h5", tmp_path / f"{command[0]}.csv")
    lines = {p.stem: p.read_text().splitlines() for p in tmp_path.glob("*.csv")}
    assert lines["zeroshot"][:2] == ["split,id,label,predicted", "all,a,cat,cat"]
    assert lines["cluster"][0] == "split,id,label,predicted,k"
    assert len(lines["cluster"]) == 5
    assert {line.split(",")[3] for line in lines["cluster"][1:]} == {"0", "1"}
    assert set(lines["entropy"][0].split(",")) >= {"split", "temperature", "mean_entropy"}
    assert len(lines["entropy"]) == 2


def test_usage(tmp_path: Path) -> None:
    here = put(tmp_path / "a.h5", images())
    (tmp_path / "a.npz").write_bytes(b"mine")
    assert "must not exist yet" in refused(2, here, tmp_path / "a.npz")
    assert (tmp_path / "a.npz").read_bytes() == b"mine"
    assert "both are" in refused(2, here, tmp_path / "b.h5")
    assert "neither is" in refused(2, tmp_path / "a.npz", tmp_path / "b.parquet")
    assert "unknown ending '.pt'" in refused(2, here, tmp_path / "b.pt")
    assert "unknown ending '.csv'" in refused(2, tmp_path / "a.csv", tmp_path / "b.h5")
    assert "takes results; the input holds images" in refused(
        2, here, tmp_path / "b.csv", output=tmp_path / "b.csv"
    )
    assert "--model is for bringing features in" in refused(
        2, here, tmp_path / "b.npz", "--model", "tiny"
    )
    assert "did you mean test?" in refused(
        2, here, tmp_path / "b.npz", "--split", "tests", output=tmp_path / "b.npz"
    )
    assert "must exist" in refused(1, tmp_path / "none.npz", tmp_path / "b.h5")
    np.save(tmp_path / "y.npy", np.zeros(5, int))
    ok("convert", here, tmp_path / "out.npz")
    wrong = refused(
        2,
        tmp_path / "out.npz",
        tmp_path / "b.h5",
        "--labels",
        tmp_path / "y.npy",
        output=tmp_path / "b.h5",
    )
    assert "one unnamed matrix" in wrong
    ok("convert", here, tmp_path / "a.parquet")
    assert "columns of a .parquet" in refused(
        2, tmp_path / "a.parquet", tmp_path / "b.h5", "--labels", tmp_path / "y.npy"
    )


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "clipkit.features._parquet", raising=False)
    monkeypatch.delattr(formats, "parquet", raising=False)
    here = put(tmp_path / "a.h5", images())
    assert "pip install 'clipkit-vl[parquet]'" in refused(
        1, here, tmp_path / "a.parquet", output=tmp_path / "a.parquet"
    )
    ok("convert", here, tmp_path / "a.npz")


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    canary, hostile = tmp_path / "canary", np.array([Canary(tmp_path / "canary")], object)
    np.savez(tmp_path / "a.npz", allow_pickle=True, features=hostile)
    np.save(tmp_path / "a.npy", hostile, allow_pickle=True)
    np.savez(tmp_path / "b.npz", allow_pickle=True, features=np.ones((1, 2)), ids=hostile)
    (tmp_path / "c.npy").write_bytes(pickle.dumps(Canary(canary)))
    for name in ("a.npz", "a.npy", "b.npz"):
        assert "never loaded" in refused(
            1, tmp_path / name, tmp_path / "x.h5", output=tmp_path / "x.h5"
        )
    refused(1, tmp_path / "c.npy", tmp_path / "x.h5", output=tmp_path / "x.h5")
    assert not canary.exists()


ONE, TWO, BIT = np.ones((1, 2)), np.ones((2, 2)), np.ones((1, 1))
BAD = {
    "1-D": (
        {"features": np.ones(4)},
        "must be a matrix (N, D) with N and D above 0; its shape is (4,)",
    ),
    "3-D": ({"features": np.ones((2, 3, 4))}, "its shape is (2, 3, 4); hint: flatten each row"),
    "no rows": ({"features": np.ones((0, 4))}, "its shape is (0, 4)"),
    "texts as features": (
        {"features": np.array([["a"]])},
        "features must be numbers; got type <U1",
    ),
    "complex": (
        {"features": np.ones((2, 2), complex)},
        "must be numbers or texts; got type complex128",
    ),
    "NaN": ({"train_features": np.array([[1.0], [np.nan]])}, "the first is row 1"),
    "too large": ({"train_features": np.array([[1e300]])}, "the first is row 0"),
    "short labels": (
        {"features": TWO, "labels": np.arange(3)},
        "a.npz: lengths must agree; got all/ids 2",
    ),
    "short ids": ({"features": TWO, "ids": ["a"]}, "ids 1, "),
    "widths": ({"a_features": TWO, "b_features": np.ones((2, 3))}, "one width"),
    "half labels": (
        {"features": TWO, "labels": [0.5, 1]},
        "labels must be whole numbers; got 0.5 in row 0",
    ),
    "NaN labels": ({"features": TWO, "labels": [1, np.nan]}, "got nan in row 1"),
    "one-hot": ({"features": TWO, "labels": np.eye(2)}, "labels must have one dimension"),
    "label range": ({"features": ONE, "labels": [3], "class_names": ["a"]}, "must lie in 0..0"),
    "strange name": (
        {"features": ONE, "labels": ["b"], "class_names": ["a"]},
        "class names; got 'b'",
    ),
    "mixed": (
        {"a_features": BIT, "a_labels": [0], "b_features": BIT, "b_labels": ["x"]},
        "got both",
    ),
    "no features": ({"X": TWO, "y": np.ones(2)}, "it holds X, y; hint: name them features"),
    "orphan": ({"train_labels": np.ones(2, int)}, "must hold features; it holds train_labels"),
    "twice": ({"features": ONE, "all_features": ONE}, "second all/features"),
    "float ids": ({"features": ONE, "ids": [0.5]}, "ids must be texts; got '0.5'"),
    "scalar ids": ({"features": ONE, "ids": "a"}, "ids must have one dimension"),
    "not UTF-8": ({"features": ONE, "ids": [b"\xff"]}, "ids must be UTF-8"),
    "bad split": ({"a b_features": ONE}, "a split's name must be letters"),
    "bad about": ({"features": ONE, "clipkit": "{}"}, "'clipkit' must be the JSON"),
    "future": (
        {"features": ONE, "clipkit": '{"kind": "", "version": 2, "history": []}'},
        "newer clipkit",
    ),
    "texts lack": ({"features": TWO, "texts": ["a"]}, "features 2, texts 1"),
    "logits": (
        {"features": ONE, "clipkit": '{"kind": "logits", "version": 1, "history": []}'},
        "must hold",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_content(tmp_path: Path, name: str) -> None:
    arrays, message = BAD[name]
    np.savez(tmp_path / "a.npz", **arrays)
    assert message in refused(1, tmp_path / "a.npz", tmp_path / "x.h5", output=tmp_path / "x.h5")


BAD_TABLES = {
    "no feature": ({"x": [1]}, "a column 'feature'; it has x"),
    "no rows": ({"feature": pa.array([], pa.list_(pa.float32()))}, "it has no rows"),
    "numbers": ({"feature": [1.0]}, "feature must be lists of numbers; got double"),
    "texts": ({"feature": [["a"]]}, "feature must be lists of numbers"),
    "ragged": (
        {"feature": [[1.0], [1.0, 2.0]]},
        "every feature must have 1 values, as the first has; row 1 has 2",
    ),
    "null": ({"feature": [[1.0], None]}, "row 1 has none"),
    "first null": ({"feature": pa.array([None, [1.0]])}, "at least one number"),
    "null within": ({"feature": [[1.0], [None]]}, "the first is row 1"),
    "null id": (
        {"feature": [[1.0], [2.0]], "id": ["a", None]},
        "id must have a value in every row; 1 have none",
    ),
    "some labels": (
        {"feature": [[1.0], [2.0]], "label": [0, None]},
        "for all rows of a split or none; 1 of 2",
    ),
    "two names": (
        {"feature": [[1.0]] * 2, "label": [0, 0], "class_name": ["a", "b"]},
        "each label must have one class_name",
    ),
    "dates": ({"feature": [[1.0]], "id": pa.array([0], pa.date32())}, "id must be texts"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_bad_tables(tmp_path: Path, name: str) -> None:
    columns, message = BAD_TABLES[name]
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert message in refused(
        1, tmp_path / "a.parquet", tmp_path / "x.h5", output=tmp_path / "x.h5"
    )


@pytest.mark.parametrize("ending", ["npz", "npy", "parquet"])
def test_damaged_files(tmp_path: Path, ending: str) -> None:
    file, whole, bad = images(n=40), tmp_path / f"a.{ending}", tmp_path / f"bad.{ending}"
    ok("convert", put(tmp_path / "a.h5", file), whole, "--split", "test")
    data = whole.read_bytes()
    for size in [0, 1, 8, 100, len(data) // 2, len(data) - 1]:
        bad.write_bytes(data[:size])
        line = refused(1, bad, tmp_path / "x.h5", output=tmp_path / "x.h5")
        assert str(bad) in line
    bad.write_bytes(b"label,feature\n1,2\n")
    refused(1, bad, tmp_path / "x.h5", output=tmp_path / "x.h5")


def test_a_flipped_bit_in_an_archive(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "a.npz",
        features=np.full((50, 50), np.float32(3)),
        ids=[f"id{i:06d}" for i in range(50)],
    )
    data = (tmp_path / "a.npz").read_bytes()
    for where in (np.float32(3).tobytes(), "id000007".encode("utf-32-le")):
        at = data.index(where * (8 if len(where) == 4 else 1))
        (tmp_path / "bad.npz").write_bytes(data[:at] + b"\x01" + data[at + 1 :])
        assert "CRC" in refused(
            1, tmp_path / "bad.npz", tmp_path / "x.h5", output=tmp_path / "x.h5"
        )


def npy_header(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        out, {"descr": dtype, "fortran_order": False, "shape": shape}
    )
    return out.getvalue()


def test_lies_and_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lie.npy").write_bytes(npy_header((1 << 40, 1024)) + b"\0" * 64)
    assert "it was cut short" in refused(
        1, tmp_path / "lie.npy", tmp_path / "x.h5", output=tmp_path / "x.h5"
    )
    (tmp_path / "more.npy").write_bytes(npy_header((1, 1)) + b"\0" * 5)
    assert "added to it" in refused(
        1, tmp_path / "more.npy", tmp_path / "x.h5", output=tmp_path / "x.h5"
    )
    with zipfile.ZipFile(tmp_path / "lie.npz", "w") as archive:
        archive.writestr("features.npy", npy_header((1 << 40, 1024)))
    assert "it was cut short" in refused(
        1, tmp_path / "lie.npz", tmp_path / "x.h5", output=tmp_path / "x.h5"
    )
    monkeypatch.setattr(found, "BOMB_BYTES", 1 << 20)
    np.savez_compressed(tmp_path / "bomb.npz", features=np.zeros((1 << 11, 1 << 10), "f4"))
    assert "at most 100 times its size" in refused(
        1, tmp_path / "bomb.npz", tmp_path / "x.h5", output=tmp_path / "x.h5"
    )
    column = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(1 << 21, "f4")), 1 << 10)
    pq.write_table(pa.table({"feature": column}), tmp_path / "bomb.parquet")
    assert "at most 100 times its size" in refused(
        1, tmp_path / "bomb.parquet", tmp_path / "x.h5", output=tmp_path / "x.h5"
    )


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, out = put(tmp_path / "a.h5", images()), tmp_path / "a.npz"
    out.write_bytes(b"mine")

    def full(*args: object, **extra: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(numpys, "_write", full)
    assert "No space left on device" in refused(1, here, out, "--force")
    assert out.read_bytes() == b"mine"
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_flipped_bit_in_a_table(tmp_path: Path) -> None:
    file = images(n=200)
    ok("convert", put(tmp_path / "a.h5", file), tmp_path / "a.parquet", "--split", "test")
    data = (tmp_path / "a.parquet").read_bytes()
    at = data.index(file.splits["test"].features[50].tobytes())
    (tmp_path / "bad.parquet").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    assert "CRC" in refused(
        1, tmp_path / "bad.parquet", tmp_path / "x.h5", output=tmp_path / "x.h5"
    )
