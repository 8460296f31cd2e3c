"""clipkit convert: exports can be imported, as can other tools' files; bad files are refused."""

import csv
import io
import json
import math
import pickle
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from canary import Canary
from factories import feature_file, labels_of, random_features, refused, unchanged
from factories import saved as saved_file
from fuzz import seeds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.lib import format as npy
from shell import clipkit, fails, ok, rows
from strategies import feature_files

from clipkit.base.bounds import Bound
from clipkit.commands.convert import convert
from clipkit.features import FeatureFile, Split, formats, npz, parquet, read
from clipkit.features.columns import SETTINGS
from clipkit.features.endings import FORMATS, READABLE

RNG = np.random.default_rng(0)


def images():
    """Return a labelled split, and one without labels whose name has an underscore."""
    file = feature_file(datasets={"train/labels": None})
    file.splits["train_a"] = file.splits.pop("train")
    return file


def result():
    """Return a sweep that was scored on a validation split and then on the test split."""
    file = feature_file("result")
    file.runs = {
        "classifier": np.array(["svm"] * 3),
        "C": np.array([1.0, 10.0, 1.0]),
        "temperature": np.array([np.nan] * 3),
        "eval_split": np.array(["val", "val", "test"]),
        "acc1": np.array([0.5, 1.0, 1.0]),
    }
    file.splits = {
        "val": Split(labels=np.array([0, 1]), ids=["u", "v"], predicted=np.array([[0, 0], [0, 1]])),
        "test": Split(labels=np.array([1]), ids=["w,\n"], predicted=np.array([[1]])),
    }
    return file


def saved(path, file):
    """Write a file, or a small one of a kind, and return its path."""
    return saved_file(path, feature_file(file) if isinstance(file, str) else file)


def convert_refused(source, output, code, *parts, options=()):
    """Check that a conversion fails in one line and changes nothing in the output's folder."""
    with unchanged(output.parent):
        refused(clipkit("convert", source, output, *options), code, *parts)


RETURNING = [known.ending for known in FORMATS.values() if known.is_read and known.holds_results]


@pytest.mark.long
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(file=feature_files(), ending=st.sampled_from(RETURNING))
def test_any_file_comes_back_equal_and_the_same_content_gives_the_same_bytes(
    tmp_path, file, ending
):
    source = saved(tmp_path / "a.h5", file)
    exported, imported = tmp_path / f"b{ending}", tmp_path / "c.h5"
    ok("convert", source, exported, "--force")
    first = exported.read_bytes()
    ok("convert", source, exported, "--force")
    assert exported.read_bytes() == first
    ok("convert", exported, imported, "--force")
    back = read(imported)
    assert back.history.pop()["command"] == "convert"
    assert seeds.same(back, read(source))


@pytest.mark.parametrize("known", FORMATS.values(), ids=FORMATS)
def test_a_format_is_written_of_what_its_record_says_that_it_holds(tmp_path, known):
    contents = {"texts": known.holds_features, "result": known.holds_results}
    for kind, is_held in contents.items():
        source = saved(tmp_path / f"{kind}.h5", kind if kind == "texts" else result())
        output = tmp_path / f"{kind}{known.ending}"
        if not known.is_written:
            convert_refused(source, output, 2, f"unknown ending '{known.ending}'")
        elif is_held:
            noted = ok("convert", source, output).stderr
            assert output.stat().st_size
            is_noted = kind == "result" and not known.is_table
            assert ("convert does not import results" in noted) == is_noted
        else:
            convert_refused(source, output, 2, f"{known.ending} file, got ")


@pytest.mark.parametrize("ending", READABLE)
def test_a_file_for_convert_is_refused_elsewhere_with_the_line_that_imports_it(tmp_path, ending):
    path = tmp_path / f"x{ending}"
    path.write_bytes(b"other content")
    for command in ("info", "probe"):
        line = fails(command, path)
        made = f"clipkit convert {path} x.h5 && clipkit {command} x.h5"
        assert line.endswith(f"; hint: if it holds features: {made}\n")


def test_the_documentation_and_the_help_name_every_ending():
    page = (Path(__file__).parents[1] / "docs" / "commands" / "convert.md").read_text()
    for ending in FORMATS:
        assert ending in page
        assert ending in convert.__doc__


