"""Reports as text: a table fits the terminal, and says what it leaves out."""

from __future__ import annotations

import re
from typing import Any

import pytest
from rich.cells import cell_len

from clipkit.analysis.layout import DEFAULT
from clipkit.base import markdown, tables
from clipkit.features.columns import columns_of_command

SETTINGS = {"classifier": "svm", "C": 1.0, "fit_split": "train", "eval_split": "test"}
SWEEP = [
    {**SETTINGS, "temperature": tau, "acc1": tau / 3, "mean_entropy": tau, "mean_confidence": 0.25}
    for tau in (1.0, 0.5, 0.07)
]
LONG = "a photo of a very small banded hourglass on a wooden table beside an open window"
NAMES = "wide characters"
DIGEST = "sha256:" + 64 * "a"
TABLES: dict[str, list[dict[str, Any]]] = {
    "sweep": SWEEP,
    "one run": SWEEP[:1],
    "equal rows": SWEEP[:1] * 2,
    "many columns": [
        {"split": s, **{f"column_{i}": i + n for i in range(40)}}
        for n, s in enumerate(("train", "test"))
    ],
    "long texts": [{"prompt": f"{LONG} {n}", "share": n / 3} for n in range(3)],
    "digests": [{"field": "digest", "value": DIGEST}, {"field": "kind", "value": LONG}],
    NAMES: [{"class": "\u732b" * n, "recall": 0.5} for n in (1, 20, 30)],
    "nothing": [],
}


KNOWN = columns_of_command("another program")
HEADINGS = {name: column.heading for name, column in KNOWN.items()}
TABLE = tables.View("table", headings=[HEADINGS])


def words_of(text: str) -> list[str]:
    return re.findall(r"[^\s─,]+", text)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
@pytest.mark.parametrize("name", TABLES)
def test_a_table_breaks_only_names_that_do_not_fit(name, width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "5000")
    tables.emit(TABLES[name], TABLE._replace(no_header=True))
    cells = words_of(capsys.readouterr().out)
    monkeypatch.setenv("COLUMNS", str(width))
    tables.emit(TABLES[name], TABLE)
    shown = capsys.readouterr().out
    broken = {word for word in cells if cell_len(word) > width - 13} if name == NAMES else set()
    assert set(cells) - set(words_of(shown)) <= broken
    for word in broken:  # in parts, one below the other
        assert shown.count(word[0]) == "".join(cells).count(word[0])
        assert max(map(cell_len, shown.splitlines())) <= width
    if name not in ("many columns", "equal rows"):
        longest = max(map(cell_len, words_of(shown)), default=0)
        assert max(map(cell_len, shown.splitlines())) <= max(width, longest + 13)


