"""`clipkit run`: a question of one's own, from its file to tables, pictures and pages."""

import re
from pathlib import Path

import numpy as np
import pytest
from factories import write_feature_file
from shell import clipkit as call
from shell import fails, ok, rows

import clipkit

PAGE = Path(__file__).parents[1] / "docs" / "own-analysis.md"
NEEDED = re.search(r"^```py\n(# needed.py\n.*?)^```$", PAGE.read_text(), re.M | re.S)[1]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_feature_file(tmp_path / "logits.h5", "logits")
    write_feature_file(tmp_path / "images.h5")
    Path("needed.py").write_text(NEEDED)
    return tmp_path


@pytest.fixture
def result(folder):
    ok("run", "needed.py", "logits.h5", "--level", "0.9", "-o", "needed.h5")
    Path("needed.py").unlink()  # what follows never runs it again
    return "needed.h5"


def test_the_example_of_the_documentation_has_at_most_60_lines():
    assert NEEDED.count("\n") <= 60


def test_a_file_is_a_command_with_help_and_machine_formats(folder):
    assert "Report how many of its likeliest prompts" in ok("run", "needed.py", "--help").stdout
    printed = rows(ok("run", "needed.py", "logits.h5", "--level", "0.9").stdout)
    assert list(printed[0]) == ["split", "level", "needed", "needed_low", "needed_high", "at_once"]
    json = ok("run", "needed.py", "logits.h5", "--format", "json", "--columns", "needed").stdout
    assert '"needed"' in json
    piped = call("run", "needed.py", "--level", "0.9", stdin=Path("logits.h5").read_bytes())
    assert rows(piped.stdout) == printed


def test_the_numbers_are_those_of_the_definition(folder):
    logits = clipkit.read("logits.h5")
    z = np.asarray(logits.cosines("test")) * (logits.logit_scale or 1)
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    counts = [next(n for n in range(1, 99) if np.sort(row)[-n:].sum() >= 0.9) for row in p]
    (row,) = clipkit.run("needed.py", "logits.h5", level=0.9, split="test").rows()
    assert row["needed"] == pytest.approx(np.mean(counts), abs=1 / len(p))
    assert row["needed_low"] < row["needed"] < row["needed_high"]


def test_a_result_says_itself_what_it_holds(result):
    for format in ("table", "markdown", "latex"):
        printed = ok("info", "--runs", result, "--format", format).stdout
        assert "prompts needed" in printed
        assert "one prompt" in printed
    entry = clipkit.read(result).history[-1]
    assert (entry["command"], entry["code"]) == ("run", "needed.py")
    assert entry["options"] == ["--level", "0.9"]
    assert entry["found"][0].startswith("test: ")


@pytest.mark.long
def test_a_result_has_a_picture_a_section_of_a_report_and_a_view(result):
    ok("plot", result, "-o", "needed.png")
    assert Path("needed.png").read_bytes()[:4] == b"\x89PNG"
    ok("report", result, "-o", "needed.html")
    page = Path("needed.html").read_text()
    assert "How many prompts does an image need until its class is clear?" in page
    assert "prompts on average" in page
    assert "prompts needed" in clipkit.read(result)._repr_html_()


MINE = """from typing import Annotated
import clipkit
COLUMNS = (clipkit.Column("number", clipkit.NUMBER),)
INPUT = clipkit.Input("FILE", "A file.", (), is_piped=True)
def mine(file: Annotated[clipkit.FeatureFile, INPUT]):
    "Count."
    {}
ANALYSIS = clipkit.Analysis("mine", "Why?", mine, COLUMNS)
"""


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return [{'number': 1 / 0}]", "cannot ask mine.py (line 7): ZeroDivisionError: division"),
        ("raise SystemExit(0)", "cannot ask mine.py (line 7): it called sys.exit(0)"),
        ("raise GeneratorExit", "cannot ask mine.py (line 7): GeneratorExit"),
        ("return []", "mine.py: mine: expected rows, got none"),
        (
            "return [{'other': 1}]",
            "mine.py: mine: expected a Column for 'other' of row 0, got none",
        ),
        ("return [{'number': [1]}]", "row 0: expected a number for number, got list"),
        ("return 3", "cannot ask mine.py"),
        ("return file", "expected rows, got FeatureFile"),
        ("return [{'number': 'one'}]", "row 0: expected a number for number, got str"),
        ("return [{'number': 10**30}]", "row 0: expected a number between"),
        ("return [{'number': 1}, {}]", "row 1: expected the columns number, got"),
        ("import numpy; return [{'number': numpy.zeros(2)}]", "a number for number, got ndarray"),
        ("file.splits['test'].features[:] = 0", "cannot ask mine.py (line 7): ValueError: assignm"),
    ],
)
def test_an_error_of_the_file_is_one_line_that_names_it(body, message, folder):
    Path("mine.py").write_text(MINE.format(body))
    line = fails("run", "mine.py", "images.h5", "-o", "out.h5")
    assert message in line
    assert "a bug in clipkit" not in line
    assert not Path("out.h5").exists()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("1 / 0", "cannot run mine.py (line 1): ZeroDivisionError: division by zero"),
        ("def", "cannot run mine.py: SyntaxError: invalid syntax (mine.py, line 1)"),
        ("ANALYSIS = 3", "mine.py: expected ANALYSIS = clipkit.Analysis(...), got 3"),
        ("", "mine.py: expected ANALYSIS = clipkit.Analysis(...), got none"),
        (MINE.replace(", INPUT]", ", 1]"), "expected a clipkit.Input or an option"),
        (MINE.replace("NUMBER),)", "NUMBER))"), "mine.py: expected a tuple of columns, got"),
        (MINE.replace("clipkit.NUMBER", "3"), "mine.py: expected a unit for the column number"),
        (MINE.replace("COLUMNS)\n", "COLUMNS, picture=3)\n"), "expected a picture such as"),
        (MINE.replace("COLUMNS)\n", "COLUMNS, topic='a')\n"), "expected no topic in the record"),
        (MINE.replace("(file:", "(columns:"), "names that no option of a report has"),
    ],
)
def test_a_file_without_a_question_is_refused_in_one_line(code, message, folder):
    Path("mine.py").write_text(code)
    assert message in fails("run", "mine.py", "images.h5")


