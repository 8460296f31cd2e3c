"""Tars in the form of WebDataset and Parquet files of images, on this machine and at URLs."""

import email.utils
import functools
import importlib
import importlib.abc
import io
import itertools
import json
import os
import pickle
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from factories import fails_with, red_of, red_values, write_images
from factories.server import serving
from fsspec.implementations.dirfs import DirFileSystem
from fuzz.archives import WRITERS, png
from shell import fails

from clipkit import datasets
from clipkit.base import files
from clipkit.base.errors import ClipkitError, ImageError, UsageError
from clipkit.datasets import images, parquet_images, remote, shards, tars
from clipkit.datasets.remote import SharedCache

CLASSES = ["bird", "cat", "dog"]
Member = tuple[str, bytes]


def write_tar(path, *members, form=tarfile.PAX_FORMAT, **records):
    """Write a tar of (name, bytes) and of headers without content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form, pax_headers=records) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            name, data = member
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def load_all(*members, path):
    """Write a tar and return its only split."""
    return datasets.load(write_tar(path / "a.tar", *members)).splits["all"]


def sample(key, red, label=None):
    members = [(f"{key}.png", png(red))]
    return members if label is None else [*members, (f"{key}.cls", str(label).encode())]


def write_tars(folder):
    """Write three tars of two labelled images each: train-0, train-1 and test-0."""
    for number, name in enumerate(("train-0", "train-1", "test-0")):
        reds = (2 * number, 2 * number + 1)
        write_tar(
            folder / f"{name}.tar", *itertools.chain(*(sample(f"{r:03}", r, r % 3) for r in reds))
        )
    return folder


def class_label(names=CLASSES):
    return {"names": names, "_type": "ClassLabel"}


def structs(pictures, paths):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = zip(pictures, paths, strict=True)
    return pa.array([{"bytes": data, "path": name} for data, name in rows], kind)


TWO = structs([b"", b""], ["a", "b"])


def write_parquet(path, pictures, paths=None, *, group=2, described=None, image="image", **columns):
    """Write a file as `datasets` does: a struct of bytes and path, and features in the metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({image: structs(pictures, paths or [None] * len(pictures)), **columns})
    if described is not None:
        content = {"info": {"features": {image: {"_type": "Image"}, **described}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(content)})
    pq.write_table(table, path, row_group_size=group)
    return path


def write_hf(folder):
    """Write the files of a repository: two of train and one of test, with labels."""
    for name, numbers in (("train-0", (0, 1, 2)), ("train-1", (3, 4)), ("test-0", (5,))):
        write_parquet(
            folder / "data" / f"{name}.parquet",
            [png(n) for n in numbers],
            [f"{n}.png" for n in numbers],
            label=pa.array([n % 3 for n in numbers]),
            described={"label": class_label()},
        )
    return folder


# Tars


def test_a_tar_gives_ids_labels_and_images_in_its_order(tmp_path):
    members = [*sample("b/x", 5, "dog"), ("b/x.txt", b"a caption"), *sample("./a/y.1", 6, "cat")]
    data = datasets.load(write_tar(tmp_path / "pets.tar", *members))
    assert (data.name, data.class_names) == ("pets", ["cat", "dog"])
    split = data.splits["all"]
    assert split.ids == ["b/x", "a/y"]
    assert split.labels.tolist() == [1, 0]
    assert split.labels.dtype == np.int64
    assert red_values(split) == [5, 6]
    assert str(tmp_path) not in json.dumps(data.details)


@pytest.mark.parametrize(
    "arguments",
    [
        ["train-{0..1}.tar", "test-0.tar"],
        ["*.tar"],
        ["."],
        ["{train-0,train-1,test-0}.tar"],
        ["train-0.tar", "./train-0.tar", "train-1.tar", "train-*.tar", "test-0.tar"],
    ],
    ids=str,
)
def test_ranges_globs_folders_and_lists_name_the_same_tars_once(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(write_tars(tmp_path))
    data = datasets.load(arguments)
    assert data.splits["train"].ids == ["000", "001", "002", "003"]
    assert data.class_names == ["0", "1", "2"]
    assert red_values(data.splits["train"]) == [0, 1, 2, 3]
    assert data.splits["test"].labels.tolist() == [1, 2]


def test_a_path_that_exists_is_taken_as_it_is_written(tmp_path):
    path = write_tar(tmp_path / "odd[1]{a,b}.tar", *sample("x", 9))
    assert red_values(datasets.load(path).splits["all"]) == [9]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["a/train/0.tar", "a/val/0.tar"], ["train", "val"]),
        (["pets-TRAIN-0.tar", "pets_test_0.tar"], ["train", "test"]),
        (["train2017.tar", "validation.tar"], ["train", "val"]),
        (["data/extra-00000-of-00003.parquet"], ["extra"]),
        (["https://test/pets.tar?split=train"], ["test"]),
    ],
)
def test_the_split_is_named_by_the_file_or_its_folder(files, expected):
    assert shards.split_names(files) == expected


def test_parts_that_are_missing_are_named(capsys):
    names = ["a/x-00001-of-00003", "a/x-00002-of-00003", "a/y-00001-of-00002", "a/y-00002-of-00002"]
    files = [f"{name}.parquet" for name in names]
    shards.read_by_split(str, files, "reading", "files")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("x: 2 of 3 parts; the first that is left out has number 0")
    shards.read_by_split(str, ["part-00000-a1.parquet", "part-00002-b2.parquet"], "", "files")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("part: 2 of 3 parts; the first that is left out has number 1")


