"""Rebuild the command lines that made a file from its history.

A history names every parameter that matters, and its inputs by their digests. The lines state each
parameter, even if it is the default, so that they make the same file with a later clipkit.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from clipkit.features import FeatureFile, History
from clipkit.features.provenance import provenance
from clipkit.report.blocks import Origin

Entry = Mapping[str, Any]

LONGEST = 200  # characters of a word, since a history may hold any text
MODEL = {
    "model.name": "--model",
    "model.untrained": "--untrained",
    "model.precision": "--precision",
    "model.layer": "--layer",
    "normalize": "--normalize",
}
SCORED = {"fit_split": "--fit-split", "eval_split": "--eval-split", "val": "--val"}
# Command -> member of its entry -> option; a member without a name is an argument
OPTIONS: dict[str, dict[str, str]] = {
    "embed": {
        "dataset.name": "",
        "dataset.draw.limit": "--limit",
        "dataset.draw.classes": "--classes",
        "dataset.split_off.fractions": "--split-off",
        **MODEL,
        "model.pool": "--pool",
        "model.norm": "--norm",
        "model.projection": "--projection",
    },
    "textembed": {"templates": "--template", **MODEL, "truncate": "--truncate"},
    "logits": {
        "random": "--random",
        "seed": "--seed",
        "temperature": "--temperature",
        "whiten": "--whiten",
    },
    "probe": {
        "classifier": "--classifier",
        "C": "-C",
        "temperature": "--temperature",
        "features": "--features",
        "standardize": "--standardize",
        **SCORED,
        "shots": "--shots",
        "repeat": "--repeat",
        "seed": "--seed",
    },
    "zeroshot": {"splits": "--split"},
    "predict": {"splits": "--split"},
    "entropy": {"temperature": "--temperature", "link": "--link", "splits": "--split"},
    "cluster": {"splits": "--split", "k": "-k", "seed": "--seed"},
    "attributes": {
        "attributes": "--attributes",
        "column": "--column",
        "random": "--random",
        "C": "-C",
        **{key: SCORED[key] for key in ("fit_split", "eval_split")},
        "seed": "--seed",
    },
    "variance": {
        "attributes": "--attributes",
        "column": "--column",
        "null": "--null",
        "split": "--split",
        "seed": "--seed",
    },
    "calibrate": {"temperature": "--temperature", **SCORED, "bins": "--bins", "seed": "--seed"},
    "compare": {"split": "--split", "by": "--by", "column": "--column", "seed": "--seed"},
    "relabel": {
        "attributes": "",
        "column": "--column",
        "shuffle": "--shuffle",
        "seed": "--seed",
    },
    "split": {"source": "--from", "fractions.test": "--test", "fractions.val": "--val"},
    "importance": {"split": "--split", "repeat": "--repeat", "weights": "--weights"},
    "concat": {},
}
REPEATED = {"--split", "--template", "--column"}  # options of one value each
NEGATED = {"standardize"}  # members whose false is an option, too
DEFAULTS = {("features", "logits"), ("link", "softmax")}  # not options for embeddings
MAIN_INPUTS = ("probe", "images", "features", "logits", "texts", "words", "file 1", "a")
NO_INPUTS = ("attributes", "groups", "classes", "labels", "prompts")  # digests of other files


def make_origin(file: FeatureFile, name: str, name_of: Callable[[str], str | None]) -> Origin:
    """Describe how a file was made; see `command_lines`."""
    facts = {}
    model = file.model() or {}
    if model:
        facts["model"] = f"{provenance(file).model}, {model.get('digest', 'without a digest')}"
    for entry in file.history:
        dataset = entry.get("dataset")
        splits = dataset.get("splits") if isinstance(dataset, dict) else None
        for split, described in splits.items() if isinstance(splits, dict) else ():
            if isinstance(described, dict) and (split in file.splits or not file.splits):
                rows = f"{described.get('images')} images, sha256:{described.get('rows')}"
                facts[f"rows of {split}"] = rows
    facts["digest of the file"] = file.digest
    return Origin(name, command_lines(file.history, name, name_of), facts)


def command_lines(history: History, output: str, name_of: Callable[[str], str | None]) -> list[str]:
    """Return the command lines that make a file, in the order in which they run.

    Parameters
    ----------
    history : list of dict
        Of the file.
    output : str
        Name of the file.
    name_of : callable
        Returns the name of the file with a digest, or None if it is not known.
    """
    lines = []
    for number, entry in enumerate(history):
        is_last = number == len(history) - 1
        made = output if is_last else _output(history, number, name_of)
        lines.append(_command_line(entry, made, name_of))
    return list(dict.fromkeys(lines))


def _output(history: History, number: int, name_of: Callable[[str], str | None]) -> str:
    """Return the name of what the entry of a number made: an input of a later one."""
    follower = history[number + 1]
    if follower["command"] == "textembed":  # the entries of the prompts of logits begin here
        later = (entry for entry in history[number:] if entry["command"] == "logits")
        return dict(_inputs(next(later, {}), name_of)).get("images", "images.h5")
    named = dict(_inputs(follower, name_of))
    if follower["command"] == "logits" and "texts" in named:
        return named["texts"]
    return next(iter(named.values()), "input.h5")


def _inputs(entry: Entry, name_of: Callable[[str], str | None]) -> Iterator[tuple[str, str]]:
    """Yield the role and the name of each input, the main one first; `<role>.h5` if unknown."""
    inputs = entry.get("inputs")
    if not isinstance(inputs, dict):
        return
    roles = [role for role in MAIN_INPUTS if role in inputs]
    roles += sorted(inputs.keys() - {*roles, *NO_INPUTS}, key=_natural)
    for role in roles:
        yield role, name_of(str(inputs[role])) or f"{role.replace(' ', '')[:LONGEST]}.h5"


def _natural(text: str) -> list[str]:
    """Return the key by which `b2` comes before `b10`.

    >>> sorted(["b10", "b2"], key=_natural)
    ['b2', 'b10']
    """
    return [part.zfill(9) for part in re.split(r"(\d+)", text)]


def _command_line(entry: Entry, output: str, name_of: Callable[[str], str | None]) -> str:
    command = str(entry["command"])
    words = ["clipkit", command]
    for role, name in _inputs(entry, name_of):
        words += ["--control", name] if role.startswith("control ") else [name]
    if command == "textembed":
        words += _prompts(entry, name_of)
    if command not in OPTIONS:
        return f"# {_join(words)}, with options that only clipkit info shows"
    for member, option in OPTIONS[command].items():
        words += _option(entry, member, option)
    return _join([*words, "-o", output])


def _join(words: Sequence[str]) -> str:
    return shlex.join(word if len(word) <= LONGEST else word[: LONGEST - 1] + "…" for word in words)


def _prompts(entry: Entry, name_of: Callable[[str], str | None]) -> list[str]:
    """Return the prompt file, or the classes: those of images, of a data set or of a file."""
    name = str(entry.get("prompts", "prompts.txt"))
    if "classes" not in entry:
        return [name]
    inputs = entry.get("inputs")
    digest = str(inputs.get("classes")) if isinstance(inputs, dict) else ""
    if entry["classes"] == "feature file":
        name = name_of(digest) or "images.h5"
    elif entry["classes"] != "file":
        name = str(entry["classes"])
    return ["--classes", name]


def _option(entry: Entry, member: str, option: str) -> list[str]:
    """Return the words of an option; none if its member is absent, null or false."""
    value: Any = entry
    for key in member.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if value is False and member in NEGATED:
        return [option.replace("--", "--no-")]
    if value is None or value is False or (member, str(value)) in DEFAULTS:
        return []
    if value is True:
        return [option]
    if option in REPEATED and isinstance(value, list):
        return [word for item in value for word in (option, _word(item))]
    text = _word(value)
    return [word for word in (option, text) if word] if text else []


def _word(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(_word(item) for item in value if item is not None)
    if isinstance(value, dict):
        return ",".join(f"{key}={_word(item)}" for key, item in value.items())
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
