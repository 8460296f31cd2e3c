"""`relabel`: attributes from tables, groups of classes, shuffled labels."""

import datetime
import json
import re
from decimal import Decimal

import factories
import numpy as np
import pytest
from factories import fails_with, feature_file, result_file, write_feature_file
from shell import fails, ok

from clipkit.analysis.relabeling import use_groups
from clipkit.base.errors import ClipkitError
from clipkit.features import FeatureFile, Split, read, write
from clipkit.features.annotations import read_annotations, read_attribute

TABLE = "id,split,colour,size\n"
for split in ("train", "test"):
    for row, (colour, size) in enumerate(
        zip(["red", "blue", "red", "", "blue", "red"], "aabbab", strict=True)
    ):
        TABLE += f"{row}.png,{split},{colour},{size}\n"


def saved(folder, kind="images"):
    return write_feature_file(folder / f"{kind}.h5", kind)


def table(folder, text=TABLE, ending="csv"):
    path = folder / f"table.{ending}"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def column(folder, *values):
    """Write a table of one attribute, `size`, and return its path."""
    lines = ["id,size", *(f"{row}.png,{value}" for row, value in enumerate(values))]
    return str(table(folder, "\n".join(lines)))


def numbered(*ids):
    """Return images with ids in the split `all`."""
    split = Split(np.eye(len(ids), dtype=np.float32), ids=list(ids))
    return FeatureFile("images", splits={"all": split})


def relabeled(source, *words):
    output = source.with_name("out.h5")
    ok("relabel", source, *words, "-o", output, "--force")
    return read(output)


@pytest.mark.long
def test_an_attribute_replaces_labels_and_keeps_features_bit_for_bit(tmp_path):
    source = saved(tmp_path)
    before, after = read(source), relabeled(source, table(tmp_path), "--attribute", "colour")
    assert after.class_names == ["blue", "red"]
    for name, split in after.splits.items():
        assert split.ids == [f"{row}.png" for row in (0, 1, 2, 4, 5)]  # row 3 has an empty cell
        assert split.labels.tolist() == [1, 0, 1, 0, 1]
        kept = before.splits[name].features[[0, 1, 2, 4, 5]]
        np.testing.assert_array_equal(split.features, kept)
    entry = after.history[-1]
    found = (entry["command"], entry["column"], entry["attributes"])
    assert found == ("relabel", "colour", "table")
    assert set(entry["inputs"]) == {"features", "attributes"}
    combined = relabeled(source, table(tmp_path), "--attribute", "colour*size")
    assert combined.class_names == ["blue * a", "red * a", "red * b"]


@pytest.mark.long
def test_prompts_of_logits_belong_to_no_class_of_a_table(tmp_path):
    source = saved(tmp_path, "logits")
    options = (table(tmp_path), "--attribute", "size")
    after = relabeled(source, *options)
    assert after.kind == "logits"
    assert after.class_index.tolist() == [-1, -1, -1]
    message = "expected prompts called after the values of size ('a' or 'size: a'), got none"
    assert message in fails("zeroshot", source, "--table", *options)


def test_a_table_without_splits_speaks_of_the_ids_of_all_splits(tmp_path):
    words = (saved(tmp_path), column(tmp_path, *"ababababa"), "-o", tmp_path / "out.h5")
    assert "table.csv: 3 lines without an image in " in ok("relabel", *words).stderr
    assert read(tmp_path / "out.h5").splits["test"].labels.tolist() == [0, 1] * 3


