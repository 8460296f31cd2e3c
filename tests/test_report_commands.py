"""Command lines of a report: pasted, they make the same file, or a comment says what is missing."""

import contextlib
import itertools
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from shell import ok

from clipkit.cli import app
from clipkit.commands._options import option_table
from clipkit.embedding import list_choices
from clipkit.features import FeatureFile, History, read
from clipkit.prompts.formats import ClassNames
from clipkit.report.command_lines import command_lines

COMMANDS = option_table(typer.main.get_command(app))
HOSTILE = "<b>|x|`$*_[a](b)\x1b\n"
UNSAID = "# the history does not say "
# The files that results are made of, and the results
INPUTS = {
    "img.h5": "embed shapes --max-classes 5 --limit 40 --precision fp32",
    "control.h5": "embed shapes --max-classes 5 --limit 40 --precision fp32 --untrained 7",
    "classes.h5": "textembed --classes img.h5 --template 'a {}' --template '{}!' --readable",
    "set.h5": "textembed generic16",
    "logits.h5": "logits img.h5 set.h5 --temperature 0.5",
    "scores.h5": "logits img.h5 classes.h5",
    "words.h5": "textembed --classes attributes/shapes",
    "mk.h5": "probe logits.h5 -C 1,2 --val 0.2 --keep",
    "grid.h5": "probe img.h5 -C 0.1,1",
    "zs.h5": "zeroshot scores.h5",
}
RESULTS = {
    "probe": "probe logits.h5 -t 1,0.07 -C 0.5,2 --val 0.1 --no-standardize",
    "probe of shots": "probe img.h5 --classifier logreg --shots 1,2 --repeat 2 --seed 3",
    "kept probe": "probe logits.h5 --features probs --keep",
    "zeroshot": "zeroshot scores.h5 --split test --split train",
    "entropy": "entropy logits.h5 -t 1,0.07",
    "calibrate": "calibrate scores.h5 --bins 5",
    "cluster": "cluster img.h5 -k 3 -k 5",
    "predict": "predict mk.h5 logits.h5",
    "importance": "importance mk.h5 logits.h5 --repeat 2 --seed 4",
    "weights": "importance mk.h5 --weights 2",
    "compare": "compare zs.h5 grid.h5 --run 1 --table shapes --attribute colour",
    "compare by cluster": "compare zs.h5 grid.h5 --run 1 --table shapes --cluster colour",
    "probe by cluster": "probe img.h5 --table shapes --cluster colour",
    "relabel": "relabel img.h5 --table shapes --attribute 'colour*pattern'",
    "shuffle": "relabel img.h5 --shuffle --seed 3",
    "attributes": "attributes img.h5 words.h5 --table shapes --attribute colour "
    "--control control.h5",
    "attributes of labels": "attributes img.h5",
    "variance": "variance img.h5 set.h5 --table shapes --attribute colour --null 3",
    "variance of labels": "variance img.h5 --null 3",
    "split": "split img.h5 --from train --val 0.25 --attribute colour --table shapes",
    "random": "logits img.h5 --random 5 --seed 3",
    "whiten": "logits img.h5 set.h5 --whiten",
    "concat": "concat img.h5 img-2.h5 --prefix",
    "split off": "embed shapes --max-classes 5 --limit 40 --split train --split-off val=0.25",
    "layer": "embed shapes --max-classes 5 --limit 20 --layer 1 --pool mean --norm --split test",
}
NOT_IN_HISTORY = {  # inputs whose making the history of a result does not say
    "predict": ["mk.h5"],
    "importance": ["mk.h5"],
    "compare": ["grid.h5"],
    "compare by cluster": ["grid.h5"],
    "attributes": ["words.h5", "control.h5"],
    "variance": ["set.h5"],
}


def make(folder, line, output):
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as environment:
        environment.setenv("CLIPKIT_MODEL", "tiny")
        ok(*shlex.split(line), "-o", output)
    return folder / output


def paste(lines, folder):
    """Run lines as a shell does, in a folder."""
    with contextlib.chdir(folder):
        for line in lines:
            words, stdin = shlex.split(line, comments=True), None
            if "<" in words:
                stdin = Path(words[-1]).read_bytes()
                words = words[:-2]
            if words[:2] == ["mkdir", "-p"]:
                Path(words[2]).mkdir(parents=True, exist_ok=True)
            elif words:
                assert words[0] == "clipkit"
                ok(*words[1:], stdin=stdin)


