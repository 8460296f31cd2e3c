"""`clipkit report` on folders made by hand: published figures, controls, what is left out."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from factories.results import (
    HEADER,
    LABELS,
    MODEL,
    NAME,
    RUN,
    SPLITS,
    numbers,
    tables,
    write_baseline,
    write_results,
)
from scipy.stats import binomtest
from shell import fails, ok, partly
from sklearn.metrics import f1_score

from clipkit.analysis.results import Predictions
from clipkit.base import files
from clipkit.base.errors import ClipkitError
from clipkit.features import FeatureFile, canonical_json, read, write
from clipkit.prompts import bundled
from clipkit.prompts.texts import read_with_digest
from clipkit.report import blocks, expected, of_files, of_folder, steps
from clipkit.report.summary import lowest_class
from clipkit.statistics import main_number

WHERE = "command=probe dataset=cifar100 features=embeddings classifier=svm C=1"


def write_table(folder, *rows):
    """Write a table of published figures, from rows without their section."""
    path = folder / "figures.tsv"
    path.write_text(HEADER + "".join(f"A study\t{row}\n" for row in rows))
    return path


def measure(folder, *rows, control=None):
    """Return the rows of the tables of a page with published figures."""
    controls = ["--control", control] if control else []
    table = write_table(folder, *rows)
    return tables(ok("report", folder, *controls, "--expected", table).stdout)


def test_a_published_figure_stands_beside_what_was_measured_with_its_interval(tmp_path):
    folder = write_results(tmp_path / "r")
    control = write_results(tmp_path / "c", model={"untrained": 3})
    figures = [
        f"SVM\t{WHERE}\tacc1\t0.7801\tyes\t2.2",
        f"Far\t{WHERE}\tacc1\t0.9\tyes\t",
        f"Other\t{WHERE}\tacc1\t0.5\tno: other prompts\ttable 4",
        f"Own\t{WHERE}\tacc1\t\t\t",
        "Absent\tcommand=zeroshot\tacc1\t0.6\tyes\t",
    ]
    found = measure(folder, *figures, control=control)
    low, high = binomtest(150, 200).proportion_ci(method="wilson")
    here = f"75.00 ({100 * low:.2f}–{100 * high:.2f})"
    assert found["SVM"] == {
        "source": "2.2",
        "measured": here,
        "untrained control": here,
        "published": "78.01",
        "difference": "-3.01",
        "in the interval": "yes",
    }
    assert found["Far"]["in the interval"] == "no"
    assert found["Other"]["in the interval"] == "not comparable: other prompts"
    assert found["Other"]["difference"] == ""
    assert (found["Own"]["measured"], found["Own"]["in the interval"]) == (here, "")
    assert (found["Absent"]["measured"], found["Absent"]["published"]) == ("not measured", "60")
    page = of_files([folder], expected=str(folder / "figures.tsv"))
    width = f"intervals are {100 * (high - low):.1f} points wide"
    text = f"1 of 2 comparable figures lie within the interval; {width}."
    (fact,) = [fact for fact in page.facts if fact.name == "Published figures"]
    assert page.questions[-1].folded[1] == fact.text == text


@pytest.mark.parametrize(
    ("where", "is_measured"),
    [
        ("command=probe", True),
        ("command=probe model=clip-vit-base-patch32", True),
        ("command=probe model=openai/clip-vit-base-patch32 C=1.0 split=test", True),
        ("command=probe model=other/clip-vit-base-patch32", False),
        ("command=probe classifier=logreg", False),
        ("command=probe features=logits", False),
        ("command=probe C=10", False),
        ("command=probe val=0.1", False),
        ("command=probe split=train", False),
        ("prompts='a photo of a {}'", False),
    ],
)
def test_a_result_is_selected_by_what_its_history_and_its_runs_say(where, is_measured, tmp_path):
    found = measure(write_results(tmp_path / "r"), f"SVM\t{where}\tacc1\t0.7\tyes\t")
    assert ("SVM" in found) == is_measured


def test_a_table_of_which_nothing_was_measured_is_one_sentence(tmp_path):
    folder = write_results(tmp_path / "r")
    rows = [f"a\tcommand={name}\tacc1\t0.7\tyes\t" for name in ("zeroshot", "cluster")]
    write_table(folder, *rows)
    page = of_files([folder], expected=str(folder / "figures.tsv"))
    text = "None of the 2 published figures of figures.tsv was measured here: "
    heading, sentence, *_ = page.questions[-1].folded
    assert heading == blocks.Heading(3, "Published figures")
    assert sentence.startswith(text)
    assert all(fact.name != "Published figures" for fact in page.facts)
    assert not any(isinstance(block, blocks.Table) for block in page.questions[-1].folded[:2])


def test_the_command_may_say_which_published_model_and_data_set_results_are_of(tmp_path):
    named = {"model": {"name": "/weights/mine"}, "dataset": {"name": "photos"}}
    folder = write_results(tmp_path / "r", **named)
    where = WHERE.replace("cifar100", "birds") + " model=openai/clip-vit-base-patch32"
    table = write_table(folder, f"SVM\t{where}\tacc1\t0.75\tyes\t2.2")
    text = ok("report", folder, "--expected", table).stdout
    assert "no result has model=openai/clip-vit-base-patch32. If only" in unwrap(text)
    names = ("--same-as", "model=openai/clip-vit-base-patch32", "--same-as", "dataset=birds")
    text = ok("report", folder, "--expected", table, *names).stdout
    assert tables(text)["SVM"]["in the interval"] == "yes"
    said = "count as results of the model openai/clip-vit-base-patch32 and dataset birds."
    assert said in unwrap(text)
    assert "--expected" in fails("report", folder, "--same-as", "dataset=x", exit_code=2)
    for wrong in ("x", "model="):
        line = fails("report", folder, "--expected", table, "--same-as", wrong, exit_code=2)
        assert "expected model=NAME or dataset=NAME" in line


def unwrap(text):
    return " ".join(text.replace("\\", "").split())


def test_a_row_with_a_digest_of_prompts_fits_no_other_prompts_of_the_same_name(tmp_path):
    folder = write_results(tmp_path / "r")
    images = read(folder / "img.h5")
    prompts = {"command": "textembed", "clipkit": "0.1.0", "prompts": "generic32"}
    images.history.append(prompts | {"inputs": {"prompts": "sha256:ab12cd34"}})
    write(folder / "img.h5", images, force=True)
    write_baseline(folder)
    where = "command=probe prompts=generic32"
    own = f"own\t{where} prompts_sha256=ab12\tacc1\t0.7\tyes\t"
    other = f"other\t{where} prompts_sha256=ab13\tacc1\t0.7\tyes\t"
    found = measure(folder, own, other, f"name\t{where}\tacc1\t0.7\tyes\t")
    assert found["own"]["measured"] == found["name"]["measured"]
    assert found["own"]["measured"].startswith("75.00 (")
    assert unwrap(found["other"]["measured"]) == "not measured: no prompts_sha256=ab13"
    assert found["other"]["difference"] == ""


def test_a_figure_of_classes_is_their_mean_f1_with_its_interval(tmp_path):
    folder = write_results(tmp_path / "r")
    first, _, second = read(folder / "img.svm.h5").class_names[:3]
    where = {"one": first, "two": f"{first}|{second}", "none": f"{first}|unicorn"}
    rows = [f"{name}\t{WHERE} class='{classes}'\tf1\t\t\t" for name, classes in where.items()]
    found = measure(folder, *rows, f"accuracy\t{WHERE} class={first}\tacc1\t0.7\tyes\t")
    split = read(folder / "img.svm.h5").splits["test"]
    f1 = f1_score(split.labels, split.predicted[0], average=None)
    for name, expected_f1 in (("one", f1[0]), ("two", f1[[0, 2]].mean())):
        mean, low, high = numbers(found[name]["measured"])
        assert mean == pytest.approx(100 * expected_f1, abs=0.01)
        assert low < mean < high
    assert found["none"]["measured"] == found["accuracy"]["measured"] == "not measured"


def test_a_figure_of_a_mean_recall_has_its_interval(tmp_path):
    folder = write_results(tmp_path / "r")
    split = read(folder / "img.svm.h5").splits["test"]
    recall = main_number.mean_recall(split.labels, split.predicted[0] == split.labels)
    write_baseline(folder, {"mean_per_class_recall": recall.value})
    figure = f"{WHERE}\tmean_per_class_recall"
    found = measure(folder, f"near\t{figure}\t0.7\tyes\t", f"far\t{figure}\t0.1\tyes\t")
    expected_numbers = [100 * number for number in recall[:3]]
    assert numbers(found["near"]["measured"]) == pytest.approx(expected_numbers, abs=0.06)
    assert [found[name]["in the interval"] for name in ("near", "far")] == ["yes", "no"]


@pytest.mark.parametrize(("name", "value"), [("val", "0.1"), ("shots", 5), ("random", 32)])
def test_a_variation_has_to_be_named(name, value, tmp_path):
    folder = write_results(tmp_path / "r")
    write_baseline(folder, **{name: value})
    plain = f"plain\t{WHERE}\tacc1\t1\tyes\t"
    found = measure(folder, plain, f"named\t{WHERE} {name}={value}\tacc1\t1\tyes\t")
    assert found["plain"]["measured"] == "not measured"
    assert found["named"]["measured"].startswith("75.00 (")


def test_a_figure_that_different_results_fit_is_not_measured(tmp_path):
    folder = write_results(tmp_path / "r")
    write_baseline(folder, {"C": 0.01, "acc1": 0.9}, {"acc1": 0.75}, {"C": 100.0, "acc1": 0.8})
    rows = ["a\tcommand=probe\tacc1\t1\tyes\t", "b\tcommand=probe C=100\tacc1\t1\tyes\t"]
    table = write_table(folder, *rows)
    text = ok("report", folder, "--expected", table).stdout
    found = tables(text.partition("### Published figures")[2])
    assert found["a"]["measured"] == "several fit: img.svm.h5"
    assert found["b"]["measured"].startswith("80.00 (")


def test_a_figure_is_not_comparable_with_other_images_or_fitted_ones(tmp_path):
    folder = write_results(tmp_path / "r")
    row = measure(folder, f"a\t{WHERE} images=10000\tacc1\t0.7\tyes\t")["a"]
    assert row["in the interval"] == "not comparable: 200 images, not 10000"
    caveat = {"kind": "fitted", "split": "test", "count": 20, "rows": 200}
    write_baseline(folder, caveats=[caveat])
    row = measure(folder, f"a\t{WHERE} images=200\tacc1\t0.7\tyes\t")["a"]
    assert row["in the interval"].startswith("not comparable: 20 of 200 images")


def test_a_number_without_an_interval_is_compared_as_the_figure_is_rounded(tmp_path):
    folder = write_results(tmp_path / "r")
    entropy = FeatureFile("result", [{"command": "entropy", "clipkit": "0.1.0"}])
    entropy.set_rows([{"split": "test", "temperature": 1.0, "mean_entropy": 3.46562}])
    write(folder / "e.h5", entropy)
    words = "command=entropy tau=1\tmean_entropy"
    figures = {"a": "3.4656", "b": "3.4657", "c": "3.47", "d": "3.5", "e": "3.46", "f": "3.4650"}
    lines = [f"{name}\t{words}\t{digits}\tyes\t" for name, digits in figures.items()]
    found = measure(folder, *lines)
    assert found["a"]["measured"] == "3.4656"
    assert {name: cells["published"] for name, cells in found.items() if name in figures} == figures
    assert [found[name]["in the interval"] for name in figures] == [
        *("yes", "no", "yes", "yes", "no", "no")
    ]
    assert [found[name]["difference"] for name in "ab"] == ["0.0000", "-0.0001"]
    write_table(folder, *lines[:2])
    text = unwrap(ok("report", folder, "--expected", folder / "figures.tsv").stdout)
    assert "1 of 2 comparable figures lie within the interval. A number without an interval" in text


def test_a_figure_is_held_against_the_own_interval_of_a_run(tmp_path):
    """Rows that are counted together have a wider interval than Wilson's of all rows."""
    folder = write_results(tmp_path / "r")
    line = f"SVM\t{WHERE}\tacc1\t0.66\tyes\t"
    assert measure(folder, line)["SVM"]["in the interval"] == "no"
    result = read(folder / "img.svm.h5")
    result.set_rows([RUN | {"acc1": 0.75, "acc1_low": 0.55, "acc1_high": 0.88}])
    write(folder / "img.svm.h5", result, force=True)
    found = measure(folder, line)["SVM"]
    assert (found["measured"], found["in the interval"]) == ("75.00 (55.00–88.00)", "yes")