def test_files_of_which_only_some_name_a_split_are_refused():
    with fails_with("extra.tar: expected train, val or test in its name"):
        shards.split_names(["train.tar", "extra.tar"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("classnames.txt", "bird\ncat\ndog\n"),
        ("class_index.json", json.dumps({str(i): ["n01440764", c] for i, c in enumerate(CLASSES)})),
        ("class_index.json", json.dumps(dict(enumerate(CLASSES)))),
    ],
)
def test_integers_are_named_by_a_file_beside_the_tars_or_above(tmp_path, name, content, capsys):
    path = write_tar(tmp_path / "train" / "0.tar", *sample("a", 1, 2), *sample("b", 2, 0))
    assert datasets.load(path).class_names == ["0", "2"]
    assert "the labels are numbers" in capsys.readouterr().err
    (tmp_path / name).write_text(content)
    data = datasets.load(path)
    assert data.class_names == CLASSES
    assert capsys.readouterr().err == ""
    assert data.splits["train"].labels.tolist() == [2, 0]
    write_tar(path, *sample("a", 1, 3))
    with fails_with(f"{name} names 3 classes, got 3"):
        datasets.load(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("classnames.txt", b"bird\n\ncat\n", "expected a class name for each label 0, 1, 2"),
        ("classnames.txt", b"x" * 5000, "names of at most 4,096 characters, got one of"),
        ("classnames.txt", b"bird\n\xff\n", "line 2: expected UTF-8 text, got the byte 0xff"),
        ("class_index.json", b'{"n01440764": "tench"}', "expected a class index, got other"),
        ("class_index.json", b'["tench"]', "expected a class index, got other content"),
        ("class_index.json", b'{"1": ["n01440764", "tench"]}', "expected a class name for each"),
        ("class_index.json", b'{"0": ["tench"]}', "expected a class index, got other content"),
    ],
)
def test_files_that_do_not_name_each_number_are_refused(tmp_path, name, content, message):
    path = write_tar(tmp_path / "0.tar", *sample("a", 1, 0))
    (tmp_path / name).write_bytes(content)
    with fails_with(message) as caught:
        datasets.load(path)
    assert name in caught.value.message


def test_a_label_in_json_counts_where_there_is_no_cls_of_text(tmp_path, capsys):
    label = b'{"label": 1}'
    members = [("0.json", label), *sample("0", 1), *sample("1", 2, 0), ("1.json", label)]
    split = load_all(*members, ("2.png", png(3)), ("2.cls", b"\xff"), path=tmp_path)
    assert split.labels.tolist() == [1, 0]
    assert "all: left out 1 image without a label, first 2" in capsys.readouterr().err


def test_a_label_that_json_gives_twice_is_refused(tmp_path):
    members = [*sample("0", 1), ("0.json", b'{"label": 1, "label": 2}')]
    with fails_with("x.tar, 0.json: expected each key once, got 'label' again"):
        datasets.load(write_tar(tmp_path / "x.tar", *members))


def test_members_of_a_key_may_lie_apart(tmp_path):
    pictures = [(f"{n}.png", png(n)) for n in range(3)]
    labels = [(f"{n}.cls", str(n % 2).encode()) for n in (2, 0, 1)]
    split = load_all(labels[0], *pictures, *labels[1:], path=tmp_path)
    reds = red_values(split)
    assert sorted(zip(split.ids, split.labels.tolist(), reds, strict=True)) == [
        ("0", 0, 0), ("1", 1, 1), ("2", 0, 2)
    ]  # fmt: skip


def test_a_split_without_labels_is_unlabelled(tmp_path):
    write_tar(tmp_path / "train.tar", *sample("0", 1, "cat"))
    write_tar(tmp_path / "test.tar", *sample("0", 1), *sample("1", 2))
    splits = datasets.load(tmp_path).splits
    assert splits["train"].labels.tolist() == [0]
    assert (splits["test"].labels, len(splits["test"])) == (None, 2)


def test_equal_keys_in_two_tars_get_the_names_of_their_tars(tmp_path):
    for name in ("0", "1", "deep/x/0", "deep/y/0"):
        write_tar(tmp_path / f"{name}.tar", *sample("a", 0))
    assert datasets.load(f"{tmp_path}/{{0..1}}.tar").splits["all"].ids == ["0/a", "1/a"]
    assert datasets.load(tmp_path / "deep").splits["all"].ids == ["x/0/a", "y/0/a"]


def test_of_several_images_of_a_key_the_first_is_read(tmp_path, capsys):
    twice = [("0.left.png", png(1)), ("0.right.png", png(2))]
    split = load_all(*twice, *sample("1", 3), *sample("0", 4), path=tmp_path)
    assert split.ids == ["0", "1"]
    assert red_values(split) == [1, 3]
    assert "left out 2 images: their keys have an image already" in capsys.readouterr().err


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_every_form_of_tar_is_read(tmp_path, form):
    names = ["/".join(["folder" * 4] * 6) + "/picture", "é" * 120]
    members = [(f"{name}.png", png(red)) for red, name in enumerate(names)]
    split = datasets.load(write_tar(tmp_path / "a.tar", *members, form=form)).splits["all"]
    assert split.ids == names
    assert red_values(split) == [0, 1]


def member_of(kind, name="0.png", **fields):
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def test_links_sparse_empty_and_huge_members_are_rows_that_cannot_be_read(tmp_path, monkeypatch):
    reasons = "got a link|got a link|got a sparse file|the file is empty|got 5,|one of PNG"
    members = [
        member_of(tarfile.SYMTYPE, "0.png", linkname="/etc/passwd"),
        member_of(tarfile.LNKTYPE, "1.png", linkname="0.png"),
        member_of(tarfile.GNUTYPE_SPARSE, "2.png"),
        *[("3.png", b""), ("4.png", png(1) + bytes(5000)), ("5.png", b"no image")],
        *[member_of(tarfile.DIRTYPE, "a.png"), ("._0.png", b"x")],  # no rows
    ]
    monkeypatch.setattr(images, "MAX_BYTES", 4000)
    split = load_all(*members, *sample("6", 6), path=tmp_path)
    assert split.ids == [*"0123456"]
    for row, reason in enumerate(reasons.split("|")):
        with pytest.raises(ImageError, match=rf"cannot read .*a.tar at byte \d+: .*{reason}"):
            split.image(row)
    assert red_of(split, 6) == 6