def unsaid(lines):
    return [line.removeprefix(UNSAID) for line in lines if line.startswith(UNSAID)]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Return a folder with the files of `INPUTS`."""
    folder = tmp_path_factory.mktemp("inputs")
    for output, line in INPUTS.items():
        make(folder, line, output)
    make(folder, "embed shapes --max-classes 5 --limit 20 --precision fp32", "img-2.h5")
    return folder


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "known"),
    [
        *itertools.product(RESULTS, [False]),
        *itertools.product(["relabel", *NOT_IN_HISTORY], [True]),
    ],
)
def test_pasted_commands_make_the_same_file(inputs, tmp_path, kind, known):
    result = make(inputs, f"{RESULTS[kind]} --force", "result.h5")
    file = read(result)
    digests = {read(inputs / name).digest: name for name in [*INPUTS, "img-2.h5"]}
    name_of = digests.get if known else {}.get
    lines = command_lines(file.history, "again.h5", name_of, COMMANDS)
    needed = NOT_IN_HISTORY.get(kind, [])
    notes = unsaid(lines)
    assert len(notes) == len(needed)
    for name, note in zip(needed, notes, strict=True):
        shown, digest = re.fullmatch(r"how (\S+) was made, (\S+)", note).groups()
        assert digests[digest] == name
        assert shown == name or not known
        shutil.copy(inputs / name, tmp_path / shown)
    paste(lines, tmp_path)
    again = read(tmp_path / "again.h5")
    if not known and kind.startswith("compare"):  # it names its results after their files
        del file.history[-1]["names"], again.history[-1]["names"]
        assert again.rows()[0]["difference"] == file.rows()[0]["difference"]
    else:
        assert again.digest == file.digest
    assert again.history == file.history


def check_unsaid(file, *notes):
    lines = command_lines(file.history, "again.h5", {}.get, COMMANDS)
    assert unsaid(lines) == list(notes)
    return lines


def test_a_question_stands_without_the_choices_that_embed_lists_behind_it():
    classes = ClassNames(["cat", "dog"])
    question, choices = list_choices("What is it?", classes)
    model = {"name": "m", "question": question, "choices": list(choices)}
    images = {"command": "embed", "model": model, "dataset": {"name": "shapes"}}
    texts = {"command": "textembed", "model": model, "classes": "feature file"}
    texts["inputs"] = {"classes": "sha256:0"}
    file = FeatureFile("images", History([images]))
    *_, line = check_unsaid(file, "which file or data set has the choices cat,dog")
    assert "--ask 'What is it?'" in line
    assert "--choices choices.txt" in line
    (line,) = command_lines(History([texts]), "txt.h5", {"sha256:0": "img.h5"}.get, COMMANDS)[-1:]
    assert "--classes img.h5" in line
    assert "--ask" not in line


@pytest.fixture
def photos(tmp_path):
    """Return a folder with images and three manifests of them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    lines = ["file\tclass\tpart"]
    for number in range(6):
        Image.new("RGB", (32, 32), (40 * number, 0, 0)).save(folder / f"{number}.png")
        lines.append(f"{number}.png\t{'ab'[number % 2]}\t{'xyz'[number % 3]}")
    (folder / "man.tsv").write_text("\n".join(lines) + "\n")
    return folder


def test_a_manifest_has_its_columns_and_a_comment_on_its_name(photos, tmp_path):
    columns = "--split x --split z --path-column file --label-column class --split-column part"
    result = make(tmp_path, f"embed photos/man.tsv {columns} --precision fp32", "man.h5")
    lines = check_unsaid(read(result), "where the manifest man is, or how its name ends")
    (tmp_path / "man").symlink_to(photos / "man.tsv")
    assert columns in lines[1]
    paste([lines[1].replace(" man ", " photos/man.tsv ")], tmp_path)
    assert read(tmp_path / "again.h5").digest == read(result).digest


@pytest.mark.long
def test_a_folder_and_a_list_of_images_are_named_as_far_as_the_history_does(photos, tmp_path):
    folder = read(make(tmp_path, "embed photos --precision fp32", "folder.h5"))
    paste(check_unsaid(folder, "where photos is"), tmp_path)
    assert read(tmp_path / "again.h5").digest == folder.digest
    paths = "".join(f"photos/{number}.png\n" for number in range(3))
    (tmp_path / "paths.txt").write_text(paths)
    options = "embed - --model tiny --precision fp32"
    with contextlib.chdir(tmp_path):
        ok(*options.split(), "-o", "list.h5", stdin=paths.encode())
    listed = read(tmp_path / "list.h5")
    digest = listed.history[0]["dataset"]["list"]
    lines = check_unsaid(listed, f"which paths were listed, {digest}")
    (tmp_path / "again.h5").unlink()
    paste(lines, tmp_path)
    assert read(tmp_path / "again.h5").digest == listed.digest