def test_a_data_set_with_another_number_of_classes_is_not_the_same(tmp_path):
    folder = write_results(tmp_path / "r", dataset={"name": "mine"})
    table = write_table(folder, f"SVM\t{WHERE}\tacc1\t0.75\tyes\t")
    line = ("report", folder, "--expected", table, "--same-as", "dataset=cifar100")
    assert "expected results of 100 classes, got 5 in img.svm.h5" in fails(*line, exit_code=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("section,title\n", "line 1: expected the columns section, title, "),
        (f"{HEADER}a\tb\n", "line 2: "),
        (f"{HEADER}\n\n\tt\tC=1\tacc1\t1\tyes\t\n", "line 4, section: expected"),
        (f"{HEADER}s\tt\tpromts=x\tacc1\t1\tyes\t\n", "line 2, where: expected"),
        (f"{HEADER}s\tt\tC='1\tacc1\t1\tyes\t\n", "line 2, where: expected"),
        (f"{HEADER}s\tt\tC=1\tacc\t1\tyes\t\n", "line 2, column: expected"),
        (f"{HEADER}s\tt\tC=1\tacc1\t7 %\tyes\t\n", "line 2, value: expected"),
        (f"{HEADER}s\tt\tC=1\tacc1\t1\tno\t\n", "line 2, comparable: expected"),
        (f"{HEADER}\xff", "line 2: "),
    ],
)
def test_a_malformed_table_is_refused_with_its_line_and_column(text, message, tmp_path):
    table = tmp_path / "t.tsv"
    table.write_bytes(text.encode("latin-1"))
    with pytest.raises(ClipkitError, match=f"t.tsv, {message}"):
        expected.read_table(str(table))


