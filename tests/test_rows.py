"""Which rows a command uses: splits, ids, rows without a partner, rows that were fitted."""

import itertools
import shlex
from dataclasses import replace

import numpy as np
import pytest
import typer
from factories import fails_with, refused, write_images
from shell import clipkit, fails, ok, rows

from clipkit import features
from clipkit.analysis.retrieve import retrieval
from clipkit.base.errors import UsageError
from clipkit.cli import app
from clipkit.commands._options import option_table
from clipkit.features import FeatureFile, Split, matching, read
from clipkit.features.provenance import original_splits
from clipkit.report.command_lines import command_lines

MODEL = {"name": "m", "digest": "sha256:1", "weights": "sha256:2", "logit_scale": 100.0}
TRAIN, TEST = 36, 48
IDS = [f"{'cat' if row % 2 else 'dog'}/{row:02d}.jpg" for row in range(TRAIN + TEST)]
SPLITS = {"train": slice(TRAIN), "test": slice(TRAIN, None)}
CLASSES = ["dog", "cat"]


def make_images(seed=0, **ids):
    """Return images of two classes in two splits, with other ids for some splits."""
    random = np.random.default_rng(seed)
    file = FeatureFile("images", [{"command": "embed", "model": MODEL}], class_names=CLASSES)
    for name, place in SPLITS.items():
        of_split = ids.get(name, IDS[place])
        labels = np.arange(len(of_split)) % 2
        vectors = random.standard_normal((len(of_split), 8)).astype("<f4")
        vectors[:, 0] += 2 * labels
        file.splits[name] = Split(vectors, labels, list(of_split))
    return file


def make_texts(ids, seed=1):
    """Return a text for each image, whose class is the image's id."""
    vectors = np.random.default_rng(seed).standard_normal((len(ids), 8)).astype("<f4")
    texts = [f"a text of {row}" for row in range(len(ids))]
    file = FeatureFile("texts", [{"command": "textembed", "model": MODEL}], texts=texts)
    file.features, file.class_names, file.class_index = vectors, list(ids), np.arange(len(ids))
    return file


def write_table(path, ids, header="id,size"):
    lines = [f"{row_id},{'ab'[row // 2 % 2]}" for row, row_id in enumerate(ids)]
    path.write_text("\n".join([header, *lines]) + "\n")