@pytest.mark.parametrize(
    ("words", "shown", "note"),
    [
        ("my.txt", "my", "where the prompt file my is, or how its name ends"),
        ("-", "- ", "which prompts came from standard input"),
        ("--classes my.txt", "--classes classes.txt", "which file has the classes"),
        ("--classes my.tsv", "--classes my", "where the file of classes my is, or how its name"),
    ],
)
def test_prompts_have_a_comment_on_their_file(tmp_path, words, shown, note):
    (tmp_path / "my.txt").write_text("a\nb\n")
    (tmp_path / "my.tsv").write_text("a\ta cat\nb\ta dog\n")
    with contextlib.chdir(tmp_path):
        ok("textembed", *words.split(), "--model", "tiny", "-o", "out.h5", stdin=b"a\nb\n")
    result = read(tmp_path / "out.h5")
    digest = result.history[-1].get("inputs", {}).get("prompts", "")
    said, line = command_lines(result.history, "again.h5", {}.get, COMMANDS)
    assert said.startswith(f"{UNSAID}{note}")
    assert digest in said
    assert line.startswith("clipkit textembed ")
    assert f" {shown.strip()} " in line
    shutil.copy(tmp_path / "my.txt", tmp_path / "prompts.txt")
    paste([line.replace(f" {shown.strip()} ", f" {words} ", 1)], tmp_path)
    assert read(tmp_path / "again.h5").digest == result.digest


@pytest.mark.long
def test_tables_and_groups_have_a_comment_with_their_digests(inputs, tmp_path):
    shutil.copy(inputs / "img.h5", tmp_path)
    images = read(tmp_path / "img.h5")
    ids = set(images.splits["train"].ids) | set(images.splits["test"].ids)
    sizes = [f"{row_id},{number % 3}\n" for number, row_id in enumerate(sorted(ids))]
    (tmp_path / "attributes.csv").write_text("id,size\n" + "".join(sizes))
    groups = [f"{name}\t{number % 2}\n" for number, name in enumerate(images.class_names)]
    (tmp_path / "groups.tsv").write_text("".join(groups))
    for line in (
        "relabel img.h5 --table attributes.csv --attribute size",
        "attributes img.h5 --table attributes.csv",
        "relabel img.h5 --groups groups.tsv",
        "split img.h5 --from test --val 0.3 --attribute size --table attributes.csv",
    ):
        result = read(make(tmp_path, f"{line} -f", "result.h5"))
        inputs = result.history[-1]["inputs"]
        note = f"which table has the attributes, {inputs.get('attributes')}"
        if "groups" in inputs:
            note = f"which file has the groups, {inputs['groups']}"
        again = check_unsaid(result, note)[-1]
        paste([f"{re.sub('(features|images).h5', 'img.h5', again)} -f"], tmp_path)
        assert read(tmp_path / "again.h5").digest == result.digest


def test_an_import_has_a_comment_with_its_digest(tmp_path):
    with contextlib.chdir(tmp_path):
        np.savez("features.npz", features=np.eye(4, dtype="f4"), labels=[0, 1, 0, 1])
        ok("convert", "features.npz", "result.h5", "--model", "tiny", "--split", "test")
        result = read("result.h5")
        digest = result.history[0]["inputs"]["features"]
        lines = check_unsaid(result, f"which .npz file was imported, {digest}")
        paste(lines, tmp_path)
        assert read("again.h5").digest == result.digest


def test_files_of_folders_that_were_joined_are_made_in_these_folders(tmp_path):
    entry = {"command": "embed", "dataset": {"name": "digits"}}
    inputs = {"file 1": "sha256:1", "file 2": "sha256:2"}
    joined = {"command": "concat", "files": ["a/img", "b/img"], "entries": [1, 1], "inputs": inputs}
    assert command_lines([entry, entry, joined], "all.h5", {}.get, COMMANDS) == [
        "mkdir -p a",
        "clipkit embed digits -o a/img.h5",
        "mkdir -p b",
        "clipkit embed digits -o b/img.h5",
        "clipkit concat a/img.h5 b/img.h5 -o all.h5",
    ]


def options_of(entry):
    """Return the words of the only command that a history of one entry says how to run."""
    return command_lines([entry], "out.h5", {}.get, COMMANDS)[-1]


def test_each_control_has_an_option():
    roles = ("texts", "images", "control 2 texts", "control 1", "control 2", "control 1 texts")
    inputs = {role: f"sha256:{role}" for role in roles}
    entry = {"command": "choose", "items": ["shapes"], "inputs": inputs}
    assert options_of(entry) == (
        "clipkit choose images.h5 texts.h5 --control control1.h5 --control-texts control1texts.h5 "
        "--control control2.h5 --control-texts control2texts.h5 --items shapes -o out.h5"
    )
    inputs = {"control 1": "sha256:1", "logits": "sha256:2", "result": "sha256:3"}
    assert options_of({"command": "describe", "top": 5, "inputs": inputs}) == (
        "clipkit describe logits.h5 --control control1.h5 --result result.h5 --top 5 -o out.h5"
    )