def test_the_table_of_the_thesis_is_well_formed():
    figures = expected.read_table(str(Path(__file__).parents[1] / "docs" / "thesis.tsv"))
    assert {figure.where["model"] for figure in figures} == {MODEL["name"]}
    published = [figure for figure in figures if not np.isnan(figure.value)]
    comparable = [figure.value for figure in published if not figure.reason]
    assert comparable == [0.9324, 0.888, 0.7801, 0.6171, 0.293, 3.4656, 0.4455, 0.2976]
    assert len(published) == 30
    for figure in figures:
        name = figure.where.get("prompts", "")
        if name.startswith(("generic", "food")):
            texts, _ = read_with_digest(bundled.locate(name))
            digest = files.digest(canonical_json(texts).encode())
            assert digest.startswith(f"sha256:{figure.where['prompts_sha256']}")
            assert len(figure.where["prompts_sha256"]) == 12
    by_class = [figure.where["class"].split("|") for figure in figures if "class" in figure.where]
    assert [len(names) for names in by_class] == [1] * 12 + [5] * 20
    superclasses = {name for names in by_class[12:] for name in names}
    assert len(superclasses) == 100
    assert {name for names in by_class for name in names} == superclasses


def test_a_control_has_a_column(tmp_path):
    folder = write_results(tmp_path / "a")
    control = write_results(tmp_path / "b", model={"untrained": 3, "digest": "sha256:34"})
    found = tables(ok("report", folder, "--control", control).stdout)
    row = found["img.svm.h5"]
    assert row["untrained control (%)"] == row["accuracy (%)"]
    found = tables(ok("report", folder).stdout)
    assert "untrained control (%)" not in found["img.svm.h5"]


