"""docs/tutorial.ipynb runs, and the repository holds it without outputs."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from run_notebook import code_of

ROOT = Path(__file__).parents[1]
TUTORIAL = ROOT / "docs" / "tutorial.ipynb"
CELLS = json.loads(TUTORIAL.read_text(encoding="utf-8"))["cells"]
TABLE, FIGURE = ["html"], ["png"]


def test_it_holds_no_outputs_and_installs_clipkit_first():
    code = [cell for cell in CELLS if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert code[0]["id"] == "install"
    assert code[0]["source"][-1] == "%pip install --quiet {SOURCE}"
    assert TUTORIAL.stat().st_size < 20_000


def test_each_other_cell_is_python_that_ends_with_what_it_shows():
    assert len(code_of(TUTORIAL)) == len(CELLS) - len(texts()) - 1
    for cell in code_of(TUTORIAL):
        assert isinstance(ast.parse(cell).body[-1], ast.Expr)


def test_its_texts_are_as_narrow_as_other_pages():
    for text in texts():
        assert max(map(len, text.splitlines())) <= 100


def texts():
    return ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown"]


@pytest.mark.exhaustive
@pytest.mark.parametrize("how", ["plain", "kernel"])
def test_each_cell_shows_a_table_or_a_figure_once(tmp_path, how):
    if how == "kernel":
        pytest.importorskip("nbclient", reason="nbclient is not installed: make install")
        pytest.importorskip("ipykernel", reason="ipykernel is not installed: make install")
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "run_notebook.py", how, TUTORIAL],
        cwd=tmp_path,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    features, *shown = json.loads(done.stdout)
    assert features == []
    assert shown == [TABLE, TABLE, FIGURE, TABLE, TABLE, TABLE, FIGURE, TABLE, TABLE]
    assert "Warning" not in done.stderr
    assert (tmp_path / "understood.png").exists()