def test_an_npz_is_what_numpy_reads(tmp_path):
    file = images()
    ok("convert", saved(tmp_path / "a.h5", file), tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {
            "class_names", "clipkit", "test_features", "test_ids", "test_labels",
            "train_a_features", "train_a_ids",
        }  # fmt: skip
        np.testing.assert_array_equal(arrays["test_features"], file.splits["test"].features)
        assert arrays["test_ids"].tolist() == file.splits["test"].ids
        assert json.loads(arrays["clipkit"].item())["history"] == file.history


def test_a_parquet_file_is_a_table(tmp_path):
    ok("convert", saved(tmp_path / "a.h5", images()), tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet").to_pydict()
    assert list(table) == ["split", "id", "label", "class_name", "feature"]
    assert table["split"] == ["test"] * 6 + ["train_a"] * 6
    assert table["label"] == [0, 1] * 3 + [None] * 6
    assert table["class_name"] == ["cat", "dog"] * 3 + [None] * 6


def test_an_npy_is_one_matrix(tmp_path):
    file = images()
    source = saved(tmp_path / "a.h5", file)
    convert_refused(source, tmp_path / "a.npy", 2, "got test, train_a; hint: choose one with --spl")
    ok("convert", source, tmp_path / "a.npy", "--split", "test")
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), file.splits["test"].features)
    ok("convert", saved(tmp_path / "t.h5", "texts"), tmp_path / "t.npy")
    assert np.load(tmp_path / "t.npy").shape == (3, 4)


@pytest.mark.parametrize("ending", ["npz", "parquet"])
@pytest.mark.long
def test_split_restricts_both_ways(tmp_path, ending):
    source, exported = saved(tmp_path / "a.h5", images()), tmp_path / f"a.{ending}"
    ok("convert", source, exported, "--split", "test")
    ok("convert", exported, tmp_path / "one.h5")
    ok("convert", source, exported, "--force")
    ok("convert", exported, tmp_path / "other.h5", "--split", "train_a")
    assert list(read(tmp_path / "one.h5").splits) == ["test"]
    assert list(read(tmp_path / "other.h5").splits) == ["train_a"]
    prompts = saved(tmp_path / "t.h5", "texts")
    ok("convert", prompts, tmp_path / f"t.{ending}")
    for path, output, name, message in (
        (exported, "x.h5", "tset", "unknown split of "),
        (source, f"x.{ending}", "tset", "unknown split of "),
        (tmp_path / f"t.{ending}", "x.h5", "test", "expected no split for texts, got 'test'"),
        (prompts, f"x.{ending}", "test", "got 'test'"),
    ):
        convert_refused(path, tmp_path / output, 2, message, options=["--split", name])


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8", "<i4", "|u1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_number_types_and_orders_become_float32_and_int64(tmp_path, dtype, order):
    features = RNG.integers(0, 99, (700, 3)).astype(dtype, order=order)
    np.save(tmp_path / "a.npy", features)
    np.savez_compressed(tmp_path / "a.npz", features=features, labels=np.arange(700.0))
    for source in ("a.npy", "a.npz"):
        split = formats.import_file(tmp_path / source).splits["all"]
        np.testing.assert_array_equal(split.features, features.astype("f4"), strict=True)
        assert split.ids[:2] == ["000", "001"]
    np.testing.assert_array_equal(split.labels, np.arange(700), strict=True)


def test_a_table_may_have_several_groups_of_rows_and_splits(tmp_path):
    features = RNG.normal(size=(1100, 5)).astype("f4")
    table = pa.table({"feature": features.tolist(), "split": ["a", "b"] * 550})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=300)
    file = formats.import_file(tmp_path / "a.parquet")
    np.testing.assert_array_equal(file.splits["a"].features, features[::2])
    np.testing.assert_array_equal(file.splits["b"].features, features[1::2])


def test_labels_may_be_names(tmp_path):
    ones = np.ones((3, 2), "f4")
    labels = {"train_labels": ["dog", "cat", "dog"], "test_labels": ["emu"] * 3}
    np.savez(tmp_path / "a.npz", train_features=ones, test_features=ones, **labels)
    file = formats.import_file(tmp_path / "a.npz")
    assert file.class_names == ["cat", "dog", "emu"]
    assert labels_of(file) == {"test": [2, 2, 2], "train": [1, 0, 1]}