def test_a_control_without_results_is_refused(img_h5, tmp_path):
    """Embeddings of a control are none, but lie beside them."""
    folder = write_results(tmp_path / "a")
    control = write_results(tmp_path / "b", model={"untrained": 3, "digest": "sha256:34"})
    shutil.copy(img_h5, control)
    ok("report", folder, "--control", control)
    message = "expected results of an untrained control, got none"
    (control / "img.svm.h5").unlink()
    for path in (control, control / img_h5.name):
        assert f"{path}: {message}" in fails("report", folder, "--control", path)


def test_a_folder_of_a_trained_model_is_no_control(tmp_path):
    folder, control = write_results(tmp_path / "r"), write_results(tmp_path / "c")
    message = "c/img.svm.h5: expected a result of an untrained model, got one of clip-vit-base"
    assert message in fails("report", folder, "--control", control)


@pytest.mark.parametrize(
    "entry",
    [
        {"model": {"untrained": 3, "name": "tiny"}},
        {"model": {"untrained": 3, "layer": 4}},
        {"model": {"untrained": 3}, "dataset": {"splits": SPLITS | {"test": {"rows": "xy"}}}},
    ],
    ids=["another model", "other features", "other images"],
)
def test_a_control_of_something_else_has_a_row_of_its_own(entry, tmp_path):
    folder, control = write_results(tmp_path / "r"), write_results(tmp_path / "c", **entry)
    text = ok("report", folder, "--control", control).stdout
    found = tables(text.partition("\n### ")[2].partition("\n## ")[0])
    assert "untrained control (%)" not in found["img.svm.h5"]
    assert "c/img.svm.h5" in found


