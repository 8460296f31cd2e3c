"""Importance of prompts: what permuting costs, and weights by class."""

import numpy as np
import pytest
from factories import MODEL
from shell import ok, rows

from clipkit import probes
from clipkit.analysis import results
from clipkit.analysis.importance.costs import largest_weights, prompt_importance
from clipkit.analysis.probe import evaluation
from clipkit.base import console
from clipkit.base.errors import ClipkitError
from clipkit.features import FeatureFile, Split, read, row_ids, write
from clipkit.probes.fitted import FittedProbe
from clipkit.statistics.dependence import difference_interval
from clipkit.statistics.metrics import exchange_interval


def logits_of(columns, labels, seed=0):
    """Return logits with splits train and test, whose rows are drawn from those given."""
    columns, labels = np.asarray(columns, np.float32), np.asarray(labels)
    history = [{"command": "embed", "model": MODEL}]
    count = columns.shape[1]
    file = FeatureFile("logits", history, temperature=1.0, logit_scale=100.0)
    file.texts = [f"prompt {number}" for number in range(count)]
    file.class_index = np.full(count, -1)
    file.class_names = [f"class {number}" for number in range(labels.max() + 1)]
    half = len(labels) // 2
    for name, part in (("train", slice(half)), ("test", slice(half, None))):
        features, y = columns[part], labels[part]
        file.splits[name] = Split(features, y, row_ids(len(y)))
    return file


def kept(file, classifier="svm", **settings):
    """Return the probe that is fitted on a file."""
    return evaluation.evaluate_grid(file, evaluation.ProbeSpec(classifier, **settings), keep=True)


def costs(result):
    key = "group" if "group" in result.runs else "prompt"
    return dict(zip(result.runs[key].tolist(), result.runs["cost"].tolist(), strict=True))