def test_a_name_of_two_classes_is_no_label(tmp_path):
    saved(tmp_path / "a.h5", feature_file(datasets={"class_names": ["crane", "crane"]}))
    ok("convert", tmp_path / "a.h5", tmp_path / "a.npz")
    ok("convert", tmp_path / "a.npz", tmp_path / "again.h5")
    assert read(tmp_path / "again.h5").class_names == ["crane", "crane"]
    names = dict.fromkeys(("test_labels", "train_labels"), ["crane"] * 6)
    np.savez(tmp_path / "b.npz", **{**np.load(tmp_path / "a.npz"), **names})
    message = "labels: expected numbers, since several classes are called 'crane'"
    convert_refused(tmp_path / "b.npz", tmp_path / "b.h5", 1, message)


def test_predictions_of_two_classes_of_one_name_are_told_apart(tmp_path):
    file = feature_file("result", datasets={"class_names": ["crane", "crane"]})
    file.runs["split"] = np.array(["test", "test"])
    ok("convert", saved(tmp_path / "r.h5", file), tmp_path / "r.csv")
    for row in (0, 1):
        assert f"test,{row}.png,{row}: crane,0: crane" in (tmp_path / "r.csv").read_text()


def test_labels_and_prompts_may_come_from_files_of_their_own(tmp_path):
    np.save(tmp_path / "f.npy", np.eye(2))
    np.save(tmp_path / "y.npy", ["b", "a"])
    (tmp_path / "p.txt").write_text("a dog\na cat\n")
    pq.write_table(pa.table({"feature": np.eye(2).tolist()}), tmp_path / "f.parquet")
    for source in ("f.npy", "f.parquet"):
        words = ("--labels", tmp_path / "y.npy", "--split", "train", "--force")
        ok("convert", tmp_path / source, tmp_path / "f.h5", *words)
        file = read(tmp_path / "f.h5")
        assert (file.class_names, labels_of(file)) == (["a", "b"], {"train": [1, 0]})
    words = ("--prompts", tmp_path / "p.txt", "--model", "ViT-B/32")
    ok("convert", tmp_path / "f.npy", tmp_path / "t.h5", *words)
    file = read(tmp_path / "t.h5", kinds=["texts"])
    assert (file.texts, file.class_index.tolist()) == (["a dog", "a cat"], [-1, -1])
    assert file.history[0]["model"] == {"name": "openai/clip-vit-base-patch32"}
    assert file.history[0]["inputs"].keys() == {"features", "prompts"}
    (tmp_path / "p.txt").write_text("a dog\n")
    message = "features 2, texts 1, class_index 1"
    convert_refused(tmp_path / "f.npy", tmp_path / "x.h5", 1, message, options=words)


def test_tables_of_other_tools(tmp_path):
    """Lists, categories, other integer types, names for some labels only, a column without use."""
    table = {
        "features": pa.array([[1.0, 2], [3, 4], [5, 6]]),
        "id": pa.array([7, 8, 9]),
        "split": pa.array(["all"] * 3, pa.large_string()),
        "label": pa.array([2, 0, 2], pa.uint8()),
        "class_name": pa.array(["emu", "cat", "emu"]).dictionary_encode(),
        "width": pa.array([1, 2, 3]),
    }
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    run = ok("convert", tmp_path / "a.parquet", tmp_path / "a.h5")
    assert "ignored, because a feature file cannot hold them: width" in run.stderr
    file = read(tmp_path / "a.h5")
    assert (file.class_names, file.splits["all"].ids) == (["cat", "1", "emu"], ["7", "8", "9"])
    np.testing.assert_array_equal(file.splits["all"].features, [[1, 2], [3, 4], [5, 6]])
    del table["label"]
    pq.write_table(pa.table(table), tmp_path / "b.parquet")
    assert formats.import_file(tmp_path / "b.parquet").class_names == ["cat", "emu"]


