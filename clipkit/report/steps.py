"""Read histories: which command made which file of which inputs, and what a control shares.

The history of a file holds the histories of its main input, of the texts of logits, retrieval and
choices, and of all joined files. A control was made in the same way, from the same prompts: only
the weights of the model differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipkit.analysis.results import Row, newest_entry
from clipkit.base.names import omit, select
from clipkit.features import model_settings
from clipkit.features.columns import SETTINGS
from clipkit.features.history import Entry, History
from clipkit.features.model import FeatureFile
from clipkit.probes import classifiers

NameOf = Callable[[str], str | None]  # returns the name of the file with a digest, if it is known

LONGEST_NAME = 200  # of a file that is named after its role, which may be any text
MAIN_INPUTS = ("probe", "images", "features", "logits", "texts", "words", "file 1", "a")
# Inputs that are no feature files
NO_INPUTS = ("attributes", "groups", "classes", "labels", "prompts", "captions", "items")
FIRST = ("embed", "textembed", "convert")  # commands with which a history begins
# Members of an entry of a history that a result and its control need not share
NOT_SHARED = ("clipkit", "inputs", "model", "machines", "batch_size", "kept", "caveats", "tried")
CHOSEN = ("C", "temperature")  # settings that `probe --val` may have chosen among several
# Commands whose entries list all that was tried. A control may try fewer temperatures, since an SVM
# on features without information takes very long at low ones.
WITH_CANDIDATES = ("calibrate", "entropy", "probe")


@dataclass(frozen=True)
class Step:
    """An entry of a history with the names of its inputs, by their roles, and of its output."""

    entry: Entry
    inputs: dict[str, str]
    output: str


class _Names:
    """Names of files by their digests. A file without a known name is named after its role."""

    def __init__(self, history: Sequence[Entry], output: str, name_of: NameOf) -> None:
        self._names: dict[str, str] = {}
        for entry in history:
            for digest in entry.inputs.values():
                name = name_of(digest)
                if name is not None:
                    self._names[digest] = name
        self._taken = {output, *self._names.values()}
        for entry in history:
            if entry["command"] == "concat":
                self._use_joined_names(entry)

    def _use_joined_names(self, entry: Entry) -> None:
        """Give joined files their former names, which their rows and splits may have, too."""
        digest_of = entry.inputs
        for number, name in enumerate(entry.list_of("files"), 1):
            digest = digest_of.get(f"file {number}", "")
            known = self._names.get(digest)
            if known is None or Path(known).stem != Path(str(name)).name:
                self._names[digest] = self.unused(str(name))

    def unused(self, stem: str) -> str:
        """Return a name that no other file has."""
        stem = stem[:LONGEST_NAME]
        name, number = f"{stem}.h5", 1
        while name in self._taken:
            number += 1
            name = f"{stem}-{number}.h5"
        self._taken.add(name)
        return name

    def get(self, digest: str, role: str) -> str:
        """Return the name of the file with a digest."""
        if digest not in self._names:
            self._names[digest] = self.unused(role.replace(" ", ""))
        return self._names[digest]


def steps(history: Iterable[Mapping[str, Any]], output: str, name_of: NameOf) -> list[Step]:
    """Return the steps that make the file `output`, in the order in which they run."""
    entries = History(history)
    names = _Names(entries, output, name_of)
    last_first = []
    pending: list[tuple[Sequence[Entry], str]] = []  # a history may be too long for recursion
    if entries:
        pending.append((entries, output))
    while pending:
        chain, target = pending.pop()
        entry = chain[-1]
        inputs = {role: names.get(entry.inputs[role], role) for role in _roles(entry)}
        for role, input_chain in _chains(chain[:-1], entry).items():
            if role not in inputs:
                inputs[role] = names.unused(role)
            pending.append((input_chain, inputs[role]))
        last_first.append(Step(entry, inputs, target))
    return [*reversed(last_first)]


def _roles(entry: Entry) -> list[str]:
    """Return the roles of an entry's feature files, in the order of the command's arguments."""
    digest_of = entry.inputs
    if entry["command"] == "convert":  # its input is no feature file
        return []
    if entry.get("classes") == "feature file":
        return ["classes"] if "classes" in digest_of else []
    roles = [role for role in MAIN_INPUTS if role in digest_of]
    return roles + sorted(digest_of.keys() - {*roles, *NO_INPUTS}, key=_natural)


def _natural(text: str) -> str:
    """Return the key by which `b2` comes before `b10`, and after `b1 texts`.

    >>> sorted(["b10", "b2", "b1 texts", "b1"], key=_natural)
    ['b1', 'b1 texts', 'b2', 'b10']
    """
    return re.sub(r"\d+", lambda number: number[0].zfill(9), text)


def _chains(earlier: Sequence[Entry], entry: Entry) -> dict[str, Sequence[Entry]]:
    """Divide the earlier entries of a history among the inputs of an entry, by their roles.

    Inputs without a history are left out.
    """
    if entry["command"] in FIRST or not earlier:
        return {}
    if entry["command"] == "concat":
        joined = {}
        for number, count in enumerate(entry.list_of("entries"), 1):
            if isinstance(count, int) and 0 < count <= len(earlier):
                joined[f"file {number}"] = earlier[:count]
                earlier = earlier[count:]
        return joined
    roles = _roles(entry) or ["input"]
    if entry["command"] in ("logits", "retrieve", "choose") and "texts" in roles:
        start = _start_of_texts(earlier)
        chains = {"images": earlier[:start], "texts": earlier[start:]}
        return {role: chain for role, chain in chains.items() if chain}
    # a prediction has the history of what was predicted
    role = "features" if "features" in roles else roles[0]
    return {role: earlier}


def _start_of_texts(history: Sequence[Entry]) -> int:
    """Return the number of the first entry of the prompts, among the earlier entries."""
    start = len(history)
    for number, entry in enumerate(history):
        if entry["command"] == "textembed":
            return number
        if entry["command"] == "convert":  # the last import, if nothing was embedded
            start = number
    return start


def settings(file: FeatureFile) -> str:
    """Return what a result and its control share: all parameters but the model's weights.

    It is "" if the history does not say which prompts were used.
    """
    if not _are_prompts_known(file):
        return ""
    return repr([_shared(entry, file.class_names) for entry in file.history])


def run_settings(file: FeatureFile, run: Row) -> list[str]:
    """Return what a run of a result and the run of its control share.

    What the two chose on validation rows may differ: `settings` compares how they chose.
    """
    may_differ = () if newest_entry(file).get("val") is None else CHOSEN
    return [str(run.get(name)) for name in SETTINGS if name not in may_differ]


def newest_settings(file: FeatureFile) -> str:
    """Return how a result was made from features, whatever they are."""
    return repr(_shared(newest_entry(file), None))


def settings_of_any_model(file: FeatureFile) -> str:
    """Return what results of different models share that ask in the same way, whatever the seed.

    It is "" if the history does not say which prompts were used.
    """
    if not _are_prompts_known(file):
        return ""
    entries = []
    for entry in file.history:
        shared = omit(_shared(entry, file.class_names), ("seed", "preprocessing"))
        if "model" in shared:
            shared["model"] = shared["model"][1:]
        entries.append(shared)
    return repr(entries)


def _are_prompts_known(file: FeatureFile) -> bool:
    """Whether the history of a result from prompts says which texts these are."""
    for entry in file.history:
        is_from_file = entry["command"] == "textembed" and "classes" not in entry
        if is_from_file and not _prompt_digests(entry):
            return False
    return True


def _shared(entry: Entry, class_names: list[str] | None) -> dict[str, Any]:
    """Return what an entry of a history and the entry of a control share."""
    not_shared = set(NOT_SHARED)
    if entry["command"] in WITH_CANDIDATES:  # each run names what it was made at
        not_shared.update(CHOSEN)
    if entry["command"] == "probe" and not _is_random(entry):
        not_shared.add("seed")
    shared = omit(entry, not_shared)
    if "model" in entry:
        architecture = Path(str(entry.model.get("name"))).name
        named = [setting.key for setting in model_settings.SETTINGS if setting.is_named]
        shared["model"] = [architecture, *map(entry.model.get, named)]
    if entry["command"] == "textembed":
        shared["prompts of"] = _prompt_digests(entry) or class_names
    return shared


def _prompt_digests(entry: Entry) -> list[str]:
    """Return the digests of prompts that were read from a file; [] if class names make them."""
    if entry.get("classes", "file") != "file":
        return []
    return [*select(entry.inputs, ("prompts", "classes")).values()]


def _is_random(probe: Entry) -> bool:
    """Whether the seed of a probe matters: to fit it, or to draw few shots or validation rows."""
    if probe.get("classifier") in classifiers.names_taking("seed"):
        return True
    if probe.get("shots") is not None:
        return True
    try:
        return float(probe.get("val", "nan")) > 0
    except (TypeError, ValueError):  # the name of a split
        return False
