"""Which rows of files are the same images: those of imports without ids, and of held-out rows."""

import numpy as np
import pytest
from factories import MODEL, random_features, saved
from PIL import Image
from shell import fails, ok, rows

from clipkit.features import FeatureFile, Split, read
from clipkit.features.compatibility import SAME_IDS, SAME_IMAGES, origin, relate
from clipkit.features.provenance import original_splits

LABELS = np.arange(60) % 2
IDS = [f"{'cat' if label == 0 else 'dog'}/{row}.png" for row, label in enumerate(LABELS)]


def embedded(name="photos", split="test", *more):
    """Return images of a data set with one split."""
    dataset = {"name": name, "splits": {split: {"images": 60, "rows": f"{name} {split}"}}}
    history = [{"command": "embed", "model": MODEL, "dataset": dataset}, *more]
    rows_of_split = Split(random_features(60), LABELS, list(IDS))
    return FeatureFile("images", history, {split: rows_of_split}, class_names=["cat", "dog"])


def imported(digest, ids=None):
    entry = {"command": "convert", "inputs": {"features": digest}, "ids": ids}
    return FeatureFile("images", [{k: v for k, v in entry.items() if v}], {"test": Split(ids=IDS)})


DIVIDED = {"command": "split", "source": "test", "rows": {"test": 10, "val": 50}}


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (embedded(), embedded(), SAME_IMAGES),
        (embedded(), embedded("others"), SAME_IDS),
        (embedded(), imported("1"), SAME_IDS),
        (embedded(), embedded("photos", "train", {**DIVIDED, "source": "train"}), None),
        (embedded(), embedded("photos", "test", DIVIDED), SAME_IMAGES),
        (imported("1"), imported("1"), SAME_IMAGES),
        (imported("1"), imported("2"), SAME_IDS),
        (imported("1", "row numbers"), imported("1", "row numbers"), SAME_IMAGES),
        (imported("1", "row numbers"), imported("2", "row numbers"), None),
        (imported("1", "row numbers"), imported("1"), None),
        (imported("1", "row numbers"), embedded(), None),
    ],
)
def test_equal_ids_are_the_same_images_if_the_history_says_so(a, b, expected):
    assert relate(origin(a, "test"), origin(b, "test")) == expected
    assert relate(origin(b, "test"), origin(a, "test")) == expected
    if expected is None and "convert" in str([*a.history, *b.history]):
        assert relate(origin(a, "test"), origin(b, "test"), same_rows=True) == SAME_IDS


@pytest.fixture
def imports(tmp_path):
    """Two probes on one import without ids, and one on another import."""
    labels = {"train_labels": LABELS, "test_labels": LABELS}
    for name, seed in (("a", 0), ("b", 1)):
        train, test = random_features(60, seed=seed + 2), random_features(60, seed=seed)
        np.savez(tmp_path / f"{name}.npz", train_features=train, test_features=test, **labels)
        ok("convert", tmp_path / f"{name}.npz", tmp_path / f"{name}.h5", "--model", "m")
    for probe, images, C in (("pa", "a", 1), ("pb", "b", 1), ("qa", "a", 1e-4)):
        ok("probe", tmp_path / f"{images}.h5", "-C", C, "-o", tmp_path / f"{probe}.h5")
    return tmp_path


def test_rows_of_imports_without_ids_are_compared_within_one_import_alone(imports):
    pa, pb, qa = (imports / f"{name}.h5" for name in ("pa", "pb", "qa"))
    message = "got row numbers of another import; hint: if rows are the same, add --same"
    assert message in fails("compare", pa, pb)
    named = read(pb)
    named.history = [entry for entry in named.history if entry["command"] != "convert"]
    for split in named.splits.values():
        split.ids = [f"{row_id}.png" for row_id in split.ids]
    assert "--same-rows" not in fails("compare", saved(imports / "named.h5", named), pa)
    one_import = ok("compare", pa, qa)
    assert rows(one_import.stdout)[0]["rows"] == "60"
    assert "the same ids" not in one_import.stderr
    allowed = ok("compare", pa, pb, "--same-rows", "-o", imports / "c.h5")
    assert "images with the same ids are compared" in allowed.stderr
    assert read(imports / "c.h5").history[-1]["same_rows"]
    page = " ".join(ok("report", pa, pb, qa).stdout.split())
    assert "These images were imported without ids" in page
    assert page.count("Paired differences from") == 1
    assert "| qa.h5 " in page[page.index("against pa.h5") :]
    assert page.count("| pb.h5 ") == 1  # in its own table