@pytest.mark.parametrize(
    ("entry", "of_one", "of_other", "is_same"),
    [
        ({"command": "entropy"}, {"temperature": [1.0]}, {"temperature": [1.0, 0.005]}, True),
        ({"val": 0.1}, {"temperature": [1.0]}, {"temperature": [1.0, 0.005]}, True),
        ({}, {"seed": 42}, {"seed": 1}, True),
        ({"classifier": "mlp"}, {"seed": 42}, {"seed": 1}, False),
        ({"shots": 5}, {"seed": 42}, {"seed": 1}, False),
        ({"val": 0.1}, {"seed": 42}, {"seed": 1}, False),
        ({}, {"features": "probs"}, {"features": "logits"}, False),
    ],
)
def test_a_control_is_made_in_the_same_way_but_for_what_changes_nothing(
    entry, of_one, of_other, is_same
):
    made = {"command": "probe", "classifier": "svm", **entry}
    one, other = (FeatureFile("result", [made | of], {}) for of in (of_one, of_other))
    assert (steps.settings(one) == steps.settings(other)) == is_same


@pytest.mark.parametrize("val", [None, "0.2"])
def test_a_control_may_have_chosen_another_c_on_its_validation_rows(val):
    file = FeatureFile("result", [{"command": "probe", "val": val}])
    one, other = (steps.run_settings(file, RUN | {"C": C}) for C in (0.1, 10.0))
    assert (one == other) == (val is not None)