def test_a_split_without_a_line_has_no_values(tmp_path):
    path = table(tmp_path, TABLE[: TABLE.index("0.png,test")])
    (size,) = read_attribute(read(saved(tmp_path)), path, "size", common=True).attributes
    assert size.codes["train"].tolist() == [0, 0, 1, 1, 0, 1]
    assert size.codes["test"].tolist() == [-1] * 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a header with id and attributes, got nothing"),
        ("id,split\n", "expected a header with id and attributes, got id, split"),
        ("id,size,size\n", "expected different names of columns, got 'size' again"),
        ("id,,size\n", "expected different names of columns, got an empty one"),
        ("id,size\n0.png\n", "table.csv, line 2: "),
        ("id,size\n0.png,a\n0.png,b\n", "line 3: expected each row once, got '0.png' again"),
        ("name,size\n0.png,a\n", "got name, size; hint: for example: id,colour; the column of ids"),
        (b"PK\3\4\0", "got a spreadsheet; hint: save it as CSV UTF-8"),
        ("id,size\n0.png,a\n", "Ids there look like '0.png', those of the images like '1.png'"),
        (TABLE.replace("train", "val"), "Ids there look like '0.png' of 'val', those of the image"),
        (TABLE.replace("5.png,test,red,b\n", ""), "has no line in "),
        ("id,size\nx/0.png,a\ny/0.png,a\n", "hint: write the ids as the images have them"),
        ("id,size\n", "expected a line for each image, got none"),
        (TABLE.replace("a\n", "\n").replace("b\n", "\n"), "expected rows"),
        (b"id,size\n0.png,\xff\n", "table.csv, line 2: "),
    ],
)
def test_bad_tables_are_refused(tmp_path, text, message):
    attribute = ("--attribute", "size") if "colour" in str(text) else ()
    words = (table(tmp_path, text), *attribute, "-o", tmp_path / "out.h5")
    assert message in fails("relabel", saved(tmp_path), *words)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"id": "0.png", "tags": ["a", {}]}'], "line 1: expected texts and numbers, got {}"),
        (['{"id": "0.png", "tags": ["a"]}', '{"id": "1.png", "tags": 1}'], "line 2: expected a"),
        (['{"id": "0.png", "tags": ["a"], "tags: a": 1}'], "got 'tags: a' 2 times"),
        (['{"id": "0.png", "Tags": ["a"], "tags": 1}'], "got 'Tags' again"),
        (
            [f'{{"id": "{row}.png", "tags": ["{row}"]}}' for row in range(6)],
            "expected at most 40 cells, got 6 rows of 7 columns or elements of lists",
        ),
    ],
)
def test_lists_that_make_no_columns_are_refused(tmp_path, monkeypatch, lines, message):
    monkeypatch.setattr("clipkit.features.annotations.MAX_CELLS", 40)
    (tmp_path / "table.jsonl").write_text("\n".join(lines))
    with pytest.raises(ClipkitError, match=re.escape(message)):
        read_annotations(read(saved(tmp_path)), str(tmp_path / "table.jsonl"))


PANDAS = ",filename,size\n" + "".join(f"{row},{row}.png,{'ab'[row % 2]}\n" for row in range(6))
SIZES = [{"id": f"{row}.png", "size": "ab"[row % 2]} for row in range(6)]


@pytest.mark.parametrize(
    ("ending", "text"),
    [
        ("csv", PANDAS),
        ("csv", PANDAS.replace(",", ";")),
        ("txt", PANDAS.replace(",", "\t")),
        ("tsv", ("\ufeff" + PANDAS).replace(",", "\t").replace("\n", "\r\n") + "\n\n"),
        ("csv", PANDAS.replace(",filename", ",path").replace(",0.png", ",a/0.png")),
        ("csv", re.sub("(.[.]png)", r"./photos/all/\1", PANDAS)),
        ("csv", PANDAS.replace("filename", "Image").replace(".png", "")),
        ("csv", PANDAS.replace("filename", "file_name")),
        ("csv", PANDAS.replace(".png", ".jpg").replace(",0.", ",/b/0.")),
        ("csv", re.sub("^[0-9]*,", "", PANDAS, flags=re.M)),
        ("csv", re.sub("^[0-9]+,", "", PANDAS, flags=re.M).replace(",filename", "")),
        ("jsonl", "\n".join(map(json.dumps, SIZES))),
    ],
)
def test_a_table_is_read_as_people_write_it(tmp_path, ending, text, capsys):
    file = read(saved(tmp_path))
    (size,) = read_attribute(file, str(table(tmp_path, text, ending))).attributes
    assert (size.name, size.values, size.codes["test"].tolist()) == ("size", ["a", "b"], [0, 1] * 3)
    assert capsys.readouterr().err == ""


