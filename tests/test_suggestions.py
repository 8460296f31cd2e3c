"""Commands that hints suggest: pasted into a shell, text of a file or a folder never runs."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from factories import clips
from shell import clipkit

from clipkit.base import suggestions
from clipkit.models import folders

FOLDERS = ("m'q", 'm"q', "m;q", "m q", "$(touch CANARY)", "`touch CANARY`", "-v")
HOSTILE = ("org/base", "x'; touch CANARY; : '", 'x"); import os; os.system("touch CANARY"); ("')
STAND_INS = ("clipkit", "python", "mkdir", "ln", "hf", "cat")


def run(line, folder):
    """Run a line in bash with stand-ins, which write down their arguments; return these."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    for name in STAND_INS:
        stand_in = programs / name
        stand_in.write_text('#!/bin/bash\nprintf "%s\\0" "$@" >> "$WORDS"\n')
        stand_in.chmod(0o755)
    written = folder / "words"
    written.unlink(missing_ok=True)
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "WORDS": str(written)}
    done = subprocess.run(["bash", "-c", line], cwd=folder, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert not list(folder.rglob("CANARY"))
    return written.read_text().split("\0")[:-1]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_command_has_the_words_that_it_was_made_of(name, tmp_path):
    assert run(suggestions.command("mkdir", "-p", name), tmp_path) == ["-p", name]


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("base", HOSTILE)
def test_lines_of_python_have_the_values_that_they_were_made_of(name, base, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    clips.write_json(folder / "config.json", _name_or_path=base)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    hints = {
        folders.processor_hint(folder): [base, str(folder)],
        folders.convert_hint(folder / "m.bin", "m"): [f"{folder}/m.bin", f"{folder}/m.safetensors"],
        folders.find_unusable_weights(folder, {}).hint: [base, str(folder)],
    }
    for hint, values in hints.items():
        option, code = run(hint[hint.index("python -c") :], tmp_path)
        assert option == "-c"
        tree = compile(code, "hint", "exec", flags=0x400)  # a syntax tree
        literals = [str(getattr(node, "value", "")) for node in _nodes(tree)]
        assert set(values) <= set(literals)
        calls = [node.func for node in _nodes(tree) if hasattr(node, "func")]
        assert "system" not in [getattr(function, "attr", "") for function in calls]


def _nodes(tree):
    return list(ast.walk(tree))


LINES = (
    "logits {}/photos {}/x.csv",
    "embed {}/list.txt",
    "convert {}/x.npz {}/out",
    "zeroshot {}/x.npz",
    "textembed generic32 -o {}/x.npz",
    "textembed generic32 -o {}/no/x.h5",
    "textembed {}/photos",
    "probe {}/list.txt",
    "probe {}/photos",
    "run {}/x.py --check --more",
    "start {}/photos {}/study",
    "choose {}/x.h5 {}/x.csv",
    "convert {}/features.npz {}/out.h5 --labels {}/x.csv",
)


@pytest.mark.parametrize("name", FOLDERS[:4])
@pytest.mark.parametrize("line", LINES)
def test_each_suggested_command_line_is_parsed_by_a_shell(name, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(name, "photos").mkdir(parents=True)
    for file in ("x.h5", "x.npz", "x.csv", "list.txt"):
        Path(name, file).write_text("a,b\n1,2\n")
    np.savez(Path(name, "features.npz"), features=np.eye(3, 4))
    words = [word.replace("{}", name) for word in line.split()]
    message = clipkit(*words).stderr.splitlines()[-1]
    hint = message.partition("; hint: ")[2]
    found = re.search(r"\b(clipkit|mkdir) [-a-z].*", hint)
    given = run(found[0].partition("; leave out")[0], tmp_path)
    assert any(name in word for word in given) or "<" in found[0]


BEFORE_A_WORD = re.compile(r"clipkit (plot )?[a-z]+ ([-A-Z<]\S* )*$|(^| )(-[a-z]|--[a-z-]+) $")
OURS = {  # names of clipkit's own, numbers, and a word that the function quotes
    "attributes/__init__.py: word",
    "cluster/clustering.py: distinct",
    "cluster/clustering.py: len(features)",
    "commands/plot.py: '|'.join(names)",
    "commands/plot.py: picture.name",
    "embedding/copies.py: near",
    "embedding/textembed.py: COMPLETE",
    "entropy/__init__.py: ','.join(map(str, temperatures))",
    "entropy/__init__.py: links.DEFAULT",
    "entropy/__init__.py: own.name",
    "models/generative.py: LAST",
    "models/hub.py: PYTHON",
    "models/transformers_models.py: ' or '.join(map(str, whole))",
    "plots/__init__.py: maker",
    "plots/confusion.py: name",
    "plots/shapes.py: name",
    "probe/__init__.py: repeat",
    "probe/evaluation.py: classifiers.LOGREG.name",
    "probes/sweeps.py: names",
    "report/command_lines.py: self._join([str(folder)])",
}


def unquoted(path):
    """Yield the values of f-strings that stand for a word of a command, and are not quoted."""
    for function in _nodes(ast.parse(path.read_text())):
        if not isinstance(function, ast.FunctionDef):
            continue
        quoted = {
            name.id
            for node in _nodes(function)
            if isinstance(node, ast.Assign) and "suggestions." in ast.unparse(node.value)
            for target in node.targets
            for name in _nodes(target)
            if isinstance(name, ast.Name)
        }
        for text in filter(lambda node: isinstance(node, ast.JoinedStr), _nodes(function)):
            for before, value in zip(text.values, text.values[1:], strict=False):
                if not isinstance(before, ast.Constant) or isinstance(value, ast.Constant):
                    continue
                word = ast.unparse(value.value)
                is_quoted = word in quoted or "suggestions." in word
                if BEFORE_A_WORD.search(before.value) and not is_quoted:
                    yield f"{path.parent.name}/{path.name}: {word}"


def test_no_suggested_command_has_a_word_without_quotes():
    package = Path(suggestions.__file__).parents[1]
    assert {found for path in package.rglob("*.py") for found in unquoted(path)} == OURS
