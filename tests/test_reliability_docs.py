"""The pages on the format and on reliability are true."""

import ast
import doctest
import itertools
import re
import shutil
from pathlib import Path

import pytest
from conftest import TIERS

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs"


def test_the_examples_of_the_format_page_run(tmp_path, monkeypatch):
    shutil.copy(TESTS / "data" / "v1-images.h5", tmp_path / "img.h5")
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
    for test in itertools.chain.from_iterable(promises().values()):
        file, name = test.split("::")
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        tests = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name in tests, test


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