def test_a_table_in_parquet_is_read_without_its_pictures(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {key: [row[key] for row in SIZES] for key in ("id", "size")}
    columns |= {"old": [True, None, True, False, False, True], "year": [1, 2, None, 2, 1, 1]}
    columns |= {"image": [{"bytes": b"x"}] * 6, "share": [0.5, float("nan")] * 3}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    annotations = read_annotations(read(saved(tmp_path)), str(tmp_path / "t.parquet"))
    values = {attribute.name: attribute.values for attribute in annotations.attributes}
    assert values.pop("class")
    expected = {"size": ["a", "b"], "old": ["False", "True"], "year": ["1", "2"], "share": ["0.5"]}
    assert values == expected
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    fails("relabel", saved(tmp_path), "--table", tmp_path / "t.parquet", "-o", tmp_path / "o.h5")


def test_leading_folders_are_left_out_where_names_alone_are_not_unique(tmp_path, capsys):
    ids = [f"{folder}/{row}.png" for folder in ("cat", "dog") for row in range(3)]
    lines = [f"./photos/{name},{number % 2}.0\n" for number, name in enumerate(ids)]
    path = table(tmp_path, "id,tame\n" + "".join(lines) + "./photos/cow/0.png,\n")
    (tame,) = read_attribute(numbered(*ids), str(path)).attributes
    assert (tame.values, tame.codes["all"].tolist()) == (["0", "1"], [0, 1] * 3)
    notes = capsys.readouterr().err
    assert "matched" not in notes  # all were
    assert "1 line without an image in" in notes


def test_cells_without_a_value_are_counted_in_one_note(tmp_path, capsys):
    cells = ("NA,0", "#N/A,1", "none,", "<na>,0", "a,1", "A,0")
    lines = [f"{row}.png,{cell}" for row, cell in enumerate(cells)]
    path = str(table(tmp_path, "\n".join(["id,size,flag", *lines])))
    size, flag, _ = read_annotations(read(saved(tmp_path)), path).attributes
    assert (size.values, flag.values) == (["A", "a"], ["0", "1"])
    assert size.codes["test"].tolist() == [-1, -1, -1, -1, 1, 0]
    missing, case = capsys.readouterr().err.splitlines()
    assert "8 cells, first 'NA' of size, are read as no value" in missing
    assert "size: 'A' and 'a' are two classes: they differ in case alone" in case
    (size,) = read_attribute(numbered("NA"), str(table(tmp_path, "id,size\nNA,a\n"))).attributes
    assert size.codes["all"].tolist() == [0]  # an id may be called like no value


def test_many_numbers_are_no_categories(tmp_path, capsys):
    file = numbered(*map(str, range(21)))
    lines = [f"{row},{row + 0.5},{row % 20},{row % 3}" for row in range(21)]
    path = str(table(tmp_path, "\n".join(["id,age,year,size", *lines])))
    assert [a.name for a in read_annotations(file, path).attributes] == ["year", "size"]
    assert "left out the numbers of age; hint: bin them" in capsys.readouterr().err
    for column in ("age", "age*size"):
        with fails_with("expected categories in age, got 21 numbers"):
            read_annotations(file, path, [column])
    values = read_annotations(file, path, ["age"], categories=False).attributes[0].values
    assert values[0] == "0.5"


@pytest.mark.parametrize("stray", ["0", "n/a", "inf", "unknown"])
def test_a_column_of_numbers_with_a_stray_value_is_no_category(tmp_path, stray):
    file = numbered(*[f"{row}.png" for row in range(25)])
    with fails_with("expected categories in size"):
        read_attribute(file, column(tmp_path, stray, *range(1, 25)))


@pytest.mark.long
@pytest.mark.parametrize("command", ["probe", "cluster -k 2", "zeroshot"])
def test_a_table_gives_a_command_the_labels_that_relabel_gives(tmp_path, command):
    source, words = saved(tmp_path), command.split()
    if command == "zeroshot":
        prompts = {"class_names": ["size: b", "size: a", "none"], "class_index": np.arange(3)}
        unlabelled = {"train/labels": None, "test/labels": None}
        write_feature_file(source, "logits", datasets={**prompts, **unlabelled})
    options = ("--table", table(tmp_path), "--attribute", "size")
    ok("relabel", source, *options, "-o", tmp_path / "labelled.h5")
    ok(*words, tmp_path / "labelled.h5", "-o", tmp_path / "expected.h5")
    ok(*words, source, *options, "-o", tmp_path / "got.h5")
    assert read(tmp_path / "got.h5").digest == read(tmp_path / "expected.h5").digest
    assert read(tmp_path / "got.h5").class_names == ["a", "b"]


def test_rows_without_a_value_are_left_out_with_a_warning(tmp_path):
    run = ok("probe", saved(tmp_path), "--table", table(tmp_path), "--attribute", "colour")
    assert "left out 2 rows without a value of colour" in run.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("IMAGES", "expected --table, --groups or --shuffle, got none"),
        ("IMAGES shapes --groups g.tsv", "expected --table or --groups, got both"),
        ("IMAGES --attribute a --shuffle", "expected --table for --attribute, got none"),
        ("IMAGES TABLE", "expected one attribute, got colour, size; hint: choose with --attribute"),
        ("IMAGES TABLE --attribute colr", "'colr'; hint: did you mean colour?"),
        ("IMAGES shape", "'shape'; hint: did you mean shapes?"),
        ("RESULT TABLE --attribute size", "expected images or logits"),
        ("RESULT --shuffle", "expected images or logits"),
    ],
)
def test_what_cannot_be_asked_for(tmp_path, line, message):
    files = {
        "IMAGES": saved(tmp_path),
        "TABLE": table(tmp_path),
        "RESULT": saved(tmp_path, "result"),
    }
    words = [files.get(word, word) for word in line.split()]
    assert message in fails("relabel", *words, "-o", tmp_path / "out.h5", exit_code=2)


