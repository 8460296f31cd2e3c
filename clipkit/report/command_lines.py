"""Rebuild the command lines that made a file from its history.

A history names every parameter that matters, and its inputs by their digests. The lines state each
parameter, even if it is the default, so that they make the same file with a later clipkit. What
the history does not say, such as the folder of a manifest, stands in a comment above the line.
"""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from clipkit.base import files
from clipkit.base.console import escaped
from clipkit.base.options import Option
from clipkit.features.annotations import CLASS
from clipkit.features.columns import OWN_QUESTION
from clipkit.features.history import Entry, History
from clipkit.features.model import FeatureFile
from clipkit.features.provenance import original_splits, provenance
from clipkit.prompts import bundled
from clipkit.report.blocks import Origin
from clipkit.report.steps import NameOf, Step, steps

LONGEST = 2000  # characters of a word, since a history may hold any text
DEFAULTS = {("features", "logits"), ("link", "softmax")}  # not options for embeddings
CHOSEN_RUN = re.compile(r"\(run (\d+) of \d+, chosen by number\)$")


Commands = Mapping[str, Mapping[str, Option]]  # command -> name of a parameter -> its option
NO_COMMANDS: Commands = {}


def make_origin(
    file: FeatureFile, name: str, name_of: NameOf, commands: Commands = NO_COMMANDS
) -> Origin:
    """Describe how a file was made; see `command_lines`."""
    facts = {}
    model = file.history.model
    if model:
        facts["model"] = f"{provenance(file).model}, {model.get('digest', 'without a digest')}"
    for dataset in file.history.datasets:
        for split in dataset.object("splits"):
            described = dataset.object("splits", split)
            if described and (split in file.splits or not file.splits):
                rows = f"{described.get('images')} images, sha256:{described.get('rows')}"
                facts[f"rows of {split}"] = rows
    facts["digest of the file"] = file.digest
    return Origin(name, command_lines(file.history, name, name_of, commands), facts)


def command_lines(history: History, output: str, name_of: NameOf, commands: Commands) -> list[str]:
    """Return the command lines that make the file `output`, in the order in which they run.

    Inputs are made, too, if the history holds theirs. What it does not say stands in comments, and
    so does a command that `commands` lacks.
    """
    lines: dict[str, None] = {}  # each once
    known_files: set[str] = set()
    for step in steps(history, output, name_of):
        lines |= dict.fromkeys(_Command(step, known_files, commands).lines)
        known_files |= {*step.inputs.values(), step.output}
    return list(lines)


def _comment(text: str) -> str:
    """Return a line that a shell ignores, without line breaks."""
    return f"# {escaped(_cut(text))}"


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