def test_a_model_name_lets_logits_join_both_sides(tmp_path):
    np.savez(tmp_path / "i.npz", features=RNG.normal(size=(4, 3)), X=[1])
    np.savez(tmp_path / "t.npz", features=RNG.normal(size=(2, 3)), texts=["a", "b"])
    for side, name in (("i", "ViT-B-32"), ("t", "openai/clip-vit-base-patch32")):
        ok("convert", tmp_path / f"{side}.npz", tmp_path / f"{side}.h5", "--model", name)
    ok("convert", tmp_path / "i.npz", tmp_path / "unnamed.h5")
    ok("logits", tmp_path / "i.h5", tmp_path / "t.h5", "-o", tmp_path / "l.h5")
    line = fails("logits", tmp_path / "unnamed.h5", tmp_path / "t.h5", "-o", tmp_path / "x.h5")
    assert "clipkit convert FEATURES" in line
    ok("convert", saved(tmp_path / "known.h5", images()), tmp_path / "known.npz")
    message, options = "known.npz says that m made the features", ["--model", "tiny"]
    convert_refused(tmp_path / "known.npz", tmp_path / "x.h5", 2, message, options=options)


def test_pipes(tmp_path):
    source = saved(tmp_path / "l.h5", "logits")
    ok("convert", "-", tmp_path / "l.npz", stdin=source.read_bytes())
    piped = ok("convert", tmp_path / "l.npz").stdout_bytes
    assert rows(ok("entropy", "-", stdin=piped).stdout) == rows(ok("entropy", source).stdout)


def test_every_setting_of_a_run_is_a_column_of_its_predictions(tmp_path):
    file = result()
    file.runs |= {name: np.arange(3) for name in SETTINGS if name not in file.runs}
    ok("convert", saved(tmp_path / "r.h5", file), tmp_path / "r.csv")
    header = (tmp_path / "r.csv").read_text().splitlines()[0].split(",")
    assert header == ["split", "id", "label", "predicted", *SETTINGS, "run"]


def test_predictions_become_a_table_with_class_names(tmp_path):
    source = saved(tmp_path / "r.h5", result())
    ok("convert", source, tmp_path / "r.csv")
    with (tmp_path / "r.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["split", "id", "label", "predicted", "classifier", "C", "temperature", "run"],
            ["test", "w,\n", "dog", "dog", "svm", "1.0", "", "0"],
            ["val", "u", "cat", "cat", "svm", "1.0", "", "0"],
            ["val", "v", "dog", "cat", "svm", "1.0", "", "0"],
            ["val", "u", "cat", "cat", "svm", "10.0", "", "1"],
            ["val", "v", "dog", "dog", "svm", "10.0", "", "1"],
        ]
    ok("convert", source, tmp_path / "r.parquet", "--split", "val")
    table = pq.read_table(tmp_path / "r.parquet").to_pydict()
    assert table["predicted"] == ["cat", "cat", "cat", "dog"]
    assert table["temperature"] == [None] * 4
    exported = ok("convert", source, tmp_path / "r.npz")
    assert exported.stderr.endswith(f"r.npz: convert does not import results; keep {source}\n")
    assert np.load(tmp_path / "r.npz")["val_predicted"].tolist() == [[0, 0], [0, 1]]
    message = "images, texts or logits, got result; hint: use the feature file"
    convert_refused(tmp_path / "r.npz", tmp_path / "x.h5", 1, message)


def test_a_csv_quotes_whatever_ends_a_line(tmp_path):
    file = result()
    ids = ["a\rb", "a\nb", "a\r\nb", 'a"b', "a,b", "a b"]
    zeros = np.zeros((1, len(ids)), int)
    file.splits = {"test": Split(labels=zeros[0], ids=ids, predicted=zeros)}
    ok("convert", saved(tmp_path / "r.h5", file), tmp_path / "r.csv")
    text = (tmp_path / "r.csv").read_bytes().decode()
    assert text.endswith("test,a b,cat,cat,svm,1.0,,0\n")
    assert [row["id"] for row in csv.DictReader(io.StringIO(text, newline=""))] == ids


