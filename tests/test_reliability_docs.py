"""The pages on the format and on reliability are true."""

import ast
import doctest
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import TIERS

from clipkit.features import FeatureFile, Split, write

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs"


def test_the_examples_of_the_format_page_run(tmp_path, monkeypatch):
    history = [{"command": "embed", "model": {"name": "tiny"}}]
    file = FeatureFile("images", history, class_names=["cat", "été"])
    rows = (np.arange(12, dtype=np.float32).reshape(3, 4) - 8) / 8
    file.splits = {
        "test": Split(rows[:2], np.array([1, 0]), ["a.png", "b.png"]),
        "train": Split(rows, np.array([0, 1, 0]), ["0.png", "1.png", "2.png"]),
    }
    write(tmp_path / "img.h5", file)
    monkeypatch.chdir(tmp_path)
    page = str(DOCS / "format.md")
    failures, examples = doctest.testfile(page, module_relative=False, encoding="utf-8")
    assert failures == 0
    assert examples > 10


def promises():
    """Return the tests of each promise on the page on reliability."""
    text = (DOCS / "reliability.md").read_text(encoding="utf-8")
    found = {}
    for row in text.partition("## Tests")[2].splitlines():
        cell, _, test = row.strip("| ").rpartition("|")
        if "::" in test:
            cell = cell.strip() or list(found)[-1]
            found.setdefault(cell, []).append(test.strip(" `"))
    return found


@pytest.mark.long
def test_every_promise_names_a_test_that_exists():
    text = (DOCS / "reliability.md").read_text(encoding="utf-8")
    bold = re.findall(r"^- \*\*([^*]+?)\.?\*\*", text.replace("\n  ", " "), re.MULTILINE)
    assert list(promises()) == bold
    check_exist(itertools.chain.from_iterable(promises().values()))


def check_exist(tests):
    for test in tests:
        file, name = test.split("::")
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test


SECURITY = {  # the tests of each sentence of SECURITY.md that promises something
    "Opening a feature file reads no other file, runs no code, and takes memory in proportion to "
    "the file's size": [
        "test_reliability_input.py::test_an_untrusted_file",
        "test_reliability_hostile.py::test_reading_a_feature_file_takes_at_most_forty_times_its_size",
    ],
    "Links, external storage, virtual data sets, filters other than fletcher32, objects and "
    "pickles are refused": ["test_reliability_input.py::test_an_untrusted_file"],
    "Weights are read from safetensors only": [
        "test_untrusted_models.py::test_weights_beside_a_model_are_never_read"
    ],
    "Pickles are never loaded, and code in a model's repository is never run": [
        "test_reliability_hostile.py::test_a_pickle_checkpoint_is_not_loaded",
        "test_reliability_hostile.py::test_a_model_that_brings_code",
        "test_untrusted_models.py::test_a_processor_reads_no_other_model",
    ],
    "A Python file runs only if the user names it, as in `--model python:FILE.py:make`": [
        "test_encoders.py::test_a_feature_file_names_no_code_to_run",
    ],
    "No library gets the path of a model's folder: it gets tensors, settings and copies of the "
    "tokenizer's and the processor's files": [
        "test_untrusted_models.py::test_no_library_gets_the_path_of_a_models_folder"
    ],
    "`nearest -q` and `textembed --classes FILE` ask the Hub for the model that the file names, "
    "after a note that names both": [
        "test_prompts.py::test_classes_of_images_are_embedded_by_the_model_of_the_images"
    ],
    "A chat template takes at most 512 MiB, and Ctrl-C ends it": [
        "test_untrusted_models.py::test_a_chat_template_that_takes_memory_without_end_is_one_line",
        "test_untrusted_models.py::test_a_signal_ends_a_chat_template_without_end",
    ],
    "A processor may make at most 131,072 tokens and 512 MiB from one image": [
        "test_untrusted_models.py::test_what_a_processor_makes_of_an_image_is_bounded",
    ],
    "A table is UTF-8 text, and one that gives a column or a key twice is refused": [
        "test_retrieve.py::test_what_a_table_of_captions_says_twice_is_refused",
        "test_choose.py::test_a_table_without_items_is_refused_by_name",
        "test_sources.py::test_other_manifests_are_refused_with_the_line",
    ],
    "An image is decoded only if its size is below a limit": [
        "test_images.py::test_an_error_names_the_file_and_the_reason_in_one_line",
        "test_images.py::test_a_huge_file_is_refused_before_it_is_read",
    ],
    "A corrupt image is skipped and listed": [
        "test_reliability_hostile.py::test_bad_pictures_are_skipped_and_named_and_rows_stay_aligned"
    ],
    "A list of paths or a manifest may name local files and `http(s)://` URLs": [
        "test_sources.py::test_a_list_of_paths_is_read_from_standard_input",
        "test_archives.py::test_a_manifest_may_name_images_at_urls",
    ],
    "Their content is decoded as an image and used for nothing else": [
        "test_sources.py::test_rows_of_a_list_that_cannot_be_used_are_named_and_skipped"
    ],
    "Other protocols, such as `file://`, are refused": [
        "test_sources.py::test_urls_that_lead_to_this_machine_are_opened_nowhere"
    ],
    "Control characters in file names and texts never reach the terminal": [
        "test_reliability_hostile.py::test_a_file_name_cannot_write_on_the_terminal",
        "test_reliability_hostile.py::test_texts_from_a_file_cannot_write_on_the_terminal",
    ],
}


def test_every_sentence_of_the_security_policy_has_tests():
    text = (DOCS.parent / "SECURITY.md").read_text(encoding="utf-8")
    text = text.partition("untrusted input\n")[2].partition("[docs/")[0]
    text = " ".join(re.sub(r"- \*\*[^*]+\*\*", "", text).split())
    assert text.removesuffix(".").split(". ") == list(SECURITY)
    check_exist(itertools.chain.from_iterable(SECURITY.values()))


def tier_row(promise, tiers):
    """Return the row of a promise: how many of its cases each target of make runs."""
    cells = [promise]
    for targets in (["test-quick"], ["test-quick", "test"], ["test-quick", "test", "test-all"]):
        count = sum(tier in targets for tier in tiers)
        cells.append("all" if count == len(tiers) else "some" if count else "none")
    return f"| {' | '.join(cells)} |"


def test_make_test_runs_a_case_of_every_promise(request):
    """The table of tiers has the promises whose tests are all collected."""
    collected = request.config.stash[TIERS]
    page = (DOCS / "tests.md").read_text(encoding="utf-8")
    for promise, tests in promises().items():
        names = [f"tests/{test}" for test in tests]
        if collected.keys() >= set(names):
            tiers = list(itertools.chain.from_iterable(collected[name] for name in names))
            assert {"test-quick", "test"} & set(tiers), promise
            assert tier_row(promise, tiers) in page.splitlines()