def test_retrieval_has_its_captions_and_both_files_of_a_control():
    embedded = {"name": "shapes", "splits": {"test": {}}}
    roles = ("images", "texts", "control 1", "control 1 texts")
    inputs = {role: f"sha256:{role}" for role in roles}
    captions = {"command": "textembed", "captions": "shapes", "dataset": embedded}
    retrieve = {"command": "retrieve", "k": [1, 5], "inputs": inputs}
    history = [{"command": "embed", "dataset": embedded}, captions, retrieve]
    assert command_lines(history, "out.h5", {}.get, COMMANDS) == [
        "clipkit embed shapes --split test -o images.h5",
        "clipkit textembed --captions shapes --split test -o texts.h5",
        f"{UNSAID}how control1.h5 was made, sha256:control 1",
        f"{UNSAID}how control1texts.h5 was made, sha256:control 1 texts",
        "clipkit retrieve images.h5 texts.h5 --control control1.h5 "
        "--control-texts control1texts.h5 -k 1 -k 5 -o out.h5",
    ]


def test_a_table_of_captions_has_a_comment_with_its_digest():
    entry = {"command": "textembed", "captions": "my.tsv", "inputs": {"captions": "sha256:1"}}
    assert command_lines([entry], "out.h5", {}.get, COMMANDS) == [
        f"{UNSAID}where the captions my.tsv are, sha256:1",
        "clipkit textembed --captions my.tsv -o out.h5",
    ]


def test_an_input_is_never_the_output():
    history = [
        {"command": "embed", "dataset": {"name": "digits"}},
        {"command": "relabel", "shuffle": True, "seed": 1, "inputs": {"features": "sha256:1"}},
        {"command": "relabel", "shuffle": True, "seed": 2, "inputs": {"features": "sha256:2"}},
    ]
    assert command_lines(history, "features.h5", {}.get, COMMANDS) == [
        "clipkit embed digits -o features-3.h5",
        "clipkit relabel features-3.h5 --shuffle --seed 1 -o features-2.h5",
        "clipkit relabel features-2.h5 --shuffle --seed 2 -o features.h5",
    ]


def test_commands_of_a_strange_history_are_quoted_and_cut():
    history = [
        {"command": "embed", "model": "x", "dataset": {"name": "a b; rm -rf $HOME"}},
        {"command": "probe", "inputs": {"features": 3}, "C": {"a": [1]}, "seed": "x" * 9999},
        {"command": "cluster", "k": [f"{HOSTILE}rm"]},
        {"command": HOSTILE, "inputs": "?"},
    ]
    lines = command_lines(history, "out.h5", {}.get, COMMANDS)
    assert lines[:2] == [
        f"{UNSAID}where a b; rm -rf $HOME is",
        "clipkit embed 'a b; rm -rf $HOME' -o features.h5",
    ]
    assert unsaid(lines)[1:] == [
        "a word of more than 2,000 characters here",
        "control characters as a shell reads them",
    ]
    assert all("\n" not in line and len(line) < 2200 for line in lines)
    assert lines[-1].startswith("# clipkit ")


@pytest.mark.parametrize(
    "value", [None, True, -1, 0.5, "", "x", "file", [], [[1], None], {"a": {}}]
)
def test_histories_of_any_content_have_lines(value):
    members = {"inputs", "dataset", "model", "classes", "prompts", "groups", "runs", "files"}
    members |= {"entries", "source", "attributes", "by", "fractions", "kept"}
    members |= {name for options in COMMANDS.values() for name in options}
    assert command_lines([], "out.h5", {}.get, COMMANDS) == []
    for command in COMMANDS:
        inputs = {"inputs": {"features": value, "groups": value, "texts": value}}
        dataset = {"dataset": dict.fromkeys(("name", "splits", "split_off", "source"), value)}
        entry = {"command": command} | dict.fromkeys(members, value)
        for changed in ({}, inputs, dataset, inputs | dataset):
            history = [entry, entry | changed, entry | changed]
            lines = command_lines(history, "out.h5", {}.get, COMMANDS)
            assert lines[-1].startswith("clipkit ")


def test_a_long_history_is_no_deep_recursion():
    entry = {"command": "relabel", "shuffle": True, "inputs": {"features": "sha256:1"}}
    logits = {"command": "logits", "inputs": {"images": "sha256:2", "texts": "sha256:3"}}
    assert command_lines([entry, logits] * 1000, "out.h5", {}.get, COMMANDS)