def world(n=800, seed=0):
    """Return 5 columns of which only column 2 separates the two classes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    columns = rng.normal(0, 0.05, (n, 5))
    columns[:, 2] = np.where(labels == 1, 0.3, -0.3) + rng.normal(0, 0.02, n)
    return columns, labels


@pytest.mark.parametrize("classifier", sorted(probes.CLASSIFIERS))
@pytest.mark.parametrize("features", ["logits", "probs"])
@pytest.mark.long
def test_the_only_prompt_that_decides_costs_all_and_the_others_nothing(classifier, features):
    file = logits_of(*world())
    result = prompt_importance(kept(file, classifier, features=features), file)
    (first, cost), *others = costs(result).items()
    assert first == "prompt 2"
    assert cost == pytest.approx(0.5, abs=0.06)  # what is left is chance
    assert [round(other, 2) for _, other in others] == [0, 0, 0, 0]
    assert result.runs["low"][0] < cost < result.runs["high"][0]


def test_equal_prompts_hide_each_other_and_a_group_shows_them(tmp_path):
    columns, labels = world()
    columns[:, 4] = columns[:, 2]
    file = logits_of(columns, labels)
    probe = kept(file, "logreg")
    alone = costs(prompt_importance(probe, file))
    assert alone["prompt 2"] == alone["prompt 4"]
    groups = tmp_path / "groups.tsv"
    groups.write_text("prompt 2\ttwins\nprompt 4\ttwins\n")
    together = prompt_importance(probe, file, groups=str(groups))
    assert costs(together)["twins"] == pytest.approx(0.5, abs=0.06)
    assert costs(together)["twins"] > alone["prompt 2"] + 0.1
    assert together.runs["prompts"].tolist() == [2, 1, 1, 1]


def test_prompts_of_classes_are_grouped_by_their_class(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(console, "FIRST_LINE_SECONDS", 0)
    columns, labels = world()
    file = logits_of(columns[:, :2], labels)
    file.texts, file.class_index = ["a cat", "a dog"], np.array([0, 1])
    (tmp_path / "g.tsv").write_text("class 0\tpets\nclass 1\tpets\n")
    result = prompt_importance(kept(file), file, groups=str(tmp_path / "g.tsv"), repeat=3)
    assert result.runs["group"].tolist() == ["pets"]
    assert "clipkit: permuting prompts: 3 permutations in " in capsys.readouterr().err


@pytest.mark.parametrize("features", ["logits", "probs"])
@pytest.mark.parametrize("standardize", [False, True])
def test_costs_are_those_of_the_probes_predictions_of_permuted_cosines(features, standardize):
    columns, labels = world(200)
    file = logits_of(columns + 0.3 * columns[:, [1, 2, 3, 4, 0]], labels)
    probe = kept(file, "logreg", features=features, standardize=standardize)
    fitted, test = FittedProbe.from_arrays(probe.fitted), file.splits["test"]
    order = np.random.RandomState(42).permutation(100)
    before = fitted.predict(test.features)
    found = prompt_importance(probe, file, repeat=1)
    for run in found.rows():
        permuted, column = test.features.copy(), int(run["prompt"][-1])
        permuted[:, column] = test.features[order, column]
        predicted = fitted.predict(permuted)
        lost = (before == test.labels).mean() - (predicted == test.labels).mean()
        assert run["cost"] == pytest.approx(lost, abs=1e-12)
        assert run["changed"] == (predicted != before).mean()
    assert found.rows() != prompt_importance(probe, file, repeat=1, seed=7).rows()


def test_an_interval_is_the_paired_one_for_many_rows_and_one_permutation():
    lost = np.random.default_rng(1).permutation(np.repeat([1, 0, -1], [4000, 14_000, 2000]))
    interval = exchange_interval(lost[None], np.random.default_rng(0).permutation(20_000)[None])
    assert interval == pytest.approx(difference_interval(4000, 2000, 20_000), abs=2e-4)


@pytest.mark.parametrize("repeat", [1, 5])
def test_the_variance_is_that_of_all_differences_that_share_a_row(repeat):
    rng = np.random.default_rng(repeat)
    n = 12
    donors = np.array([rng.permutation(np.arange(n)) for _ in range(repeat)])
    lost = rng.integers(0, 2, (repeat, n))
    centre = lost.mean() * n / (n + 2)
    pairs = [(i, int(donors[r, i]), lost[r, i] - centre) for r in range(repeat) for i in range(n)]
    shared = 0.0
    for number, (i, j, first) in enumerate(pairs):
        for other, (k, m, second) in enumerate(pairs):
            roles = (i == k) + (i == m) + (j == k) + (j == m)  # 2 for a difference with itself
            shared += first * second * (roles - (number == other))
    received = ((lost.mean(axis=0) - centre) ** 2).sum()
    squares = max(shared / repeat**2, received) + 1 + 2 * centre**2
    half = 1.959964 * np.sqrt(squares) / (n + 2)
    assert exchange_interval(lost, donors) == pytest.approx((centre - half, centre + half))


@pytest.mark.parametrize("classifier", ["svm", "logreg"])
@pytest.mark.parametrize("standardize", [False, True])
def test_weights_are_what_a_unit_adds_to_a_score(classifier, standardize):
    rng = np.random.default_rng(3)
    labels = np.arange(300) % 3
    columns = rng.normal(0, 1, (3, 4))[labels] * 0.1 + rng.normal(0, 0.2, (300, 4))
    file = logits_of(columns, labels)
    probe = kept(file, classifier, standardize=standardize)
    fitted = FittedProbe.from_arrays(probe.fitted)
    deviation = np.std(columns[:150], axis=0) if standardize else np.ones(4)
    prepared = fitted.prepare(np.vstack([np.zeros(4), np.diag(deviation)]).astype("f4"))
    if classifier == "logreg":
        scores = fitted.model.scores(prepared)
    else:
        of_pairs = prepared @ fitted.model.hyperplanes[:, :-1].T / 2
        first, second, third = of_pairs.T  # of 0-1, 0-2 and 1-2
        scores = np.stack([-first - second, first - third, second + third], axis=1)
    listed = largest_weights(probe, 4).rows()
    for run in listed:
        column, number = int(run["prompt"][-1]), int(run["class"][-1])
        added = scores[column + 1, number] - scores[0, number]
        assert run["weight"] == pytest.approx(added, rel=1e-3)
        assert run["unit"] == ("deviation" if standardize else "cosine")
    magnitudes = [abs(run["weight"]) for run in listed[:4]]
    assert magnitudes == sorted(magnitudes, reverse=True)


@pytest.fixture
def folder(tmp_path):
    """A folder with logits.h5 and the probe p.h5."""
    file = logits_of(*world())
    write(tmp_path / "logits.h5", file)
    ok("probe", tmp_path / "logits.h5", "--keep", "-o", tmp_path / "p.h5")
    return tmp_path


def test_the_command_reports_saves_and_draws(folder):
    words = ("importance", folder / "p.h5", folder / "logits.h5", "--repeat", 2)
    report = rows(ok(*words, "-o", folder / "i.h5").stdout)
    columns = ["split", "acc1", "prompt", "cost", "low", "high", "changed", "rows"]
    assert list(report[0]) == columns
    assert report[0]["prompt"] == "prompt 2"
    piped = ok(*words[:2], "--repeat", 2, stdin=(folder / "logits.h5").read_bytes()).stdout
    assert rows(piped) == report
    expected = {"command": "importance", "repeat": 2, "seed": 42, "split": "test"}
    assert expected.items() <= read(folder / "i.h5").history[-1].items()
    ok("plot", "importance", folder / "i.h5", "-o", folder / "i.png")
    weights = rows(ok("importance", folder / "p.h5", "--weights", 1).stdout)
    assert [row["prompt"] for row in weights] == ["prompt 2", "prompt 2"]


def test_costs_on_fitted_images_have_a_note_wherever_they_are_shown(folder):
    result = folder / "t.h5"
    line = ("importance", folder / "p.h5", folder / "logits.h5", "--split", "train", "-o", result)
    note = "images of train were also fitted: the accuracy on them says nothing about other"
    assert note in ok(*line).stderr
    assert note in ok("info", "--runs", result).stderr
    assert note in ok("report", result).stdout
    assert note in results.source_label(read(result), "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt 9\ta\n", "got 'prompt 9'; hint: write each prompt as in the prompt file"),
        ("cat\ta\n", "expected prompts of"),
        ("prompt 1\n", "g.tsv: expected lines of prompt TAB group, got 'prompt 1'"),
        ("prompt 1\ta\nprompt 1\tb\n", "expected one group for every prompt, got 'a' and 'b'"),
    ],
)
def test_bad_groups_of_prompts_are_refused(text, message, tmp_path):
    file = logits_of(*world(100))
    (tmp_path / "g.tsv").write_text(text)
    with pytest.raises(ClipkitError) as caught:
        prompt_importance(kept(file), file, groups=str(tmp_path / "g.tsv"))
    assert message in str(caught.value)