def test_bars_and_summary_have_the_best_of_several_controls(tmp_path):
    folders = [write_results(tmp_path / "r")]
    for seed, right in ((1, 20), (2, 60)):
        control = write_results(tmp_path / f"{seed}", model={"untrained": seed})
        predicted = np.where(np.arange(200) < right, LABELS, (LABELS + 1) % 5)
        result = read(control / "img.svm.h5")
        result.splits["test"].predicted = predicted[None]
        result.set_rows([RUN | {"acc1": right / 200}])
        write(control / "img.svm.h5", result, force=True)
        folders.append(control)
    page = of_folder(folders[0], folders[1:])
    fact = page.facts[0]
    assert "the most accurate of 2 untrained controls (30.00" in fact.text
    row = page.questions[0].table.rows[0]
    (number,) = [cell for cell in row if isinstance(cell, blocks.Number)]
    assert number.bar.control == fact.bar.control == pytest.approx(0.3)
    assert "20.00 (10.00–30.00)" in row


def test_a_report_begins_with_what_was_found_and_what_ran(tmp_path):
    draw = {"dataset": {"draw": {"limit": 9, "seed": 42}}}
    folder = write_results(tmp_path / "r", **draw, skipped=["1.jpg", "2.jpg"])
    control = write_results(tmp_path / "c", model={"untrained": 7, "digest": "sha256:3"}, **draw)
    text = ok("report", folder, "--control", control).stdout
    assert text.startswith(
        "# clip-vit-base-patch32 on cifar100\n\n## How often is it right?\n\n- Main result: "
    )
    assert text.count("\n| what ran") == 1
    facts = {key: cells[""] for key, cells in tables(text).items() if "" in cells}
    assert f"numpy {np.__version__}" in facts.pop("reported by")
    assert facts == {
        "model": f"{NAME}, sha256:12, fp32 on cpu",
        "untrained control": f"{NAME}, untrained (seed 7), sha256:3, fp32 on cpu",
        "draw": "limit 9, seed 42",
        "skipped images": "2",
        "rows of train": "cifar100: 50000 images, sha256:ab",
        "rows of test": "cifar100: 10000 images, sha256:cd",
        "embedded by": "clipkit 0.1.0",
    }


def test_the_pictures_in_a_folder_are_shown(tmp_path):
    folder = write_results(tmp_path / "r")
    (folder / "img.svm.confusion.png").touch()
    text = ok("report", folder).stdout
    assert re.findall(r"!\[.*\]\((.*)\)", text) == ["img.svm.confusion.png"]
    assert "Pictures" not in ok("report", folder / "img.svm.h5").stdout


def test_results_of_layers_have_a_table_if_no_layer_is_there_twice(tmp_path):
    folder = write_results(tmp_path / "r")
    baseline = read(folder / "img.svm.h5")
    for name, layer in (("0", 0), ("1", 1), ("again", 1)):
        history = [dict(entry) for entry in baseline.history]
        history[0]["model"] = MODEL | {"layer": layer, "layers": 2, "pool": "cls", "norm": False}
        write(tmp_path / f"{name}.h5", replace(baseline, history=history))
    files = [folder, tmp_path / "0.h5", tmp_path / "1.h5"]
    found = tables(ok("report", *files).stdout)
    assert found["0"]["accuracy (%)"] == found["embedding"]["accuracy (%)"] == "75.00"
    assert not {"0", "embedding"}.intersection(
        tables(ok("report", *files, tmp_path / "again.h5").stdout)
    )


def test_the_columns_of_a_table_line_up_and_prose_is_wrapped(tmp_path):
    for block in ok("report", write_results(tmp_path / "r")).stdout.split("\n\n"):
        widths = [len(line) for line in block.splitlines()]
        if block.startswith("|"):
            assert len(set(widths)) == 1
        else:
            assert max(widths) <= 100


def test_a_folder_without_results_is_refused(tmp_path):
    assert f"got none: no .h5 file in {tmp_path}" in fails("report", tmp_path)
    assert "expected the name of a folder, got ''" in fails("report", "", exit_code=2)


