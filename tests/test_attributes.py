"""`attributes`: each number equals the command that measures it alone; known worlds and nulls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import MODEL, feature_file, saved, write_feature_file
from shell import fails, ok, rows
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score

from clipkit.analysis import attributes, metrics, probes, results
from clipkit.features import FeatureFile, Split, row_ids
from clipkit.plots.attributes import draw_attributes

RNG = np.random.default_rng(0)
WORDS = Path(__file__).parents[1] / "prompts" / "attributes" / "shapes.tsv"
NUMBERS = ("zeroshot", "names", "random", "probe", "control", "reach")


@pytest.fixture(autouse=True)
def same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the same in each test, whichever ran before it."""
    monkeypatch.setitem(globals(), "RNG", np.random.default_rng(0))


def world_of(y: np.ndarray, width: int = 6, noise: float = 0.3) -> FeatureFile:
    """Return two splits of images that hold y (N,) along the first axes, beside noise."""
    file = feature_file(datasets={"class_names": [str(value) for value in range(y.max() + 1)]})
    for name in ("train", "test"):
        X = np.eye(width)[y] + noise * RNG.standard_normal((len(y), width))
        file.splits[name] = Split(X.astype("f4"), y, row_ids(len(y)))
    return file


def control_of(y: np.ndarray) -> FeatureFile:
    """Return what an untrained model makes of the images of `world_of`: it holds nothing of y."""
    file = world_of(y * 0)
    file.history = [{"command": "embed", "model": {**MODEL, "untrained": 7}}]
    return file


def words_for(count: int, width: int = 6, attribute: str = "class") -> FeatureFile:
    names = [f"{attribute}: {value}" for value in range(count)]
    return FeatureFile(
        "texts",
        [{"command": "textembed", "model": MODEL}],
        features=np.eye(width, dtype="f4")[:count],
        texts=names,
        class_index=np.arange(count),
        class_names=names,
    )


def only(result: FeatureFile) -> dict[str, Any]:
    (row,) = result.rows()
    return row


@pytest.mark.long
def test_a_world_that_words_name_has_a_reach_of_one() -> None:
    y = np.arange(600) % 3
    row = only(attributes.measure(world_of(y), words_for(3), controls=[control_of(y)]))
    assert row["chance"] == pytest.approx(1 / 3)
    assert row["zeroshot"] > 0.95
    assert row["probe"] > 0.95
    assert row["reach"] == pytest.approx(1, abs=0.05)
    assert row["zeroshot_low"] < row["zeroshot"] < row["zeroshot_high"]
    assert row["control"] == pytest.approx(1 / 3, abs=0.08)


@pytest.mark.long
def test_a_picture_of_attributes_names_the_words() -> None:
    words = words_for(3)
    result = attributes.measure(world_of(np.arange(60) % 3), words)
    assert results.source_label(result, "test") == "m, test, 3 prompts"
    words.history = [{**words.history[0], "prompts": "shapes"}]
    result = attributes.measure(world_of(np.arange(60) % 3), words)
    assert results.source_label(result, "test") == "m, test, prompts: shapes"


@pytest.mark.long
def test_labels_that_are_not_held_are_at_chance_and_have_no_reach() -> None:
    images = world_of(RNG.integers(0, 4, 1000))
    for split in images.splits.values():
        split.labels = RNG.integers(0, 4, 1000)
    row = only(attributes.measure(images, words_for(4)))
    for name in ("zeroshot", "names", "random", "probe"):
        assert row[name] == pytest.approx(0.25, abs=4 * 0.014), name
    assert np.isnan(row["reach"])
    assert row["random_low"] <= row["random"] <= row["random_high"]


@pytest.mark.long
def test_as_many_random_directions_as_dimensions_hold_what_the_embedding_holds() -> None:
    """By an unpenalised fit, any basis of the space tells the same; only the lengths are lost."""
    y = np.arange(600) % 6
    images = world_of(y)
    for split in images.splits.values():
        split.features /= np.linalg.norm(split.features, axis=1, keepdims=True)
    row = only(attributes.measure(images, random=2, C=1e4))
    assert row["random"] == pytest.approx(row["probe"], abs=0.01)


