"""A kept probe predicts what the sweep reported, on other files and from other processes."""

import copy
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from factories import MODEL, blas_ignores_addresses, random_features, unchanged
from shell import fails, ok, rows, shell
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from clipkit import probes
from clipkit.analysis import results
from clipkit.analysis.predict import prediction
from clipkit.analysis.probe import evaluation
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.features import FeatureFile, Split, read, row_ids, write
from clipkit.probes import FittedProbe, mlp
from clipkit.probes import svm as svm_module
from clipkit.probes.classifiers import LINEAR, PROBABILITY


@pytest.fixture(autouse=True, scope="module")
def short_training():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlp, "STEPS", 100)
        yield


def world(classes, rows=240, seed=0):
    """Draw noisy rows of classes with ids 3, 5, 7, ... that overlap a little."""
    rng = np.random.default_rng(seed)
    numbers = rng.permutation(np.arange(rows) % classes)
    means = np.random.default_rng(99).standard_normal((classes, 12))
    X = 0.3 + 0.1 * (means[numbers] + rng.standard_normal((rows, 12)))
    return X.astype(np.float32), 3 + 2 * numbers


def assert_kept(runs, X_eval):
    """Check that another process would predict the same from the arrays of each kept probe."""
    for run in runs:
        fitted = FittedProbe.from_arrays(copy.deepcopy(run.fitted.to_arrays()))
        np.testing.assert_array_equal(fitted.predict(X_eval), run.predicted)
        scores = fitted.scores(X_eval)
        best = scores.argmax(axis=1)
        np.testing.assert_array_equal(fitted.classes[best], run.predicted)
        np.testing.assert_array_equal(fitted.confidences(scores).argmax(axis=1), best)
        assert fitted.width == 12


@pytest.mark.parametrize("classes", [2, 7])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("classifier", probes.CLASSIFIERS)
@pytest.mark.long
def test_a_kept_probe_predicts_what_its_sweep_predicted(classifier, standardize, classes):
    X, y = world(classes)
    X_eval, _ = world(classes, 101, seed=1)
    options = {"C": (0.01, 1, 100) if classifier in LINEAR else (1,)}
    options |= {"classifier": classifier, "standardize": standardize, "scales": (1, 14.3)}
    assert_kept(probes.sweep(X, y, X_eval, keep=True, **options), X_eval)
    assert probes.sweep(X, y, X_eval, **options)[0].fitted is None


def test_hyperplanes_that_are_fitted_pair_by_pair_are_kept_too(monkeypatch):
    monkeypatch.setattr(svm_module, "NORMALS", 10)
    X, y = world(14)
    X_eval, _ = world(14, 50, seed=1)
    assert_kept(probes.sweep(X, y, X_eval, C=(0.1, 10), keep=True), X_eval)


def test_logits_and_probabilities_of_logreg_are_scikit_learns():
    X, y = world(4)
    (run,) = probes.sweep(X, y, X, classifier="logreg", C=(3.0,), keep=True)
    reference = LogisticRegression(C=3.0, tol=1e-8, max_iter=10_000).fit(X, y)
    probabilities = run.fitted.confidences(run.fitted.scores(X))
    np.testing.assert_allclose(probabilities, reference.predict_proba(X), atol=3e-3)
    atol = 0.02 * np.abs(reference.coef_).max()
    np.testing.assert_allclose(run.fitted.weights(), reference.coef_, atol=atol)


def test_margins_of_two_classes_are_those_of_an_svm():
    X, y = world(2)
    (run,) = probes.sweep(X, y, X, C=(3.0,), keep=True)
    reference = SVC(kernel="linear", C=3.0).fit(X, y)
    margins = run.fitted.scores(X)
    np.testing.assert_allclose(margins[:, 1], reference.decision_function(X), atol=5e-3)
    np.testing.assert_allclose(margins[:, 0], -margins[:, 1])
    np.testing.assert_allclose(run.fitted.weights()[1], reference.coef_[0], atol=5e-3)


CLASSES = ["ant", "bee", "cat", "dog"]


