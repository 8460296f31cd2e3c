"""`attributes`: each number equals the command that measures it alone; known worlds and nulls."""

import csv
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from factories import MODEL, feature_file, messages, saved
from shell import fails, ok, rows
from sklearn.linear_model import LogisticRegression

from clipkit import probes
from clipkit.analysis import results
from clipkit.analysis.attributes import recalls
from clipkit.features import FeatureFile, Split, row_ids
from clipkit.plots.attributes import draw_attributes
from clipkit.prompts import bundled
from clipkit.report.summary import answer
from clipkit.statistics import metrics
from clipkit.statistics.claims import FEW_OTHERS, NO_CONTROL, NO_WORDS, REACHED, group_of

README = (Path(__file__).parents[1] / "README.md").read_text()
RNG = np.random.default_rng(0)
NUMBERS = ("zeroshot", "names", "random", "probe", "control", "reach")


@pytest.fixture(autouse=True)
def same_draws(monkeypatch):
    """Draw the same in each test, whichever ran before it."""
    monkeypatch.setitem(globals(), "RNG", np.random.default_rng(0))


def world_of(y, width=6, noise=0.3):
    """Return two splits of images that hold y (N,) along the first axes, beside noise."""
    file = feature_file(datasets={"class_names": [str(value) for value in range(y.max() + 1)]})
    for name in ("train", "test"):
        X = np.eye(width)[y] + noise * RNG.standard_normal((len(y), width))
        file.splits[name] = Split(X.astype("f4"), y, row_ids(len(y)))
    return file


def control_of(y):
    """Return what an untrained model makes of the images of `world_of`: it holds nothing of y."""
    file = world_of(y * 0)
    file.history = [{"command": "embed", "model": {**MODEL, "untrained": 7}}]
    return file


def words_for(count, width=6, attribute="class"):
    names = [f"{attribute}: {value}" for value in range(count)]
    return FeatureFile(
        "texts",
        [{"command": "textembed", "model": MODEL}],
        features=np.eye(width, dtype="f4")[:count],
        texts=names,
        class_index=np.arange(count),
        class_names=names,
    )


def measured(*arguments, **options):
    """Return the only row of a result."""
    (row,) = recalls.measure(*arguments, **options).rows()
    return row


@pytest.mark.long
def test_a_world_that_words_name_has_a_reach_of_one():
    y = np.arange(600) % 3
    world, controls = world_of(y), [control_of(y)]
    row = measured(world, words_for(3), controls=controls)
    more = words_for(4)  # "class: 0" goes before "0"
    more.class_names = ["class: 0", "class: 1", "class: 2", "0"]
    assert measured(world, more, controls=controls) == pytest.approx(row, nan_ok=True)
    assert row["chance"] == pytest.approx(1 / 3)
    assert row["zeroshot"] > 0.95
    assert row["probe"] > 0.95
    assert row["reach_low"] < row["reach"] < row["reach_high"]
    assert row["reach"] == pytest.approx(1, abs=0.05)
    assert row["zeroshot_low"] < row["zeroshot"] < row["zeroshot_high"]
    assert row["control"] == pytest.approx(1 / 3, abs=0.08)