def test_a_rare_value_counts_as_much_as_a_frequent_one() -> None:
    """The balanced fit is that of scikit-learn, and its recall is far above the unbalanced one."""
    y = (RNG.random(1500) < 0.05).astype(int)
    X = RNG.standard_normal((1500, 3)) + y[:, None]
    (run,) = probes.sweep(X, y, X, classifier="logreg", balanced=True)
    model = LogisticRegression(solver="newton-cg", tol=1e-9, class_weight="balanced").fit(X, y)
    assert (run.predicted == model.predict(X)).mean() > 0.995
    (unbalanced,) = probes.sweep(X, y, X, classifier="logreg")
    gain = metrics.mean_per_class_recall(y, run.predicted)
    assert gain > metrics.mean_per_class_recall(y, unbalanced.predicted) + 0.2


def test_only_logistic_regression_is_balanced() -> None:
    with pytest.raises(Exception, match="balanced: expected the classifier logreg, got svm"):
        probes.sweep(np.eye(4), np.array([0, 0, 1, 1]), np.eye(4), balanced=True)


@pytest.mark.exhaustive
@pytest.mark.long
def test_the_interval_is_that_of_a_bootstrap_where_every_class_has_many_rows() -> None:
    labels = RNG.integers(0, 3, 300)
    predicted = np.where(RNG.random(300) < 0.7, labels, 0)
    draws = []
    for _ in range(600):
        sample = RNG.integers(0, 300, 300)
        draws.append(recall_score(labels[sample], predicted[sample], average="macro"))
    interval = metrics.recall_interval(labels, predicted)
    assert interval == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.012)


@pytest.mark.parametrize("counts", [[20] * 100, [3] * 100, [1000, 5], [1000, 10], [200] * 3])
def test_the_interval_covers_the_recall_with_few_rows_and_many_classes_too(
    counts: list[int],
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    covered = 0
    for _ in range(200):
        right = RNG.random(len(labels)) < 0.85
        low, high = metrics.recall_interval(labels, np.where(right, labels, -1))
        covered += low <= 0.85 <= high
    assert covered / 200 > 0.9


def test_the_covariance_of_two_recalls_is_that_of_draws() -> None:
    labels = np.repeat([0, 1], [400, 100])
    recalls = []
    for _ in range(600):
        luck = RNG.random(500)
        first = np.where(luck < 0.7, labels, -1)
        second = np.where((luck < 0.5) | (RNG.random(500) < 0.3), labels, -1)
        recalls.append([metrics.mean_per_class_recall(labels, p) for p in (first, second)])
    expected = np.cov(np.transpose(recalls))
    found = metrics.recall_covariance(labels, [first, second])
    np.testing.assert_allclose(found, expected, rtol=0.25)


@pytest.mark.parametrize("value", [["a"] * 12, [""] * 12])
def test_attributes_of_one_value_or_none_are_left_empty(tmp_path: Path, value: list[str]) -> None:
    cells = zip(row_ids(12), value, "pq" * 6, strict=True)
    lines = [",".join(line) for line in cells]
    (tmp_path / "t.csv").write_text("id,constant,other\n" + "\n".join(lines) + "\n")
    result = attributes.measure(world_of(np.arange(12) % 2), table=str(tmp_path / "t.csv"))
    found = {row["attribute"]: row for row in result.rows()}
    assert all(np.isnan(found["constant"][name]) for name in NUMBERS)
    assert not np.isnan(found["other"]["probe"])


def write_values(path: Path, train: dict[str, list[Any]], test: dict[str, list[Any]]) -> str:
    """Write a table with the values of each attribute in two splits of `world_of`."""
    lines = [",".join(["id", "split", *train])]
    for name, columns in (("train", train), ("test", test)):
        cells = zip(*columns.values(), strict=True)
        ids = row_ids(len(next(iter(columns.values()))))
        lines += [
            ",".join(map(str, [row, name, *of_row])) for row, of_row in zip(ids, cells, strict=True)
        ]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.mark.long
def test_recall_and_chance_are_over_the_values_with_fitted_and_scored_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The value c is never fitted and d is never scored: as if their rows were not there."""
    train, test = list("ababd" * 20), list("ababc" * 20)
    table = write_values(tmp_path / "t.csv", {"letter": train}, {"letter": test})
    images = world_of(np.arange(100) % 5)
    words = words_for(4, attribute="letter")
    words.class_names = [f"letter: {value}" for value in "abcd"]
    row = only(attributes.measure(images, words, table=table, columns=["letter"]))
    assert (row["values"], row["rows"], row["chance"]) == (2, 80, 0.5)
    assert "letter: values without fitted or without scored images are left out" in (
        capsys.readouterr().err
    )
    for split in images.splits.values():
        rows = np.flatnonzero(np.arange(100) % 5 < 4)
        split.features, split.labels = split.features[rows], np.arange(80) % 2
        split.ids = row_ids(80)
    words = words_for(2)
    words.class_names = images.class_names = ["a", "b"]
    alone = only(attributes.measure(images, words))
    assert {name: row[name] for name in NUMBERS} == pytest.approx(
        {name: alone[name] for name in NUMBERS}, nan_ok=True
    )


@pytest.mark.long
def test_attributes_that_are_scored_in_one_value_are_empty_and_few_of_them_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Six random columns with 1 % of ones, which no test image has, had a recall of 0.98."""
    fitted = [int(row == 7) for row in range(100)]
    train = {f"rare{number}": fitted for number in range(6)}
    test = {name: [0] * 100 for name in train}
    table = write_values(tmp_path / "t.csv", train, test)
    images = world_of(np.arange(100) % 2)
    result = attributes.measure(images, words_for(2, attribute="rare0"), table=table)
    for row in result.rows()[:-1]:
        assert (row["values"], row["rows"]) == (1, 100)
        assert all(np.isnan(row[name]) for name in (*NUMBERS, "chance", "zeroshot_low"))
    warning = "rare0, rare1, rare2 and 3 more: fewer than two values have fitted and scored images"
    assert capsys.readouterr().err.count(warning) == 1
    figure, _ = draw_attributes(result)
    assert len(figure.axes[0].get_yticklabels()) == 7


@pytest.mark.long
def test_a_value_with_fewer_than_five_scored_rows_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"few": [int(row < 4) for row in range(60)], "enough": [int(r < 5) for r in range(60)]}
    table = write_values(tmp_path / "t.csv", values, values)
    result = attributes.measure(world_of(np.arange(60) % 2), table=table)
    warning = "few: a value has fewer than 5 scored images: its recall says little"
    assert capsys.readouterr().err.splitlines() == [f"clipkit: warning: {warning}"]
    assert results.caveat_note(result, "test") == f"{warning}."
    assert results.is_testable(results.caveats(result))
    assert draw_attributes(result)[1].endswith(f"{warning}.")