def patched(data, start, new):
    """Return a tar with other bytes in its first header, and the right checksum."""
    header = bytearray(data[:512])
    header[start : start + len(new)] = new
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data[512:]


SIZE, KIND = 124, 156  # where a header holds them


OTHER = "expected a tar file, got other content"

HOSTILE = {
    "empty": (lambda tar: b"", f"{OTHER} (empty file"),
    "cut in a member": (lambda tar: tar[:550], "truncated: it has no end mark after 1 members"),
    "damaged": (lambda tar: tar[:1100] + b"!" + tar[1101:], "damaged at byte 1,024"),
    "two in one": (lambda tar: tar + tar, "nothing after its end at byte 2,048, got more"),
    "a hole": (lambda tar: tar[:1024] + bytes(2**21) + tar[1024:], "got more content"),
    "gzip": (lambda tar: b"\x1f\x8b" + tar, "got gzip"),
    "zstd": (lambda tar: b"\x28\xb5\x2f\xfd" + tar, "got zstd"),
    "negative": (lambda tar: patched(tar, SIZE, b"\xff" * 12), "a size of -1 bytes"),
    "nines": (lambda tar: patched(tar, SIZE, b"99999999999\0"), OTHER),
    "exabytes": (lambda tar: patched(tar, SIZE, b"\x80" + b"\1" * 11), "truncated"),
    "a negative pax header": (
        lambda tar: patched(patched(tar, KIND, b"x"), SIZE, b"\xff" * 10 + b"\xfc\0"),
        "a header of -1,024 bytes",
    ),
    "a huge name": (
        lambda tar: patched(patched(tar, KIND, b"L"), SIZE, b"00004000001\0"),
        "a header of 1,049,088 bytes",
    ),
    "a sparse map": (lambda tar: patched(patched(tar, KIND, b"S"), 482, b"\1"), "bad.tar: "),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_damaged_and_hostile_tars_are_refused_in_one_line(tmp_path, name):
    change, message = HOSTILE[name]
    good = write_tar(tmp_path / "good.tar", ("0.png", png(1)), ("1.png", png(2))).read_bytes()
    (tmp_path / "bad.tar").write_bytes(change(good))
    with fails_with(message):
        datasets.load(tmp_path / "bad.tar").splits["all"].image(0)


def test_records_for_all_members_of_a_tar_are_left_out(tmp_path):
    path = write_tar(tmp_path / "a.tar", ("0é.png", png(1)), ("1é.png", png(2)), comment="x")
    split = datasets.load(path).splits["all"]
    assert (split.ids, red_values(split)) == (["0é", "1é"], [1, 2])


def test_hostile_pax_records_are_refused(tmp_path):
    for size in ("-5", "1" * 30, str(2**40)):
        info = member_of(tarfile.REGTYPE, pax_headers={"size": size})
        with fails_with("a.tar: "):
            load_all(info, *sample("1", 1), path=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.tar"], "cannot read none.tar: there is no such file"),
        (["none-{0..2}.tar"], "cannot read none-0.tar"),
        (["none-*.tar"], "expected matching files, got none"),
        (["{2..1}.tar"], "expected a rising range"),
        (["{0..9999999}.tar"], "expected at most 100,000 files"),
        (["http://x/{0..9999}/{0..9999}.tar"], "expected at most 100,000 files"),
        (["{a..c}.tar"], "expected a range in braces, got 'a..c'"),
        (["a.tar.gz"], "got gzip"),
        (["notes.tar"], "expected images in the tar, got a.txt"),
        (["https://host/*.tar"], "cannot be searched for a wildcard"),
        (["http://[::1]:8000/[ab].tar"], "cannot be searched for a wildcard"),
        (["file:///etc/a.tar"], "expected the URL of a file on another machine"),
    ],
)
def test_wrong_names_of_tars_are_refused(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_tar(tmp_path / "notes.tar", ("a.txt", b"x"))
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("0.png"))
    with fails_with(message):
        datasets.load(arguments)


@pytest.fixture(params=["csv", "tar", "parquet"])
def labelled(request, tmp_path):
    """Return a function that reads images with these labels from one of the sources."""

    def read(*labels):
        path = tmp_path / f"a.{request.param}"
        if request.param == "csv":
            rows = ["path,label"]
            for i, label in enumerate(labels):
                (tmp_path / f"{i}.png").write_bytes(png(i))
                rows.append(f"{i}.png,{label}")
            path.write_text("\n".join(rows))
        elif request.param == "tar":
            samples = [sample(str(i), i, label) for i, label in enumerate(labels)]
            write_tar(path, *itertools.chain(*samples))
        else:
            write_parquet(path, [png(i) for i in range(len(labels))], label=list(labels))
        return datasets.load(path)

    return read


@pytest.mark.parametrize(
    ("labels", "numbers", "class_names"),
    [
        (["2", "0", "1"], [2, 0, 1], ["0", "1", "2"]),
        (["10", "0", "2"], [2, 0, 1], ["0", "2", "10"]),
        (["2.0", "0"], [1, 0], ["0", "2"]),
        (["30000001", "7"], [1, 0], ["7", "30000001"]),
        (["dog", "cat"], [1, 0], ["cat", "dog"]),
        (["A", "7"], [1, 0], ["7", "A"]),
        (["7", "007"], [1, 0], ["007", "7"]),
    ],
)
def test_whole_numbers_are_sorted_as_numbers_and_a_gap_is_no_class(
    labelled, labels, numbers, class_names
):
    data = labelled(*labels)
    assert data.splits["all"].labels.tolist() == numbers
    assert data.class_names == class_names


def test_a_negative_number_is_refused(labelled):
    with fails_with("expected a label from 0, got -1"):
        labelled("0", "-1")


