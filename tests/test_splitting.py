"""`split`, `concat`, `embed --split-off`, and images that are both fitted and scored."""

from dataclasses import replace

import numpy as np
import pytest
from factories import (
    MODEL,
    fails_with,
    feature_file,
    random_features,
    unchanged,
    write_feature_file,
    write_images,
)
from fuzz import seeds
from hypothesis import given
from hypothesis import strategies as st
from shell import fails, ok, rows
from sklearn.model_selection import StratifiedGroupKFold

from clipkit.analysis.probe.evaluation import ProbeSpec, evaluate_grid
from clipkit.base.errors import UsageError
from clipkit.features import (
    BlockMatrix,
    FeatureFile,
    Split,
    concatenation,
    draws,
    matching,
    read,
    row_ids,
    splitting,
    write,
)
from clipkit.features.annotations import read_annotations
from clipkit.features.provenance import original_splits, provenance

HISTORY = [{"command": "embed", "model": MODEL, "dataset": {"name": "photos"}}]


def images(labels, ids=None, split="all"):
    """Return images of random features; class 0 is called a, class 1 b, and so on."""
    count = len(labels if labels is not None else ids or [])
    rows = Split(random_features(count, 8), None, list(ids or row_ids(count)))
    file = FeatureFile("images", HISTORY, {split: rows}, display_name="img.h5")
    if labels is not None:
        rows.labels = np.array(labels)
        file.class_names = [chr(ord("a") + c) for c in range(max(labels) + 1)]
    return file


def counts(split, classes):
    return np.bincount(split.labels, minlength=classes).tolist()


# ---- split ----


@given(
    st.lists(st.integers(0, 4), min_size=20, max_size=80).filter(
        lambda labels: np.bincount(labels).max() > 2
    ),
    st.floats(0.05, 0.45),
    st.floats(0.05, 0.45),
    st.integers(0, 3),
)
def test_every_row_is_in_one_split_and_every_class_has_its_share(labels, test, val, seed):
    labels = np.array(labels)
    part = draws.assign_rows(labels, [test, val], seed)
    for c, n in zip(*np.unique(labels, return_counts=True), strict=True):
        in_test = min(max(1, round(test * n)), n - 1)
        in_val = min(max(1, round(val * n)), n - 1 - in_test)
        got = np.bincount(part[labels == c], minlength=3).tolist()
        assert got == [n - in_test - in_val, in_test, in_val]


def test_rows_keep_features_labels_ids_and_order():
    file = images(np.arange(40) % 3)
    before = file.splits["all"]
    after = splitting.split(file, {"test": 0.2, "val": 0.1}).in_memory()
    assert list(after.splits) == ["train", "test", "val"]
    number = {row_id: row for row, row_id in enumerate(before.ids)}
    taken = []
    for split in after.splits.values():
        index = [number[row_id] for row_id in split.ids]
        assert index == sorted(index)
        np.testing.assert_array_equal(split.features, before.features[index])
        np.testing.assert_array_equal(split.labels, before.labels[index])
        taken += index
    assert sorted(taken) == list(range(40))


def test_the_test_rows_do_not_depend_on_a_validation_split():
    file = images(np.arange(40) % 3)
    alone = splitting.split(file, {"test": 0.2}, seed=1).splits["test"].ids
    both = splitting.split(file, {"val": 0.3, "test": 0.2}, seed=1).splits["test"].ids
    other = splitting.split(file, {"test": 0.2}, seed=2).splits["test"].ids
    assert alone == both != other


def test_a_class_of_one_row_stays_in_train_and_is_counted(capsys):
    after = splitting.split(images([0] * 10 + [1] + [2] * 2), {"test": 0.2, "val": 0.2})
    assert counts(after.splits["train"], 3) == [6, 1, 1]
    assert counts(after.splits["test"], 3) == [2, 0, 1]
    assert counts(after.splits["val"], 3) == [2, 0, 0]
    first, of_test, of_val = capsys.readouterr().err.splitlines()
    assert first == "clipkit: img.h5: all: 13 rows -> train 8, test 3, val 2"
    assert "test lacks 1 of 3 " in of_test
    assert "val lacks 2 of 3 " in of_val
    assert of_val.endswith("(for example b)")


