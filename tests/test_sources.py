"""What `clipkit embed` takes: images, folders, lists of paths and manifests."""

import csv
import importlib.util
import io
import json
import os
import pickle
import sys
import tempfile
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from factories import fails_with, labels_of, red_values, write_images
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import ExifTags, Image
from shell import clipkit, fails, ok

from clipkit import datasets, features
from clipkit.base import files
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.datasets import images, manifests, wordnet
from clipkit.embedding import checkpoint

OWN_ENCODER = """
class make:
    def image(self, images):
        return [list(image.getpixel((0, 0))) for image in images]
"""
OWN_QUESTION = """
from typing import Annotated
import clipkit
IMAGES = clipkit.Input("IMAGES", "Feature file of images.", ("images",))
def count(images: Annotated[clipkit.FeatureFile, IMAGES]):
    '''Count the images of each split.

    Example: clipkit run question.py images.h5
    '''
    return [{"split": name, "images": len(split.features)} for name, split in images.splits.items()]
columns = (clipkit.Column("split", clipkit.TEXT), clipkit.Column("images", clipkit.COUNT))
ANALYSIS = clipkit.Analysis("count", "How many images are there?", count, columns=columns)
"""
NAMES = ["photos/cat/1.png", "photos/cat/2.png", "photos/dog/1.png", "photos/dog/3.png"]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Make two class folders, and change to the folder above."""
    monkeypatch.chdir(write_images(tmp_path, *NAMES))
    return tmp_path


def list_paths(data, monkeypatch):
    """Load a list of paths from standard input."""
    stdin = SimpleNamespace(buffer=io.BytesIO(data), isatty=lambda: False)
    monkeypatch.setattr(sys, "stdin", stdin)
    return datasets.load("-")


# Images and folders


def test_an_image_is_a_data_set_of_one_unlabelled_row(photos):
    for name in ("photos/cat/2.png", "./photos/cat/2.png"):
        data = datasets.load(name)
        split = data.splits["all"]
        assert (data.name, data.class_names, split.labels) == ("2.png", [], None)
        assert split.ids == ["photos/cat/2.png"]
        assert red_values(split) == [1]


@pytest.mark.parametrize(
    "line",
    [
        "embed ~mine/photos -m tiny -o b.h5",
        "embed ~mine/1.png ~mine/2.png -m python:~mine/own.py:make -o b.h5",
        "run ~mine/question.py a.h5",
        "start ~mine/photos -o study",
    ],
)
def test_a_folder_may_be_called_as_the_home_of_an_unknown_user(line, photos):
    write_images(photos / "~mine", "1.png", "2.png", *NAMES)
    Path("~mine/own.py").write_text(OWN_ENCODER)
    Path("~mine/question.py").write_text(OWN_QUESTION)
    ok("embed", "photos", "-m", "tiny", "-o", "a.h5")
    ok(*line.split())


def test_images_and_folders_are_one_data_set_in_the_given_order(photos):
    write_images(photos, "a.png", "flat/z.png", "flat/y.png")
    data = datasets.load(["flat/", Path("a.png"), "photos/dog"])
    split = data.splits["all"]
    assert (data.name, split.labels) == ("flat and 2 more", None)
    flat = ["flat/y.png", "flat/z.png", "a.png"]
    assert split.ids == [*flat, "photos/dog/1.png", "photos/dog/3.png"]
    assert red_values(split) == [2, 1, 0, 2, 3]


def test_labelled_folders_share_the_union_of_their_classes_and_splits(photos):
    write_images(photos, "more/train/cat/a.png", "more/train/bird/b.png", "more/test/dog/c.png")
    data = datasets.load(["photos", "more"])
    assert data.class_names == ["bird", "cat", "dog"]
    assert labels_of(data) == {"all": [1, 1, 2, 2], "train": [0, 1], "test": [2]}
    assert data.splits["train"].ids == ["more/bird/b.png", "more/cat/a.png"]


def test_labels_are_dropped_with_a_warning_if_an_image_has_none(photos, capsys):
    data = datasets.load(["photos", "photos/../photos/cat/1.png"])
    assert (data.splits["all"].labels, data.class_names) == (None, [])
    warning = "all: labels are dropped, because photos/../photos/cat/1.png has"
    assert warning in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["photos", "photos/cat/1.png"], "each image once, got photos/cat/1.png 2 times"),
        (["photos", "digits"], "the named data set digits alone, got photos too"),
        (["-", "photos"], "a list of paths - alone, got photos too"),
        (["m.csv", "m.csv"], "the manifest m.csv alone, got m.csv too"),
        (["photos", "s://x/a.png"], "Parquet files s://x/a.png alone, got photos too"),
        ([], "expected the name of a data set, got none"),
    ],
)
def test_names_that_make_no_data_set_are_refused(photos, names, message):
    with fails_with(message, UsageError):
        datasets.load(names)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("list.txt", "if it lists paths: clipkit embed - < list.txt"),
        ("img.h5", "hint: it holds embeddings; describe it by: clipkit info img.h5"),
        ("pipe", "got the FIFO or device pipe; hint: if it lists paths: clipkit embed - < pipe"),
        ("pipe.jpg", "expected a folder of images, got the FIFO or device pipe.jpg"),
        ("loop", "cannot read loop: Too many levels of symbolic links"),
        ("loop.jpg", "cannot read loop.jpg: Too many levels of symbolic links"),
    ],
)
def test_an_input_that_is_no_data_set_is_called_what_it_is(photos, name, message):
    Path("list.txt").write_text("photos/cat/1.png\n")
    Path("img.h5").touch()
    for ending in ("", ".jpg"):
        os.mkfifo(f"pipe{ending}")
        Path(f"loop{ending}").symlink_to(f"loop{ending}")
    assert message in fails("embed", name, "-m", "tiny", "-o", "x.h5")


@pytest.mark.parametrize(
    ("name", "separator"),
    [("m.csv", ";"), ("m.csv", "\t"), ("m.csv", ","), ("m.tsv", ";"), ("m.tsv", "\t")],
)
def test_the_header_of_a_manifest_shows_what_separates_its_columns(photos, name, separator):
    rows = [["\ufeffpath", "label"], ["photos/cat/1.png", '"a, cat"'], ["photos/dog/1.png", "dog"]]
    Path(name).write_text("\n".join(map(separator.join, rows)))
    assert manifests.names_images(name)
    data = datasets.load(name)
    assert data.class_names == (['"a, cat"', "dog"] if separator == "\t" else ["a, cat", "dog"])
    assert data.splits["all"].ids == ["photos/cat/1.png", "photos/dog/1.png"]


# Endings


def test_files_that_are_left_out_because_of_their_ending_are_counted_once(photos, capsys):
    (photos / "photos" / "dog" / "deep").mkdir()
    for name in ("a.txt", "cat/b.TXT", "dog/deep/c", "dog/.hidden.txt", "class_index.json"):
        (photos / "photos" / name).touch()
    assert len(datasets.load("photos").splits["all"]) == 4
    assert capsys.readouterr().err == "clipkit: left out 3 files: .txt 2, no ending 1\n"
    datasets.load(["photos/cat/1.png", "photos/cat/b.TXT"])
    assert capsys.readouterr().err == "clipkit: left out 1 file: .txt 1\n"
    write_images(photos / "many", "a.png", *(f"b.{i}" for i in range(12)))
    datasets.load(photos / "many")
    assert capsys.readouterr().err.endswith(", .4 1, .5 1, others 4\n")


def test_jfif_is_read(tmp_path):
    Image.new("RGB", (4, 4), (9, 9, 9)).save(tmp_path / "a.JFIF", "JPEG")
    assert red_values(datasets.load(tmp_path).splits["all"]) == [9]


@pytest.mark.parametrize("ending", ["avif", "heic"])
def test_avif_and_heic_are_read_where_pillow_or_the_extra_can(tmp_path, ending):
    if ending == "heic":
        extra = pytest.importorskip("pillow_heif", reason="the extra heic is not installed")
        extra.register_heif_opener()
    elif "AVIF" not in images.readable_formats():
        pytest.skip("this Pillow reads no AVIF")
    Image.new("RGB", (64, 64), (200, 10, 10)).save(tmp_path / f"a.{ending}", quality=100)
    (value,) = red_values(datasets.load(tmp_path).splits["all"])
    assert abs(value - 200) < 6


@pytest.fixture
def without_extras(monkeypatch):
    """Take away what reads AVIF and HEIC."""
    monkeypatch.setattr(images.features, "get_supported_modules", list)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    images.readable_formats.cache_clear()
    yield
    images.readable_formats.cache_clear()


def test_what_an_extra_would_read_is_a_warning_that_names_it(without_extras, tmp_path, capsys):
    write_images(tmp_path, "a.png")
    for name in ("1.heic", "2.HEIC", "3.txt"):
        (tmp_path / name).touch()
    datasets.load(tmp_path)
    hint = "pip install 'clipkit-vl[heic]'"
    assert f": left out 3 files: .heic 2, .txt 1; hint: {hint}\n" in capsys.readouterr().err
    (tmp_path / "4.avif").touch()
    (tmp_path / "a.png").unlink()
    with pytest.raises(ClipkitError) as caught:
        datasets.load(tmp_path)
    assert f".heic 2, .avif 1, .txt 1: {hint}, and pip install 'pi" in caught.value.hint


# Folders of splits and of WordNet ids


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (["train", "val"], ["train", "val"]),
        (["train", "valid", "test"], ["train", "val", "test"]),
        (["Train", "Validation"], ["train", "val"]),
        (["training", "testing", "extra"], ["train", "test"]),
        (["val"], ["val"]),
    ],
)
def test_split_folders_have_the_usual_names(tmp_path, folders, splits):
    write_images(tmp_path, *(f"{folder}/cat/1.png" for folder in folders))
    data = datasets.load(tmp_path)
    assert list(data.splits) == splits
    assert data.class_names == ["cat"]
    if "val" in splits:
        for name in ("val", "valid", "validation"):
            assert list(datasets.load(tmp_path, splits=[name]).splits) == ["val"]


def test_two_folders_of_one_split_are_refused(tmp_path):
    write_images(tmp_path, "val/cat/1.png", "valid/cat/1.png")
    with fails_with("one folder for the split val, got val and valid"):
        datasets.load(tmp_path)


INDICES = [
    {"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]},
    {"388": ["n01443537", "goldfish"], "7": ["n01440764", "tench"]},
]


@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize("place", ["in/class_index.json", "imagenet_class_index.json"])
def test_wordnet_ids_get_the_names_of_a_class_index(tmp_path, index, place):
    names = ["n01440764/1.png", "n01443537/1.png", "n09999999/1.png"]
    write_images(tmp_path / "in" / "train", *names)
    write_images(tmp_path / "in" / "val", names[0])
    assert datasets.load(tmp_path / "in").class_names == [name[:9] for name in names]
    (tmp_path / place).write_text(json.dumps(index))
    data = datasets.load(tmp_path / "in")
    assert data.class_names == ["tench", "goldfish", "n09999999"]
    assert labels_of(data) == {"train": [0, 1, 2], "val": [0]}
    assert data.details["class_index"].startswith("sha256:")
    if place.startswith("in/"):
        assert datasets.load(tmp_path / "in" / "val").class_names == ["tench"]


def test_a_class_index_is_read_for_wordnet_ids_only(photos):
    (photos / "photos" / "class_index.json").write_text("no JSON")
    assert datasets.load("photos").class_names == ["cat", "dog"]


@pytest.mark.parametrize(
    "content",
    [
        *("", "[1]", "{}", "[" * 99_999, '["tench"]', '{"n01440764": "tench"}', '{"0": "tench"}'),
        *('{"0": 1}', '{"0": ["n1"]}', '{"0": [1, "x"]}', '{"0": ["n01440764", " "]}'),
    ],
)
def test_other_class_indices_are_refused(tmp_path, content):
    (tmp_path / "class_index.json").write_text(content)
    with fails_with("class_index.json") as caught:
        wordnet.read_class_index(tmp_path / "class_index.json")
    assert caught.value.hint == wordnet.HINT


# Lists


def test_a_list_of_paths_is_read_from_standard_input(photos, monkeypatch):
    data = list_paths(b"\xef\xbb\xbf./photos/dog/3.png\r\n\nphotos/cat/1.png\n", monkeypatch)
    split = data.splits["all"]
    assert split.ids == ["photos/dog/3.png", "photos/cat/1.png"]
    assert split.labels is None
    assert red_values(split) == [3, 0]
    assert data.details["source"] == "list"
    assert str(photos) not in json.dumps(data.details)


def test_names_in_a_list_hold_any_byte_where_nul_separates_them(photos, monkeypatch):
    write_images(photos, "photos/a\nb.png")
    Path("photos/cat/2.png").rename(os.fsdecode(b"photos/\xff.png"))
    split = list_paths(b"photos/a\nb.png\0photos/\xff.png\0", monkeypatch).splits["all"]
    assert split.ids == ["photos/a%0Ab.png", "photos/%FF.png"]
    assert red_values(split) == [0, 1]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "standard input: expected a list of paths, got an empty input"),
        (b"\x89HDF\r\n", "standard input: expected a list of paths, got the content of a file"),
        (b"\n\n", "standard input: expected paths of images, got none"),
        (b"a.png\n\n./a.png\n", "line 3: expected each path once, got a.png as in line 1"),
        (b"a.png\0b\0a.png", "entry 3: "),
        (b"a.png\nfile:///etc/passwd", "line 2: expected a local path or an http(s) URL, got file"),
        (b"a\n" + b"x" * 5000, "line 2: expected a path of at most 4,096 characters, got 5,000"),
        (b"a" * (1 << 20) + b"b", "standard input: expected at most 1 MiB of text"),
    ],
)
def test_other_lists_are_refused_with_the_line(monkeypatch, data, message):
    monkeypatch.setattr(files, "MAX_TEXT_BYTES", 1 << 20)
    with fails_with(message):
        list_paths(data, monkeypatch)


def test_a_list_is_not_awaited_from_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    with fails_with("expected a list of paths on standard input, got a term", UsageError):
        datasets.load("-")


# Manifests


ROWS = [
    {"path": "photos/dog/3.png", "label": "dog", "split": "train", "id": "c"},
    {"path": "photos/cat/1.png", "label": "cat", "split": "train", "id": "a"},
    {"path": "photos/dog/1.png", "label": "dog", "split": "valid", "id": "a"},
]


def write_manifest(path, rows):
    """Write a manifest in the form that its ending names, and return its path."""
    if path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        separator = "\t" if path.suffix == ".tsv" else ","
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], delimiter=separator)
            writer.writeheader()
            writer.writerows(rows)
    return str(path)


@pytest.mark.parametrize("ending", manifests.ENDINGS)
def test_every_form_of_manifest_gives_the_same_data_set(photos, monkeypatch, ending):
    manifest = write_manifest(photos / f"pets{ending}", ROWS)
    monkeypatch.chdir("/")
    data = datasets.load(manifest)
    assert (data.name, data.class_names) == ("pets", ["cat", "dog"])
    assert labels_of(data) == {"train": [1, 0], "val": [1]}
    train, val = data.splits["train"], data.splits["val"]
    assert train.ids == ["c", "a"]
    assert (red_values(train), red_values(pickle.loads(pickle.dumps(val)))) == ([3, 0], [2])
    assert data.details["manifest"].startswith("sha256:")
    assert str(photos) not in json.dumps(data.details)


@pytest.mark.parametrize("ending", manifests.ENDINGS)
def test_columns_may_have_other_names(photos, ending):
    rows = [{"file": row["path"], "kind": row["label"], "fold": row["split"]} for row in ROWS]
    manifest = write_manifest(photos / f"pets{ending}", rows)
    columns = {"path_column": "file", "label_column": "kind", "split_column": "fold"}
    data = datasets.load(manifest, **columns)
    assert labels_of(data) == {"train": [1, 0], "val": [1]}
    assert data.details["columns"] == {"path": "file", "label": "kind", "split": "fold"}
    assert len(datasets.load(manifest, path_column="file").splits["all"]) == 3
    with fails_with("expected a column 'path', got 'file', 'kind', 'fold'"):
        datasets.load(manifest)
    with fails_with("got 'file', 'kind', 'fold'"):
        datasets.load(manifest, **{**columns, "label_column": "x"})


def test_a_wrong_value_is_named_by_the_column_of_the_file(photos):
    (photos / "pets.jsonl").write_text('{"file": "a.png", "kind": 0.5}')
    with fails_with("line 1: kind: expected a text or a whole number"):
        datasets.load(photos / "pets.jsonl", path_column="file", label_column="kind")


def test_spreadsheets_write_csv_in_many_ways(photos):
    text = '\ufeffpath, label ,note\r\n"a, b.png", cat ,"two\nlines"\r\n\r\n/tmp/c.png,dog,""\r\n'
    (photos / "m.csv").write_bytes(f"{text},,\r\n".encode())  # the last row is empty
    write_images(photos, "a, b.png")
    data = datasets.load("m.csv")
    assert data.splits["all"].ids == ["a, b.png", "/tmp/c.png"]
    assert data.class_names == ["cat", "dog"]
    assert data.splits["all"].image(0).size == (4, 4)
    with fails_with("cannot read /tmp/c.png"):
        data.splits["all"].image(1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.csv", "", "m.csv: expected a table with a row for each image, got none"),
        ("m.csv", ",,\n", "m.csv"),
        ("m.csv", "path,label\n", "m.csv: expected paths of images, got none"),
        ("m.csv", "path,path\na,b\n", "m.csv: expected different names of columns, got 'path'"),
        ("m.csv", "path,label\na,x\nb\n", "line 3: expected 2 cells, got 1"),
        ("m.csv", "path,label\na,0\nb,-1\n", "line 3: expected a label from 0, got -1"),
        ("m.csv", "path,id\na,1\nb,2\nc,1\n", "line 4: expected each id once, got 1 as in line 2"),
        ("m.csv", "path,id\na,1\nb,\n", "line 3: expected an id, got none"),
        ("m.csv", "path,split\na,train\nb,\n", "line 3: expected a split, named by letters"),
        ("m.csv", "path,split\na,runs\n", "line 2: "),
        ("m.csv", f"path\n{'x' * 99}\n{'x' * 99}\n", f"once, got {'x' * 80} ... as in line 2"),
        ("m.csv", 'path\na\n"b\n', "line 3: "),
        ("m.csv", "path\n" + "x" * 200_000, "line 2: "),
        ("m.csv", "path\na\nb\0\n", "line 3: "),
        ("m.csv", b"path\na\n\xff\n", "line 3: "),
        ("m.csv", "path,label\na," + "x" * 5000, "expected a label of at most 4,096 characters"),
        ("m.tsv", "path|label\n", "m.tsv, line 1: "),
        ("m.jsonl", '{"path": "a"}\n[1]\n', "line 2: "),
        ("m.jsonl", "[" * 99_999, "line 1: "),
        ("m.jsonl", '{"path": "a"}\n\n{"x": 1}\n', "line 3: expected a path, got none"),
        ("m.jsonl", '{"path": 1}\n', "line 1: "),
        ("m.jsonl", '{"path": "a\\u0000b"}', "line 1: expected a path without NUL characters"),
        ("m.jsonl", '{"path": "\\ud800"}', "line 1: expected text, got half"),
        ("m.jsonl", '{"path": "a", "label": NaN}', "label: expected a text or a whole"),
        ("m.jsonl", '{"path": "a", "label": true}', "label: "),
        ("m.parquet", "no Parquet", "cannot read m.parquet: "),
    ],
)
def test_other_manifests_are_refused_with_the_line(tmp_path, monkeypatch, name, content, message):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with fails_with(message):
        datasets.load(name)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"path": ["a", None]}, "m.parquet, row 1: "),
        ({"path": [1]}, "m.parquet: path: "),
        ({"path": ["a"], "label": [0.5]}, "label: expected a text or a whole number, got '0.5'"),
        ({"path": ["a"], "label": [True]}, "label: expected texts or whole numbers, got bool"),
        ({"path": ["a"], "id": [None]}, "row 0: "),
        ({"path": ["a", "a"]}, "row 1: "),
    ],
)
def test_other_columns_of_parquet_are_refused(tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    with fails_with(message):
        datasets.load(tmp_path / "m.parquet")


def test_a_parquet_of_images_is_no_manifest(tmp_path):
    image = [{"bytes": b"", "path": "a.png"}]
    pq.write_table(pa.table({"image": image}), tmp_path / "images.parquet")
    pq.write_table(pa.table({"path": ["a.png"]}), tmp_path / "paths.parquet")
    assert not manifests.is_manifest(str(tmp_path / "images.parquet"))
    assert manifests.is_manifest(str(tmp_path / "paths.parquet"))


def test_categories_and_nulls_of_parquet_are_texts(tmp_path):
    n = 10_000  # more than a batch
    columns = {
        "path": [f"{i}.png" for i in range(n)],
        "label": pa.array([f"class {i % 10}", None][i % 2] for i in range(n)).dictionary_encode(),
        "split": ["train", "test"] * (n // 2),
    }
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    data = datasets.load(tmp_path / "m.parquet")
    train, test = data.splits["train"], data.splits["test"]
    assert data.class_names == [f"class {i}" for i in range(0, 10, 2)]
    assert train.labels.tolist() == [*range(5)] * (n // 10)
    assert (test.labels, test.ids) == (None, columns["path"][1::2])


@pytest.mark.parametrize(
    "column",
    [
        {"path": ["x" * 4000] * 300},
        {"path": ["\U0001f600" + "x" * 1000] * 300},  # 4 bytes a character in Python
        {"path": [str(i) for i in range(1500)], "label": ["x" * 800] * 1500},
        {"path": ["x"] * 70_000},
    ],
)
def test_a_parquet_manifest_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch, column):
    pq.write_table(pa.table(column), tmp_path / "m.parquet")
    monkeypatch.setattr(files, "MAX_UNPACKED_BYTES", 2**20)
    with fails_with("m.parquet: expected rows that unpack to at most 1 M"):
        datasets.load(tmp_path / "m.parquet")


@pytest.mark.long
def test_a_row_of_a_parquet_manifest_takes_few_bytes(tmp_path):
    table = pa.table({"path": [f"photos/{i % 100:02}/{i:06}.jpg" for i in range(300_000)]})
    pq.write_table(table, tmp_path / "m.parquet")  # one row group
    del table
    before = pa.default_memory_pool().max_memory()
    assert len(datasets.load(tmp_path / "m.parquet").splits["all"]) == 300_000
    most = pa.default_memory_pool().max_memory()
    assert most == before or most < 2**25  # as a dictionary, all texts take 48 MiB


def test_a_manifest_that_is_missing_is_refused_and_a_folder_of_its_name_is_read(tmp_path):
    for ending in manifests.ENDINGS:
        with fails_with(f"m{ending}: there is no such file"):
            datasets.load(tmp_path / f"m{ending}")
    write_images(tmp_path, "m.csv/cat/1.png")
    assert datasets.load(tmp_path / "m.csv").class_names == ["cat"]


@pytest.mark.long
@pytest.mark.parametrize(("form", "most"), [("list", 170), (".csv", 300), (".jsonl", 300)])
def test_a_row_of_a_list_or_manifest_takes_few_bytes(photos, monkeypatch, form, most):
    paths = [f"photos/{i % 100:02}/{i:06}.jpg" for i in range(20_000)]
    content = "\n".join(paths).encode()

    def load():
        return list_paths(content, monkeypatch) if form == "list" else datasets.load(manifest)

    if form != "list":
        rows = [{"path": path, "note": "x" * 80} for path in paths]
        manifest = write_manifest(photos / f"m{form}", rows)
    load()  # imports
    tracemalloc.start()
    split = load().splits["all"]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak / len(split) < most  # a text of a path takes 70


@given(
    st.lists(st.tuples(st.text("ab,\"'\t \n;é", min_size=1), st.sampled_from("xyz")), max_size=9)
)
def test_any_path_survives_csv_and_jsonl(rows):
    labels = {path.strip(): label for path, label in rows if path.strip()}
    assume(labels)
    rows = [{"path": path, "label": label} for path, label in labels.items()]
    classes = sorted(set(labels.values()))
    with tempfile.TemporaryDirectory() as folder:
        for name in ("m.csv", "m.jsonl"):
            split = datasets.load(write_manifest(Path(folder) / name, rows)).splits["all"]
            assert split.source.paths == list(labels)
            assert split.labels.tolist() == [classes.index(label) for label in labels.values()]


# Commands


def test_rows_of_a_list_that_cannot_be_used_are_named_and_skipped(photos):
    (photos / "n.txt").write_text("no image")
    paths = b"photos/cat/1.png\nphotos\nn.txt\nmissing.png\n"
    result = clipkit("embed", "-", "-m", "tiny", "-o", "img.h5", stdin=paths)
    assert result.exit_code == 3
    for name in ("photos", "n.txt", "missing.png"):
        assert f"skipped all/{name}: cannot read {name}: " in result.stderr
    assert features.read("img.h5").splits["all"].ids == ["photos/cat/1.png"]


def test_a_changed_manifest_does_not_continue_an_interrupted_run(photos):
    rows = [{"path": name, "split": "train"} for name in NAMES]
    rows[0]["split"] = "bad"
    write = ["embed", write_manifest(photos / "m.csv", rows), "-m", "tiny", "-o", "img.h5"]
    content = (photos / NAMES[0]).read_bytes()
    (photos / NAMES[0]).write_bytes(b"damaged")
    assert "hint: fix the images, and add --restart" in fails(*write)
    (photos / NAMES[0]).write_bytes(content)
    write_manifest(photos / "m.csv", rows[1:])
    assert "dataset.manifest was sha256:" in fails(*write, exit_code=2)


def test_a_run_without_a_usable_image_leaves_nothing_that_stops_the_corrected_one(photos):
    write = ["embed", "-", "-m", "tiny", "-o", "img.h5"]
    message = "all: expected at least one usable image, got none"
    assert message in fails(*write, stdin=b"missing.png\n")
    assert not (photos / "img.h5.partial").exists()
    ok(*write, stdin=NAMES[0].encode())


def test_a_run_that_ended_before_its_first_shard_is_replaced_by_another(photos, monkeypatch):
    write = ["embed", NAMES[0], "-m", "tiny", "-o", "img.h5"]

    def stop(*arguments):
        raise ClipkitError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Checkpoint, "save", stop)
        fails(*write)
    assert (photos / "img.h5.partial" / "manifest.json").exists()
    ok(*write, "--normalize")


def test_pictures_and_class_names_come_from_the_same_sources(photos):
    rows = [{"file": name, "path": name, "label": Path(name).parent.name} for name in NAMES]
    manifest = write_manifest(photos / "m.csv", rows)
    ok("plot", "images", *NAMES, "-o", "images.png")
    ok("plot", "images", manifest, "--path-column", "file", "-o", "manifest.png")
    ok("textembed", "--classes", manifest, "-m", "tiny", "-o", "txt.h5")
    assert features.read("txt.h5").class_names == ["cat", "dog"]
    (photos / "names.tsv").write_text("cat\ta cat\n")
    assert datasets.names_images("m.csv")
    assert not datasets.names_images("names.tsv")


@pytest.mark.parametrize(
    "protocol", ["file", "git", "memory", "reference", "data", "zip", "filecache"]
)
def test_urls_that_lead_to_this_machine_are_opened_nowhere(tmp_path, protocol):
    url = f"{protocol}://{tmp_path}/a"
    for ending in (".png", ".tar", ".parquet", ".csv", ""):
        with fails_with("URL ", UsageError):
            datasets.load(url + ending)
    for name in ("m.csv", "m.jsonl", "m.parquet"):
        with fails_with("expected a local path or an http"):
            datasets.load(write_manifest(tmp_path / name, [{"path": url}]))


@pytest.mark.parametrize(
    ("labels", "note"),
    [
        (["Cat", "cat", "dog"], "m: 'Cat' and 'cat' are two classes: they differ in case"),
        (["NA", "dog"], "m: 'NA' is a class; hint: leave cells without a label empty"),
        ([*range(20, 50)], "30 classes are numbers; hint: if they are measurements"),
    ],
)
def test_a_note_names_classes_that_may_be_a_mistake(tmp_path, capsys, labels, note):
    rows = [{"path": f"{number}.png", "label": label} for number, label in enumerate(labels)]
    data = datasets.load(write_manifest(tmp_path / "m.csv", rows))
    assert note in capsys.readouterr().err
    assert data.class_names == [str(label) for label in labels]


def test_images_that_their_exif_data_turn_are_counted(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for number, tags in enumerate((Image.Exif(), exif, exif)):
        Image.new("RGB", (40, 30), (80 * number, 0, 0)).save(tmp_path / f"{number}.jpg", exif=tags)
    line = ok("embed", tmp_path, "--model", "tiny", "-o", tmp_path / "img.h5").stderr
    assert "the EXIF data turn 2 images, which is ignored" in line