def write_items(path, ids):
    lines = ["item,image,text,correct"]
    for row, row_id in enumerate(ids):
        lines += [f"{row},{row_id},a text of {row},1"]
        lines += [f"{row},{row_id},a text of {(row + 1) % len(ids)},0"]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with images, other images of the same ids, logits, results, texts and tables."""
    folder = tmp_path_factory.mktemp("rows")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        features.write("img.h5", make_images())
        features.write("other.h5", make_images(seed=3))
        features.write("caps.h5", make_texts(IDS))
        classes = make_texts(CLASSES)
        classes.texts = ["a dog", "a cat"]
        features.write("classes.h5", classes)
        ok("logits", "img.h5", "classes.h5", "-o", "logits.h5")
        ok("zeroshot", "logits.h5", "--split", "all", "-o", "zs-all.h5")
        ok("zeroshot", "logits.h5", "--split", "test", "-o", "zs-test.h5")
        ok("threshold", "logits.h5", "--fpr", "0.1", "-o", "cuts.h5")
        write_table(folder / "t.csv", IDS)
        write_table(folder / "few.csv", IDS[::2])
        write_items(folder / "items.csv", IDS)
    return folder


@pytest.fixture
def folder(made, monkeypatch):
    """The same folder, as the current one."""
    monkeypatch.chdir(made)
    return made


# ---- Splits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "chosen", "counts"),
    [
        (None, ["train", "test"], [TRAIN, TEST]),
        (["all"], ["all"], [TRAIN + TEST]),
        (["test,train"], ["all"], [TRAIN + TEST]),
        (["test, train", "test"], ["all", "test"], [TRAIN + TEST, TEST]),
        (["test", "test"], ["test"], [TEST]),
        (["test,test"], ["test"], [TEST]),
    ],
)
def test_split_names_choose_rows_in_the_order_of_the_file(names, chosen, counts):
    images = make_images()
    file, got = matching.choose_splits(images, names)
    assert got == chosen
    assert [len(file.splits[name]) for name in got] == counts
    assert file.digest == images.digest  # the file is the same
    for name in got:
        of_ids = [IDS.index(row_id) for row_id in file.splits[name].ids]
        assert of_ids == sorted(of_ids)


def test_joined_rows_keep_their_embeddings_labels_and_splits():
    images = make_images()
    file, name = matching.choose_split(images, "all")
    joined, parts = file.splits[name], list(images.splits.values())
    np.testing.assert_array_equal(joined.features, np.concatenate([one.features for one in parts]))
    np.testing.assert_array_equal(joined.labels, np.concatenate([one.labels for one in parts]))
    assert joined.parts == ["train"] * TRAIN + ["test"] * TEST
    images.splits["test"].labels = None
    assert matching.choose_split(images, "all")[0].splits["all"].labels is None


def test_some_splits_are_joined_under_their_names_and_a_split_called_all_is_itself():
    images = make_images()
    images.splits["val"] = Split(np.ones((1, 8), "<f4"), np.zeros(1, int), ["v.jpg"])
    file, name = matching.choose_split(images, "val,train")
    assert (name, file.joined) == ("train-val", {"train-val": ["train", "val"]})
    images.splits["all"] = Split(np.ones((1, 8), "<f4"), np.zeros(1, int), ["w.jpg"])
    assert matching.choose_split(images, "all") == (images, "all")


def test_splits_that_cannot_be_joined_are_refused_in_one_line():
    images = make_images(test=IDS[TRAIN - 1 : -1])
    with fails_with(f"expected different ids in train and test, got '{IDS[TRAIN - 1]}' in both"):
        matching.choose_split(images, "all")
    result = FeatureFile("result", splits={"a": Split(ids=["0"]), "b": Split(ids=["1"])})
    with fails_with("expected one split of a result, got a, b", UsageError):
        matching.choose_split(result, "all")
    with fails_with("unknown split of the file 'tset'", UsageError):
        matching.choose_split(make_images(), "train,tset")


# ---- Ids -----------------------------------------------------------------------------------------

KNOWN = ["cat/1.jpg", "cat/2.jpg", "dog/3.jpg"]


@pytest.mark.parametrize(
    ("ids", "known", "places", "rule"),
    [
        (["dog/3.jpg", "cat/1.jpg"], KNOWN, [2, 0], ""),
        (["dog/3", "cat/1"], KNOWN, [2, 0], "without endings"),
        (["dog/3.png", "cat/1.png"], KNOWN, [2, 0], "without endings"),
        (["3.jpg", "1.jpg", "3.jpg"], KNOWN, [2, 0, 2], "by their file names"),
        (["/a/b/dog/3.jpg", "/a/b/cat/1.jpg"], KNOWN, [2, 0], "without leading folders"),
        (["3", "1"], KNOWN, [2, 0], "by their file names without endings"),
        (["/a/dog/3", "/a/cat/1"], KNOWN, [2, 0], "without leading folders and endings"),
        (["x/3.jpg", "y/3.jpg"], KNOWN, [-1, -1], ""),  # one image for both
        (["3.jpg"], ["a/3.jpg", "b/3.jpg"], [-1], ""),  # two images for one
        (["a.2"], ["a.1"], [-1], ""),  # numbers are no endings
        (["a"], ["a", "b", "a"], [-1], ""),
        (["cat/1.jpg", "none"], KNOWN, [0, -1], ""),
        ([], KNOWN, [], ""),
        (["a"], [], [-1], ""),
    ],
)
def test_ids_are_found_by_the_first_rule_that_finds_most_of_them(ids, known, places, rule):
    found = matching.find_ids(ids, known)
    assert (found.places.tolist(), found.rule) == (places, rule)


SPELLINGS = {
    "": lambda row_id: row_id,
    "without endings": lambda row_id: row_id.removesuffix(".jpg"),
    "by their file names": lambda row_id: row_id.rpartition("/")[2],
    "without leading folders": lambda row_id: f"/data/photos/{row_id}",
}
BY_IDS = [
    "attributes img.h5 --table t.csv --attribute size --random-sets 0",
    "variance img.h5 --table t.csv --null 3",
    "describe logits.h5 --table t.csv --attribute size",
    "retrieve img.h5 caps.h5 -k 1 --split all",
    "choose img.h5 caps.h5 --items items.csv --split all",
    "align img.h5 caps.h5 --split all -k 3",
    "align img.h5 other.h5 -k 3",
    "compare zs-test.h5 zs-test.h5 --table t.csv",
    "probe img.h5 --table t.csv --attribute size",
    "zeroshot logits.h5 --table t.csv --cluster size",
]


@pytest.mark.parametrize("line", BY_IDS)
def test_each_command_finds_ids_in_four_spellings(made, tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    for name in ("img.h5", "logits.h5", "zs-test.h5"):
        (tmp_path / name).symlink_to(made / name)
    outputs = set()
    for spell in SPELLINGS.values():
        ids = list(map(spell, IDS))
        write_table(tmp_path / "t.csv", ids)
        write_items(tmp_path / "items.csv", ids)
        features.write("caps.h5", make_texts(ids), force=True)
        features.write("other.h5", make_images(3, train=ids[:TRAIN], test=ids[TRAIN:]), force=True)
        run = ok(*shlex.split(line))
        outputs.add(run.stdout)
        assert "matched" not in run.stderr  # all were
    assert len(outputs) == 1


# ---- Partners and other splits -------------------------------------------------------------------

IN_TRAIN = "36 of them are in train: --split all"


def halve(file):
    """Return a file with every second row of test."""
    return replace(file, splits={"test": file.splits["test"].take(range(0, TEST, 2))})


@pytest.mark.parametrize(
    ("line", "default", "message", "hint"),
    [
        ("retrieve img.h5 caps.h5 -k 1", True, "36 of 84 texts of caps.h5", IN_TRAIN),
        ("align img.h5 caps.h5 -k 3", True, "36 of 84 texts of caps.h5", IN_TRAIN),
        ("align img.h5 part.h5 -k 3", True, "24 of 48 images of test of img.h5", ""),
        (
            "choose img.h5 caps.h5 --items items.csv",
            False,
            "36 of 84 items of items.csv",
            IN_TRAIN,
        ),
        ("variance img.h5 --table few.csv --null 3", False, "24 of 48 images of img.h5", ""),
        (
            "attributes img.h5 --table few.csv --attribute size --random-sets 0",
            False,
            "42 of 84 images of img.h5",
            "",
        ),
        ("describe logits.h5 --table few.csv --top 1", False, "24 of 48 images of logits.h5", ""),
        ("compare zs-test.h5 zs-part.h5", False, "24 of 48 images of test of zs-test.h5", ""),
        (
            "compare zs-test.h5 zs-test.h5 --table few.csv",
            False,
            "24 of 48 images of zs-test.h5",
            "",
        ),
        ("probe img.h5 --table few.csv --attribute size", False, "42 of 84 images of img.h5", ""),
        ("cluster img.h5 --table few.csv --attribute size", False, "42 of 84 images of img.h5", ""),
        ("relabel img.h5 --table few.csv -o x.h5 -f", False, "42 of 84 images of img.h5", ""),
        (
            "split img.h5 --table few.csv --attribute size --val 0.2 -o x.h5 -f",
            False,
            "18 of 36 images of img.h5",
            "",
        ),
        (
            "zeroshot logits.h5 --table few.csv --cluster size",
            False,
            "42 of 84 images of logits.h5",
            "",
        ),
        ("describe part-logits.h5 --result zs-test.h5", False, "24 of 48 images of test of zs", ""),
    ],
)
def test_rows_without_a_partner_are_left_out_or_refused(folder, line, default, message, hint):
    if not (folder / "part.h5").exists():
        features.write("part.h5", halve(make_images(3)))
        features.write("part-logits.h5", halve(read("logits.h5")))
        features.write("zs-part.h5", halve(read("zs-test.h5")))
    words = shlex.split(line)
    strict = fails(*words, "--strict")
    assert message in strict
    assert f"hint: {hint or '--common leaves them out'}" in strict
    common = ok(*words, "--common").stderr
    assert f"{message} without " in common or f" {message}" in common
    assert hint in common
    usual = clipkit(*words)
    assert usual.exit_code == (0 if default else 1)


# ---- The recipe of the README --------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photos that are embedded with a test split, and captions, items and a table of all."""
    folder = tmp_path_factory.mktemp("photos")
    names = [f"{'ab'[row % 2]}/{row:02d}.png" for row in range(40)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_images(folder / "photos", *names)
        write_table(folder / "t.csv", names)
        write_items(folder / "items.csv", names)
        captions = [f"{name},a text of {row}" for row, name in enumerate(names)]
        (folder / "caps.csv").write_text("\n".join(["image,caption", *captions]) + "\n")
        recipe = ("embed", "photos/", "--model", "tiny", "--split-off", "test=0.2")
        ok(*recipe, "-o", "photos.h5")
        ok(*recipe, "--untrained", "7", "-o", "control.h5")
        ok("embed", "photos/", "--model", "tiny", "-o", "whole.h5")
        ok("textembed", "--captions", "caps.csv", "--model", "tiny", "-o", "caps.h5")
        ok("textembed", "generic16", "--model", "tiny", "-o", "set.h5")
        ok("logits", "photos.h5", "set.h5", "-o", "logits.h5")
    return folder


def test_a_control_and_another_model_are_joined_like_the_images(photos, monkeypatch):
    monkeypatch.chdir(photos)
    for line in (
        "variance photos.h5 --table t.csv --null 3 --control control.h5",
        "align photos.h5 control.h5 -k 3",
    ):
        run = ok(*shlex.split(line), "--split", "test,train")
        assert {row["rows"] for row in rows(run.stdout)} == {"40"}
        assert "without" not in run.stderr


def test_the_splits_of_one_file_are_joined_and_divided_again(photos, monkeypatch, tmp_path):
    monkeypatch.chdir(photos)
    ok("concat", "photos.h5", "--split", "all", "-o", tmp_path / "all.h5")
    joined, whole = read(tmp_path / "all.h5"), read("whole.h5")
    order = [joined.splits["all"].ids.index(row_id) for row_id in whole.splits["all"].ids]
    np.testing.assert_array_equal(
        joined.splits["all"].features[order], whole.splits["all"].features
    )
    assert joined.splits["all"].labels[order].tolist() == whole.splits["all"].labels.tolist()
    assert original_splits(joined, "all") == ["all"]
    ok("split", "photos.h5", "--from", "all", "--test", "0.5", "-o", tmp_path / "half.h5")
    halves = read(tmp_path / "half.h5")
    assert {name: len(split) for name, split in halves.splits.items()} == {"train": 20, "test": 20}
    assert original_splits(halves, "test") == ["all"]
    line = ("probe", "photos.h5", "--fit-split", "train,test", "--eval-split", "test")
    assert "of test were also fitted" in ok(*line).stderr
    refused(clipkit("concat", "photos.h5"), 2, "hint: join the splits of one file with --split all")


@pytest.mark.long
def test_pictures_find_the_images_of_joined_splits(photos, monkeypatch, tmp_path):
    monkeypatch.chdir(photos)
    output = tmp_path / "n.png"
    ok("plot", "nearest", "logits.h5", "photos", "--split", "all", "-o", output)
    assert output.stat().st_size > 1000


@pytest.mark.parametrize(
    "line",
    [
        "retrieve photos.h5 caps.h5 -k 1 --split train,test",
        "align photos.h5 control.h5 -k 3 --split train,test --strict",
        "probe photos.h5 --fit-split train,test --eval-split test",
        "entropy logits.h5 --split train,test --split test",
        "concat photos.h5 --split train,test",
        "split photos.h5 --from train,test --test 0.5",
    ],
)
def test_the_history_says_what_was_joined_and_a_report_types_it(photos, monkeypatch, line):
    monkeypatch.chdir(photos)
    words = shlex.split(line)
    ok(*words, "-o", "out.h5", "-f")
    entry = read("out.h5").history[-1]
    assert {tuple(sorted(parts)) for parts in entry["joined"].values()} == {("test", "train")}
    commands = option_table(typer.main.get_command(app))
    typed = shlex.split(command_lines(read("out.h5").history, "out.h5", {}.get, commands)[-1])
    for flag, value in itertools.pairwise(words):
        if flag in ("--split", "--fit-split", "--eval-split", "--from"):
            values = [b for a, b in itertools.pairwise(typed) if a == flag]
            assert any(set(value.split(",")) == set(one.split(",")) for one in values)
    assert ("--strict" in typed) == ("--strict" in words)


# ---- Rows that were fitted or chosen with --------------------------------------------------------

CHOSEN = "were also used to choose: the accuracy on them is optimistic"
IN_FITTED = f"36 of 36 images of train {CHOSEN}"


@pytest.mark.parametrize(
    ("line", "warning"),
    [
        ("zeroshot logits.h5 --threshold cuts.h5 --split test", ""),
        (
            "zeroshot logits.h5 --threshold cuts.h5 --split train",
            IN_FITTED,
        ),
        ("zeroshot logits.h5 --threshold cuts.h5 --split all", f"36 of 84 images of all {CHOSEN}"),
        ("zeroshot logits.h5 --threshold cuts.h5", IN_FITTED),
        ("threshold logits.h5 --fit-split all", "48 of 48 images of test were also fitted"),
        ("attributes img.h5 --fit-split all --random-sets 0", "48 of 48 images of test were also"),
        ("probe img.h5 --fit-split all", "48 of 48 images of test were also fitted"),
        ("calibrate logits.h5 --fit-split all", "48 of 48 images of test were also fitted"),
        ("threshold img.h5 --unknown half.h5", "12 of 60 unknown images are also known"),
    ],
)
def test_scored_rows_that_were_fitted_or_chosen_with_are_warned_of(folder, line, warning):
    if not (folder / "half.h5").exists():
        half = make_images(5)
        half.splits = {
            "new": half.splits["test"],
            "old": make_images().splits["test"].take(range(12)),
        }
        features.write("half.h5", half)
    warnings = [note for note in ok(*shlex.split(line)).stderr.splitlines() if " also " in note]
    assert len(warnings) == bool(warning)
    assert all(warning in note for note in warnings)


@pytest.mark.parametrize("name", ["img.h5", "logits.h5"])
def test_known_images_are_no_unknown_images(folder, name):
    assert f"{name}: expected images of none of the classes, got images of {name}" in fails(
        "threshold", name, "--unknown", name
    )


def test_captions_of_another_split_are_refused():
    """Row numbers of another split are ids, too, but of other images."""
    images, texts = make_images(), make_texts(IDS[TRAIN:])
    for file, name in ((images, "test"), (texts, "train")):
        data = {"name": "d", "splits": {name: {"images": TEST}}}
        file.history.append({"command": "embed", "dataset": data})
    with fails_with("expected captions of test, got captions of train"):
        retrieval.retrieve(images, texts)
