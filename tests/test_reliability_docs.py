"""The pages on the format and on reliability say what is so."""

from __future__ import annotations

import ast
import doctest
import re
import shutil
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs"


def test_the_session_of_the_format_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(TESTS / "data" / "v1-images.h5", tmp_path / "img.h5")
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testfile(
        str(DOCS / "format.md"), module_relative=False, encoding="utf-8"
    )
    assert (failed, tried > 10) == (0, True)


def test_every_promise_names_a_test_that_exists() -> None:
    text = (DOCS / "reliability.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+\.py)::(test_\w+)`", text))
    assert len(named) > 20
    for file, name in named:
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (
            f"{file}::{name}"
        )