class _Command:
    """The lines that run a step: the command, behind its folder and what its history lacks.

    `known_files` are those that earlier commands made or read.
    """

    def __init__(self, step: Step, known_files: Collection[str], commands: Commands) -> None:
        self._step = step
        self._commands = commands
        self._entry = step.entry
        self._digests = step.entry.inputs
        self._unsaid: list[str] = []  # what the history does not say, as the words need it
        for role, name in step.inputs.items():
            if name not in known_files:
                digest = self._digests.get(role, "without a digest")
                self._unsaid.append(f"how {name} was made, {digest}")
        line = self._line()
        self.lines: list[str] = []
        folder = Path(step.output).parent
        if folder.parts and not folder.is_absolute() and ".." not in folder.parts:
            self.lines.append(f"mkdir -p {self._join([str(folder)])}")
        for what in self._unsaid:
            self.lines.append(_comment(f"the history does not say {what}"))
        self.lines.append(line)

    def _line(self) -> str:
        command = str(self._entry["command"])
        if command == OWN_QUESTION:
            return self._join(self._own_question())
        if command not in self._commands:
            words = ["clipkit", command, *self._step.inputs.values()]
            return _comment(f"{self._join(words)}, with options that only clipkit info shows")
        options = self._commands[command]
        words = ["clipkit", command]
        for role, name in self._step.inputs.items():
            words += [*_flag_of_input(role, options), name]
        settings = {**self._entry, **self._unnamed()}
        if command in SETTINGS:
            settings |= SETTINGS[command](self)
        settings |= self._rows(settings)
        if settings.get("argument") is not None:
            words.append(str(settings["argument"]))
        for name, option in options.items():
            path = option.member
            if name == "model" and "python" in self._entry.model:  # one's own encoder
                path = "model.python"
            if path is not None:
                words += _option(settings, path or name, option)
        output = self._step.output
        words += [output] if command == "convert" else ["-o", output]
        line = self._join(words)
        if "stdin" in settings:
            line += f" < {settings['stdin']}"
        return line

    def _own_question(self) -> list[str]:
        """Return the words that ask a question of the user's own file, whose name is known."""
        code = str(self._entry.get("code", "FILE.py"))
        self._unsaid.append(f"where {code} is, {self._entry.get('code_digest')}")
        flags = self._entry.object("flags")
        arguments: list[str] = []
        options: list[str] = []
        for role, name in self._step.inputs.items():
            if role in flags:
                options += [str(flags[role]), name]
            else:
                arguments.append(name)
        options += map(str, self._entry.list_of("options"))
        return ["clipkit", OWN_QUESTION, code, *arguments, *options, "-o", self._step.output]

    def _rows(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the splits as they are typed."""
        named = {"split": settings.get("splits"), **settings}
        rows: dict[str, Any] = {}
        for name in ("split", "fit_split", "eval_split", "val", "source"):
            rows[name] = self._as_typed(named.get(name))
        return rows

    def _as_typed(self, value: Any) -> Any:
        """Return split names with ``a,b`` for the splits that were joined."""
        if isinstance(value, list):
            return list(map(self._as_typed, value))
        parts = self._entry.object("joined").get(str(value))
        return ",".join(map(str, parts)) if isinstance(parts, list) else value

    def _join(self, words: list[str]) -> str:
        """Return the words as a shell reads them, on one line."""
        line = shlex.join(map(_cut, words))
        if line != shlex.join(words):
            self._unsaid.append(f"a word of more than {LONGEST:,} characters here")
        if line != escaped(line):
            self._unsaid.append("control characters as a shell reads them")
        return escaped(line)

    def _unnamed(self) -> dict[str, Any]:
        """Return names for files that a history has the digests of."""
        settings: dict[str, Any] = {}
        for name in ("attributes", "by"):
            if self._entry.get(name) == "labels":
                settings[name] = None
            elif self._entry.get(name) == "table":
                settings[name] = self._table()
        if "groups" in self._digests:
            self._unsaid.append(f"which file has the groups, {self._digests['groups']}")
            settings["groups"] = "groups.tsv"
        return settings

    def _table(self) -> str:
        self._unsaid.append(f"which table has the attributes, {self._digests.get('attributes')}")
        return "attributes.csv"

    def _embed(self) -> dict[str, Any]:
        """Return what was asked, the splits to embed, and the data set as it can be named."""
        return {**self._asked(), **self._images()}

    def _asked(self) -> dict[str, Any]:
        """Return a question without the lines that `embed --choices` adds: choices, and a last."""
        model = self._entry.model
        choices = model.get("choices")
        if not isinstance(choices, list):
            return {}
        self._unsaid.append(f"which file or data set has the choices {_word(choices)}")
        lines = str(model.get("question")).split("\n")
        question = "\n".join(lines[: -len(choices) - 1])
        return {"model": {**model, "question": question}, "choices": "choices.txt"}

    def _images(self) -> dict[str, Any]:
        from clipkit.datasets import REGISTRY

        dataset = self._entry.dataset
        if "name" not in dataset:
            self._unsaid.append("which images were embedded")
            return {"argument": "images"}
        name, source = str(dataset["name"]), dataset.get("source")
        splits = _splits(self._entry, is_named=name in REGISTRY)
        settings: dict[str, Any] = {"splits": splits, "argument": name}
        if source == "manifest":
            self._unsaid.append(f"where the manifest {name} is, or how its name ends")
            return settings
        settings["dataset"] = {**dataset, "columns": None}  # Parquet columns are found
        if source == "list":
            self._unsaid.append(f"which paths were listed, {dataset.get('list')}")
            settings["argument"] = "-"
            settings["stdin"] = "paths.txt"
        elif "format" in dataset:
            self._unsaid.append(f"where the {dataset.get('files')} files of {name} are")
        elif name not in REGISTRY:
            self._unsaid.append(f"where {name} is")
        return settings

    def _textembed(self) -> dict[str, Any]:
        """Return the prompt file, or the source of the classes or of the captions."""
        if self._entry.get("captions") is not None:
            return self._captions()
        if self._entry.get("items") is not None:
            return self._choose()
        classes, label = self._entry.get("classes"), self._entry.get("prompts")
        if classes == "feature file":  # one of the inputs
            if "choices" not in self._entry.model:
                return {"classes": None}
            return {"classes": None, "model": {**self._entry.model, "question": None}}  # its own
        if classes is not None and classes != "file":
            return {}
        if classes == "file":
            return {"classes": self._class_file(label)}
        prompts = self._digests.get("prompts")
        digest = f", {prompts}" if prompts else ""
        if label is None:
            self._unsaid.append(f"which prompts came from standard input{digest}")
            return {"argument": "-", "stdin": "prompts.txt"}
        if str(label) not in bundled.list_files():
            self._unsaid.append(f"where the prompt file {label} is, or how its name ends{digest}")
        return {"argument": label}

    def _captions(self) -> dict[str, Any]:
        """Return the source of the captions, and its split if it has splits."""
        if "dataset" in self._entry:
            split = list(self._entry.object("dataset", "splits"))
            return {"captions": self._embed()["argument"], "split": split}
        name = self._entry["captions"]
        self._unsaid.append(f"where the captions {name} are, {self._digests.get('captions')}")
        return {"captions": name}

    def _choose(self) -> dict[str, Any]:
        """Return the tables of the items."""
        names = [str(name) for name in self._entry.list_of("items")]
        if names != ["shapes"]:
            digest = self._digests.get("items", "without a digest")
            self._unsaid.append(f"where the items {', '.join(names)} are, {digest}")
        return {"items": names}

    def _class_file(self, label: Any) -> str:
        digest = self._digests.get("classes")
        for name, path in bundled.list_files("attributes").items():
            if digest == files.digest(path.read_bytes()):
                return f"attributes/{name}"
        if label is None:
            self._unsaid.append("which file has the classes")
            return "classes.txt"
        self._unsaid.append(f"where the file of classes {label} is, or how its name ends")
        return str(label)

    def _compare(self) -> dict[str, Any]:
        """Return the numbers of the runs, if one was chosen."""
        chosen = [CHOSEN_RUN.search(str(run)) for run in self._entry.list_of("runs")]
        if not any(chosen):
            return {}
        return {"run": [match[1] if match else 0 for match in chosen]}

    def _split(self) -> dict[str, Any]:
        """Return the groups that were kept together."""
        groups = self._entry.get("groups")
        if "attributes" in self._digests:
            return {"column": groups, "attributes": self._table()}
        if groups in (None, "folder"):
            return {"by_folder": groups == "folder"}
        return {"column": groups, "attributes": None if groups == CLASS else "shapes"}

    def _convert(self) -> dict[str, Any]:
        """Return names for the files that were imported."""
        ending = str(self._entry.get("source", ""))
        self._unsaid.append(f"which {ending} file was imported, {self._digests.get('features')}")
        settings: dict[str, Any] = {"argument": ending}  # a folder of clip-retrieval
        if ending.startswith("."):
            settings["argument"] = f"features{ending}"
        names = {"labels": "labels.npy", "prompts": "prompts.txt", "classes": "classes.txt"}
        names["captions"] = "captions.tsv"
        for role, name in names.items():
            if role in self._digests:
                self._unsaid.append(f"which file has the {role}, {self._digests[role]}")
                settings[role] = name
        return settings


def _splits(entry: Entry, *, is_named: bool) -> list[str] | None:
    """Return the splits that were embedded; None if they are probably all."""
    splits = entry.object("dataset", "splits")
    if not splits:
        return None
    file = FeatureFile("images", History([entry]))
    original: dict[str, None] = {}
    for split in splits:
        original |= dict.fromkeys(original_splits(file, split))
    if original.keys() == {"all"} or (is_named and original.keys() == {"train", "test"}):
        return None
    return list(original)


# Command -> what a line has in place of members of the entry
SETTINGS: dict[str, Callable[[_Command], dict[str, Any]]] = {
    "embed": _Command._embed,
    "textembed": _Command._textembed,
    "choose": _Command._choose,
    "compare": _Command._compare,
    "split": _Command._split,
    "convert": _Command._convert,
}


def _flag_of_input(role: str, options: Mapping[str, Option]) -> list[str]:
    """Return the flag in front of an input; none if it is an argument.

    The role of an option's file is called like the option, and may have a number, as in `control 2`
    and `control 2 texts`.
    """
    name = re.sub(r" \d+", "", role).replace(" ", "_")
    if name in options and options[name].kinds:
        return [options[name].flag]
    return []


def _option(settings: Mapping[str, Any], path: str, option: Option) -> list[str]:
    """Return the words of an option; none if its member is absent, null or false."""
    value = Entry(settings).member(path)
    if value is None or (path, str(value)) in DEFAULTS:
        return []
    if value is False:
        return [option.off] if option.off else []
    if value is True or option.is_flag:
        return [option.flag]
    if isinstance(value, list) and option.is_list and not option.has_commas:
        pairs = [(option.flag, _word(item)) for item in value]
        return list(itertools.chain.from_iterable(pairs))
    text = _word(value)
    return [option.flag, text] if text else []


def _word(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(_word(item) for item in value if item is not None)
    if isinstance(value, dict):
        return ",".join(f"{key}={_word(item)}" for key, item in value.items())
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