# What is there, how much of it is learned, and how much of it words reach
HELD = {"rows": 200, "chance": 0.2, "probe": 0.8, "probe_low": 0.7, "probe_high": 0.9}
LEARNED = HELD | {"gain": 0.5, "gain_low": 0.4, "gain_high": 0.6}
NAMED = {"zeroshot": 0.7, "zeroshot_low": 0.6, "other_words_p": 0.02}
REACH = {"reach": 0.8, "reach_low": 0.6, "reach_high": 1.0}
PART = {"reach": 0.4, "reach_low": 0.35, "reach_high": 0.45}
SILENT = {"zeroshot": 0.2, "zeroshot_low": 0.1, "reach": 0, "reach_low": -0.1, "reach_high": 0.1}
GIVEN = {"given_name": "noise", "given": 0.4, "given_low": 0.3, "given_high": 0.5}
WORDS_GIVEN = {
    "zeroshot_given_name": "noise",
    "zeroshot_given": 0.4,
    "zeroshot_given_low": 0.3,
    "zeroshot_given_high": 0.5,
}
UNTRAINED = LEARNED | {"gain_low": 0.2, "gain_high": 0.29}
GROUPED = [
    ("learned and reached by words", LEARNED | NAMED | REACH),
    ("learned, words reach part", LEARNED | NAMED | PART),
    ("learned, not reached", LEARNED | NAMED | SILENT),
    # no better than other words: no part is reached, and a reach of half is not decided
    ("learned, not reached", LEARNED | NAMED | PART | {"other_words_p": 0.03}),
    ("learned, not decided for words", LEARNED | NAMED | REACH | {"other_words_p": 0.03}),
    ("learned, not decided for words", LEARNED | NAMED | REACH | {"other_words_p": np.nan}),
    ("learned, not decided for words", LEARNED | NAMED | REACH | {"reach_low": 0.49}),
    ("learned, not decided for words", LEARNED | NAMED | PART | {"reach_high": 0.51}),
    ("learned", LEARNED),  # no words
    ("there without training", LEARNED | {"gain_low": 0.2, "gain_high": 0.29}),  # half is 0.3
    ("there without training, reached by words", UNTRAINED | NAMED | REACH),
    ("there without training, words reach part", UNTRAINED | NAMED | PART),
    ("there without training", UNTRAINED | NAMED | SILENT),
    ("learned", LEARNED | GIVEN),
    ("learned only through noise", LEARNED | GIVEN | {"given_low": 0.2, "given_high": 0.49}),
    ("not decided", LEARNED | GIVEN | {"given_low": 0.2, "given_high": 0.51}),
    ("not decided", LEARNED | GIVEN | {"given_low": np.nan}),
    ("learned and reached by words", LEARNED | NAMED | REACH | WORDS_GIVEN),
    (
        "learned, not decided for words",
        LEARNED | NAMED | REACH | WORDS_GIVEN | {"zeroshot_given_low": 0.19},
    ),
    ("learned, not reached", LEARNED | NAMED | PART | WORDS_GIVEN | {"zeroshot_given_low": 0.19}),
    ("not decided", LEARNED | {"gain_low": 0.2, "gain_high": 0.31}),
    ("not decided", LEARNED | {"gain_low": 0.29}),
    ("not decided", HELD),  # no control
    ("not decided", LEARNED | SILENT | {"probe_low": 0.22}),
    ("not decided", LEARNED | NAMED | {"probe_low": 0.22}),  # words find what a probe does not
]


# What half of the fitted images give -> the group of an attribute that is learned and reached
HALVES = [
    ("", REACHED),
    (REACHED, REACHED),
    ("learned, words reach part", NO_WORDS),
    ("learned only through noise", "not decided"),
    ("not decided", "not decided"),
]


@pytest.mark.parametrize(("half", "group"), HALVES)
def test_a_group_is_said_if_half_of_the_fitted_images_give_it_too(half, group):
    found, because, _ = group_of(LEARNED | NAMED | REACH | {"half_group": half})
    assert found == group
    assert ("changes with the training set" in because) == (group != REACHED)


@pytest.mark.parametrize("case", GROUPED)
def test_an_attribute_is_in_a_group_if_all_intervals_decide_it(case):
    group, row = case
    assert group_of(row)[0] == group


def test_words_are_held_against_other_texts_of_the_file(capsys):
    """Other texts are at chance. Without them, it is not decided whether words reach anything."""
    y = np.arange(600) % 3
    images, controls = world_of(y, width=40), [control_of(y)]
    few, many = words_for(3, width=40), words_for(3, width=40)
    others = RNG.standard_normal((30, 40)).astype("f4")
    many.features = np.vstack([many.features, others])
    many.texts = [*many.texts, *(f"other {number}" for number in range(30))]
    many.class_index = np.append(many.class_index, np.full(30, -1))
    row = measured(images, many, controls=controls)
    assert row["other_words"] == pytest.approx(1 / 3, abs=0.05)
    assert row["other_words"] < row["other_words95"] < row["zeroshot_low"]
    assert group_of(row)[0] == REACHED
    assert "other texts" not in capsys.readouterr().err
    alone = measured(images, few, controls=controls)
    assert np.isnan([alone["other_words"], alone["other_words95"]]).all()
    assert group_of(alone)[:2] == (NO_WORDS, FEW_OTHERS)
    assert "fewer than 20 other texts to compare with the words of class" in capsys.readouterr().err
    assert {name: row[name] for name in NUMBERS} == {name: alone[name] for name in NUMBERS}