@pytest.mark.parametrize("code", ["1 / 0", "__import__('sys').exit(0)"])
def test_a_check_of_the_file_runs_behind_the_border(code, folder):
    record = f"COLUMNS, check=lambda **_: {code})"
    body = MINE.replace("COLUMNS)\n", f"{record}\n").format("return [{'number': 1}]")
    Path("mine.py").write_text(body)
    assert "cannot check the words for mine.py" in fails("run", "mine.py", "images.h5")


def test_a_page_has_the_command_line_and_what_was_found(folder):
    findings = "COLUMNS, findings=lambda _: ['It is so'])"
    body = MINE.replace("COLUMNS)\n", f"{findings}\n").format("return [{'number': 1}]")
    Path("mine.py").write_text(body)
    ok("run", "mine.py", "images.h5", "-o", "r.h5")
    ok("report", "r.h5", "images.h5", "-o", "page.html")
    page = Path("page.html").read_text()
    assert "clipkit run mine.py images.h5 -o r.h5" in page
    assert "It is so" in page


def test_the_code_cannot_change_its_inputs(folder):
    body = MINE.replace("is_piped=True", "is_piped=True, is_streamed=False")
    for change in ("file.splits['test'].features[:] = 0", "file.history.clear()"):
        Path("mine.py").write_text(body.format(f"{change}; return [{{'number': 1}}]"))
        given = clipkit.read("images.h5")
        ended = call("run", "mine.py", "images.h5", "-o", "r.h5", "-f")
        if ended.exit_code == 0:
            entry = clipkit.read("r.h5").history[-1]
            assert entry["inputs"] == {"file": given.digest}


def test_crafted_columns_of_a_history_are_no_columns():
    for described in ({"name": 3}, {"name": "x" * 10**6}, {"name": "x", "relatives": "a " * 10**6}):
        assert clipkit.Column.from_json({"unit": "share", **described}) is None
    column = clipkit.Column("x", clipkit.SHARE, decimals=1, interval=("lo", "hi"), beside="y")
    assert clipkit.Column.from_json(column.as_json()) == column


def test_words_in_place_of_a_file_are_refused(folder):
    assert "there is no such file" in fails("run", "none.py", "images.h5")
    assert "expected a Python file, such as needed.py, got 'probe'" in fails(
        "run", "probe", exit_code=2
    )


@pytest.mark.parametrize(
    "noise",
    ["print('noise')", "import os; os.system('echo noise')", "import os; os.write(1, b'noise')"],
)
def test_what_the_file_prints_never_gets_into_the_output(noise, folder):
    Path("mine.py").write_text(MINE.format(f"{noise}; return [{{'number': 1}}]"))
    ended = call("run", "mine.py", "images.h5")
    assert ended.stdout == "number\n1\n"
    ended = call("run", "mine.py", "images.h5", "-o", "-")
    Path("out.h5").write_bytes(ended.stdout_bytes)
    assert clipkit.read("out.h5").rows() == [{"number": 1}]


def test_a_file_never_runs_because_another_file_names_it(result):
    Path("needed.py").write_text("raise SystemExit('it ran')")
    ok("info", result)
    ok("plot", result, "-o", "needed.svg")
    assert clipkit.read(result).history[-1].command == "run"
