"""Thumbnails of a feature file's images, in the Parquet that other tools look at."""

import io

import pyarrow.parquet as pq
import pytest
from factories import feature_file, random_features, refused, unchanged
from PIL import Image, ImageCms
from shell import clipkit, ok

from clipkit import load_dataset
from clipkit.datasets.matching import thumbnail
from clipkit.features import FeatureFile, Split, history_entry, parquet, read, write


def folder(path, count=6):
    """Make a folder of test images 300 x 200 with metadata, each of another grey."""
    exif = Image.Exif()
    exif[0x010F] = "a secret camera"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for number in range(count):
        for_class = path / "test" / "ab"[number % 2]
        for_class.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", (300, 200), (40 * number,) * 3)
        name = for_class / f"{number}.jpg"
        image.save(name, exif=exif, icc_profile=profile, comment="a secret comment")
    return path


def embedded(path, dataset, ids, **entry):
    """Write a file with a row of the split `test` for each id, as if of a data set."""
    history = [history_entry("embed", dataset={"name": dataset, **entry})]
    split = Split(random_features(len(ids)), ids=list(ids))
    write(path, FeatureFile("images", history, splits={"test": split}), force=True)
    return path


def decoded(path):
    """Decode the images of a table."""
    column = pq.read_table(path)["image"].to_pylist()
    return [Image.open(io.BytesIO(value["bytes"])) for value in column]


def test_a_thumbnail_is_small_and_keeps_no_metadata(tmp_path):
    with Image.open(folder(tmp_path, 1) / "test/a/0.jpg") as image:
        assert {"exif", "icc_profile", "comment"} <= image.info.keys()
        data = thumbnail(image)
    assert b"secret" not in data
    small = Image.open(io.BytesIO(data))
    assert (small.format, small.size) == ("WEBP", (128, 85))
    assert small.info.keys().isdisjoint({"exif", "icc_profile", "comment", "xmp"})
    assert not small.getexif()
    assert Image.open(io.BytesIO(thumbnail(Image.new("L", (8, 8))))).size == (8, 8)
    assert Image.open(io.BytesIO(thumbnail(Image.new("RGBA", (500, 400)), 50))).size == (50, 40)


def test_each_row_has_the_thumbnail_of_its_id(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "IMAGE_ROWS", 2)  # several groups of rows
    ids = ["b/5.jpg", "a/0.jpg", "b/3.jpg", "a/4.jpg", "a/2.jpg"]
    source = embedded(tmp_path / "a.h5", "photos", ids)
    photos = folder(tmp_path / "photos")
    done = ok("convert", source, tmp_path / "a.parquet", "--thumbnails", photos)
    assert "a.parquet has 0.0 MB" in done.stderr
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.column_names == ["split", "id", "label", "class_name", "feature", "image"]
    assert [value["path"] for value in table["image"].to_pylist()] == ids
    greys = [image.getpixel((9, 9)) for image in decoded(tmp_path / "a.parquet")]
    for name, grey in zip(ids, greys, strict=True):
        assert grey[0] == pytest.approx(40 * int(name[2]), abs=3)
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups == 3


@pytest.mark.long
def test_the_table_comes_back_without_a_warning_and_embeds(tmp_path):
    ok("embed", "digits", "--limit", 20, "--model", "tiny", "-o", tmp_path / "a.h5")
    ok("convert", tmp_path / "a.h5", tmp_path / "a.parquet", "--thumbnails", "digits")
    done = ok("convert", tmp_path / "a.parquet", tmp_path / "b.h5")
    assert "image" not in done.stderr
    before, after = read(tmp_path / "a.h5"), read(tmp_path / "b.h5")
    assert before.history == after.history[:-1]
    assert before.splits["test"].ids == after.splits["test"].ids
    ok("embed", tmp_path / "a.parquet", "--model", "tiny", "-o", tmp_path / "c.h5")
    assert len(read(tmp_path / "c.h5").splits["all"]) == 40


@pytest.mark.long
def test_splits_that_embed_divided_are_found_and_one_can_be_chosen(tmp_path):
    options = ("--split", "test", "--split-off", "val=0.5", "--model", "tiny")
    ok("embed", "digits", "--limit", 20, *options, "-o", tmp_path / "a.h5")
    images = ("--thumbnails", "digits", "--split", "val")
    ok("convert", tmp_path / "a.h5", tmp_path / "a.parquet", *images)
    assert set(pq.read_table(tmp_path / "a.parquet")["split"].to_pylist()) == {"val"}
    assert len(decoded(tmp_path / "a.parquet")) == 10


REFUSED = [
    (2, "digits", ["0000"], ["shapes"], "expected images of digits, got images of shapes"),
    (1, "digits", ["nine"], ["digits"], "has no image in digits"),
    (1, "photos", ["a/9.jpg"], ["photos"], "like 'a/9.jpg'; hint: name the data set"),
    (1, "photos", ["b/1.jpg"], ["photos"], "b/1.jpg"),  # damaged
    (1, "photos", ["a/0.jpg"], ["gone/"], "gone"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "name", "ids", "dataset", "message"), REFUSED)
def test_images_that_are_not_there(tmp_path, monkeypatch, code, name, ids, dataset, message):
    monkeypatch.chdir(tmp_path)
    source = embedded(tmp_path / "a.h5", name, ids)
    (folder(tmp_path / "photos", 2) / "test/b/1.jpg").write_bytes(b"no image")
    with unchanged(tmp_path):
        refused(clipkit("convert", source, "a.parquet", "--thumbnails", *dataset), code, message)


def test_options_that_do_not_fit(tmp_path):
    name = load_dataset("digits").splits["test"].ids[0]
    source = embedded(tmp_path / "a.h5", "digits", [name])
    write(tmp_path / "r.h5", feature_file("result"))
    ok("convert", source, tmp_path / "a.npz")
    for line, message in (
        ("a.h5 x.npz --thumbnails digits", "thumbnails: expected a .parquet file, got "),
        ("a.npz x.h5 --thumbnails digits", "--thumbnails is for exports, but "),
        ("a.h5 x.parquet --root .", "--root is for --thumbnails, which is not"),
        ("a.h5 x.parquet --thumbnails digits --split tset", "unknown split of "),
        ("r.h5 x.parquet --thumbnails digits", "expected a file of images or logits, got res"),
    ):
        given, output, *options = line.split()
        with unchanged(tmp_path):
            command = ("convert", tmp_path / given, tmp_path / output, *options)
            refused(clipkit(*command), 2, message)