def test_rows_without_labels_are_divided_as_one_class():
    after = splitting.split(images(None, row_ids(50)), {"test": 0.3})
    assert [len(split) for split in after.splits.values()] == [35, 15]
    assert all(split.labels is None for split in after.splits.values())


@pytest.mark.parametrize(
    ("splits", "source", "fractions", "expected"),
    [
        (["test"], None, {"test": 0.5}, {"train": 3, "test": 3}),
        (["train", "test"], None, {"val": 0.5}, {"train": 3, "val": 3, "test": 6}),
        (["train", "test"], "test", {"val": 0.5}, {"train": 6, "test": 3, "val": 3}),
        (["extra", "all"], "all", {"test": 0.5}, {"extra": 6, "train": 3, "test": 3}),
    ],
)
def test_the_other_splits_are_kept(splits, source, fractions, expected):
    file = images([0] * 6)
    file.splits = dict.fromkeys(splits, file.splits["all"])
    after = splitting.split(file, fractions, source=source)
    assert {name: len(split) for name, split in after.splits.items()} == expected


@pytest.mark.parametrize(
    ("splits", "arguments", "message"),
    [
        (["all"], {"fractions": {}}, "expected a fraction of the rows for a new split, got none"),
        (["all"], {"fractions": {"test": 0}}, "test: expected a number between 0 and 1, got 0"),
        (["all"], {"fractions": {"val": np.nan}}, "val: expected a number between 0 and 1"),
        (["all"], {"fractions": {"test": 0.5, "val": 0.5}}, "sum below 1, got 0.5 + 0.5"),
        (["all"], {"fractions": {"a\nb": 0.5}}, r"got 'a\nb'"),
        (["all"], {"fractions": {"runs": 0.5}}, "no reserved name, got 'runs'"),
        (["all"], {"fractions": {"train": 0.5}}, "got train, which exists"),
        (["train", "test"], {}, "got test, which exists"),
        (["a", "b"], {}, "expected one split to divide, got a, b"),
        (["all"], {"source": "al"}, "unknown split of img.h5 'al'"),
        (["all"], {"table": "t.csv"}, "expected --attribute for --table"),
        (["all"], {"column": "x", "by_folder": True}, "by folder or by an attribute, got both"),
    ],
)
def test_what_cannot_be_split_is_a_usage_error(splits, arguments, message):
    file = images([0] * 6)
    file.splits = dict.fromkeys(splits, file.splits["all"])
    with fails_with(message, UsageError):
        splitting.split(file, **{"fractions": {"test": 0.5}, **arguments})


@pytest.mark.parametrize(
    ("labels", "arguments", "message"),
    [
        (range(6), {}, "img.h5: all: expected classes with enough rows for test, got at most 1"),
        ([0] * 6, {"by_folder": True}, "img.h5: all: expected at least 2 groups, got 1"),
    ],
)
def test_a_split_without_rows_is_refused(labels, arguments, message):
    with fails_with(message):
        splitting.split(images(labels), {"test": 0.2}, **arguments)


@given(st.integers(3, 12), st.integers(0, 5), st.floats(0.05, 0.4))
def test_every_split_has_a_group_and_groups_depend_on_the_seed_alone(groups, seed, fraction):
    labels, group = grouped(seed, groups, classes=2)
    part, again = (draws.assign_groups(labels, group, [fraction, 0.1], seed) for _ in "ab")
    assert sorted(set(part)) == [0, 1, 2]
    assert part.tolist() == again.tolist()


# ---- groups ----