def test_the_runs_of_a_result_are_a_table_in_the_order_of_its_report(tmp_path):
    file = result()
    file.runs["standardize"] = np.array([True, False, True])
    source = saved(tmp_path / "r.h5", file)
    ok("convert", source, tmp_path / "r.csv", "--runs")
    assert (tmp_path / "r.csv").read_text().splitlines() == [
        "classifier,C,temperature,eval_split,acc1,standardize",
        "svm,1.0,,val,0.5,true",
        "svm,10.0,,val,1.0,false",
        "svm,1.0,,test,1.0,true",
    ]
    ok("convert", source, tmp_path / "r.parquet", "--runs", "--split", "test")
    table = pq.read_table(tmp_path / "r.parquet").to_pydict()
    assert (table["acc1"], table["temperature"], table["standardize"]) == ([1.0], [None], [True])
    saved(tmp_path / "i.h5", "images")
    for name, output, options, message in (
        ("r.h5", "x.csv", ["--split", "tset"], "unknown split of"),
        ("i.h5", "x.csv", [], "--runs: expected a result, got images"),
        ("r.parquet", "x.h5", [], "--runs is for exports, but"),
    ):
        words = ["--runs", *options]
        convert_refused(tmp_path / name, tmp_path / output, 2, message, options=words)


def test_conversions_that_are_refused(tmp_path):
    ok("convert", saved(tmp_path / "a.h5", images()), tmp_path / "out.npz")
    ok("convert", tmp_path / "a.h5", tmp_path / "out.parquet")
    saved(tmp_path / "r.h5", FeatureFile("result", runs={"k": np.ones(1)}))
    np.save(tmp_path / "y.npy", np.zeros(6, int))
    np.save(tmp_path / "x.npy", np.eye(2))
    np.savez(tmp_path / "own.npz", features=np.ones((6, 1)), labels=np.zeros(6))
    (tmp_path / "a.npz").write_bytes(b"mine")
    with_labels = ["--labels", tmp_path / "y.npy"]
    one_side = "expected one feature file (.h5 or -), got"
    unnamed = "expected one unnamed matrix of features for labels"
    for source, output, options, code, message in (
        ("a.h5", "a.npz", [], 2, "a.npz exists; hint: choose another name, or add --force"),
        ("a.h5", "b.h5", [], 2, one_side),
        ("a.npz", "b.parquet", [], 2, one_side),
        ("a.h5", "b.pt", [], 2, "unknown ending '.pt'"),
        ("a.csv", "b.h5", [], 2, "unknown ending '.csv'"),
        ("a.h5", "b.csv", [], 2, "expected a result for a .csv file, got images"),
        ("a.h5", "b.npz", ["--model", "tiny"], 2, "--model is for imports, but"),
        ("a.h5", "b.npz", with_labels, 2, "--labels is for imports, but"),
        ("out.npz", "b.h5", with_labels, 2, unnamed),
        ("out.parquet", "b.h5", with_labels, 2, unnamed),
        ("own.npz", "b.h5", with_labels, 2, "own.npz: expected no extra labels, because the file"),
        ("x.npy", "b.h5", ["--split", "runs"], 1, "x.npy: name of a split: expected no reserved"),
        ("r.h5", "r.csv", ["--split", "a"], 2, " 'a'; hint: there is none"),
        ("none.npz", "b.h5", [], 1, "none.npz: there is no such file"),
    ):
        convert_refused(tmp_path / source, tmp_path / output, code, message, options=options)


def test_an_output_as_of_other_commands_is_refused_with_what_to_type():
    hint = "hint: the output is the second argument: clipkit convert a.h5 a.npz\n"
    for option in ("-o", "--output"):
        assert fails("convert", "a.h5", option, "a.npz", exit_code=2).endswith(hint)


def test_without_pyarrow_only_parquet_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "clipkit.features.parquet", raising=False)
    monkeypatch.delattr("clipkit.features.parquet", raising=False)
    source = saved(tmp_path / "a.h5", images())
    convert_refused(source, tmp_path / "a.parquet", 1, "pip install 'clipkit-vl[parquet]'")
    ok("convert", source, tmp_path / "a.npz")


