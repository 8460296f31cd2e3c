"""The questions of a page: what errors share, ways of asking, and two models in one picture."""

import re

import numpy as np
import pytest
from factories.results import LABELS, write_results
from test_report_files import write_result

from clipkit.analysis import find
from clipkit.analysis.mistakes.kept import OF_NAMES, ClassValues
from clipkit.analysis.question import Analysis
from clipkit.analysis.sections import BETTER, MISTAKES, RIGHT, SECTIONS
from clipkit.features import FeatureFile, history_entry, read, write
from clipkit.features.provenance import provenance
from clipkit.report import Page, as_html, as_markdown, of_files, summary
from clipkit.report.blocks import Fact, Heading
from clipkit.report.summary import of_others
from clipkit.statistics.shared_errors import shared_error, words_of_names

NAMES = [f"{pattern} {outline}" for pattern in ("banded", "striped", "solid") for outline in "abcd"]


def test_each_question_has_a_section_of_the_page():
    names = ("probe", "zeroshot", "compare", "retrieve", "calibrate", "entropy", "attributes")
    assert all(find(name).section in SECTIONS for name in names)
    assert find("compare").section == BETTER
    assert Analysis("own", "What?", len).section in SECTIONS


def confused(n, rng):
    """Return the counts (12, 12) of classes whose n errors each go to a random other class."""
    counts = 20 * np.eye(12, dtype=np.int64)
    for true in range(12):
        for step in rng.integers(1, 12, n):
            counts[true, (true + step) % 12] += 1
    return counts


def test_errors_that_share_a_change_of_an_attribute_are_said_with_their_numbers():
    counts = confused(2, np.random.default_rng(0))
    for outline in range(4):
        counts[outline, 4 + outline] += 9  # banded as striped
    found = shared_error(counts, words_of_names(NAMES))
    assert (found.true, found.predicted) == ("banded", "striped")
    assert found.images == counts[:4, 4:8].sum()
    assert (found.of, found.errors) == (counts[:4].sum(), counts.sum() - np.trace(counts))
    assert (found.classes_with, found.classes) == (4, 4)


@pytest.mark.exhaustive
def test_independent_errors_share_nothing_in_more_than_97_of_100_worlds():
    values = words_of_names(NAMES)
    said = [shared_error(confused(3, np.random.default_rng(n)), values) for n in range(300)]
    wrong = sum(one is not None for one in said)
    assert wrong <= 15  # 7.5 are expected of 2.5 %; 15 or more have a probability of 1 %


def test_the_order_of_the_files_does_not_change_the_page(tmp_path):
    files = [write_result(tmp_path / f"{name}.h5", n, n) for name, n in (("a", 120), ("z", 150))]
    pages = [of_files(files), of_files(files[::-1])]
    assert [page.facts[0].source for page in pages] == ["z.h5", "z.h5"]
    assert "best of 2 results" in pages[0].facts[0].text


@pytest.mark.long
def test_two_models_that_were_asked_alike_are_compared_first(tmp_path, monkeypatch):
    monkeypatch.setattr(summary, "lowest_class", lambda *_: [Fact("Lowest class", "cat")])
    folders = [write_results(tmp_path / name) for name in ("one", "two")]
    other = read(folders[1] / "img.svm.h5")
    other.history[0]["model"] |= {"name": "another", "digest": "sha256:9"}
    predicted = np.where(np.arange(200) < 90, LABELS, (LABELS + 1) % 5)
    other.splits["test"].predicted = predicted[None]
    write(folders[1] / "img.svm.h5", other, force=True)
    page = of_files([folder / "img.svm.h5" for folder in folders[::-1]])
    first, second, third, *_ = page.questions
    assert [first.section, second.section, third.section] == [BETTER, RIGHT, MISTAKES]
    sentence = first.facts[0].text
    assert sentence.startswith("clip-vit-base-patch32 is above another by **30.0 points** (")
    assert first.table.rows[0][1:3] == ["75.00", "45.00"]
    names = [fact.name for fact in second.facts if fact.bar]
    assert names == ["Main result of clip-vit-base-patch32", "Main result of another"]
    _, source = second.drawing.draw(*second.drawing.inputs)
    assert source.startswith("clip-vit-base-patch32 and another on cifar100")
    models = [row[0].rpartition(" · ")[2] for row in second.table.rows]
    assert models == ["clip-vit-base-patch32", "another"]  # by the paired answer, not by name
    main, _ = page.main_result("cifar100")
    assert main is third.drawing.inputs[0]
    assert provenance(main).model == "clip-vit-base-patch32"
    lowest = [fact.name for fact in third.facts]
    assert lowest == ["Lowest class of clip-vit-base-patch32"]
    text = as_markdown(page)
    assert text.index("## Which model is better?") < text.index("## How often is it right?")
    html = as_html(page)
    assert html.index("Which model is better?") < html.index("How often is it right?")
    alone = of_files([folders[0] / "img.svm.h5"])
    assert all(question.section != BETTER for question in alone.questions)


