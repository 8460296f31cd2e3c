"""`clipkit report` on any files: what stands together, what is compared, what is left out."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from factories import result_file, write_feature_file
from factories.results import DATASET, LABELS, MODEL, RUN, tables
from PIL import Image
from shell import fails, ok, partly, rows

from clipkit.analysis import find, results
from clipkit.features import FeatureFile, history_entry, read, write
from clipkit.report import as_html, of_files
from clipkit.report.blocks import Number, Table

HOSTILE = "<b>|x|`$*_[a](b)\x1b\n"


def write_result(path, right, seed=0, runs=1, labels=LABELS, **model):
    """Write a result of a probe with `right` of 200 test rows right."""
    dataset = model.pop("dataset", DATASET)
    embed = {"command": "embed", "model": MODEL | model, "dataset": dataset}
    probe = {"command": "probe", "classifier": "svm", "C": [1.0], "seed": 42}
    wrong = np.random.default_rng(seed).permutation(200)[right:]
    predicted = np.array(labels)
    predicted[wrong] = (predicted[wrong] + 1) % 5
    result = result_file([RUN] * runs, labels, [predicted] * runs, [embed, probe], list("abcde"))
    write(str(path), result, force=True)
    return path


def test_results_on_the_same_images_stand_in_one_table_and_are_compared_in_pairs(tmp_path):
    a, b = write_result(tmp_path / "a.h5", 150), write_result(tmp_path / "b.h5", 120, seed=1)
    other = write_result(tmp_path / "c.h5", 90, dataset=DATASET | {"name": "x", "splits": {}})
    text = ok("report", a, b, other).stdout
    assert "are not compared" in text.replace("\n", " ")
    assert "are not compared" not in ok("report", a, b).stdout.replace("\n", " ")
    assert re.findall("^### (.*), test: 200 images, 5 classes$", text, re.M) == ["cifar100", "x"]
    (compared,) = rows(ok("compare", a, b).stdout)
    difference = -100 * float(compared["difference"])
    row = text[text.index("against a.h5") :].splitlines()[2].split("|")
    assert row[1].strip() == "b.h5"
    assert row[2].strip().startswith(f"{difference:+.2f} (")
    assert [int(cell) for cell in row[3:5]] == [int(compared["only_b"]), int(compared["only_a"])]


@pytest.mark.parametrize("what", ["labels", "rows", "ids"])
def test_results_on_other_images_are_never_compared(tmp_path, what):
    a, b = write_result(tmp_path / "a.h5", 150), write_result(tmp_path / "b.h5", 120)
    file = read(b)
    if what == "labels":
        file.splits["test"].labels = (LABELS + 1) % 5
    elif what == "rows":
        file.history[0]["dataset"]["splits"]["test"]["rows"] = "other"
    else:
        file.history[0]["dataset"].pop("splits")
        file.splits["test"].ids = [f"{row}.png" for row in range(200)]
    write(b, file, force=True)
    text = " ".join(ok("report", a, b).stdout.split())
    assert text.count("### cifar100") == 2
    assert "with other classes, are in tables of their own and are not compared." in text
    assert "McNemar" not in text


@pytest.mark.long
def test_the_main_result_is_the_one_with_a_control_and_is_compared_with_it(tmp_path):
    files = [
        write_result(tmp_path / "a.h5", 160, name="another"),
        write_result(tmp_path / "b.h5", 150),
        write_result(tmp_path / "c.h5", 40, seed=1, untrained=7),
    ]
    text = summary(*files)
    found = "**75.00 %** of 200 images of 5 classes are right by probe: above chance (20.00 %)"
    assert f"{found} and the untrained control (20.00 %).\nMeasured in b.h5." in text


def test_a_main_result_says_that_results_without_a_control_were_not_among_those_tried(tmp_path):
    knn, u = tmp_path / "knn.h5", write_result(tmp_path / "u.h5", 40, seed=1, untrained=7)
    file = read(write_result(tmp_path / "a.h5", 160))
    file.history[-1] = file.history[-1] | {"classifier": "knn"}
    write(knn, file)
    text = summary(knn, write_result(tmp_path / "b.h5", 150), u)
    assert "are right by probe, best of 1 result with a control: above chance" in text


def summary(*files):
    """Return the facts of the summary of a page of files."""
    facts = of_files(files).facts
    text = "\n".join(f"{fact.name}\n{fact.text}\n{fact.details}" for fact in facts)
    return text.replace("\xa0", " ")


@pytest.mark.parametrize("digests", [("sha256:1", "sha256:1"), ("sha256:1", "sha256:2"), ("", "")])
@pytest.mark.long
def test_a_control_was_made_from_the_same_prompts(digests, tmp_path):
    pair = [write_result(tmp_path / "a.h5", 150)]
    pair.append(write_result(tmp_path / "u.h5", 40, 1, untrained=7))
    for path, digest in zip(pair, digests, strict=True):
        file = read(path)
        entry = {"command": "textembed", "prompts": "q", "model": file.history[0]["model"]}
        file.history.insert(1, entry | ({"inputs": {"prompts": digest}} if digest else {}))
        write(path, file, force=True)
    is_same = digests == ("sha256:1", "sha256:1")
    assert ("and the untrained control (" in summary(*pair)) == is_same
    text = " ".join(ok("report", *pair).stdout.split())
    assert ("against its control" in text) == is_same
    assert ("does not tell from which prompts these were made: a.h5, u.h5." in text) == (
        digests == ("", "")
    )


def test_each_result_is_compared_with_its_own_control(tmp_path):
    svm, u_svm = (tmp_path / name for name in ("svm.h5", "u.svm.h5"))
    write_result(svm, 150)
    write_result(u_svm, 40, seed=1, untrained=7)
    knn, u_knn = (tmp_path / name for name in ("knn.h5", "u.knn.h5"))
    for path, source in ((knn, svm), (u_knn, u_svm)):
        file = read(source)
        file.history[-1] = file.history[-1] | {"classifier": "knn"}
        write(path, file)
    text = ok("report", svm, u_svm, knn, u_knn).stdout
    first, own = (text[text.index(start) :] for start in ("| against svm.h5", "| against its"))
    assert [line.split("|")[1].strip() for line in first.splitlines()[2:3]] == ["knn.h5"]
    assert "u.knn.h5" not in first.partition("\n\n")[0]
    pairs = [[cell.strip() for cell in line.split("|")[1:3]] for line in own.splitlines()[2:4]]
    assert pairs == [["svm.h5", "u.svm.h5"], ["knn.h5", "u.knn.h5"]]
    (compared,) = rows(ok("compare", knn, u_knn).stdout)
    assert f"{100 * float(compared['difference']):+.2f} (" in own.splitlines()[3]


def test_a_control_with_its_rows_in_another_order_is_compared_by_their_ids(tmp_path):
    a, u = write_result(tmp_path / "a.h5", 150), write_result(tmp_path / "u.h5", 40, 1, untrained=7)
    expected = summary(a, u)
    assert "above chance (20.00 %) and the untrained control (20.00 %)" in expected
    file = read(u)
    file.splits["test"] = file.splits["test"].take(np.arange(200)[::-1])
    write(u, file, force=True)
    sentence = re.search("Against the untrained .* points \\(.*\\)", expected)[0]
    assert sentence in summary(a, u)


@pytest.mark.long
def test_the_best_of_several_runs_is_the_main_result_and_says_how_it_was_chosen(tmp_path):
    a = write_runs(tmp_path / "a.h5", (90, 150))
    u = write_runs(tmp_path / "u.h5", (40, 20), untrained=7)
    text = summary(a)
    assert "right by probe, the most accurate of 2 runs on test (optimistic): above chance" in text
    assert text.count("There is no untrained control.") == 1
    assert "The control's run is the most accurate of its runs, too." in summary(a, u)


def test_no_level_of_headings_is_left_out(tmp_path):
    write_runs(tmp_path / "a.h5", (90, 150))
    levels = [int(level) for level in re.findall(r"<h(\d)", as_html(of_files([tmp_path])))]
    assert max(levels) == 4
    assert all(below <= above + 1 for above, below in itertools.pairwise(levels))


def write_runs(path, right, **model):
    """Write a result with a run for each number of right rows, from the smallest C."""
    parts = [read(write_result(path, n, n, **dict(model))) for n in right[:1]]
    for n in right[1:]:
        write_result(path.with_suffix(".part"), n, n, **dict(model))
        parts.append(read(path.with_suffix(".part")))
    predicted = [part.splits["test"].predicted[0] for part in parts]
    runs = [RUN | {"C": 10.0**number} for number in range(len(right))]
    result = result_file(runs, LABELS, predicted, parts[0].history, list("abcde"))
    write(path, result, force=True)
    return path


def test_predictions_without_labels_are_shown(tmp_path):
    a = write_result(tmp_path / "a.h5", 150)
    file = read(a)
    file.splits["test"].labels = None
    file.runs.clear()
    write(a, file, force=True)
    done = ok("report", a)
    assert done.stderr == ""
    row = tables(done.stdout)["a.h5"]
    counts = np.bincount(file.splits["test"].predicted[0])
    assert row["images"] == "200"
    assert row["most frequent predictions"].startswith(f"{'abcde'[counts.argmax()]} {counts.max()}")
    assert "1 result" in summary(a)


def test_a_result_of_several_runs_is_shown_and_not_compared(tmp_path):
    files = [write_result(tmp_path / "a.h5", 150), write_result(tmp_path / "b.h5", 99, runs=3)]
    text = ok("report", *files).stdout
    assert tables(text)["b.h5"]["runs"] == "3"
    assert "#### b.h5: 3 runs" in text
    assert [tables(text)[f"{run}"]["accuracy (%)"][:5] for run in range(3)] == ["49.50"] * 3
    assert "Not compared, since they have several runs: b.h5" in " ".join(text.split())
    assert "McNemar" not in text


def test_a_sweep_is_one_row_with_its_range_and_has_a_table_of_what_varies(tmp_path):
    files = [write_result(tmp_path / "a.h5", 150), write_result(tmp_path / "b.h5", 100, runs=4)]
    sweep = read(files[1])
    assert sweep.splits["test"].predicted is not None
    rows = []
    for number, row in enumerate(sweep.rows()):
        right = 100 + 20 * number
        sweep.splits["test"].predicted[number] = predicted_right(sweep, right)
        settings = {"C": (0.1, 10.0)[number % 2], "temperature": (1.0, 0.5)[number // 2]}
        rows.append(row | settings | {"acc1": right / 200})
    sweep.set_rows(rows)
    write(files[1], sweep, force=True)
    found = tables(ok("report", *files).stdout)
    assert found["b.h5"]["accuracy (%)"] == "50.00–80.00"
    assert (found["b.h5"]["C"], found["b.h5"]["temperature"]) == ("0.1–10", "0.5–1")
    for number, name in enumerate(("C 0.1, temperature 1", "C 10, temperature 1")):
        assert found[name]["accuracy (%)"].startswith(f"{50 + 10 * number}.00 (")
    page = of_files(files)
    (bar,) = [bar for bar in bars_of(page) if bar.runs]
    assert bar.runs == pytest.approx([0.5, 0.6, 0.7, 0.8])


def test_draws_are_one_row_with_their_mean_and_range(tmp_path):
    files = [write_result(tmp_path / "a.h5", 150), write_result(tmp_path / "b.h5", 100, runs=4)]
    shots = read(files[1])
    rows = []
    for number, row in enumerate(shots.rows()):
        right = (100, 120, 140, 160)[number]
        shots.splits["test"].predicted[number] = predicted_right(shots, right)
        rows.append(row | {"shots": number // 2 + 1, "draw": number % 2, "acc1": right / 200})
    shots.set_rows(rows)
    write(files[1], shots, force=True)
    text = ok("report", *files).stdout
    assert tables(text)["1"]["accuracy (%)"] == "55.00 (50.00–60.00)"
    assert tables(text)["2"]["accuracy (%)"] == "75.00 (70.00–80.00)"
    assert "draws 2" in text


def predicted_right(result, right):
    """Return predictions of which the first `right` are right."""
    labels = result.splits["test"].labels
    return np.where(np.arange(len(labels)) < right, labels, (labels + 1) % 5)


def bars_of(page):
    folded = [block for question in page.questions for block in question.folded]
    shown = [block for block in folded if isinstance(block, Table)]
    cells = [cell for table in shown for row in table.rows for cell in row]
    return [cell.bar for cell in cells if isinstance(cell, Number)]


def test_what_varies_names_the_row_and_what_all_rows_share_stands_below():
    table = Table(
        ["file", "split", "tau", "n (%)"],
        [["a", "x", "1", "5"], ["a", "x", "2", "5"], ["a", "y", "1", "5"]],
        text_columns=2,
        sources=["a", "a", "a"],
        key_columns=3,
    ).arranged()
    assert list(table.header) == ["split, tau", "n (%)"]
    assert [row[0] for row in table.rows] == ["x, tau 1", "x, tau 2", "y, tau 1"]
    assert table.shared == "file a"
    assert [row[1] for row in table.rows] == ["5"] * 3  # what was measured stays


@pytest.mark.parametrize("predicted", [["b", "c", "a"], ["b", "b", "b"], ["b", "b", "c"]])
def test_text_that_is_no_key_keeps_its_column_whatever_it_says(predicted):
    rows = [[true, other, "5"] for true, other in zip("aad", predicted, strict=True)]
    table = Table(["true class", "predicted class", "images"], rows, 2, key_columns=1)
    assert table.arranged() == table


@pytest.mark.long
def test_bad_files_are_named_and_the_rest_is_shown(tmp_path):
    good = write_result(tmp_path / "good.h5", 150)
    (tmp_path / "cut.h5").write_bytes(good.read_bytes()[:-9])
    (tmp_path / "text.h5").write_text("no feature file")
    names = ["cut.h5", "text.h5", "missing.h5"]
    bad = [tmp_path / name for name in names]
    partly("report", *bad, good, "-o", tmp_path / "page.html")
    assert "missing.h5: there is no such file" in (tmp_path / "page.html").read_text()
    result = partly("report", *bad, good)
    assert "75.00 (" in tables(result.stdout)["good.h5"]["accuracy (%)"]
    for name, line in zip(names, result.stderr.splitlines(), strict=True):
        assert line.startswith(f"clipkit: warning: left out {name}: ")
        assert f"- {line.removeprefix('clipkit: warning: left out ')}"[:40] in result.stdout
    line = fails("report", *bad)
    assert all(name in line for name in names)


def test_other_results_and_feature_files_are_shown_by_their_history(tmp_path):
    images = write_feature_file(tmp_path / "x.h5")
    entropy = FeatureFile("result", [history_entry("entropy")])
    entropy.set_rows([{"split": "test", "temperature": 1.0, "mean_entropy": 0.5}])
    strange = FeatureFile("result", [history_entry(HOSTILE)])
    strange.set_rows([{"prompt": HOSTILE, "value": np.nan}])
    write(str(tmp_path / "y.h5"), entropy)
    write(str(tmp_path / "z.h5"), strange)
    text = ok("report", images, tmp_path / "y.h5", tmp_path / "z.h5").stdout
    found = tables(text)
    assert found["y.h5"]["mean entropy (nats)"] == "0.5000"
    assert found["x.h5"]["kind"] == "images"
    assert r"\<b\>" in text
    assert "<b>" not in text


def test_arguments_that_make_no_sense_are_refused(tmp_path):
    a = write_result(tmp_path / "a.h5", 150)
    assert "standard input: empty input" in fails("report", "-", stdin=b"")
    assert "none.h5: there is no such file" in fails("report", tmp_path / "none.h5")
    for name in ("x.pdf", "x.html.gz"):
        assert name in fails("report", a, "-o", tmp_path / name, exit_code=2)
    assert "--album is for --images" in fails("report", a, "--album", 5, exit_code=2)


def test_a_folder_of_other_results_is_reported_as_its_files(tmp_path):
    a = write_result(tmp_path / "a.h5", 120)
    b = write_result(tmp_path / "b.h5", 150, name="another")
    assert ok("report", tmp_path).stdout == ok("report", a, b).stdout
    (tmp_path / "more").mkdir()
    write_result(tmp_path / "more" / "c.h5", 150)
    assert {"a.h5", "c.h5"} <= tables(ok("report", a, tmp_path / "more").stdout).keys()


def test_files_of_one_name_have_the_folders_that_tell_them_apart(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    files = [write_result(tmp_path / name / "x.h5", 150, seed=ord(name)) for name in "ab"]
    files.append(write_result(tmp_path / "y.h5", 90))
    text = ok("report", *files).stdout
    assert {"a/x.h5", "b/x.h5", "y.h5"} <= tables(text).keys()
    assert str(tmp_path) not in text


def test_numbers_with_a_sign_are_plain_text_and_costs_are_in_points(tmp_path):
    importance = FeatureFile("result", [history_entry("importance")])
    shares = {"acc1": 0.5, "cost": -0.01, "low": -0.02, "high": 0.04, "changed": 0.25}
    importance.set_rows([{"split": "test", "prompt": "- a", **shares}])
    entropy = FeatureFile("result", [history_entry("entropy")])
    entropy.set_rows([{"split": "test", "change": -0.5}])
    write(str(tmp_path / "x.h5"), importance)
    write(str(tmp_path / "y.h5"), entropy)
    text = ok("report", tmp_path / "x.h5", tmp_path / "y.h5").stdout
    found = tables(text)
    assert found["x.h5"]["accuracy %"] == "50.00"
    assert found["x.h5"]["cost (points)"] == "-1.00 (-2.00 to +4.00)"
    assert found["x.h5"]["changed %"] == "25.00"
    assert found["x.h5"]["prompt"] == r"\- a"
    assert found["y.h5"]["change"] == "-0.5"


def test_tables_of_variance_have_the_null_of_each_share_and_the_number_of_marks_by_chance(tmp_path):
    numbers = {"share": 0.5, "null95": 0.01, "unique": 0.4, "unique_null95": -0.02}
    control = dict.fromkeys(("control_share", "control_low", "control_high"), np.nan)
    entry = [{"command": "variance"}]
    runs = [{"split": "test", "attribute": "size", **numbers, **control}]
    write(tmp_path / "v.h5", results.make_result(entry, runs))
    text = " ".join(ok("report", tmp_path / "v.h5").stdout.split())
    assert "50.00 | 1.00 | 40.00 | -2.00" in text
    cell = {"split": "test", "attribute": "size", "share": 0.5, "random99": 0.1, "null95": 0.1}
    runs = [cell | {"prompt": str(n), "embedding": 0.5, "above": True} for n in range(42)]
    write(tmp_path / "p.h5", results.make_result(entry, runs))
    note = "About 0.42 of the 42 cells are above by chance (1 %)."
    assert note in ok("report", tmp_path / "p.h5").stdout.replace("\\", "")


@pytest.mark.long
def test_a_page_shows_the_attributes_once_with_the_control_beside_the_probe(tmp_path):
    images = Path(write_result(tmp_path / "img.svm.h5", 150))
    made = {"command": "attributes", "inputs": {}}
    result = FeatureFile("result", [*read(images).history, made])
    names = ["zeroshot", "names", "random", "probe", "control"]
    row = dict.fromkeys(find("attributes").needs.split(), 0.5)
    row |= {f"{name}_{end}": 0.5 for name in names for end in ("low", "high")}
    row |= {"other_words": 0.25, "other_words95": 0.25}
    result.set_rows([row | {"attribute": "colour", "values": 2, "rows": 200, "control": 0.25}])
    write(tmp_path / "img.attributes.h5", result)
    for name in ("attributes.png", "other.png"):
        Image.new("RGB", (30, 20), "white").save(tmp_path / name)
    page = of_files([tmp_path])
    captions = re.findall("<figcaption>(.+)", as_html(page))
    titles = [caption.split(".")[0] for caption in captions]
    assert titles[-2:] == ["1 of 1 not decided", "other"]
    (table,) = (question.table for question in page.questions if question.section == "known")
    shown = dict(zip(table.header, table.rows[0], strict=True))
    controls = {name: cell.bar.control for name, cell in shown.items() if isinstance(cell, Number)}
    assert controls.pop("probe (%)") == 0.25
    assert np.isnan([*controls.values()]).all()


def test_each_data_set_has_its_main_result_which_says_of_how_many_it_is_the_first(tmp_path):
    files = [write_result(tmp_path / f"{name}.h5", 150, seed) for seed, name in enumerate("ab")]
    other = write_result(tmp_path / "c.h5", 90, dataset=DATASET | {"name": "photos"})
    facts = of_files([*files, other]).facts
    assert [(fact.name, fact.source) for fact in facts if fact.bar] == [
        ("Main result on cifar100", "a.h5"),
        ("Main result on photos", "c.h5"),
    ]
    assert [fact.source for fact in facts if fact.class_name] == ["a.h5"]
    page = of_files([*files, other])
    assert page.main_result("photos")[0] is page.results["c.h5"]
    assert page.main_result("others")[0] is page.results["a.h5"]
    assert ", best of 2 results" in facts[0].text
    (single,) = [fact for fact in of_files(files[:1]).facts if fact.bar]
    assert single.name == "Main result"
    assert "best of" not in single.text
    without_errors = of_files([write_result(tmp_path / "d.h5", 200)]).facts
    assert not any(fact.class_name for fact in without_errors)