def test_few_other_texts_of_the_file_are_replaced_by_its_neutral_ones(capsys):
    """As if they were in the file; those that are like a word are left out."""
    y = np.arange(600) % 3
    images, controls = world_of(y, width=40), [control_of(y)]
    neutral, rest = words_for(3, width=40), words_for(3, width=40)
    others = RNG.standard_normal((30, 40)).astype("f4")
    others[:, :3] = 0  # of the words
    near = neutral.features[:2] + 0.1 * others[:2]
    neutral.other_features = np.vstack([others, near])
    neutral.other_texts = [f"other {number}" for number in range(32)]
    rest.features = np.vstack([rest.features, others])
    rest.texts, rest.class_index = list("abc" * 11), np.append(rest.class_index, np.full(30, -1))
    result = recalls.measure(images, neutral, controls=controls)
    noted = "neutral texts are the control for the words of class\n"
    assert capsys.readouterr().err.count(noted) == 1
    assert result.history[-1]["neutral"] == ["class"]
    (row,) = result.rows()
    assert row == pytest.approx(measured(images, rest, controls=controls), nan_ok=True)
    assert group_of(row)[0] == REACHED
    rest.other_features, rest.other_texts = neutral.features, neutral.texts
    own = measured(images, rest, controls=controls)  # its own texts suffice
    assert row == pytest.approx(own, nan_ok=True)
    assert "neutral" not in capsys.readouterr().err
    neutral.other_features, neutral.other_texts = others[:19], neutral.other_texts[:19]
    assert np.isnan(measured(images, neutral, controls=controls)["other_words95"])
    assert "fewer than 20 other texts to compare with" in capsys.readouterr().err


@pytest.mark.exhaustive
def test_the_recipe_of_the_readme_decides_with_words_for_one_attribute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPKIT_MODEL", "tiny")
    lines = re.findall(r"^clipkit (.*(?:photos|words)\.h5.*|.*control\.h5)$", README, re.MULTILINE)
    recipe = {}
    for line in lines:
        line = line.replace("photos/ --split-off test=0.2", "shapes --limit 1000").replace('"', "")
        recipe[line.partition(" -o ")[2]] = line
    for output in ("photos.h5", "control.h5"):
        ok(*recipe[output].split())
    words = bundled.list_files("attributes")["shapes"].read_text().splitlines(True)
    groups = {"colour": REACHED, "contour": "learned, not reached"}
    for attribute, group in groups.items():
        Path("words.tsv").write_text("".join(line for line in words if line.startswith(attribute)))
        ok(*recipe["words.h5"].split(), "--force")
        line = recipe["attributes.h5"].replace("table.csv", f"shapes --attribute {attribute}")
        shown = ("--columns", "attribute,verdict", "--format", "tsv", "--force")
        said = ok(*line.split(), *shown).stdout
        assert said.splitlines()[1:] == [f"{attribute}\t{group}"]


def test_the_null_of_a_rank_metric_permutes_the_scored_numbers(tmp_path):
    """95 % of permutations have a Spearman below 1.645 / sqrt(n - 1)."""
    values = {name: RNG.standard_normal(400).round(3).tolist() for name in ("train", "test")}
    columns = [{"size": values[name]} for name in ("train", "test")]
    table = write_values(tmp_path / "t.csv", *columns)
    images = world_of(np.arange(400) % 3)
    row = measured(images, table=table, metric="spearman", columns=["size"])
    assert row["null95"] == pytest.approx(1.645 / np.sqrt(399), abs=0.012)


@pytest.mark.long
def test_the_gain_is_the_paired_difference_to_the_control_that_comes_closest():
    y = np.arange(600) % 3
    weak, strong = control_of(y), world_of(y, noise=1.0)
    strong.history = weak.history
    images = world_of(y)
    both = measured(images, words_for(3), controls=[weak, strong])
    alone = measured(images, words_for(3), controls=[strong])
    assert both["gain"] == alone["gain"] == pytest.approx(both["probe"] - both["control_high"])
    assert both["gain_low"] < both["gain"] < both["gain_high"]
    assert "gain" not in measured(images, words_for(3))
    for name, split in images.splits.items():
        weak.splits[name] = replace(split, features=2 * split.features)
    same = measured(images, words_for(3), controls=[weak])
    half = 1.959964 * np.sqrt(2 / (3 * 204 * 200))  # of three classes of 200 rows, and four more
    assert (same["gain"], same["gain_high"]) == (0, pytest.approx(half))