# -- folders that somebody else filled -------------------------------------------------------------


@pytest.mark.parametrize(("split", "rows"), [("val", 1), ("test", 3)])
@pytest.mark.long
def test_a_result_that_lacks_what_a_report_needs_is_left_out_with_the_reason(split, rows, tmp_path):
    folder = write_results(tmp_path / "r")
    result = read(folder / "img.svm.h5")
    scored = result.splits["test"]
    result.splits = {split: replace(scored, predicted=np.tile(scored.predicted, (rows, 1)))}
    write(folder / "img.svm.h5", result, force=True)
    report = partly("report", folder)
    reason = f"runs on {split}, got {rows}"
    assert re.search(f"- img.svm.h5: expected .* {reason}", report.stdout)
    assert re.search(f"clipkit: warning: left out img.svm.h5: expected .* {reason}", report.stderr)


HOSTILE = "<img src=x>\n# head\x1b[31m [l](http://a.b) |cell| $x$ `code` *b* _i_ \u202e"


def test_names_make_no_markdown(tmp_path):
    names = [f"{HOSTILE}{i}" for i in range(3)] + ["---", "# 1"]
    splits = {HOSTILE: {"rows": HOSTILE}}
    model = {"name": HOSTILE, "digest": HOSTILE, "device": HOSTILE}
    folder = write_results(
        tmp_path / "r", names, model=model, dataset={"name": HOSTILE, "splits": splits}
    )
    table = tmp_path / "t.tsv"
    hostile = " ".join(HOSTILE.split())
    table.write_text(f"{HEADER}{hostile}\t{hostile}\tC=1\tacc1\t1\tno: {hostile}\t{hostile}\n")
    page = ok("report", folder, "--expected", table).stdout
    assert not set("\x1b\u202e") & set(page)
    unescaped = re.sub(r"\\[^\w\s]", "", page).replace("**75.00\N{NO-BREAK SPACE}%**", "")
    for character in "<>[]`*$":
        assert character not in unescaped
    assert "://" not in unescaped
    headings = [line for line in page.splitlines() if re.match(" {0,3}#", line)]
    assert headings[0].startswith("# b\\_") or headings[0].startswith("# ")
    assert not re.search(r"^\s*(-+|=+)\s*$", page, re.MULTILINE)


@pytest.mark.parametrize(
    ("predicted", "said"),
    [
        (
            [1, 1, 2] * 4,
            "a**: 0 of 12 images right, below all other classes (100.0 %); "
            "most often predicted as b (8).",
        ),
        ([1, 1, 2, 2] * 3, "most often predicted as b or c (6 each)."),
    ],
)
def test_wrong_classes_that_are_predicted_equally_often_are_all_named(predicted, said):
    labels = np.repeat([0, 1, 2], [len(predicted), 5, 5])
    ids = [str(row) for row in range(len(labels))]
    found = np.array([*predicted, *[1] * 5, *[2] * 5])
    scored = Predictions(ids, labels, found, ["a", "b", "c"], "", "f.h5")
    (fact,) = lowest_class(scored, "f.h5")
    assert said in fact.text


@pytest.mark.exhaustive
@pytest.mark.parametrize(("classes", "images"), [(3, 40), (10, 5), (10, 50), (100, 20)])
def test_of_classes_that_are_equal_none_is_called_the_lowest(classes, images):
    random = np.random.default_rng(classes * images)
    labels = np.repeat(np.arange(classes), images)
    ids = list(map(str, range(len(labels))))
    names = [f"class {place}" for place in range(classes)]
    said = 0
    for _ in range(300):
        is_right = random.random(len(labels)) < 0.7
        predicted = np.where(is_right, labels, (labels + 1) % classes)
        scored = Predictions(ids, labels, predicted, names, "", "f.h5")
        said += bool(lowest_class(scored, "f.h5"))
    assert said <= 12  # of 4,000 worlds 2.3 %: more than 12 of 300 would be bad luck
