"""clipkit start: two commands from photos to a page."""

from __future__ import annotations

import pytest
from factories import refused
from PIL import Image
from shell import clipkit, ok, shell

CLASSES = ("cat", "dog", "red_fox", "hen")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(80):
        name = CLASSES[number % 4]
        image = Image.new("RGB", (48, 48), ("red", "blue", "green", "white")[number % 4])
        image.putpixel((number % 48, number // 48), (9, 9, 9))
        path = tmp_path / "my photos" / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return tmp_path / "my photos"


def test_start_writes_a_line_for_each_image_and_class_and_prints_the_commands(photos, tmp_path):
    printed = ok("start", photos, "-o", "study").stdout
    assert printed.startswith("make -C study ")
    assert "make -C study MODEL=tiny" in printed
    table = (tmp_path / "study" / "table.tsv").read_text().splitlines()
    assert table[0] == "id\tclass\tcolour\tsetting"
    assert len(table) == 81
    assert "cat/0.png\tcat\t\t" in table
    assert "red_fox\tred fox\n" in (tmp_path / "study" / "classes.tsv").read_text()
    assert "class: hen\ta photo of a hen\n" in (tmp_path / "study" / "words.tsv").read_text()


def test_nothing_is_overwritten(photos, tmp_path):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "notes.txt").write_text("mine")
    refused(clipkit("start", photos, "-o", "study"), 2, "study exists and is not empty")
    assert [path.name for path in (tmp_path / "study").iterdir()] == ["notes.txt"]


def test_a_named_data_set_is_not_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ok("start", "cifar100", "-o", "study")
    assert {path.name for path in (tmp_path / "study").iterdir()} == {"Makefile", "classes.tsv"}
    assert "lawn_mower\tlawn mower\n" in (tmp_path / "study" / "classes.tsv").read_text()
    dry = shell("unset MAKEFLAGS MAKELEVEL; make -n -C study MODEL=tiny", tmp_path)
    assert dry.returncode == 0, dry.stderr
    assert "clipkit embed cifar100  --model tiny" in dry.stdout


def test_images_without_classes_ask_of_prompts_alone(photos, tmp_path):
    ok("start", photos / "cat", "-o", "study")
    assert not (tmp_path / "study" / "classes.tsv").exists()
    dry = shell("unset MAKEFLAGS MAKELEVEL; make -n -C study", tmp_path)
    assert "clipkit entropy" in dry.stdout
    assert "clipkit probe" not in dry.stdout


def test_columns_with_two_values_are_measured(photos, tmp_path):
    ok("start", photos, "-o", "study")
    table = tmp_path / "study" / "table.tsv"
    first, *lines = table.read_text().splitlines()
    filled = [f"{line[:-1]}{'red' if 'cat' in line else 'blue'}\t" for line in lines]
    table.write_text("\n".join([first, *filled, ""]))
    dry = shell("unset MAKEFLAGS MAKELEVEL; make -n -C study CONTROL=", tmp_path)
    assert "--attribute 'class,colour' " in dry.stdout
    assert "--control" not in dry.stdout


@pytest.mark.long
def test_two_commands_make_a_page_with_a_control(photos, fork_server, tmp_path):
    fork_server.launch()
    line = "clipkit start 'my photos' -o study && make -C study MODEL=tiny"
    made = shell(f"unset MAKEFLAGS MAKELEVEL; {line}", tmp_path, fork_server.venv / "bin")
    assert made.returncode == 0, made.stderr
    page = (tmp_path / "study" / "report.html").read_text()
    assert "untrained" in page
    assert "zeroshot" in page