def test_pickles_are_never_loaded(tmp_path):
    canary = Canary(tmp_path / "canary")
    untrusted = np.array([canary], object)
    np.savez(tmp_path / "a.npz", allow_pickle=True, features=untrusted)
    np.save(tmp_path / "a.npy", untrusted, allow_pickle=True)
    np.savez(tmp_path / "b.npz", allow_pickle=True, features=np.ones((1, 2)), ids=untrusted)
    (tmp_path / "c.npy").write_bytes(pickle.dumps(canary))
    for name in ("a.npz", "a.npy", "b.npz"):
        convert_refused(tmp_path / name, tmp_path / "x.h5", 1, "pickled objects are never loaded")
    convert_refused(tmp_path / "c.npy", tmp_path / "x.h5", 1, "the magic string is not correct")
    assert not canary.path.exists()


def exported(history, **more):
    """Return arrays with metadata as convert writes it."""
    metadata = {"kind": "images", "version": 1, "history": history, **more}
    return {"features": ONE, "clipkit": json.dumps(metadata)}


ONE, TWO = np.ones((1, 2)), np.ones((2, 2))
DEEP = json.loads("[" * 14 + "]" * 14)  # with the list, the object and the value: 16 levels
JSON_HINT = "clipkit: expected the JSON that clipkit convert writes; hint: remove it"
# The rules of a file's content are in test_features.py; a few show that imports follow them.
BAD_ARRAYS = [
    ({"features": np.ones(4)}, "features: expected numbers (N, D), got float64 of shape (4,)"),
    ({"features": np.ones((2, 3, 4))}, "of shape (2, 3, 4); hint: flatten each row"),
    ({"features": np.array([["a"]])}, "features: "),
    ({"train_features": np.array([[1e300]])}, "in 1 of 1 rows, the first is row 0"),
    ({"features": TWO, "labels": np.arange(3)}, "got all/features 2, all/labels 3, all/ids 2"),
    ({"features": TWO, "labels": [0.5, 1]}, "labels: "),
    ({"features": TWO, "labels": [1, np.nan]}, "labels: "),
    ({"features": TWO, "labels": np.eye(2)}, "labels: expected numbers or texts (N), got float64"),
    ({"features": TWO, "labels": ["cat", "nan"]}, "a class for each row, got 'nan'; hint: leave"),
    ({"features": TWO, "labels": ["cat", ""]}, "a class for each row, got ''; hint: leave these"),
    ({"features": ONE, "labels": ["b"], "class_names": ["a"]}, "expected class names, got 'b'"),
    ({"a_features": ONE, "a_labels": [0], "b_features": ONE, "b_labels": ["x"]}, "got names and"),
    ({"X": TWO, "y": np.ones(2)}, "expected features, got X, y; hint: name them features"),
    ({f"x{i}": ONE for i in range(9)}, "got x0, x1, x2, x3, x4, ... (4 more)"),
    ({f"x{i}": ONE for i in range(5)}, "got x0, x1, x2, x3, x4; hint"),
    ({"features": ONE, "all_features": ONE}, "expected all/features once, got features and"),
    ({"features": ONE, "ids": [0.5]}, "all/ids: expected texts, got '0.5'"),
    ({"features": ONE, "ids": "a"}, "got <U1 of shape ()"),
    ({"features": ONE, "ids": [b"\xff"]}, "a.npz: ids: 'utf-8' codec can't decode byte 0xff"),
    ({"features": ONE, "clipkit": "{}"}, JSON_HINT),
    ({"features": ONE, "clipkit": "[" * 100_000}, JSON_HINT),
    (exported([], version=math.inf), JSON_HINT),
    (exported([], version="1"), JSON_HINT),
    (exported([], version=99), "version 99 was made by a newer clipkit"),
    (exported([], class_names="ab"), "class_names: expected a list with a value for every row"),
    (exported([], class_names=[["a"]]), "class_names: expected texts, got \"['a']\""),
    (exported([], kind="logits", class_index=[[1], 2]), "class_index: setting an array element"),
]  # fmt: skip


def test_what_convert_writes_info_accepts(tmp_path):
    for history in ([], feature_file().history, [{"command": "x", "y": DEEP}]):
        np.savez(tmp_path / "a.npz", **exported(history, logit_scale=5))
        ok("convert", tmp_path / "a.npz", tmp_path / "a.h5", "--force")
        ok("info", tmp_path / "a.h5")