def test_the_picture_and_the_summary_have_a_band_and_a_fact_for_each_group():
    y = np.arange(600) % 3
    result = recalls.measure(world_of(y), words_for(3), controls=[control_of(y)])
    figure, _ = draw_attributes(result)
    assert NO_WORDS in [text.get_text() for text in figure.axes[0].texts]
    assert figure.get_suptitle() == f"1 of 1 {NO_WORDS}"
    facts = {fact.name.lower(): fact.text for fact in answer(result)}
    hint = "hint: add texts about anything else to the words"
    said = {"attributes": f"1 of 1 attribute {NO_WORDS}."}
    assert facts == {**said, NO_WORDS: f"class ({FEW_OTHERS}); {hint}"}
    without = answer(recalls.measure(world_of(y), words_for(3)))
    assert without[1].text.startswith(f"class ({NO_CONTROL}); hint: embed the same images with ")


@pytest.mark.long
def test_labels_that_are_not_held_are_at_chance_and_have_no_reach():
    images = world_of(RNG.integers(0, 4, 1000))
    for split in images.splits.values():
        split.labels = RNG.integers(0, 4, 1000)
    row = measured(images, words_for(4))
    for name in ("zeroshot", "names", "random", "probe"):
        assert row[name] == pytest.approx(0.25, abs=4 * 0.014), name
    assert np.isnan(row["reach"])
    assert row["random_low"] <= row["random"] <= row["random_high"]


@pytest.mark.long
def test_as_many_random_directions_as_dimensions_hold_what_the_embedding_holds():
    """By an unpenalised fit, any basis of the space tells the same; only the lengths are lost."""
    images = world_of(np.arange(600) % 6)
    for split in images.splits.values():
        split.features /= np.linalg.norm(split.features, axis=1, keepdims=True)
    row = measured(images, random=2, C=1e4)
    assert row["random"] == pytest.approx(row["probe"], abs=0.01)


def test_a_rare_value_counts_as_much_as_a_frequent_one():
    """The balanced fit is that of scikit-learn, and its recall is far above the unbalanced one."""
    y = (RNG.random(1500) < 0.05).astype(int)
    X = RNG.standard_normal((1500, 3)) + y[:, None]
    (run,) = probes.sweep(X, y, X, classifier="logreg", balanced=True)
    model = LogisticRegression(solver="newton-cg", tol=1e-9, class_weight="balanced").fit(X, y)
    assert (run.predicted == model.predict(X)).mean() > 0.995
    (unbalanced,) = probes.sweep(X, y, X, classifier="logreg")
    gain = metrics.mean_per_class_recall(y, run.predicted)
    assert gain > metrics.mean_per_class_recall(y, unbalanced.predicted) + 0.2