@pytest.mark.exhaustive
@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_random_columns_are_at_chance_however_rare_their_values_are(tmp_path: Path) -> None:
    zeroshot, probe, above = [], [], 0
    for seed in range(60):
        images = world_of(np.arange(300) % 2)
        train, test = (
            {f"rare{n}": (RNG.random(300) < 0.01).astype(int).tolist() for n in range(4)}
            for _ in range(2)
        )
        table = write_values(tmp_path / f"{seed}.csv", train, test)
        words = words_for(2, attribute="rare0")
        for row in attributes.measure(images, words, table=table, random=0).rows()[:-1]:
            zeroshot.append(row["zeroshot"])
            probe.append(row["probe"])
            above += not np.isnan(row["reach"])
    assert np.nanmean(zeroshot) == pytest.approx(0.5, abs=0.12)
    assert np.nanmean(probe) == pytest.approx(0.5, abs=0.06)
    assert above <= 0.025 * np.isfinite(probe).sum()


def test_a_file_with_one_split_holds_a_fifth_out(tmp_path: Path) -> None:
    images = world_of(np.arange(100) % 2)
    del images.splits["test"]
    run = ok("attributes", saved(tmp_path / "img.h5", images))
    assert "one split, train: 20% of its rows are held out" in run.stderr
    assert rows(run.stdout)[0]["rows"] == "20"


def test_words_of_the_classes_themselves_name_the_class(tmp_path: Path) -> None:
    images = saved(tmp_path / "img.h5", world_of(np.arange(60) % 2))
    words = words_for(2)
    words.class_names = ["0", "1"]
    run = ok("attributes", images, saved(tmp_path / "classes.h5", words))
    assert float(rows(run.stdout)[0]["zeroshot"]) > 0.9