@pytest.mark.long
def test_shuffled_rows_keep_the_count_of_every_class(tmp_path):
    many = {**factories.split("test", 200), "test/features": np.ones((200, 4), "f4")}
    source = write_feature_file(tmp_path / "many.h5", datasets=many)
    first, again, other = (
        relabeled(source, "--shuffle", "--seed", seed).splits["test"].labels for seed in (1, 1, 2)
    )
    assert np.bincount(first).tolist() == np.bincount(other).tolist() == [100, 100]
    assert (first == again).all()
    assert (first != other).any()
    assert 60 < (first != np.arange(200) % 2).sum() < 140


def test_a_result_of_groups_has_the_accuracy_of_groups(tmp_path):
    run = {"split": "test", "acc1": 2 / 3, "acc5": 1.0, "mean_per_class_recall": 2 / 3}
    history, names = [{"command": "zeroshot"}], ["cat", "dog", "car"]
    write(tmp_path / "r.h5", result_file([run], [0, 1, 2], [[0, 0, 2]], history, names))
    (tmp_path / "g.tsv").write_text("cat\tanimal\ndog\tanimal\ncar\tvehicle\n")
    after = relabeled(tmp_path / "r.h5", "--groups", tmp_path / "g.tsv")
    assert after.class_names == ["animal", "vehicle"]
    assert after.splits["test"].predicted.tolist() == [[0, 0, 1]]
    (row,) = after.rows()
    assert (row["acc1"], row["mean_per_class_recall"]) == (1, 1)
    assert np.isnan(row["acc5"])


def test_prompts_of_logits_take_the_groups_of_their_classes():
    logits = feature_file("logits", datasets={"class_index": np.array([1, -1, 0])})
    after = use_groups(logits, ["pet", "animal"])
    assert after.class_index.tolist() == [0, -1, 1]
    assert after.splits["test"].labels.tolist() == [1, 0] * 3


def test_shuffled_groups_keep_their_sizes():
    images = feature_file(datasets={"class_names": list("abcdefgh")})
    images.splits["test"].labels = np.array([0, 1, 2, 3, 4, 7])
    draws = [use_groups(images, list("xxxyyyyz"), seed) for seed in range(5)]
    assert len({tuple(file.splits["test"].labels.tolist()) for file in draws}) > 1
    assert all(file.class_names == ["x", "y", "z"] for file in draws)


def test_the_table_of_shapes_agrees_with_its_classes():
    images = feature_file(datasets={"test/ids": [f"{row:04}" for row in range(6)]})
    del images.splits["train"]
    words = {
        attribute.name: [attribute.values[code] for code in attribute.codes["test"]]
        for attribute in read_annotations(images, "shapes").attributes
    }
    pairs = zip(words["pattern"], words["outline"], strict=True)
    assert words["class"] == [" ".join(pair) for pair in pairs]


def test_rows_that_shapes_does_not_have_are_refused(tmp_path):
    words = ("shapes", "--attribute", "size", "-o", tmp_path / "out.h5")
    for name, message in (
        ("shapes", "expected a line for '0.png' of test"),
        ("cifar10", "expected images of shapes, got those of cifar10"),
    ):
        history = [{"command": "embed", "dataset": {"name": name}}]
        source = write_feature_file(tmp_path / f"{name}.h5", attributes={"history": history})
        assert message in fails("relabel", source, *words)


def test_parquet_columns_of_other_types_are_named(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet = pytest.importorskip("clipkit.features.parquet")
    day = datetime.date(2024, 2, 29)
    columns = {
        "id": ["a", "b"],
        "price": pa.array([Decimal("1.50"), None], pa.decimal128(10, 2)),
        "number": [Decimal("12345678901234567890"), Decimal("12345678901234567891")],
        "day": pa.array([None, day]),
        "box": [{"x": 1}, {"x": 2}],
        "size": pa.array([1, 2], pa.duration("s")),
    }
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table(columns), path)
    cells = parquet.read_cells(path.read_bytes(), "t.parquet")
    assert cells == {
        "id": ["a", "b"],
        "price": ["1.5", None],
        "number": ["12345678901234567890", "12345678901234567891"],
        "day": [None, "2024-02-29"],
    }

    images = write_feature_file(tmp_path / "images.h5")
    ids = [f"{number}.png" for number in range(6)]
    pq.write_table(pa.table({"id": ids, "box": [{"x": 1}] * 6, "colour": ["red", "tan"] * 3}), path)
    message = "t.parquet: box: expected texts, numbers, truth values, lists of "
    run = ("relabel", images, "--table", path, "-o", tmp_path / "out.h5")
    line = fails(*run, "--attribute", "box", exit_code=2)
    assert message in line
    assert line.endswith("got struct\n")
    assert "left out" not in ok(*run, "--attribute", "colour").stderr
    assert "t.parquet: left out box (struct)" in ok(*run, "--force").stderr