@pytest.mark.parametrize("width", ["80", "200"])
def test_columns_that_are_the_same_in_all_rows_stand_once_below(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", width)
    tables.emit(SWEEP, TABLE)
    header, _, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["temperature", "accuracy", "%", "mean", "entropy", "(nats)"]
    rows, facts = lines[:3], lines[3:]
    assert [row.split()[0] for row in rows] == ["1", "0.5", "0.07"]
    words = ["In all rows: classifier svm, C 1, fit split train, eval split test, mean confidence"]
    assert " ".join(map(str.strip, facts)) == " ".join([*words, "25.00 %"])


def test_columns_that_the_user_named_stay_if_they_fit(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    tables.emit(SWEEP, TABLE._replace(columns=["classifier,temperature"]))
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["classifier", "temperature"]
    assert [row.split() for row in rows] == [["svm", "1"], ["svm", "0.5"], ["svm", "0.07"]]


def test_columns_stand_closer_where_that_makes_a_table_fit(monkeypatch, capsys):
    rows = [{f"column{i:02}": f"{i}{row}" * 4 for i in range(8)} for row in range(2)]
    for width, gap in ((90, 3), (82, 2)):
        monkeypatch.setenv("COLUMNS", str(width))
        tables.emit(rows, TABLE)
        header, *_ = lines = capsys.readouterr().out.splitlines()
        assert re.findall(r"\S( +)\S", header) == [gap * " "] * 7
        assert max(map(cell_len, lines)) <= width


def test_a_table_that_does_not_fit_is_continued_below_with_its_first_column(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    numbers = {f"number{i:02}": f"{i}.0 ({i}.1–{i}.9)" for i in range(12)}
    rows = [{"name": name, **numbers, "difference": 0.5} for name in ("first", "second")]
    rows[0] |= {f"number{i:02}": "-" for i in range(12)}
    rows[0]["difference"] = 0.25
    tables.emit(rows, TABLE)
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert max(map(cell_len, lines)) <= 80
    assert [word for word in words_of(text) if word == "second"] == ["second"] * text.count("name")
    assert text.count("name") > 1
    assert all(text.count(name) == 1 for name in numbers)


def test_the_interval_of_a_difference_stands_below_it_where_a_table_is_narrow(monkeypatch, capsys):
    space = tables.NO_BREAK
    cell = tables.Cell(f"-6.50{space}(-9.93{space}to{space}-3.04)")
    rows = [{"name": name, **{f"x{i}": cell for i in range(3)}, "p": name} for name in "ab"]
    rows[1] |= {f"x{i}": None for i in range(3)}
    for width, lines_of_a in ((100, 1), (66, 2)):
        monkeypatch.setenv("COLUMNS", str(width))
        tables.emit(rows, TABLE)
        shown = capsys.readouterr().out.splitlines()
        assert max(map(cell_len, shown)) <= width
        assert shown[2].count("-6.50") == shown[1 + lines_of_a].count("(-9.93 to -3.04)") == 3


def test_one_row_that_is_too_wide_is_a_list(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    tables.emit(SWEEP[:1], TABLE)
    lines = capsys.readouterr().out.splitlines()
    words = [HEADINGS[name].title for name in SWEEP[0]]
    assert all(line.startswith(f"  {name}") for line, name in zip(lines, words, strict=True))


def test_a_table_shows_an_interval_behind_its_number(capsys):
    row = {"acc1": 0.71, "mean_per_class_recall": 0.5, "acc1_low": 0.68, "acc1_high": 0.74}
    other = dict.fromkeys(row, None) | {"mean_per_class_recall": 0.25}
    tables.emit(DEFAULT.show([row, other], KNOWN), TABLE)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["accuracy", "%", "mean", "recall", "%"]
    assert lines[2].split() == ["71.00", "(68.00–74.00)", "50.00"]
    assert lines[3].split() == ["-", "25.00"]
    tables.emit([row], TABLE._replace(columns=["acc1", "acc1_low, acc1_high"]))
    assert capsys.readouterr().out.splitlines()[2].split() == ["71.00", "68.00", "74.00"]


def test_a_table_shows_the_start_of_a_digest_and_a_file_all_of_it(capsys):
    row = {"field": "digest", "value": f"sha256:{'0123456789ab' + 52 * 'c'}"}
    tables.emit([row], TABLE)
    assert "sha256:0123456789ab…" in capsys.readouterr().out
    tables.emit([row], tables.View("tsv"))
    assert row["value"] in capsys.readouterr().out


@pytest.mark.parametrize("columns", ["", "x", "-5", "0", "1e3", "9" * 5000])
def test_an_unusable_width_is_ignored(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    tables.emit(SWEEP, TABLE)
    assert len(capsys.readouterr().out.splitlines()) == 6  # header, line, rows, the shared columns


def test_control_characters_neither_break_nor_steer_a_table(capsys):
    tables.emit([{"class": "a\n\x1b[31m", "f1": 1.0}], TABLE)
    assert "\x1b" not in (shown := capsys.readouterr().out)
    assert len(shown.splitlines()) == 3


@pytest.mark.parametrize(
    ("text", "in_latex"),
    [
        ("a|b", r"a\textbar{}b"),
        ("#1 & 50 % _x_ $5", r"\#1 \& 50 \% \_x\_ \$5"),
        ("{x}", r"\{x\}"),
        ("a\\b", r"a\textbackslash{}b"),
        ("~^", r"\textasciitilde{}\textasciicircum{}"),
        ("[1] *", "{[}1] {*}"),
        ("<b>", "$<$b$>$"),
        ("a--b-c -x", "a-{}-b-c -x"),
        ("x -1.5 (-2.0–+1)", "x $-$1.5 ($-$2.0--+1)"),
        ("τ “é”", r"$\tau$ “é”"),
    ],
)
def test_a_name_is_shown_literally_in_both_languages(text, in_latex, capsys):
    row = {"class": text, "recall": 0.5}
    tables.emit([row, row | {"recall": 0.25}], tables.View("latex", ["class,recall"]))
    assert capsys.readouterr().out.splitlines()[4] == rf"{in_latex} & 0.5 \\"
    tables.emit([row], tables.View("markdown"))
    assert f"| {markdown.literal(text)} " in capsys.readouterr().out


def test_markup_has_what_all_rows_share_and_the_notes_below_the_table(capsys):
    notes = ["one is above the other", "1 < x."]
    tables.emit(SWEEP, TABLE._replace(format="markdown"), notes)
    assert capsys.readouterr().out.splitlines() == [
        "| temperature | accuracy % | mean entropy (nats) |",
        "|------------:|-----------:|--------------------:|",
        "|           1 |      33.33 |              1.0000 |",
        "|         0.5 |      16.67 |              0.5000 |",
        "|        0.07 |       2.33 |              0.0700 |",
        "",
        "In all rows: classifier svm, C 1, fit split train, eval split test, mean confidence "
        "25.00 %.",
        "",
        "one is above the other.",
        "",
        r"1 \< x.",
    ]
    tables.emit(SWEEP[:1], TABLE._replace(format="latex"), notes)
    assert capsys.readouterr().out.splitlines() == [
        r"\begin{tabular}{lrllrrrr}",
        r"\toprule",
        r"classifier & C & fit split & eval split & temperature & accuracy \% & "
        r"mean entropy (nats) & mean confidence \% \\",
        r"\midrule",
        r"svm & 1 & train & test & 1 & 33.33 & 1.0000 & 25.00 \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\par\smallskip{\footnotesize one is above the other.\par}",
        r"\par\smallskip{\footnotesize 1 $<$ x.\par}",
    ]


def test_an_interval_of_signed_numbers_has_no_dash_and_an_unknown_one_is_left_out(capsys):
    row = {"to_first": -0.065, "to_first_low": -0.09, "to_first_high": 0.01}
    unknown = row | {"to_first_low": float("nan"), "to_first_high": float("nan")}
    cells = DEFAULT.show([row, unknown], KNOWN)
    tables.emit(cells, TABLE)
    lines = capsys.readouterr().out.splitlines()
    assert [line.strip() for line in lines[2:]] == ["-6.50 (-9.00 to +1.00)", "-6.50"]
    tables.emit(cells, TABLE._replace(format="latex"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[4:6] == [r"$-$6.50 & ($-$9.00 to +1.00) \\", r"$-$6.50 & \\"]
