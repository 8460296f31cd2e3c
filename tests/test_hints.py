"""What a command says of inputs in the wrong place, and that its hints work when followed."""

from __future__ import annotations

import pytest
from factories import refused, write_feature_file
from shell import clipkit, fails

KINDS = ("images", "texts", "logits", "result", "probe")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A folder with a feature file of each kind, and files of other programs."""
    folder = tmp_path_factory.mktemp("mixed")
    for kind in KINDS:
        write_feature_file(folder / f"{kind}.h5", kind)
    (folder / "photos").mkdir()
    (folder / "table.csv").write_text("id,colour\n0.png,red\n1.png,blue\n")
    (folder / "items.csv").write_text("item,image,text,correct\n0,0.png,a,1\n0,0.png,b,0\n")
    (folder / "captions.tsv").write_text("image\tcaption\n0.png\ta cat\n")
    (folder / "prompts.txt").write_text("a cat\n")
    return folder


@pytest.fixture
def here(mixed, monkeypatch):
    monkeypatch.chdir(mixed)


SWAPPED = (
    ("logits texts.h5 images.h5", "images", "logits images.h5 texts.h5"),
    ("retrieve texts.h5 images.h5", "images", "retrieve images.h5 texts.h5"),
    ("choose texts.h5 images.h5 --items a", "images", "choose images.h5 texts.h5 --items a"),
    ("attributes texts.h5 images.h5", "images", "attributes images.h5 texts.h5"),
    ("variance texts.h5 images.h5", "texts", "variance images.h5 texts.h5"),
    ("align texts.h5 images.h5", "images", "align images.h5 texts.h5"),
    ("predict images.h5 probe.h5", "probe", "predict probe.h5 images.h5"),
    ("predict logits.h5 probe.h5", "probe", "predict probe.h5 logits.h5"),
    ("importance logits.h5 probe.h5", "probe", "importance probe.h5 logits.h5"),
    ("plot nearest shapes logits.h5", "logits", "plot nearest logits.h5 shapes"),
    ("describe result.h5 --result logits.h5", "logits", "describe logits.h5 --result result.h5"),
)


@pytest.mark.parametrize(("line", "kind", "meant"), SWAPPED)
def test_two_files_in_each_others_place_are_to_be_swapped(line, kind, meant, here):
    """What is then said of these files, if anything, is no more about their kinds."""
    assert fails_in_any_way(line).endswith(f"; hint: swap the two: {kind}.h5 holds the {kind}\n")
    followed = clipkit(*meant.split()).stderr
    assert "swap" not in followed
    assert f"expected {kind}" not in followed


def fails_in_any_way(line):
    """Run a command that must be refused in one line, for data or for usage; return the line."""
    result = clipkit(*line.split())
    assert result.exit_code in (1, 2)
    return refused(result, result.exit_code)


# One of several kinds is right, and the other place would not take the first
@pytest.mark.parametrize(
    "line",
    [
        "logits logits.h5 images.h5",
        "logits texts.h5 texts.h5",
        "retrieve result.h5 images.h5",
        "predict texts.h5 probe.h5",
        "logits texts.h5 -",
        "logits texts.h5 missing.h5",
    ],
)
def test_two_files_are_not_to_be_swapped_if_that_would_not_help(line, here):
    assert "swap" not in fails(*line.split(), stdin=b"")


IN_OPTIONS = (
    ("probe images.h5 table.csv", "probe images.h5 --table table.csv"),
    ("probe images.h5 shapes", "probe images.h5 --table shapes"),
    ("probe images.h5 -C 2 table.csv", "probe images.h5 -C 2 --table table.csv"),
    ("zeroshot logits.h5 result.h5", "zeroshot logits.h5 --threshold result.h5"),
    ("split images.h5 table.csv", "split images.h5 --table table.csv"),
    ("describe logits.h5 result.h5", "describe logits.h5 --result result.h5"),
    ("describe logits.h5 table.csv", "describe logits.h5 --table table.csv"),
    ("threshold logits.h5 logits.h5", "threshold logits.h5 --unknown logits.h5"),
    ("attributes images.h5 table.csv", "attributes images.h5 --table table.csv"),
    ("attributes images.h5 shapes", "attributes images.h5 --table shapes"),
    ("attributes images.h5 texts.h5 table.csv", "attributes images.h5 texts.h5 --table table.csv"),
    (
        "attributes images.h5 texts.h5 images.h5",
        "attributes texts.h5 images.h5 --control images.h5",
    ),
    ("variance images.h5 table.csv", "variance images.h5 --table table.csv"),
    ("compare result.h5 table.csv", "compare result.h5 --table table.csv"),
    ("choose images.h5 texts.h5 items.csv", "choose images.h5 texts.h5 --items items.csv"),
    (
        "choose images.h5 items.csv",
        "textembed --items items.csv | clipkit choose images.h5 - --items items.csv",
    ),
    ("textembed images.h5", "textembed --classes images.h5"),
)


@pytest.mark.parametrize(("line", "meant"), IN_OPTIONS)
def test_a_file_that_belongs_to_an_option_is_refused_with_the_line_to_type(line, meant, here):
    assert fails_in_any_way(line).endswith(f"; hint: clipkit {meant}\n")


MADE = (
    ("logits photos texts.h5", "clipkit embed photos -o photos.h5"),
    ("logits shapes texts.h5", "clipkit embed shapes -o shapes.h5"),
    ("probe photos", "clipkit embed photos -o photos.h5"),
    ("logits images.h5 prompts.txt", "clipkit textembed prompts.txt -o prompts.h5"),
    ("retrieve images.h5 captions.tsv", "clipkit textembed --captions captions.tsv -o captions.h5"),
    ("align images.h5 captions.tsv", "clipkit textembed --captions captions.tsv -o captions.h5"),
)


@pytest.mark.parametrize(("line", "maker"), MADE)
def test_what_is_no_feature_file_yet_is_refused_with_the_line_that_makes_one(line, maker, here):
    assert f"; hint: make one with: {maker}" in fails(*line.split())


WRONG_KIND = (
    ("logits images.h5 logits.h5", "logits.h5: expected texts, got logits"),
    ("retrieve images.h5 images.h5", "images.h5: expected texts, got images"),
    ("entropy images.h5", "images.h5: expected logits, got images"),
    ("zeroshot images.h5", "images.h5: expected logits, got images"),
    ("calibrate result.h5", "result.h5: expected logits, got result"),
    ("cluster texts.h5", "texts.h5: expected images or logits, got texts"),
    ("threshold images.h5", "images.h5: expected logits, got images"),
    ("describe images.h5", "images.h5: expected logits, got images"),
    ("compare result.h5 logits.h5", "logits.h5: expected result, got logits"),
    ("predict result.h5 logits.h5", "result.h5: expected probe, got result"),
    ("importance probe.h5 images.h5", "images.h5: expected logits, got images"),
    ("variance texts.h5", "texts.h5: expected images, got texts"),
    ("relabel images.h5 logits.h5", "logits.h5: expected text, got a feature file"),
    ("align images.h5 logits.h5", "logits.h5: expected images or texts, got logits"),
    ("concat images.h5 texts.h5", "expected one kind, got images and texts"),
)


@pytest.mark.parametrize(("line", "message"), WRONG_KIND)
def test_a_file_of_another_kind_is_refused_with_both_kinds(line, message, here):
    assert message in fails_in_any_way(line)


@pytest.mark.parametrize("words", ["probe images.h5 one two", "entropy logits.h5 texts.h5"])
def test_an_argument_too_many_is_refused_by_its_name(words, here):
    command, _, extra, *_ = words.split()
    message = fails(*words.split(), exit_code=2)
    expected = f"expected no further argument, got {extra!r}; hint: see clipkit {command} --help\n"
    assert message == f"clipkit {command}: {expected}"
