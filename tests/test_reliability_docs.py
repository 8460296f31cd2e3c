"""The pages on the format and on reliability are true."""

from __future__ import annotations

import ast
import doctest
import re
import shutil
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs"


def test_the_examples_of_the_format_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(TESTS / "data" / "v1-images.h5", tmp_path / "img.h5")
    monkeypatch.chdir(tmp_path)
    page = str(DOCS / "format.md")
    failures, examples = doctest.testfile(page, module_relative=False, encoding="utf-8")
    assert failures == 0
    assert examples > 10


@pytest.mark.long
def test_every_promise_names_a_test_that_exists() -> None:
    text = (DOCS / "reliability.md").read_text(encoding="utf-8")
    promises = re.findall(r"^- \*\*([^*]+?)\.?\*\*", text.replace("\n  ", " "), re.MULTILINE)
    table = text.partition("## Tests")[2]
    assert re.findall(r"^\| ([^|-][^|]*) \|", table, re.MULTILINE) == ["promise", *promises]
    tests_of_promises = re.findall(r"`(test_\w+\.py)::(test_\w+)`", table)
    assert len(tests_of_promises) > 20
    for file, name in tests_of_promises:
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        tests = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name in tests, f"{file}::{name}"
