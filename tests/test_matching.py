"""The images of a feature file's rows: how a data set is read, and matched by its name and ids."""

import pytest
from factories import fails_with, refused
from PIL import Image
from shell import clipkit, ok

from clipkit.datasets.matching import load_images
from clipkit.features import FeatureFile, read


@pytest.fixture
def manifest(tmp_path):
    """A manifest of four images whose columns have names of their own."""
    lines = ["file,species,part"]
    for number in range(4):
        Image.new("RGB", (9, 9), (50 * number, 0, 0)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{'ab'[number % 2]},test")
    (tmp_path / "birds.csv").write_text("\n".join(lines))
    return tmp_path / "birds.csv"


@pytest.fixture
def embedded(manifest):
    columns = ("--path-column", "file", "--label-column", "species", "--split-column", "part")
    ok("embed", manifest, *columns, "--model", "tiny", "-o", manifest.parent / "a.h5")
    return read(manifest.parent / "a.h5")


@pytest.mark.long
def test_a_manifest_is_read_by_the_columns_that_embed_read(manifest, embedded):
    data = load_images(embedded, [str(manifest)])
    assert data.splits["test"].ids == [f"{number}.png" for number in range(4)]
    assert data.class_names == ["a", "b"]
    manifest.write_text("file\n0.png\n")  # labels and splits that only embed read
    data = load_images(embedded, [str(manifest)], label_column=None)
    assert data.splits["all"].labels is None


@pytest.mark.long
def test_a_column_that_is_missing_is_named_with_what_to_do(manifest, embedded):
    manifest.write_text("image,label\n0.png,a\n")
    by_column = {"path_column": "image", "label_column": "species"}
    for file, options, column, hint in (
        (embedded, {}, "file", "name the manifest that clipkit embed read by this column"),
        (embedded, {"path_column": None}, "file", ", or the column, with --path-column"),
        (FeatureFile("images"), {}, "path", "name the data set that was embedded"),
        (embedded, by_column, "species", "--label-column"),
    ):
        message = f"expected a column '{column}', got 'image', 'label'"
        with fails_with(message) as caught:
            load_images(file, [str(manifest)], **options)
        assert hint in caught.value.hint


@pytest.mark.long
def test_the_warning_of_another_name_says_what_was_done(manifest, embedded, tmp_path):
    other = manifest.rename(tmp_path / "other.csv")
    line = ("convert", tmp_path / "a.h5", tmp_path / "a.parquet", "--thumbnails", other)
    text = "a.h5: expected images of birds, got images of other: matched them by their ids"
    assert text in ok(*line).stderr
    other.write_text("file,part\nx.png,test\n")
    assert "expected images of birds" not in refused(clipkit(*line, "-f"), 1, "like '0.png'")