@pytest.mark.parametrize(
    ("names", "code", "message"),
    [
        (["class: 0", "class: 9"], 1, "got none for 1 value of class, such as 'class: 1'; hint"),
        (["colour: 0", "colour: 1"], 0, "words.h5 has no words for class"),
    ],
)
def test_words_that_do_not_fit(tmp_path: Path, names: list[str], code: int, message: str) -> None:
    images = saved(tmp_path / "img.h5", world_of(np.arange(60) % 2))
    words = words_for(2)
    words.class_names = names
    line = ("attributes", images, saved(tmp_path / "words.h5", words))
    assert message in (fails(*line, exit_code=code) if code else ok(*line).stderr)


def test_a_doubled_article_tells_that_the_template_is_missing(tmp_path: Path) -> None:
    words = words_for(2)
    words.texts = ["a photo of a a red object", "a photo of a an orange object"]
    images = saved(tmp_path / "img.h5", world_of(np.arange(60) % 2))
    run = ok("attributes", images, saved(tmp_path / "words.h5", words))
    assert 'embed the words with --template "{}"' in run.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--eval-split", "val"], 2, "unknown split of"),
        (["--random-sets", "-1"], 2, "random"),
        (["-C", "0"], 2, "C: expected a number between"),
        (["--attribute", "b"], 2, "unknown attribute of"),
        (["--control", "OTHER"], 1, "expected the train images of"),
        (["OTHER_TEXTS"], 1, "come from different models"),
        (["--control", "-", "-"], 2, "expected only one file on standard input"),
    ],
)
def test_bad_requests_are_refused(
    tmp_path: Path, words: list[str], code: int, message: str
) -> None:
    source = saved(tmp_path / "img.h5", world_of(np.arange(60) % 2))
    history = [{"command": "embed", "model": {"name": "other"}}]
    files = {
        "OTHER": write_feature_file(tmp_path / "other.h5"),
        "OTHER_TEXTS": write_feature_file(
            tmp_path / "o.h5", "texts", attributes={"history": history}
        ),
    }
    line = [files.get(word, word) for word in words]
    assert message in fails("attributes", source, *line, exit_code=code)


@pytest.mark.exhaustive
@pytest.mark.long
def test_what_the_bundled_world_holds_says_and_never_says(world: Path, tmp_path: Path) -> None:
    words, found = tmp_path / "words.h5", tmp_path / "attributes.h5"
    ok("textembed", "--classes", WORDS, "--template", "{}", "--model", "tiny", "-o", words)
    options = ["--table", "shapes", "--control", world / "control.h5"]
    run = ok("attributes", world / "img.h5", words, *options, "-o", found)
    table = {row.pop("attribute"): row for row in rows(run.stdout)}
    number = {
        name: {key: float(value or "nan") for key, value in row.items()}
        for name, row in table.items()
    }
    assert len(table) == 15
    assert number["outline"]["reach"] > 0.95
    assert number["background"]["control"] > 0.9
    contour = number["contour"]  # held, but no caption names it
    assert 0.46 < contour["zeroshot"] < 0.54
    assert contour["probe"] > 0.68
    assert number["backdrop"]["probe"] < number["backdrop"]["control"] + 0.03
    for name, expected in {"outline": 0.94, "colour": 0.74, "pattern": 0.70}.items():
        assert number[name]["zeroshot"] == pytest.approx(expected, abs=0.03), name
    ok("plot", "attributes", found, "-o", tmp_path / "a.png")
    shown = ok("attributes", world / "img.h5", "--format", "table").stdout
    assert "chance %" in shown

    # the row of the class is what zeroshot and probe report, to the digit
    ok("logits", world / "img.h5", class_words(words, tmp_path), "-o", tmp_path / "l.h5")
    (zeroshot,) = rows(ok("zeroshot", tmp_path / "l.h5", "--split", "test").stdout)
    probe = rows(ok("probe", world / "img.h5", "--classifier", "logreg").stdout)[-1]
    assert table["class"]["zeroshot"] == zeroshot["mean_per_class_recall"]
    assert table["class"]["probe"] == probe["mean_per_class_recall"]


def class_words(words: Path, folder: Path) -> Path:
    """Return a file with the words of the class alone, as `textembed --classes` makes it."""
    lines = [line for line in WORDS.read_text().splitlines() if line.startswith("class: ")]
    (folder / "class.tsv").write_text("\n".join(lines).replace("class: ", "") + "\n")
    output = folder / "class-words.h5"
    options = ("--template", "{}", "--model", "tiny")
    ok("textembed", "--classes", folder / "class.tsv", *options, "-o", output)
    return output