def images(seed=0, **fields):
    """Return embeddings (D = 12) of four classes, with the splits train and test."""
    file = FeatureFile("images", [{"command": "embed", "model": MODEL}], class_names=CLASSES)
    for number, name in enumerate(("train", "test")):
        X, y = world(4, 120, seed=2 * seed + number)
        ids = [f"{name}/{row}.png" for row in range(len(X))]
        file.splits[name] = Split(X, (y - 3) // 2, ids)
    return replace(file, **fields)


def logits(temperature=1.0, **fields):
    """Return logits of twelve prompts, whose cosines are the columns of `images`."""
    file = images(kind="logits", temperature=temperature, logit_scale=100.0)
    file.texts = [f"prompt {number}" for number in range(12)]
    file.class_index = np.full(12, -1)
    for split in file.splits.values():
        split.features = split.features / np.float32(temperature)
    return replace(file, **fields)


def without_labels(file, *names):
    for name in names:
        file.splits[name].labels = None
    return file


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    made = tmp_path_factory.mktemp("originals")
    write(made / "img.h5", images())
    write(made / "logits.h5", logits())
    ok("probe", made / "img.h5", "--keep", "-o", made / "p.h5")
    ok("probe", made / "logits.h5", "-t", 0.07, "--keep", "-o", made / "pl.h5")
    return made


@pytest.fixture
def folder(originals, tmp_path):
    """A folder with img.h5, logits.h5 and the probes p.h5 and pl.h5 that were fitted on them."""
    shutil.copytree(originals, tmp_path, dirs_exist_ok=True)
    return tmp_path


def predicted(folder, *words, file="img"):
    """Return the report of the probe of embeddings on a file of the folder."""
    return rows(ok("predict", folder / "p.h5", folder / f"{file}.h5", *words).stdout)


@pytest.mark.long
@pytest.mark.parametrize(
    "options",
    [
        "--classifier svm --standardize -C 1",
        "--classifier logreg -t 0.07 -C 100",
        "--classifier svm -t 0.5 -C 0.01",
        "--classifier logreg --standardize -t 0.02 --features probs -C 1",
        "--classifier knn -t 0.07 --standardize",
        *[f"--classifier {name} -t 0.07" for name in probes.CLASSIFIERS],
    ],
)
def test_predict_gives_each_image_the_class_that_probe_gave_it(options, folder):
    source = folder / ("logits.h5" if "-t" in options else "img.h5")
    report = ok("probe", source, *options.split(), "--keep", "-o", folder / "kept.h5")
    words = ("predict", folder / "kept.h5", source, "--split", "test", "-o", folder / "out.h5")
    assert rows(ok(*words).stdout)[0]["acc1"] == rows(report.stdout)[0]["acc1"]
    expected = read(folder / "kept.h5").splits["test"].predicted
    np.testing.assert_array_equal(read(folder / "out.h5").splits["test"].predicted, expected)


@pytest.mark.long
def test_the_temperature_of_the_logits_does_not_matter(folder):
    expected = ok("predict", folder / "pl.h5", folder / "logits.h5").stdout
    for temperature in (0.01, 4.0):
        write(folder / "other.h5", logits(temperature), force=True)
        assert ok("predict", folder / "pl.h5", folder / "other.h5").stdout == expected


@pytest.mark.long
def test_keeping_changes_neither_the_report_nor_what_is_stored_without_it(folder):
    plain = ok("probe", folder / "img.h5", "-o", folder / "r.h5")
    kept = ok("probe", folder / "img.h5", "--keep", "-o", folder / "again.h5")
    assert plain.stdout == kept.stdout
    if blas_ignores_addresses():
        assert (folder / "again.h5").read_bytes() == (folder / "p.h5").read_bytes()
    result, probe = read(folder / "r.h5"), read(folder / "p.h5")
    assert (result.kind, probe.kind) == ("result", "probe")
    assert results.as_result(probe).digest == result.digest


@pytest.mark.long
def test_after_validation_the_best_run_is_kept_as_it_was_fitted_again(folder):
    options = ("-C", "0.001,1", "--classifier", "logreg", "--val", "0.2")
    report = ok("probe", folder / "img.h5", *options, "--keep", "-o", folder / "p.h5", "-f")
    *_, final = rows(report.stdout)
    kept = {"C": float(final["C"]), "fit_split": "train"}
    assert read(folder / "p.h5").history[-1]["kept"] == kept
    assert predicted(folder, "--split", "test")[0]["acc1"] == final["acc1"]


def test_without_an_evaluation_split_the_best_run_is_fitted_again_on_all_rows():
    file = images()
    del file.splits["test"]
    kept = evaluation.evaluate_grid(file, Cs=[0.01, 1], val=0.2, keep=True)
    assert [row["eval_split"] for row in kept.rows()] == ["val", "val"]
    chosen = kept.history[-1]["kept"]
    assert chosen["fit_split"] == "train"
    expected = evaluation.evaluate_grid(images(), Cs=[chosen["C"]]).splits["test"].predicted
    result = prediction.predict(kept, images(), ["test"]).result
    np.testing.assert_array_equal(result.splits["test"].predicted, expected)


def history(**changes):
    return [{"command": "embed", "model": {**MODEL, **changes}}]


def test_an_svm_whose_hyperplanes_fill_the_memory_is_not_kept(monkeypatch):
    monkeypatch.setattr(evaluation, "MAX_KEPT", 77)
    with pytest.raises(ClipkitError, match="expected at most 77 numbers to keep, got 78 in the"):
        evaluation.evaluate_grid(images(), keep=True)


@pytest.mark.parametrize(
    ("probe", "change", "message"),
    [
        ("p", {"history": history(digest="sha256:9")}, "come from different models (m sha2"),
        ("p", {"history": []}, "expected the name of its model in the history, got none"),
        ("p", {"history": history(untrained=1)}, "come from different models"),
        ("p", {"columns": 8}, "expected 12 columns, got 8"),
        ("p", {"class_names": None}, "expected class names in both, got none in"),
        ("p", {"class_names": ["x", "x", "y", "z"]}, "expected each class name once, got 'x' 2"),
    ],
)  # fmt: skip
def test_a_file_that_the_probe_cannot_read_is_refused(folder, probe, change, message):
    columns = change.pop("columns", 12)
    file = images(**change)
    for split in file.splits.values():
        split.features = split.features[:, :columns]
    write(folder / "new.h5", file)
    with unchanged(folder):
        words = (folder / f"{probe}.h5", folder / "new.h5", "-o", folder / "out.h5")
        assert message in fails("predict", *words)


def test_prompts_of_other_texts_are_refused(folder):
    write(folder / "new.h5", logits(texts=[f"prompt {number}" for number in range(12)][::-1]))
    message = fails("predict", folder / "pl.h5", folder / "new.h5")
    assert "prompt 1: " in message


WHITENED = ({"inputs": {"texts": "sha256:1"}}, {"inputs": {"texts": "sha256:2"}})
CLASSES_OF = ({"inputs": {"classes": "sha256:1"}}, {"inputs": {"classes": "sha256:2"}})


@pytest.mark.parametrize(
    ("command", "of_both", "ours", "theirs", "message"),
    [
        ("textembed", {}, {"templates": ["a {}"]}, {"templates": ["b {}"]}, "['a {}']"),
        ("logits", {"random": 12}, {"seed": 1}, {"seed": 2}, "seed of logits"),
        ("logits", {}, {"whiten": True}, {}, "expected whiten of logits to be True"),
        ("logits", {"whiten": True}, *WHITENED, "have the directions of different prompts"),
        ("textembed", {"classes": "file"}, *CLASSES_OF, "prompts of different files of classes"),
    ],
)
def test_equal_columns_that_were_made_in_another_way_are_refused(
    command, of_both, ours, theirs, message
):
    probe, file = (
        logits(history=[*history(), {"command": command, **of_both, **settings}])
        for settings in (ours, theirs)
    )
    with pytest.raises(ClipkitError) as caught:
        prediction.predict(evaluation.evaluate_grid(probe, keep=True), file)
    assert message in caught.value.message


def test_embeddings_of_another_length_are_refused():
    raw, unit = ([{**history()[0], "normalize": normalize}] for normalize in (False, True))
    probe = evaluation.evaluate_grid(images(history=raw), keep=True)
    with pytest.raises(ClipkitError, match="expected normalize of embed to be False, got True"):
        prediction.predict(probe, images(history=unit))


@pytest.mark.parametrize(
    ("name", "value"), [("rms", np.array([1e-300])), ("hyperplanes", np.full((6, 13), 1e38, "f4"))]
)
def test_scores_that_overflow_are_refused(name, value):
    probe = evaluation.evaluate_grid(images(), keep=True)
    probe.fitted[name] = value
    with pytest.raises(ClipkitError, match="test: expected finite scores, got NaN or Inf"):
        prediction.predict(probe, images(), ["test"])


@pytest.mark.long
def test_classes_are_matched_by_name(folder):
    file = images()
    order = [2, 0, 3, 1]  # the old number of each class
    for split in file.splits.values():
        split.labels = np.argsort(order)[split.labels]
    write(folder / "new.h5", replace(file, class_names=[CLASSES[number] for number in order]))
    assert predicted(folder, file="new") == predicted(folder)
    assert predicted(folder, "--per-image", file="new") == predicted(folder, "--per-image")


@pytest.mark.long
def test_images_of_unknown_classes_are_warned_about_and_count_as_wrong(folder):
    write(folder / "new.h5", images(class_names=["ant", "bee", "cow", "dog"]))
    warning = "does not know 1 of the classes of test (for example cow), so that 30 rows can only"
    assert warning in ok("predict", folder / "p.h5", folder / "new.h5", "--split", "test").stderr
    of_images = predicted(folder, "--split", "test", "--per-image", file="new")
    assert [row["label"] for row in of_images].count("cow") == 30
    assert {row["prediction"] for row in of_images} == set(CLASSES)
    assert 0.5 < float(predicted(folder, file="new")[0]["acc1"]) < 0.75


@pytest.mark.long
def test_unlabelled_images_give_a_row_per_image(folder):
    file = without_labels(images(class_names=None), "train", "test")
    write(folder / "new.h5", file)
    report = predicted(folder, file="new")
    assert list(report[0]) == ["split", "id", "prediction", "score", "runner_up", "runner_up_score"]
    assert [row["id"] for row in report] == [*file.splits["test"].ids, *file.splits["train"].ids]
    assert all(row["prediction"] in CLASSES for row in report)
    assert all(float(row["score"]) >= float(row["runner_up_score"]) for row in report)
    words = (folder / "p.h5", folder / "new.h5", "--split", "test", "--per-class")
    assert "expected labels in test, got none" in fails("predict", *words)


OF_PROBABILITIES = [
    name for name, one in probes.CLASSIFIERS.items() if one.score.startswith(PROBABILITY)
]


@pytest.mark.parametrize("classifier", OF_PROBABILITIES)
@pytest.mark.long
def test_scores_are_probabilities_of_all_classes(folder, classifier):
    options = ("--classifier", classifier, "--keep", "-o", folder / "p.h5", "-f")
    ok("probe", folder / "img.h5", *options)
    for row in predicted(folder, "--scores"):
        scores = {name: float(row[f"score_{name}"]) for name in CLASSES}
        assert sum(scores.values()) == pytest.approx(1)
        assert max(scores, key=scores.get) == row["prediction"]
        assert row["score"] == row[f"score_{row['prediction']}"]


@pytest.mark.long
def test_top_gives_a_row_for_each_of_the_best_classes(folder):
    plain = predicted(folder, "--split", "test", "--per-image")
    ranked = predicted(folder, "--split", "test", "--top", "2")
    assert [row["rank"] for row in ranked] == ["1", "2"] * len(plain)
    assert [row["prediction"] for row in ranked[::2]] == [row["prediction"] for row in plain]
    assert [row["prediction"] for row in ranked[1::2]] == [row["runner_up"] for row in plain]
    assert len(predicted(folder, "--split", "test", "--top", "99")) == 4 * len(plain)


@pytest.mark.long
def test_zeroshot_prints_unlabelled_images_with_their_cosines(tmp_path):
    index = np.arange(12) % 4
    file = without_labels(logits(0.5, class_index=index), "train", "test")
    write(tmp_path / "x.h5", file)
    report = rows(ok("zeroshot", tmp_path / "x.h5", "--split", "test").stdout)
    cosines = file.cosines("test").read()
    best = cosines.argmax(axis=1)
    assert [row["prediction"] for row in report] == [CLASSES[k] for k in index[best]]
    np.testing.assert_allclose([float(row["score"]) for row in report], cosines.max(axis=1), 1e-6)
    write(tmp_path / "y.h5", logits(class_index=index))
    assert "label" in rows(ok("zeroshot", tmp_path / "y.h5", "--per-image").stdout)[0]


@pytest.mark.long
def test_probe_predicts_an_unlabelled_split(folder):
    write(folder / "semi.h5", without_labels(images(), "test"))
    found = rows(ok("probe", folder / "semi.h5", "-o", folder / "r.h5").stdout)
    expected = predicted(folder, "--split", "test", "--per-image")
    assert [row["prediction"] for row in found] == [row["prediction"] for row in expected]
    assert read(folder / "r.h5").kind == "result"
    assert np.isnan(read(folder / "r.h5").runs["acc1"]).all()


@pytest.mark.long
def test_several_runs_on_an_unlabelled_split_give_their_report(folder):
    write(folder / "semi.h5", without_labels(images(), "test"))
    words = ("probe", folder / "semi.h5", "-C", "0.1,1")
    several = ok(*words)
    assert [row["acc1"] for row in rows(several.stdout)] == ["", ""]
    assert "test has no labels: --per-image prints its predictions" in several.stderr
    chosen = rows(ok(*words, "--val", "0.2").stdout)
    assert [bool(row["acc1"]) for row in chosen] == [True, True, False]
    assert len(rows(ok(*words, "--val", "0.2", "--per-image").stdout)) == 120


def test_rows_of_images_have_the_columns_that_are_asked_for(folder):
    ok("probe", folder / "img.h5", "--shots", 4, "--keep", "-o", folder / "p.h5", "-f")
    columns = ("--per-image", "--columns", "id,prediction,model,shots")
    of_probe = rows(ok("probe", "--shots", 4, folder / "img.h5", *columns).stdout)
    for row in (of_probe[0], predicted(folder, *columns)[0]):
        assert list(row) == ["id", "prediction", "model", "shots"]
        assert (row["model"], row["shots"]) == (MODEL["name"], "4")


@pytest.mark.long
def test_a_probe_is_read_like_a_result(folder):
    probe, predicted = folder / "p.h5", folder / "out.h5"
    ok("predict", probe, folder / "img.h5", "-o", predicted)
    for source in (probe, predicted):
        ok("info", source)
        ok("convert", source, folder / "rows.csv", "-f")
        ok("convert", source, folder / "rows.parquet", "-f")
        ok("convert", source, folder / "runs.csv", "--runs", "-f")
        ok("plot", "confusion", source, "-f", "-o", folder / "p.png")
    assert rows(ok("compare", probe, predicted).stdout)[0]["difference"] == "0"
    (folder / "groups.tsv").write_text("".join(f"{name}\tanimal\n" for name in CLASSES))
    ok("relabel", probe, "--groups", folder / "groups.tsv", "-o", folder / "grouped.h5")
    assert read(folder / "grouped.h5").kind == "result"


@pytest.mark.long
def test_probe_and_predict_work_in_pipes(folder):
    expected = ok("predict", folder / "p.h5", folder / "img.h5", "--split", "test").stdout
    lines = (
        "cat img.h5 | clipkit -q predict p.h5 --split test",
        "clipkit -q predict <(clipkit -q probe img.h5 --keep -o -) img.h5 --split test",
        "clipkit -q probe img.h5 --keep -o - | clipkit -q predict - img.h5 --split test",
    )
    for line in lines:
        run = shell(line, folder)
        assert (run.returncode, run.stdout, run.stderr) == (0, expected, "")


@pytest.mark.long
def test_a_long_list_of_images_is_printed_in_chunks(folder):
    file = without_labels(images(), "train", "test")
    ids = [f"{row}.png" for row in range(4001)]
    file.splits = {"all": Split(random_features(4001, 12), None, ids)}
    write(folder / "new.h5", file)
    words = ("predict", folder / "p.h5", folder / "new.h5")
    lines = ok(*words).stdout.splitlines()
    assert len(lines) == len(set(lines)) == 4002
    assert [row["id"] for row in json.loads(ok(*words, "--format", "json").stdout)] == ids
    table = ok(*words, "--format", "table")
    assert table.stdout.splitlines() == lines
    assert "more than 2,000 rows: printed as TSV" in table.stderr


@pytest.mark.parametrize("k", [1, 5, 20])
def test_k_neighbours_predict_as_in_scikit_learn_also_from_a_file(k, tmp_path):
    (X, y), (X_eval, y_eval) = world(7), world(7, seed=1)
    parts = {"train": Split(X, y, row_ids(len(X))), "test": Split(X_eval, y_eval, row_ids(len(X)))}
    file = FeatureFile("images", [{"command": "mine"}], splits=parts)
    probe = evaluation.evaluate_grid(file, evaluation.ProbeSpec("knn", k=k), keep=True)
    weights = {"weights": lambda distances: np.exp(-distances / 0.07)}
    expected = KNeighborsClassifier(k, metric="cosine", **weights).fit(X, y).predict(X_eval)
    assert np.array_equal(probe.splits["test"].predicted[0], expected)
    assert probe.rows()[0]["k"] == probe.history[-1]["k"] == k
    write(tmp_path / "p.h5", probe)
    stored = read(tmp_path / "p.h5")
    again = prediction.predict(stored, file, ["test"]).result
    assert np.array_equal(again.splits["test"].predicted[0], expected)
    with pytest.raises(UsageError, match="k: expected the classifier knn, got svm"):
        evaluation.evaluate_grid(file, evaluation.ProbeSpec("svm", k=k))