def grouped(seed, groups=60, classes=4):
    """Return labels and groups: groups of 1 to 20 rows, most of them of one class."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 21, groups)
    group = np.repeat(np.arange(groups), sizes)
    labels = np.repeat(rng.integers(0, classes, groups), sizes)
    other = rng.random(len(labels)) < 0.2
    labels[other] = rng.integers(0, classes, other.sum())
    order = rng.permutation(len(labels))
    return labels[order], group[order]


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_together_and_classes_are_shared_as_well_as_by_scikit_learn(seed):
    labels, groups = grouped(seed)
    part = draws.assign_groups(labels, groups, [0.2], seed)
    assert part.tolist() != draws.assign_groups(labels, groups, [0.2], seed + 1).tolist()
    assert all(len(set(part[groups == group])) == 1 for group in set(groups))
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(labels, labels, groups)
    expected = 0.2 * np.bincount(labels)

    def error(test):
        return float(np.abs(np.bincount(labels[test]) - expected).sum() / len(labels))

    assert error(np.flatnonzero(part == 1)) <= max(error(test) for _, test in folds) + 0.01


def test_the_column_of_a_table_names_the_groups(tmp_path):
    file = images(np.arange(40) % 2)
    write(tmp_path / "all.h5", file)
    patient = {row_id: f"p{int(row_id) // 4}" for row_id in file.splits["all"].ids}
    patient["00"] = ""
    lines = [f"{row_id},{value},x" for row_id, value in patient.items()]
    (tmp_path / "t.csv").write_text("\n".join(["id,patient,site", *lines]))
    options = ("--attribute", "patient", "--table", tmp_path / "t.csv")
    done = ok("split", tmp_path / "all.h5", "--test", 0.3, *options, "-o", tmp_path / "img.h5")
    assert "rows have no group: each is a separate group" in done.stderr
    assert "all: 40 rows in 11 groups -> train " in done.stderr
    after = read(tmp_path / "img.h5")
    in_train, in_test = ({patient[i] for i in split.ids} - {""} for split in after.splits.values())
    assert in_train
    assert in_test
    assert not in_train & in_test
    entry = after.history[-1]
    assert (entry["groups"], set(entry["inputs"])) == ("patient", {"features", "attributes"})


def test_the_images_of_a_folder_stay_together():
    ids = [f"cat/video{row // 5}/{row}.png" for row in range(30)]
    after = splitting.split(images([0] * 30, ids), {"test": 0.34}, by_folder=True)
    train, test = ({i.rpartition("/")[0] for i in split.ids} for split in after.splits.values())
    assert (len(train), len(test)) == (4, 2)
    assert not train & test


# ---- the command and embed --split-off ----


def test_split_works_in_a_pipe_and_keeps_prompts(tmp_path):
    datasets = dict.fromkeys(("test/features", "test/labels", "test/ids"))
    path = write_feature_file(tmp_path / "logits.h5", "logits", datasets=datasets)
    piped = ok("split", "--test", 0.34, stdin=path.read_bytes()).stdout_bytes
    assert rows(ok("probe", stdin=piped).stdout)[0]["eval_split"] == "test"
    (tmp_path / "out.h5").write_bytes(piped)
    before, after = read(path), read(tmp_path / "out.h5")
    assert (after.texts, after.temperature) == (before.texts, before.temperature)
    assert after.history[:-1] == before.history
    assert after.history[-1]["inputs"]["features"] == before.digest


def test_a_refused_split_writes_nothing(tmp_path):
    images = write_feature_file(tmp_path / "img.h5")
    texts = write_feature_file(tmp_path / "txt.h5", "texts")
    with unchanged(tmp_path):
        line = fails("split", images, "--test", 0.2, "-o", tmp_path / "x.h5", exit_code=2)
        assert "test, which exists" in line
        assert "expected images or logits, got texts" in fails("split", texts, "--test", 0.2)


@pytest.fixture
def photos(tmp_path):
    """Two class folders of seven images."""
    names = [f"{kind}/{row}.png" for kind in ("cat", "dog") for row in range(7)]
    return write_images(tmp_path / "photos", *names)


@pytest.mark.long
def test_embed_splits_off_the_rows_that_split_would(photos, tmp_path):
    model = ("--model", "tiny", "--precision", "fp32", "--batch-size", 1)
    ok("embed", photos, *model, "-o", tmp_path / "all.h5")
    ok("split", tmp_path / "all.h5", "--test", 0.3, "--val", 0.2, "-o", tmp_path / "a.h5")
    new = ("--split-off", "val=0.2", "--split-off", "test=0.3")
    ok("embed", photos, *model, *new, "-o", tmp_path / "b.h5")
    a, b = read(tmp_path / "a.h5"), read(tmp_path / "b.h5")
    assert list(a.splits) == list(b.splits)
    assert seeds.same(replace(a, history=[]), replace(b, history=[]))
    details = b.history[0]["dataset"]
    fractions = {"test": 0.3, "val": 0.2}
    assert details["split_off"] == {"fractions": fractions, "from": "all", "seed": 42}
    assert details["splits"]["test"]["images"] == 4


@pytest.mark.parametrize("value", ["test", "test=", "=0.2", "test=x", "test=0.1,test=0.2"])
def test_a_split_needs_a_name_and_a_fraction(value):
    message = "expected different splits with their fractions, such as test=0.2"
    words = ("embed", "digits", "--model", "tiny", "--split-off", value)
    assert message in fails(*words, exit_code=2)


@pytest.mark.parametrize("source", ["train", "test"])
@pytest.mark.long
def test_divided_rows_keep_the_attributes_and_images_of_their_data_set(source, tmp_path):
    embed = ("embed", "shapes", "-m", "tiny", "--split", source, "--limit", 300)
    ok(*embed, "--split-off", "test=0.3,val=0.2", "-o", tmp_path / "img.h5")
    file = read(tmp_path / "img.h5")
    attribute = read_annotations(file, "shapes", ["class"]).attributes[0]
    assert sorted(file.splits) == ["test", "train", "val"]
    for split_name, split in file.splits.items():
        names = [attribute.values[code] for code in attribute.codes[split_name]]
        assert names == [file.class_names[label] for label in split.labels]
    ok("textembed", "generic32", "-m", "tiny", "-o", tmp_path / "txt.h5")
    ok("logits", tmp_path / "img.h5", tmp_path / "txt.h5", "-o", tmp_path / "logits.h5")
    picture = ("plot", "nearest", tmp_path / "logits.h5", "shapes", "-o", tmp_path / "n.png")
    ok(*picture, "--split", "val")


def test_splits_that_were_divided_and_then_joined_have_no_original():
    history = [{"command": "split", "source": "all", "rows": {"train": 4, "test": 1}}]
    file = FeatureFile("images", history)
    assert original_splits(file, "test") == ["all"]
    assert original_splits(file, "other") == ["other"]
    file.history = [*history, {"command": "concat"}]
    with fails_with("got splits that were divided and then joined"):
        original_splits(file, "test")


# ---- concat ----


def pair(**b):
    """Return two files of different ids; `b` changes the second."""
    first, second = images([0, 1, 1], ["1", "2", "3"]), images([0, 1, 2], ["4", "5", "6"])
    first.display_name = "a.h5"
    return [first, replace(second, **{"display_name": "x/b.h5", **b})]


def test_splits_of_one_name_are_joined_and_others_kept():
    a, b = pair()
    b.splits["test"] = b.splits["all"]
    joined = concatenation.concat([a, b]).in_memory()
    assert joined.splits["all"].ids == ["1", "2", "3", "4", "5", "6"]
    assert joined.splits["test"].ids == ["4", "5", "6"]
    expected = np.concatenate([a.splits["all"].features, b.splits["all"].features])
    np.testing.assert_array_equal(joined.splits["all"].features, expected)
    apart = concatenation.concat([a, b], keep_apart=True)
    assert list(apart.splits) == ["a", "b-all", "b-test"]
    b.display_name = "x/a.h5"
    apart = concatenation.concat([a, b], keep_apart=True)
    assert list(apart.splits) == ["a", "x-a-all", "x-a-test"]


def test_classes_are_united_by_name():
    joined = concatenation.concat(pair(class_names=["b", "z", "a"]))
    assert joined.class_names == ["a", "b", "z"]
    assert np.asarray(joined.splits["all"].labels).tolist() == [0, 1, 1, 1, 2, 0]


def test_an_id_in_two_files_is_refused_unless_prefixed():
    a, b = pair()
    b.splits["all"].ids = ["4", "2", "6"]
    with fails_with("a.h5 and x/b.h5: all: ") as caught:
        concatenation.concat([a, b])
    assert "--prefix" in str(caught.value.hint)
    joined = concatenation.concat([a, b], prefix=True)
    assert joined.splits["all"].ids == ["a/1", "a/2", "a/3", "b/4", "b/2", "b/6"]


def test_the_history_holds_the_entries_of_all_inputs():
    a, b = pair(history=[*HISTORY, {"command": "relabel"}])
    b.history[0]["dataset"] = {"name": "/data/more"}
    joined = concatenation.concat([a, b])
    assert joined.history[:-1] == [*a.history, *b.history]
    entry = joined.history[-1]
    assert (entry["files"], entry["entries"]) == (["a", "b"], [1, 2])
    assert entry["inputs"] == {"file 1": a.digest, "file 2": b.digest}
    assert provenance(joined).dataset == "photos + more"


OTHER = [{"command": "embed", "model": {**MODEL, "name": "other", "digest": "sha256:9"}}]


NARROW = Split(random_features(3, 5), np.arange(3), list("456"))
UNLABELLED = Split(random_features(3, 8), None, list("456"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "texts"}, "a.h5 and x/b.h5: expected one kind, got images and texts"),
        ({"history": OTHER}, "a.h5 and x/b.h5 come from different models (m sha256:1, other"),
        ({"history": []}, "x/b.h5: "),
        (
            {"history": [{**HISTORY[0], "normalize": True}]},
            "expected one --normalize, got none and yes",
        ),
        ({"splits": {"all": NARROW}}, "a.h5 and x/b.h5: "),
        ({"splits": {"all": UNLABELLED}}, "x/b.h5: all: expected labels in both or in neither"),
        ({"class_names": None}, "x/b.h5: expected class names, as in a.h5, got none"),
        ({"class_names": ["b", "b", "a"]}, "got 'b' 2 times"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(change, message):
    with fails_with(message):
        concatenation.concat(pair(**change))


def test_files_of_different_precisions_are_joined_with_a_note(capsys):
    a, b = pair(history=[{"command": "embed", "model": MODEL | {"precision": "bf16"}}])
    a.history = [{"command": "embed", "model": MODEL | {"precision": "fp32"}}]
    concatenation.concat([a, b])
    told = capsys.readouterr().err
    assert "files were computed in different precisions: bf16, fp32" in told


def test_one_file_is_not_joined():
    with fails_with("files: expected two or more, got 1", UsageError):
        concatenation.concat(pair()[:1])


def logits(entry, **fields):
    """Return logits of three prompts; their history says how they were made."""
    file = feature_file("logits")
    made = {"command": "logits", "inputs": {"images": "sha256:1", "texts": "sha256:2"}, **entry}
    return replace(file, history=[*file.history, made], **fields)


def test_logits_of_the_same_prompts_are_joined():
    joined = concatenation.concat([logits({}), logits({})], prefix=True)
    assert joined.texts == ["a", "b", "c"]
    assert joined.splits["test"].features.shape == (12, 3)
    assert joined.temperature == 1


@pytest.mark.parametrize(
    ("entry", "fields", "message"),
    [
        ({"whiten": True}, {}, "expected whiten of logits to be None, got True"),
        ({"random": 3, "seed": 1}, {}, "expected random of logits to be None, got 3"),
        ({}, {"texts": ["a", "x", "c"]}, "prompts: prompt 2: "),
        ({}, {"temperature": 0.5}, "expected one temperature, got 1.0 and 0.5"),
    ],
)
def test_logits_of_other_prompts_directions_or_temperatures_are_refused(entry, fields, message):
    with fails_with(message):
        concatenation.concat([logits({}), logits(entry, **fields)], prefix=True)


def test_prompt_files_are_joined(tmp_path):
    a = write_feature_file(tmp_path / "a.h5", "texts")
    more = {"class_names": ["dog", "fox"], "texts": ["d", "e", "f"]}
    b = write_feature_file(tmp_path / "b.h5", "texts", datasets=more)
    ok("concat", a, b, "-o", tmp_path / "txt.h5")
    joined = read(tmp_path / "txt.h5")
    assert joined.texts == ["a", "b", "c", "d", "e", "f"]
    assert joined.class_names == ["cat", "dog", "fox"]
    assert np.asarray(joined.class_index).tolist() == [0, 1, -1, 1, 2, -1]
    message = "expected images or logits for --prefix"
    assert message in fails("concat", a, b, "--prefix", exit_code=2)


@pytest.mark.long
def test_joined_texts_keep_the_other_texts_of_all_files_once(tmp_path):
    files = [feature_file("texts") for _ in range(3)]
    rows = random_features(4, files[0].features.shape[1])
    files[0].other_features, files[0].other_texts = rows[:3], ["p", "q", "r"]
    files[2].other_features, files[2].other_texts = rows[2:], ["r", "s"]
    joined = concatenation.concat(files)
    assert (joined.other_texts, len(joined.texts)) == (["p", "q", "r", "s"], 9)
    assert (joined.other_features == rows).all()
    write(tmp_path / "joined.h5", joined)
    assert "other texts\t4\n" in ok("info", "-v", tmp_path / "joined.h5").stdout
    assert concatenation.concat(files[:2]).other_texts == ["p", "q", "r"]
    assert concatenation.concat([files[1], files[1]]).other_texts is None


def test_concat_reads_a_pipe(tmp_path):
    a, b = (write_feature_file(tmp_path / name) for name in ("a.h5", "b.h5"))
    joined = ok("concat", a, "-", "--prefix", stdin=b.read_bytes()).stdout_bytes
    shown = ok("info", "-v", "--format", "tsv", stdin=joined).stdout
    assert "test features\t12 x 4" in shown
    assert "3 concat inputs\tfile 1 sha256:" in shown
    assert "only one file on standard input" in fails("concat", "-", "-", exit_code=2)
    assert "is an input" in fails("concat", a, b, "-o", a, "--force", exit_code=2)


def test_features_are_read_only_when_they_are_written():
    def read_too_early():
        raise AssertionError("read before it is written")

    a, b = images([0] * 1000), images([0] * 1000)
    for file in (a, b):
        file.splits["all"].features = BlockMatrix((1000, 8), read_too_early, sha256="0")
    divided = splitting.split(a, {"test": 0.2})
    assert divided.splits["test"].features.shape == (200, 8)
    assert concatenation.concat([a, b], prefix=True).splits["all"].features.shape == (2000, 8)


# ---- images that are both fitted and scored ----


def both(shared, seed=0):
    """Return images of which some rows of test are those of train."""
    X, X_eval = random_features(200, 16, seed), random_features(100, 16, seed + 1)
    X_eval[:shared] = X[:shared]
    splits = {
        "train": Split(X, np.arange(200) % 4, row_ids(200)),
        "test": Split(X_eval, np.arange(100) % 4, row_ids(100)),
    }
    return FeatureFile("images", HISTORY, splits, class_names=list("abcd"))


def shared(X, X_eval):
    return matching.count_shared_rows(matching.hash_rows(X), X_eval)


def test_a_copy_within_the_only_split_is_found_between_fitted_and_held_out_rows(capsys):
    file = both(0)
    rows = file.splits["train"].take([*range(100), *range(100)])
    rows.ids = row_ids(200)
    file.splits = {"all": rows}
    evaluate_grid(file, ProbeSpec("knn"))
    assert "of 40 images of val were also fitted" in capsys.readouterr().err


@pytest.mark.parametrize(("width", "bits"), [(1, 23), (1, 7), (2, 7), (4, 4)])
def test_features_of_few_values_cause_no_false_alarm(width, bits):
    rng = np.random.default_rng(0)
    cosines = (0.2 + 0.03 * rng.standard_normal((60_000, width))).astype("<f4")
    mask = np.uint32(0xFFFFFFFF << (23 - bits) & 0xFFFFFFFF)  # as bfloat16 keeps 7 bits
    cosines = (cosines.view("<u4") & mask).view("<f4")
    X, X_eval = cosines[:50_000], cosines[50_000:]
    assert set(map(bytes, X)) & set(map(bytes, X_eval))
    assert shared(X, X_eval) == 0


def test_constant_rows_and_columns_without_variance_cause_no_false_alarm():
    assert shared(np.ones((60, 4)), np.ones((20, 4))) == 0
    X, X_eval = random_features(60), random_features(20, seed=1)
    X[:, 1:] = X_eval[:, 1:] = 1
    assert shared(X, X_eval) == 0
    assert shared(X, X[:20]) == 20