NUMBERS = [[1.0], [2.0]]
DATES = pa.array([0, 1], pa.date32())
BAD_TABLES = [
    ({"x": [1]}, "expected rows with a column 'feature', got x"),
    ({"feature": pa.array([], pa.list_(pa.float32()))}, "with a column 'feature', got no rows"),
    ({"feature": [1.0]}, "feature: expected lists of numbers, got double"),
    ({"feature": [["a"]]}, "feature: "),
    ({"feature": [[1.0], [1.0, 2.0]]}, "expected 1 numbers, as in the first row, got 2 in row 1"),
    ({"feature": pa.array([None, [1.0]])}, "got 1 in"),
    ({"feature": [[1.0], [None]]}, "NaN or Inf in 1 of 2 rows, the first is row 1"),
    ({"feature": NUMBERS, "id": ["a", None]}, "ids: expected a list with a value for every row"),
    ({"feature": NUMBERS, "split": ["a", None]}, "split: expected a value in every row, got null"),
    ({"feature": NUMBERS, "label": [0, None]}, "labels: expected a list with a value for every"),
    ({"feature": NUMBERS, "label": [0, 0], "class_name": ["a", "b"]}, "one class_name, got 'a'"),
    ({"feature": NUMBERS, "id": DATES}, "id: expected texts or numbers, got date32"),
]  # fmt: skip


BAD = [("npz", *case) for case in BAD_ARRAYS] + [("parquet", *case) for case in BAD_TABLES]


@pytest.mark.parametrize(("ending", "columns", "message"), BAD, ids=[case[2] for case in BAD])
def test_content_that_makes_no_valid_file(tmp_path, ending, columns, message):
    source = tmp_path / f"a.{ending}"
    if ending == "npz":
        np.savez(source, **columns)
    else:
        pq.write_table(pa.table(columns), source)
    convert_refused(source, tmp_path / "x.h5", 1, source.name, message)


def test_a_table_with_two_columns_of_one_name_is_refused(tmp_path):
    columns = [[[1.0], [2.0]], [0, 1], [1, 0]]
    table = pa.table([pa.array(column) for column in columns], ["feature", "label", "label"])
    pq.write_table(table, tmp_path / "a.parquet")
    message = "a.parquet: expected each column once, got label 2 times"
    convert_refused(tmp_path / "a.parquet", tmp_path / "x.h5", 1, message)