def test_the_mark_of_row_numbers_stays_when_rows_are_divided_joined_and_relabelled(imports):
    table = "id,size\n" + "".join(f"{row:02d},{row % 2}\n" for row in range(60))
    (imports / "t.csv").write_text(table, encoding="utf-8")
    ok("split", imports / "a.h5", "--from", "train", "--val", 0.2, "-o", imports / "s.h5")
    ok("relabel", imports / "s.h5", imports / "t.csv", "-o", imports / "r.h5")
    ok("concat", imports / "s.h5", imports / "b.h5", "--prefix", "-o", imports / "j.h5")
    ok("convert", imports / "s.h5", imports / "e.npz")
    ok("convert", imports / "e.npz", imports / "e.h5")
    for name in ("s", "r", "j", "e"):
        assert origin(read(imports / f"{name}.h5"), "test").is_numbered
    assert origin(read(imports / "e.h5"), "val") == origin(read(imports / "s.h5"), "val")
    np.savez(imports / "n.npz", test_features=random_features(60), test_ids=IDS)
    ok("convert", imports / "n.npz", imports / "n.h5")
    assert not origin(read(imports / "n.h5"), "test").is_numbered


@pytest.fixture
def folder(tmp_path):
    """Photos in class folders without splits, a probe on them, and zero-shot classification."""
    for number, row_id in enumerate(IDS):
        path = tmp_path / "photos" / row_id
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (4 * number, 99, 0)).save(path)
    images = embedded(split="all")
    saved(tmp_path / "img.h5", images)
    texts = FeatureFile(
        "texts",
        [{"command": "textembed", "model": MODEL}],
        features=random_features(2, seed=3),
        texts=["a cat", "a dog"],
        class_index=np.arange(2),
        class_names=["cat", "dog"],
    )
    saved(tmp_path / "txt.h5", texts)
    ok("logits", tmp_path / "img.h5", tmp_path / "txt.h5", "-o", tmp_path / "logits.h5")
    ok("probe", tmp_path / "img.h5", "-o", tmp_path / "probe.h5")
    ok("zeroshot", tmp_path / "logits.h5", "-o", tmp_path / "zs.h5")
    return tmp_path


def test_held_out_rows_are_compared_with_those_of_the_whole_split(folder):
    probe, zs = folder / "probe.h5", folder / "zs.h5"
    assert original_splits(read(probe), "val") == ["all"]
    run = ok("compare", probe, zs)
    (row,), (swapped,) = rows(run.stdout), rows(ok("compare", zs, probe).stdout)
    assert row["rows"] == swapped["rows"] == "12"
    assert (row["acc_a"], row["only_a"]) == (swapped["acc_b"], swapped["only_b"])
    assert f"images of all of {zs} without image in val of {probe}" in run.stderr
    scored, whole = read(probe).splits["val"], read(zs).splits["all"]
    places = [whole.ids.index(row_id) for row_id in scored.ids]
    right = whole.predicted[0, places] == whole.labels[places]
    assert float(row["acc_b"]) == pytest.approx(right.mean())
    page = " ".join(ok("report", probe, zs).stdout.split())
    assert "## photos, val: 12 images" in page
    assert "## photos, all: 60 images" in page
    assert f"| {row['only_b']} | {row['only_a']} |" in page


@pytest.mark.long
@pytest.mark.parametrize("names", [["probe"], ["probe", "img", "txt"], ["probe", "zs", "logits"]])
def test_the_pictures_of_held_out_rows_are_found_in_the_folder(folder, names):
    files = [folder / f"{name}.h5" for name in names]
    ok("report", *files, "-o", folder / "page.html", "--images", folder / "photos")
    text = (folder / "page.html").read_text(encoding="utf-8")
    assert "data:image/webp" in text
    if len(names) > 1:
        assert "a cat" in text  # with its nearest images


def test_a_control_of_another_split_of_the_data_set_is_refused(folder):
    divided = {**DIVIDED, "source": "elsewhere", "rows": {"all": 60}}
    for name, more in (("control", []), ("divided", [divided])):
        control = embedded("photos", "all", *more)
        control.history[0]["model"] = {**MODEL, "untrained": 7}
        control.splits["all"].features = random_features(60, seed=9)
        saved(folder / f"{name}.h5", control)
    table = "id,size\n" + "".join(f"{row_id},{row % 3}\n" for row, row_id in enumerate(IDS))
    (folder / "t.csv").write_text(table, encoding="utf-8")
    line = ("variance", folder / "img.h5", "--table", folder / "t.csv")
    ok(*line, "--control", folder / "control.h5")
    assert "expected the all images of" in fails(*line, "--control", folder / "divided.h5")