@pytest.mark.parametrize("counts", [[20] * 100, [3] * 100, [1000, 5], [1000, 10], [200] * 3])
def test_the_interval_covers_the_recall_with_few_rows_and_many_classes_too(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    covered = []
    for right in RNG.random((200, len(labels))) < 0.85:
        low, high = metrics.recall_interval(labels, np.where(right, labels, -1))
        covered.append(low <= 0.85 <= high)
    assert np.mean(covered) > 0.9


def test_the_covariance_of_two_recalls_is_that_of_draws():
    labels = np.repeat([0, 1], [400, 100])
    pairs = []
    for _ in range(600):
        luck = RNG.random(500)
        first = np.where(luck < 0.7, labels, -1)
        second = np.where((luck < 0.5) | (RNG.random(500) < 0.3), labels, -1)
        pairs.append([metrics.mean_per_class_recall(labels, p) for p in (first, second)])
    expected = np.cov(np.transpose(pairs))
    found = metrics.recall_covariance(labels, [first, second])
    np.testing.assert_allclose(found, expected, rtol=0.25)


@pytest.mark.parametrize("value", ["a", ""])
def test_attributes_of_one_value_or_none_are_left_empty(tmp_path, value):
    columns = {"constant": [value] * 12, "other": list("pq" * 6)}
    table = write_values(tmp_path / "t.csv", columns, columns)
    result = recalls.measure(world_of(np.arange(12) % 2), table=table)
    found = {row["attribute"]: row for row in result.rows()}
    assert all(np.isnan(found["constant"][name]) for name in NUMBERS)
    assert not np.isnan(found["other"]["probe"])


def write_values(path, train, test):
    """Write a table with the values of each attribute in two splits of `world_of`."""
    with path.open("w") as file:
        table = csv.writer(file)
        table.writerow(["id", "split", *train])
        for name, columns in (("train", train), ("test", test)):
            n = len(next(iter(columns.values())))
            table.writerows(zip(row_ids(n), [name] * n, *columns.values(), strict=True))
    return str(path)


@pytest.mark.long
def test_recall_and_chance_are_over_the_values_with_fitted_and_scored_rows(tmp_path, capsys):
    """The value c is never fitted and d is never scored: as if their rows were not there."""
    train, test = list("ababd" * 20), list("ababc" * 20)
    table = write_values(tmp_path / "t.csv", {"letter": train}, {"letter": test})
    images = world_of(np.arange(100) % 5)
    words = words_for(4, attribute="letter")
    words.class_names = [f"letter: {value}" for value in "abcd"]
    row = measured(images, words, table=table, columns=["letter"])
    assert (row["values"], row["rows"], row["chance"]) == (2, 80, 0.5)
    warning = "letter: values without fitted or without scored images are left out"
    assert warning in capsys.readouterr().err
    for name, split in images.splits.items():
        images.splits[name] = split.take(np.flatnonzero(np.arange(100) % 5 < 4))
        images.splits[name].labels = np.arange(80) % 2
    words = words_for(2)
    words.class_names = images.class_names = ["a", "b"]
    alone = measured(images, words)
    found, expected = ([each[name] for name in NUMBERS] for each in (row, alone))
    assert found == pytest.approx(expected, nan_ok=True)


@pytest.mark.long
def test_attributes_that_are_scored_in_one_value_are_empty_and_few_of_them_named(tmp_path, capsys):
    """Six random columns with 1 % of ones, which no test image has, had a recall of 0.98."""
    fitted = [int(row == 7) for row in range(100)]
    train = {f"rare{number}": fitted for number in range(6)}
    test = {name: [0] * 100 for name in train}
    table = write_values(tmp_path / "t.csv", train, test)
    images = world_of(np.arange(100) % 2)
    result = recalls.measure(images, words_for(2, attribute="rare0"), table=table)
    for row in result.rows()[:-1]:
        assert (row["values"], row["rows"]) == (1, 100)
        assert all(np.isnan(row[name]) for name in (*NUMBERS, "chance", "zeroshot_low"))
    warning = "rare0, rare1, rare2 and 3 more: fewer than two values have fitted and scored images"
    assert capsys.readouterr().err.count(warning) == 1
    figure, _ = draw_attributes(result)
    assert len(figure.axes[0].get_yticklabels()) == 7


@pytest.mark.long
def test_a_value_with_fewer_than_five_scored_rows_is_warned_of(tmp_path, capsys):
    values = {"few": [1] * 4 + [0] * 56, "enough": [1] * 5 + [0] * 55}
    table = write_values(tmp_path / "t.csv", values, values)
    result = recalls.measure(world_of(np.arange(60) % 2), table=table, columns=["few", "enough"])
    assert result.history[-1]["column"] == ["few", "enough"]
    warning = "few: a value has fewer than 5 scored images, which say little"
    assert messages(capsys.readouterr().err) == f"clipkit: warning: {warning}\n"
    assert results.caveat_note(result, "test") == f"{warning}."
    assert results.is_testable(results.caveats(result))
    assert draw_attributes(result)[1].endswith(f"{warning}.")


def test_a_file_with_one_split_holds_a_fifth_out(tmp_path):
    images = world_of(np.arange(100) % 2)
    del images.splits["test"]
    run = ok("attributes", saved(tmp_path / "img.h5", images))
    assert "the only split, train, 20% of the rows are held out" in run.stderr
    assert rows(run.stdout)[0]["rows"] == "20"


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"class_names": ["class: 0", "class: 9"]}, 1, "got none for 1 value of class, such as"),
        ({"class_names": ["colour: 0", "colour: 1"]}, 0, "words.h5 has no words for class"),
        ({"texts": ["a photo of a a red", "an an orange"]}, 0, 'the words with --template "{}"'),
    ],
)
def test_words_that_do_not_fit(tmp_path, change, code, message):
    images = saved(tmp_path / "img.h5", world_of(np.arange(60) % 2))
    line = ("attributes", images, saved(tmp_path / "words.h5", replace(words_for(2), **change)))
    assert message in (fails(*line, exit_code=code) if code else ok(*line).stderr)


def test_the_row_of_the_class_is_what_zeroshot_and_probe_report(img_h5, class_logits_h5, work):
    (row,) = rows(ok("attributes", img_h5, work / "classes.h5").stdout)
    (zeroshot,) = rows(ok("zeroshot", class_logits_h5, "--split", "test").stdout)
    probe = rows(ok("probe", img_h5, "--classifier", "logreg").stdout)[-1]
    assert row["zeroshot"] == zeroshot["mean_per_class_recall"]
    assert row["probe"] == probe["mean_per_class_recall"]