def test_rows_without_a_label_are_left_out_of_every_source_where_others_have_one(labelled, capsys):
    data = labelled("dog", "", "cat")
    assert data.splits["all"].labels.tolist() == [1, 0]
    assert red_values(data.splits["all"]) == [0, 2]
    assert "all: left out 1 image without a label, first " in capsys.readouterr().err
    assert labelled("", "").splits["all"].labels is None


def test_wordnet_ids_of_every_source_get_the_names_of_a_class_index(labelled, tmp_path):
    index = {"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]}
    (tmp_path / "class_index.json").write_text(json.dumps(index))
    data = labelled("n01443537", "n01440764", "n09999999")
    assert data.class_names == ["tench", "goldfish", "n09999999"]
    assert data.splits["all"].labels.tolist() == [1, 0, 2]
    assert data.details["class_index"].startswith("sha256:")


# Parquet


def test_ids_are_rows_where_a_path_is_missing_or_there_twice(tmp_path):
    for paths in ([None, "a"], ["a", "a"], ["", "a"]):
        path = write_parquet(tmp_path / "x.parquet", [png(1), png(2)], paths)
        assert datasets.load(path).splits["all"].ids == ["x/0", "x/1"]


def test_bytes_alone_are_images_too(tmp_path):
    table = pa.table({"image": pa.array([png(1), png(2)]), "label": ["cat", "bird"]})
    pq.write_table(table, tmp_path / "a.parquet")
    data = datasets.load(tmp_path / "a.parquet")
    assert data.class_names == ["bird", "cat"]
    assert data.splits["all"].labels.tolist() == [1, 0]
    assert red_values(data.splits["all"]) == [1, 2]


@pytest.mark.parametrize(
    ("columns", "described", "expected"),
    [
        ({"fine_label": [2, 1], "coarse_label": [0, 0]}, [], [1, 0]),
        ({"species": [2, 1]}, ["species"], [2, 1]),
        ({"label": [None, 1]}, [], [0]),
        ({"label": [30000001, 7]}, [], [1, 0]),
        ({"label": [-1, -1]}, ["label"], None),
        ({"label": ["cat", "cat"]}, [], [0, 0]),
        ({"text": ["a", "b"]}, [], None),
        ({"label": [[1], [2]]}, [], None),
        ({"a": [0, 1], "b": [1, 1]}, ["a", "b"], None),
    ],
)
def test_the_column_of_labels(tmp_path, columns, described, expected):
    described = dict.fromkeys(described, class_label()) or None
    path = write_parquet(tmp_path / "a.parquet", [png(1), png(2)], described=described, **columns)
    labels = datasets.load(path).splits["all"].labels
    assert expected == (None if labels is None else labels.tolist())


def test_the_column_of_images_is_the_only_one_or_called_image(tmp_path):
    for name, more in (("img", {}), ("photo", {"mask": [b"x"]})):
        path = write_parquet(tmp_path / "a.parquet", [png(1)], image=name, **more)
        assert red_values(datasets.load(path).splits["all"]) == [1]
    pq.write_table(pa.table({"left": [b"x"], "right": [b"y"]}), path)
    with fails_with("expected one column of images, got 'left', 'right'"):
        datasets.load(path)


def test_rows_without_bytes_cannot_be_read(tmp_path):
    (tmp_path / "image.png").write_bytes(png(2))
    paths = ["a", str(tmp_path / "image.png"), f"file://{tmp_path}/image.png", "d"]
    path = write_parquet(tmp_path / "a.parquet", [png(1), None, b"", png(4)], paths)
    split = datasets.load(path).splits["all"]  # a path is an id: nothing is opened there
    for row, reason in ((1, "expected the bytes of an image, got none"), (2, "the file is empty")):
        with fails_with(f"a.parquet, row {row}: {reason}", ImageError):
            split.image(row)
    assert split.image(3).getpixel((0, 0))[0] == 4


def test_files_with_other_class_names_or_labels_are_refused(tmp_path):
    pets, others = {"label": class_label()}, {"label": class_label(["x", "y"])}
    write_parquet(tmp_path / "a.parquet", [png(1)], label=[0], described=pets)
    write_parquet(tmp_path / "b.parquet", [png(1)], label=[0], described=others)
    with fails_with("expected the same class names, got different"):
        datasets.load(tmp_path)
    write_parquet(tmp_path / "b.parquet", [png(1)])
    with fails_with("expected the same column of labels, got different"):
        datasets.load(tmp_path)
    path = write_parquet(tmp_path / "b.parquet", [png(1)], label=[3], described=pets)
    with pytest.raises(ClipkitError, match=r"expected a label from 0 to 2, .* got 3"):
        datasets.load(path)


@pytest.mark.parametrize("form", [".", "tr*.parquet"])
def test_damaged_parquet_files_are_refused_in_one_line(tmp_path, form):
    path = write_parquet(tmp_path / "train.parquet", [png(1), png(2)])
    whole = path.read_bytes()
    for keep in (0, 3, 100, -1, -9):
        path.write_bytes(whole[:keep])
        with fails_with("train.parquet: "):
            datasets.load(f"{tmp_path}/{form}")


@pytest.mark.parametrize("kind", ["images", "manifest"])
def test_a_footer_that_states_fewer_rows_than_its_columns_is_refused(tmp_path, kind):
    path = write_parquet(tmp_path / "a.parquet", [png(red) for red in range(20)], group=20)
    if kind == "manifest":
        pq.write_table(pa.table({"path": [f"{i}.png" for i in range(20)]}), path)
    data = path.read_bytes()
    twenty, nineteen = b"\x16\x28", b"\x16\x26"  # as Thrift writes them
    first, last = data.index(twenty, max(0, len(data) - 720)), data.rindex(twenty)
    # of the file and of its row group; the columns' lie between
    for place, message in (
        (first, "expected 19 rows, as the file states, got 20 in its row groups"),
        (last, "row group 0: expected 20 rows, as in "),
    ):
        data = data[:place] + nineteen + data[place + 2 :]
        path.write_bytes(data)
        with fails_with(message):
            datasets.load(path)


@pytest.mark.parametrize(
    ("names", "got"),
    [
        (["image", "label", "label"], "got 'label', 'label'"),
        (["image", "image", "label"], "got 'image.bytes', 'image.bytes'"),
        (["image.bytes", "image", "label"], "got 'image.bytes', 'image.bytes'"),
        (["image", "label.x", "label"], "got 'label.x', 'label'"),
    ],
)
def test_columns_that_share_a_name_are_refused(tmp_path, names, got):
    columns = {"image": TWO, "image.bytes": [b"", b""]}
    arrays = [columns.get(name, [0, 1]) for name in names]
    pq.write_table(pa.table(arrays, names=names), tmp_path / "a.parquet")
    with fails_with(got):
        datasets.load(tmp_path / "a.parquet")


def test_a_class_name_that_is_no_text_is_refused(tmp_path):
    described = {"label": class_label(["cat\ud800", "dog"])}
    path = write_parquet(tmp_path / "a.parquet", [png(1)], described=described, label=[0])
    with fails_with("label: "):
        datasets.load(path)


def test_more_rows_than_a_file_may_have_are_refused(tmp_path, monkeypatch):
    path = write_parquet(tmp_path / "a.parquet", [None] * 5000, group=5000)
    monkeypatch.setattr(files, "MAX_UNPACKED_BYTES", 2**16)
    with fails_with("a.parquet: expected rows that unpack to at most 0"):
        datasets.load(path)


@pytest.mark.parametrize("text", [b"paths", b"names"])
def test_texts_of_parquet_that_are_not_utf8_are_refused(tmp_path, text):
    paths, labels = ["paths/0", "paths/1"], ["names/0", "names/1"]
    path = write_parquet(tmp_path / "a.parquet", [png(1), png(2)], paths, label=labels)
    path.write_bytes(path.read_bytes().replace(text, b"\xff" + text[1:]))
    with pytest.raises(ClipkitError, match=r"cannot read .*a.parquet: .*UTF8"):
        datasets.load(path)


def test_a_row_group_that_takes_too_much_memory_is_refused(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).bytes(300_000)
    monkeypatch.setattr(files, "MAX_UNPACKED_BYTES", 1_000_000)
    path = write_parquet(tmp_path / "a.parquet", [noise[start:] for start in range(4)], group=4)
    with fails_with("row group 0: expected at most"):
        datasets.load(path)


def test_a_dictionary_that_repeats_a_huge_value_takes_little_memory(tmp_path, monkeypatch):
    """A file of a kilobyte may hold a value of a megabyte in each of 4,096 rows."""
    monkeypatch.setattr(parquet_images, "BATCH_BYTES", 2**21)
    monkeypatch.setattr(files, "MAX_UNPACKED_BYTES", 2**23)
    options = {"compression": "zstd", "dictionary_pagesize_limit": 2**30, "store_schema": False}

    def repeat(value):
        return pa.DictionaryArray.from_arrays(pa.array([0] * 4096, pa.int32()), pa.array([value]))

    label = {"image": [b"x"] * 4096, "label": repeat("x" * 2**20)}
    for table, message in (
        (label, "label: expected rows that unpack to at most 8 MiB, got more"),
        ({"image": repeat(b"x" * 2**20)}, "at most 8 MiB of images"),
    ):
        pq.write_table(pa.table(table), tmp_path / "a.parquet", **options)
        before = pa.default_memory_pool().max_memory()
        with fails_with(message):
            datasets.load(tmp_path / "a.parquet").splits["all"].image(0)
        most = pa.default_memory_pool().max_memory()
        assert most == before or most < 2**26


def test_without_pyarrow_the_error_says_what_to_install(tmp_path, monkeypatch):
    write_hf(tmp_path)
    monkeypatch.delitem(sys.modules, "clipkit.datasets.parquet_images", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    line = fails("embed", tmp_path, "-m", "tiny", "-o", tmp_path / "o.h5")
    assert "needs pyarrow, which is not installed; hint: install it: pip install" in line


class PyarrowForNumpy2(importlib.abc.MetaPathFinder):
    """Refuses to import pyarrow as it does beside an older NumPy."""

    def find_spec(self, name, path, target=None):
        if name == "pyarrow":
            raise ImportError("pyarrow requires NumPy 2.0 or newer, found 1.26.4")


@pytest.mark.parametrize("importer", ["clipkit.datasets.parquet_images", "sklearn.svm"])
def test_pyarrow_beside_an_older_numpy_is_one_line_with_what_to_install(
    importer, tmp_path, monkeypatch
):
    write_hf(tmp_path)
    for module in ("pyarrow", "clipkit.datasets.parquet_images"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(sys, "meta_path", [PyarrowForNumpy2(), *sys.meta_path])
    if importer != "clipkit.datasets.parquet_images":  # as scikit-learn imports it
        monkeypatch.setattr(datasets, "load", lambda *_, **__: importlib.import_module("pyarrow"))
    line = fails("embed", tmp_path, "-m", "tiny", "-o", tmp_path / "o.h5")
    assert "found 1.26.4; hint: pip install 'pyarrow<26'" in line


# Both


@pytest.fixture
def folder_data(tmp_path):
    """The same images in class folders, tars and Parquet files."""
    for split, n in (("train", 10), ("test", 3)):
        names = [f"{name}/{row:02}.png" for name, row in itertools.product(CLASSES, range(n))]
        write_images(tmp_path / "folder" / split, *names)
        pictures = [(tmp_path / "folder" / split / name).read_bytes() for name in names]
        members = []
        for name, picture in zip(names, pictures, strict=True):
            members += [(name, picture), (f"{name[:-4]}.cls", name[:-7].encode())]
        half = len(names) // 2 * 2
        write_tar(tmp_path / "tars" / f"{split}-0.tar", *members[:half])
        write_tar(tmp_path / "tars" / f"{split}-1.tar", *members[half:])
        write_parquet(
            tmp_path / "parquet" / f"{split}.parquet",
            pictures,
            names,
            group=7,
            label=np.repeat([0, 1, 2], n),
            described={"label": class_label()},
        )
    return [tmp_path / name for name in ("folder", "tars", "parquet")]


@pytest.mark.parametrize("options", [{}, {"limit": 9}, {"classes": 2}])
def test_images_labels_and_ids_equal_those_of_class_folders(folder_data, options):
    """They are drawn, taken, pickled and shared by threads in the same way."""
    folder, *archives = (datasets.load(path, **options) for path in folder_data)
    for data in archives:
        assert data.class_names == folder.class_names
        for name, expected in folder.splits.items():
            split = data.splits[name]
            assert split.labels.tolist() == expected.labels.tolist()
            keys = [row_id.removesuffix(".png") for row_id in split.ids]
            assert keys == [row_id.removesuffix(".png") for row_id in expected.ids]
            rows = np.array([5, 3, 4])
            part = pickle.loads(pickle.dumps(split.take(rows)))
            assert red_values(part) == red_values(expected.take(rows))
            assert part.source.fingerprint() == split.take(rows).source.fingerprint()
            with ThreadPoolExecutor(8) as pool:
                reds = list(pool.map(functools.partial(red_of, split), [*range(len(split))] * 2))
            assert reds == red_values(expected) * 2


def test_the_fingerprint_changes_with_the_file_and_the_rows(folder_data):
    for folder, name in ((folder_data[1], "test-0.tar"), (folder_data[2], "test.parquet")):
        split = datasets.load(folder).splits["test"]
        before = split.source.fingerprint()
        assert datasets.load(folder).splits["test"].source.fingerprint() == before
        assert split.take(np.array([0, 1])).source.fingerprint() != before
        os.utime(folder / name, ns=(1, 1))
        assert datasets.load(folder).splits["test"].source.fingerprint() != before


def test_archives_and_folders_do_not_mix(tmp_path):
    write_tars(tmp_path / "tars")
    write_hf(tmp_path / "pq")
    with fails_with("alone", UsageError):
        datasets.load([tmp_path / "tars" / "train-0.tar", tmp_path / "pq"])
    with fails_with("root: expected a named data set, got tars", UsageError):
        datasets.load(tmp_path / "tars", root="x")


def test_a_folder_of_images_with_an_archive_in_it_is_a_folder(tmp_path):
    write_images(tmp_path, "cat/1.png", "dog/1.png")
    write_tar(tmp_path / "all.tar", *sample("0", 1))
    assert datasets.load(tmp_path).class_names == ["cat", "dog"]


def test_what_threads_ask_for_is_loaded_once_and_the_last_is_kept():
    loads = []

    def load(key):
        loads.append(key)
        time.sleep(0.02)
        if key == 99:
            raise ClipkitError("no such group")
        return bytes(10)

    cache = SharedCache(load, len, count=3, budget=35)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(cache.get, [1] * 8 + [2] * 8 + [3] * 8))
    assert sorted(loads) == [1, 2, 3]
    for key in (1, 4, 1, 2):  # 4 takes the place of 2, which was used longest ago
        cache.get(key)
    assert loads[3:] == [4, 2]
    for _ in range(2):  # an error is not kept
        with fails_with("no such group"):
            cache.get(99)
    assert loads.count(99) == 2


def test_a_shard_of_parquet_holds_the_files_of_its_rows_alone(tmp_path):
    for number in range(30):
        pictures = [png(5 * number + row) for row in range(5)]
        write_parquet(tmp_path / f"{number:02}.parquet", pictures)
    split = datasets.load(tmp_path).splits["all"]
    rows = np.array([149, 3, 62, 60])
    taken = split.take(rows)
    assert [Path(part.file.name).stem for part in taken.source.parts] == ["00", "12", "29"]
    assert red_values(taken) == rows.tolist()
    assert red_values(taken.take(np.array([2, 0]))) == [62, 149]
    assert len(split.take(np.zeros(0, np.int64))) == 0


# At a URL


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server for the folder `served`."""
    pytest.importorskip("aiohttp", reason="the extra remote is not installed")
    monkeypatch.setattr(remote, "PAUSE_SECONDS", 0.01)
    (tmp_path / "served").mkdir()
    with serving(tmp_path / "served") as running:
        yield running


def same(a, b):
    assert a.class_names == b.class_names
    assert sorted(a.splits) == sorted(b.splits)
    for name, split in a.splits.items():
        assert split.digest() == b.splits[name].digest()
        assert red_values(split) == red_values(b.splits[name])
    return True


@pytest.mark.parametrize(("write", "form"), [(write_tars, "{}.tar"), (write_hf, "data/{}.parquet")])
def test_archives_at_a_url_give_the_same_as_local_ones(server, write, form):
    write(server.root)
    (server.root / "classnames.txt").write_text("\n".join(CLASSES))
    patterns = [form.format(name) for name in ("train-{0..1}", "test-0")]
    data = datasets.load([f"{server.url}/{pattern}" for pattern in patterns])
    assert same(data, datasets.load([server.root / pattern for pattern in patterns]))
    assert server.url not in json.dumps(data.details)
    split = pickle.loads(pickle.dumps(data.splits["train"].take(np.array([3, 1]))))
    assert red_values(split) == [3, 1]


def test_remote_tars_are_not_read_whole_and_neighbours_come_together(server):
    noise = np.random.default_rng(0).bytes(400_000)
    members = []
    for red in range(6):
        members += [(f"{red}.cls", b"0"), (f"{red}.png", png(red)), (f"{red}.bin", noise)]
    for red in range(6, 300):
        members += [(f"{red}.png", png(red % 256)), (f"{red}.cls", b"0")]
    size = write_tar(server.root / "a.tar", *members).stat().st_size
    data = datasets.load(f"{server.url}/a.tar")
    assert server.sent < size / 3
    assert len(server.requests) < 20
    server.forget()
    split = data.splits["all"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(split.image, range(300)))
    assert server.sent < size / 3
    assert len(server.requests) < 12
    server.forget()
    assert red_of(split.take(np.array([100])), 0) == 100
    assert server.sent < 1000


def test_rows_that_are_read_in_order_are_requested_ahead(server, monkeypatch):
    monkeypatch.setattr(tars, "SPAN", 2**10)  # an image each
    members = [(f"{red:02}.png", png(red) + bytes(2**12)) for red in range(20)]
    write_tar(server.root / "a.tar", *members)
    split = datasets.load(f"{server.url}/a.tar").splits["all"]
    server.forget()
    assert [red_of(split, row) for row in (15, 0, 9)] == [15, 0, 9]
    assert len(server.requests) == 3
    assert red_of(split, 1) == 1
    deadline = time.monotonic() + 60
    while len(server.requests) < 4 + tars.SPANS_AHEAD and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(server.requests) == 4 + tars.SPANS_AHEAD
    assert red_values(split) == list(range(20))
    assert len(server.requests) == 20  # each once


def test_a_remote_file_that_changes_while_it_is_read_is_refused(server):
    write_tar(server.root / "a.tar", *sample("0", 1))
    split, again = (datasets.load(f"{server.url}/a.tar").splits["all"] for _ in range(2))
    assert split.source.fingerprint() == again.source.fingerprint()
    server.etag = '"2"'  # of other bytes, as many as before
    with fails_with("a.tar: the file changed while it was read"):
        split.image(0)
    changed = datasets.load(f"{server.url}/a.tar").splits["all"]
    assert changed.source.fingerprint() != split.source.fingerprint()


@pytest.mark.parametrize("ending", WRITERS)
def test_a_file_that_is_replaced_while_it_is_read_stops_the_run(tmp_path, ending):
    path = WRITERS[ending](tmp_path / f"a{ending}")
    split = datasets.load(path).splits["all"]
    assert red_of(split, 0) == 0
    WRITERS[ending](path, first=100)
    with fails_with("the file changed while it was read") as caught:
        split.image(3)
    assert not isinstance(caught.value, ImageError)  # it is no image to be skipped


def test_a_tar_that_was_cut_is_refused_wherever_it_was_cut(tmp_path):
    path = write_tar(tmp_path / "a.tar", *sample("0", 1, 0), *sample("1", 2, 1))
    whole = path.read_bytes()
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    for size in range(0, len(whole), 512):
        path.write_bytes(whole[:size])
        if size > end:
            assert datasets.load(path).splits["all"].ids == ["0", "1"]
        else:
            with fails_with("a.tar: "):
                datasets.load(path)


def test_a_redirect_is_followed_but_not_to_a_file(server):
    write_tars(server.root)
    server.redirects["/train.tar"] = "/train-0.tar"
    assert red_values(datasets.load(f"{server.url}/train.tar").splits["train"]) == [0, 1]
    server.redirects["/train.tar"] = f"file://{server.root}/train-0.tar"
    with fails_with("cannot read http"):
        datasets.load(f"{server.url}/train.tar")


def test_errors_that_pass_are_tried_again(server):
    write_tars(server.root)
    server.failures = 2
    assert red_values(datasets.load(f"{server.url}/train-0.tar").splits["train"]) == [0, 1]
    server.failures = 3
    with fails_with("the server answers 503"):
        datasets.load(f"{server.url}/train-0.tar")


@pytest.mark.parametrize(
    ("fault", "name", "message"),
    [
        ({}, "none.tar", "none.tar: the server answers 404 Not Found"),
        ({"has_ranges": False}, "train-0.tar", "expected a server that sends parts of files"),
        ({"cut_after": 700}, "train-0.tar", "the connection was cut"),
        ({"stated": 2048}, "train-0.tar", "truncated: it has no end mark after 2 members"),
        ({"silence": 2}, "train-0.tar", "silent for 0.3 s or too slow"),
        ({"silence": 2}, "train-0.parquet", "the server was silent"),
        ({}, "empty.tar", "empty or has become shorter"),
        ({}, "text.tar", "expected a tar file, got other content"),
        ({}, "text.parquet", "cannot read http"),
    ],
)
def test_servers_that_fail_give_one_line(server, monkeypatch, fault, name, message):
    if "silence" in fault:  # a busy machine may take as long for an answer
        monkeypatch.setattr(remote, "TIMEOUT_SECONDS", 0.3)
    write_tars(server.root)
    (server.root / "empty.tar").touch()
    for ending in ("tar", "parquet"):
        (server.root / f"text.{ending}").write_text("hello " * 200)
    vars(server).update(fault)
    with fails_with(message):
        datasets.load(f"{server.url}/{name}")


HEADER = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize(
    ("setting", "start", "again"),
    [
        ("TIMEOUT_SECONDS", HEADER, b"x"),
        ("TIMEOUT_SECONDS", b"HTTP/1.1 200 OK\r\nX-Header: ", b"x"),
        ("TIMEOUT_SECONDS", CONTINUE, CONTINUE),
        ("WHOLE_SECONDS", HEADER, b"x"),
    ],
)
def test_a_server_that_trickles_is_given_up(server, monkeypatch, setting, start, again):
    server.answer = lambda _: itertools.chain([start], itertools.repeat(again, 200))
    server.pause = 0.05
    monkeypatch.setattr(remote, setting, 0.5)
    with fails_with("the server was silent"):
        remote.read_whole(f"{server.url}/a.tar", 1000)


def test_a_web_page_is_no_data(server, capsys):
    write_tar(server.root / "a.tar", *sample("0", 1, 0))
    for content, names, note in (
        ("\n<!DOCTYPE html><title>Log in</title>", ["0"], "the labels are numbers"),
        ("cat", ["cat"], "classnames.txt names the 1 classes"),
        ("Please\nlog in\n", ["Please", "log in"], "/classnames.txt names 2 classes, but no label"),
    ):
        (server.root / "classnames.txt").write_text(content)
        assert datasets.load(f"{server.url}/a.tar").class_names == names
        assert note in capsys.readouterr().err
    (server.root / "page").write_text("<!DOCTYPE html>")
    with fails_with("expected data, got a web page"):
        remote.read_whole(f"{server.url}/page", 1000)


def test_a_url_may_hold_letters_spaces_and_a_user_who_is_not_shown(server):
    write_tar(server.root / "a b é.tar", *sample("0", 7))
    for name in ("a b é.tar", "a%20b%20%C3%A9.tar?key=a%2Fb"):
        place = server.url.replace("//", "//me:secret@")
        assert red_values(datasets.load(f"{place}/{name}").splits["all"]) == [7]
    assert server.requests[-1] == "/a%20b%20%C3%A9.tar?key=a%2Fb"  # as a signature covers it
    with pytest.raises(ClipkitError) as caught:
        remote.open_file("http://me:secret@127.0.0.1:1/a.tar?signature=secret")
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("s3://bucket/a.tar", "Install s3fs to access S3"),
        ("gs://bucket/a.tar", "Please install gcsfs to access Google Storage"),
        ("nowhere://bucket/a.tar", "Protocol not known: nowhere"),
    ],
)
def test_what_fsspec_says_of_a_storage_that_it_cannot_open_is_passed_on(
    tmp_path, monkeypatch, url, reason
):
    for package in ("s3fs", "gcsfs"):
        monkeypatch.setitem(sys.modules, package, None)
    line = fails("embed", url, "-m", "tiny", "-o", tmp_path / "o.h5")
    assert f"cannot read {url}: {reason}" in line


def test_without_the_extra_remote_the_error_says_what_to_install(tmp_path, monkeypatch):
    def refuse(protocol, **options):
        raise ImportError("HTTPFileSystem requires aiohttp")

    monkeypatch.setattr(fsspec, "filesystem", refuse)
    (tmp_path / "m.csv").write_text("path\nhttps://host/a.png\n")
    for source in ("https://host/a.tar", "https://host/a.parquet", tmp_path / "m.csv"):
        line = fails("embed", source, "-m", "tiny", "-o", tmp_path / "o.h5")
        assert "HTTPFileSystem requires aiohttp; hint: pip install 'clipkit-vl[remote]'" in line


def test_an_answer_may_go_from_http_to_https_but_not_back():
    def answer(*schemes):
        urls = [SimpleNamespace(url=SimpleNamespace(scheme=scheme)) for scheme in schemes]
        info = SimpleNamespace(url="https://host/a.tar?key=secret")
        more = {"history": urls[:-1], "request_info": info, "raise_for_status": lambda: None}
        return SimpleNamespace(url=urls[-1].url, **more)

    assert remote.check_answer(answer("http", "https", "https"), None) == 0
    with fails_with("https://host/a.tar: the server redirects"):
        remote.check_answer(answer("https", "http"), None)


def test_the_brackets_of_a_host_are_no_wildcard():
    url = "http://[::1]:8000/a.tar"
    assert shards.find_files([url], ".tar") == [url]


def test_a_manifest_may_name_images_at_urls(server, tmp_path):
    server.has_ranges = False  # whole files need none
    (server.root / "a.png").write_bytes(png(7))
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"path,label\n{server.url}/a.png,cat\n{server.url}/none.png,dog\n")
    split = datasets.load(manifest).splits["all"]
    assert red_of(split, 0) == 7
    with fails_with("none.png: the server answers 404", ImageError):
        split.image(1)


class RecordingFileSystem(DirFileSystem):
    """A folder in place of the Hugging Face Hub."""

    blob_id = "abc"

    def info(self, path, **options):
        return {**super().info(path, **options), "blob_id": self.blob_id}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The folder that stands for hf://."""
    root = tmp_path / "hub"
    system = RecordingFileSystem(str(root), fsspec.filesystem("file"))
    monkeypatch.setattr(fsspec, "filesystem", lambda protocol, **options: system)
    return root / "datasets" / "org" / "pets"


@pytest.mark.parametrize(
    ("write", "files"),
    [
        (write_hf, ""),
        (write_hf, "/data/*.parquet"),
        (write_hf, "/data/{train-{0,1},test-0}.parquet"),
        (write_tars, ""),
    ],
)
def test_a_repository_of_the_hub_gives_the_same_as_local_files(hub, write, files):
    write(hub)
    data = datasets.load(f"hf://datasets/org/pets{files}")
    assert data.name == "pets"
    assert same(data, datasets.load(hub))


def test_a_file_that_a_repository_lacks_is_named(hub):
    write_tars(hub)
    with fails_with("hf://datasets/org/none"):
        datasets.load("hf://datasets/org/none/*.tar")
    with fails_with("none.tar: there is no such file"):
        datasets.load("hf://datasets/org/pets/none.tar")


def test_a_file_of_a_storage_that_changes_while_it_is_read_is_refused(hub, monkeypatch):
    write_tars(hub)
    split = datasets.load("hf://datasets/org/pets/train-0.tar").splits["train"]
    monkeypatch.setattr(RecordingFileSystem, "blob_id", "def")
    with fails_with("train-0.tar: the file changed while it was read"):
        split.image(0)


def test_a_server_is_asked_again_when_it_says():
    assert remote.pause_seconds({"Retry-After": "7"}, 0.5) == 7
    assert remote.pause_seconds({"Retry-After": "9999"}, 0.5) == remote.LONGEST_PAUSE_SECONDS
    assert remote.pause_seconds({"Retry-After": "soon"}, 0.5) == 0.5
    assert remote.pause_seconds({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.5) == 0.5
    later = email.utils.formatdate(time.time() + 20, usegmt=True)
    assert 15 < remote.pause_seconds({"Retry-After": later}, 0.5) <= 20