@pytest.mark.parametrize("ending", ["npz", "npy", "parquet"])
def test_damaged_files(tmp_path, ending):
    source, bad = saved(tmp_path / "a.h5", "images"), tmp_path / f"bad.{ending}"
    ok("convert", source, tmp_path / f"a.{ending}", "--split", "test")
    data = (tmp_path / f"a.{ending}").read_bytes()
    truncated = [data[:size] for size in (0, 1, 8, 100, len(data) // 2, len(data) - 1)]
    for damaged in (*truncated, b"label,feature\n1,2\n"):
        bad.write_bytes(damaged)
        convert_refused(bad, tmp_path / "x.h5", 1, str(bad))


def test_a_flipped_bit_is_found_by_the_checksum(tmp_path):
    source, row = saved(tmp_path / "a.h5", "images"), random_features()[4].tobytes()
    for ending, value in (("npz", row), ("npz", "5.png".encode("utf-32-le")), ("parquet", row)):
        ok("convert", source, tmp_path / f"a.{ending}", "--force")
        data = bytearray((tmp_path / f"a.{ending}").read_bytes())
        data[data.index(value)] ^= 1
        (tmp_path / f"bad.{ending}").write_bytes(data)
        convert_refused(tmp_path / f"bad.{ending}", tmp_path / "x.h5", 1, f"bad.{ending}: ", "CRC")


def header(shape, descr="<f4"):
    out = io.BytesIO()
    npy.write_array_header_1_0(out, {"descr": descr, "fortran_order": False, "shape": shape})
    return out.getvalue()


def test_sizes_that_are_not_true_and_files_that_unpack_to_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "MATRICES", Bound(1 << 20, 100))
    monkeypatch.setattr(parquet, "MATRICES", Bound(1 << 20, 100))
    (tmp_path / "short.npy").write_bytes(header((1 << 40, 1024)) + b"\0" * 64)
    (tmp_path / "long.npy").write_bytes(header((1, 1)) + b"\0" * 5)
    one = header((1, 1)) + b"\0" * 4
    members = {
        "short.npz": {"features.npy": header((1 << 40, 1024))},
        "twice.npz": {"features.npy": header((1, 0)), "features": header((1, 0))},
        "nothing.npz": {"features.npy": one, "ids.npy": header((1 << 40,), "<U0")},
        "bzip2.npz": {"features.npy": one},
    }
    for name, contents in members.items():
        method = zipfile.ZIP_BZIP2 if name == "bzip2.npz" else zipfile.ZIP_STORED
        with zipfile.ZipFile(tmp_path / name, "w", method) as archive:
            for member, data in contents.items():
                archive.writestr(member, data)
    zeros = np.zeros((1 << 11, 1 << 10), "f4")
    np.savez_compressed(tmp_path / "bomb.npz", features=zeros)
    column = pa.FixedSizeListArray.from_arrays(pa.array(zeros.ravel()), 1 << 10)
    pq.write_table(pa.table({"feature": column}), tmp_path / "bomb.parquet")
    for name, message in (
        ("short.npy", "buffer is too small"),
        ("long.npy", "expected 132 bytes, got 133"),
        ("short.npz", "buffer is too small"),
        ("twice.npz", "expected each array once, got features twice"),
        ("nothing.npz", "ids: expected numbers or texts (N), got <U0"),
        ("bzip2.npz", "features: expected no compression but deflate, got another"),
        ("bomb.npz", "bomb.npz: features: expected to unpack to at most 1 MiB or 100 times the"),
        ("bomb.parquet", "bomb.parquet: feature: expected to unpack to at most 1 MiB or 100"),
    ):
        convert_refused(tmp_path / name, tmp_path / "x.h5", 1, name, message)


def test_a_header_that_asks_for_gigabytes_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((3, 4)))
    data = bytearray((tmp_path / "a.npy").read_bytes())
    data[6:12] = b"\x02\x00\x00\x00\x00\xf0"  # version 2, whose header may have 4 GiB
    (tmp_path / "a.npy").write_bytes(bytes(data))
    tracemalloc.start()
    try:
        convert_refused(tmp_path / "a.npy", tmp_path / "x.h5", 1, "cannot read")
        assert tracemalloc.get_traced_memory()[1] < 1 << 26
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("labels", "names", "expected_names", "expected"),
    [
        ([0, 10, 20, 10], None, ["0", "10", "20"], [0, 1, 2, 1]),
        ([30000001, 7, 7, 7], None, ["7", "30000001"], [1, 0, 0, 0]),
        ([1, 0, 2, 0], None, None, [1, 0, 2, 0]),
        ([0, 2, 2, 0], ["a", "b", "c"], ["a", "b", "c"], [0, 2, 2, 0]),
    ],
)
def test_whole_numbers_with_gaps_are_names_unless_they_have_names(
    tmp_path, labels, names, expected_names, expected
):
    arrays = {} if names is None else {"class_names": names}
    np.savez(tmp_path / "x.npz", features=np.eye(4, dtype="f4"), labels=labels, **arrays)
    file = formats.import_file(tmp_path / "x.npz")
    assert (file.class_names, labels_of(file)) == (expected_names, {"all": expected})


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_columns_that_are_dropped_are_named_with_what_takes_them(ending, tmp_path):
    features = np.random.default_rng(0).normal(size=(20, 8)).astype("f4")
    uid, species = [f"u{row}" for row in range(20)], ["cat", "dog"] * 10
    source, output = tmp_path / f"own.{ending}", tmp_path / "own.h5"
    if ending == "npz":
        np.savez(source, train_features=features, train_uid=uid, train_species=species)
        use = "name the arrays train_labels for train_species and train_ids for train_uid"
    else:
        pq.write_table(
            pa.table({"feature": list(features), "uid": uid, "species": species}), source
        )
        use = "--label-column species and --id-column uid"
    assert f"hint: to take them: {use}" in ok("convert", source, output).stderr
    if ending == "parquet":
        ok("convert", source, output, "-f", *use.replace(" and ", " ").split())
        assert read(output)["all"].ids == uid