@pytest.mark.parametrize("source", [OF_NAMES, "shapes"])
def test_a_page_asks_which_attribute_explains_errors_where_attributes_were_held(
    tmp_path, monkeypatch, source
):
    held = ClassValues({"hue": ["red", "red", "red", "blue", "blue"]}, np.arange(5), source, {})
    monkeypatch.setattr(summary, "own_values", lambda *_: held)
    page = of_files([write_result(tmp_path / "a.h5", 120)])
    (asked,) = (question for question in page.questions if question.section == MISTAKES)
    said = [fact.text for fact in asked.facts if fact.name == "Shared errors"]
    if source == OF_NAMES:
        assert (asked.text, said) == ("What does it confuse?", [])
    else:
        assert asked.text == "What does it confuse, and which attribute explains it?"
        assert said == ["Not decided whether an attribute explains the errors (hue)."]


def test_what_an_untrained_or_another_model_shows_is_named_after_it(monkeypatch):
    monkeypatch.setattr(summary, "findings", lambda result: ["miscalibrated"])

    def names(*models):
        files = {}
        for number, model in enumerate(models):
            history = [history_entry("embed", model=model), history_entry("calibrate")]
            files[f"{number}.h5"] = FeatureFile("result", history)
        return [fact.name for facts in of_others(files).values() for fact in facts]

    a, b, untrained = {"name": "a"}, {"name": "b"}, {"name": "a", "untrained": 7}
    assert names(untrained, a) == ["Calibration", "Calibration of untrained a"]
    assert names(a, b) == ["Calibration of a", "Calibration of b"]


def test_a_page_says_which_question_a_generative_model_was_asked(tmp_path):
    asked = write_result(tmp_path / "a.h5", 120, question="What is *it*?")
    page = of_files([asked, write_result(tmp_path / "b.h5", 150)])
    assert "- Asked of each image: “What is \\*it\\*?”" in as_markdown(page)
    html = as_html(page)
    assert html.index("“What is *it*?”") < html.index("How often is it right?</h2>")
    assert not of_files([tmp_path / "b.h5"]).summary


def test_a_page_of_80_results_has_a_picture_and_a_table_open_for_each_question(tmp_path):
    for number in range(80):
        model = {"name": f"m{number % 2}", "digest": f"sha256:{number % 2}"}
        labels = np.roll(LABELS, number // 8)  # ten sets of images
        write_result(tmp_path / f"{number}.h5", 100 + number, number, labels=labels, **model)
    html = as_html(of_files([tmp_path]))
    folded = 0
    unfolded = []
    for tag in re.findall(r'<details|</details|<h2|<figure class="\w+', html):
        folded += (tag == "<details") - (tag == "</details")
        if not folded:
            unfolded.append(tag)
    assert 4 <= unfolded.count("<h2") <= 8
    assert 3 <= unfolded.count('<figure class="picture') <= 10
    assert unfolded.count('<figure class="table') <= 8


def test_markdown_has_no_heading_with_nothing_below_it():
    blocks = [Heading(2, "a"), Heading(3, "empty"), Heading(3, "b"), "text", Heading(2, "last")]
    assert as_markdown(Page("Title", blocks)) == "# Title\n\n## a\n\n### b\n\ntext\n"
