"""The history of a feature file: which commands made it, from what, and with which settings.

A history comes from a file in which another program may have written anything. `Entry` gives out
what has the right type. `check_history` refuses what no command can read.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any, SupportsIndex

import numpy as np

from clipkit.base.errors import ClipkitError, shorten
from clipkit.base.version import __version__

MAX_DEPTH = 16  # what walks a history is recursive
MAX_LAYERS = 1000  # of a tower: the largest have 64, and a billion could not be built or drawn
DOT_PRODUCT = "dot product"  # of a last hidden state and the output embedding


class Entry(dict[str, Any]):
    """What a history says of one command: a JSON object, with getters that check types.

    >>> entry = Entry(command="embed", dataset={"name": "shapes"}, model="m")
    >>> entry.command, entry.dataset, entry.model
    ('embed', {'name': 'shapes'}, {})
    """

    @property
    def command(self) -> str:
        """The command, such as ``embed``."""
        return str(self.get("command", ""))

    @property
    def model(self) -> Entry:
        """What is known of the model, or {}."""
        return self.object("model")

    @property
    def dataset(self) -> Entry:
        """What is known of the data set, or {}."""
        return self.object("dataset")

    @property
    def inputs(self) -> dict[str, str]:
        """The digests of the inputs by their role, or {}."""
        return {role: str(digest) for role, digest in self.object("inputs").items()}

    def object(self, *path: str) -> Entry:
        """Return the object at a path of names, or {} for anything else.

        >>> Entry(dataset={"splits": {"test": {"images": 6}}}).object("dataset", "splits", "test")
        {'images': 6}
        """
        value: Any = self
        for name in path:
            value = as_object(value).get(name)
        return Entry(as_object(value))

    def list_of(self, name: str) -> list[Any]:
        """Return a list, or [] for anything else."""
        value = self.get(name)
        return value if isinstance(value, list) else []

    def member(self, path: str) -> Any:
        """Return a member by its dotted path, or None.

        >>> Entry(model={"name": "tiny"}).member("model.name")
        'tiny'
        """
        *parents, name = path.split(".")
        return self.object(*parents).get(name)


class History(list[Entry]):
    """The entries of a file's history, oldest first: JSON, as the file holds it.

    >>> history = History([{"command": "embed", "model": {"name": "tiny"}}])
    >>> history[0] = {"command": "embed", "dataset": {"name": "shapes"}}
    >>> history.extended("logits").datasets, history.last("logits")
    ([{'name': 'shapes'}], {})
    """

    def __init__(self, entries: Iterable[Mapping[str, Any]] = ()) -> None:
        # what is no object stays, so that `check_history` refuses it
        made: list[Any] = [Entry(entry) if isinstance(entry, dict) else entry for entry in entries]
        super().__init__(made)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add an entry at the end."""
        super().append(Entry(entry))

    def insert(self, index: SupportsIndex, entry: Mapping[str, Any]) -> None:
        """Add an entry before another one."""
        super().insert(index, Entry(entry))

    def __setitem__(self, index: Any, entry: Any) -> None:
        super().__setitem__(index, History(entry) if isinstance(index, slice) else Entry(entry))

    @property
    def model(self) -> Entry:
        """What the first entry with a model says of it, or {}."""
        return next((entry.model for entry in self if entry.model), Entry())

    @property
    def datasets(self) -> list[Entry]:
        """What is said of each data set that was embedded."""
        return [entry.dataset for entry in self if "dataset" in entry]

    @property
    def dataset_names(self) -> list[str]:
        """The names of the data sets that were embedded, without those that have none."""
        return [str(dataset["name"]) for dataset in self.datasets if "name" in dataset]

    @property
    def has_directions(self) -> bool:
        """Whether random or whitened directions were used in the place of prompts."""
        return any(entry.get("random") or entry.get("whiten") for entry in self)

    def last(self, command: str) -> Entry:
        """Return the last entry of a command, or an empty one."""
        return next((entry for entry in reversed(self) if entry.command == command), Entry())

    def extended(self, command: str, **parameters: Any) -> History:
        """Return the history with an entry for a command that made something from the file."""
        return History([*self, history_entry(command, **parameters)])


def as_object(value: Any) -> dict[str, Any]:
    """Return a JSON object, or {} for anything else."""
    return value if isinstance(value, dict) else {}


def history_entry(command: str, **parameters: Any) -> Entry:
    """Return a history entry; parameters that are None are left out."""
    return Entry({"command": command, "clipkit": __version__, **drop_none(parameters)})


def drop_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def check_history(history: Any) -> None:
    """Check a history: a list of JSON objects, each naming its command and, if any, its model."""
    if not isinstance(history, list):
        raise ClipkitError(f"history: expected a list, got {type(history).__name__}")
    integers: list[int] = []
    _walk(history, MAX_DEPTH, integers)
    try:
        canonical_json(history).encode()
    except (ValueError, TypeError) as error:  # NaN, half a surrogate pair, a set
        raise ClipkitError(f"history: expected plain JSON, got {error}") from None
    for number, entry in enumerate(history, 1):
        _check_entry(f"history, entry {number}", entry)
    for integer in integers:
        if not is_finite(integer):
            message = "history: expected numbers in the range of a 64-bit float, got"
            raise ClipkitError(f"{message} {shorten(integer)}")


def _walk(value: Any, levels: int, integers: list[int]) -> None:
    """Refuse lists and objects nested more than `levels` deep; collect all integers."""
    if levels == 0:
        raise ClipkitError(f"history: expected at most {MAX_DEPTH} levels, got more")
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            _walk(part, levels - 1, integers)
    elif isinstance(value, int) and not isinstance(value, bool):
        integers.append(value)  # in JSON, it may have any number of digits


def _check_entry(where: str, entry: Any) -> None:
    if not isinstance(entry, dict) or not isinstance(entry.get("command"), str):
        raise ClipkitError(f"{where}: expected an object with the name of a command")
    if "model" not in entry:
        return
    model = entry["model"]
    if not isinstance(model, dict) or not isinstance(model.get("name"), str):
        raise ClipkitError(f"{where}: expected a model with a name")
    if model.get("similarity", DOT_PRODUCT) != DOT_PRODUCT:
        got = shorten(model["similarity"])
        raise ClipkitError(f"{where}: similarity: expected {DOT_PRODUCT!r} or none, got {got!r}")
    for name in ("logit_scale", "logit_softcap"):
        if name in model:
            check_scale(f"{where}: {name}", model[name])
    if "logit_bias" in model and not is_finite(model["logit_bias"]):
        got = shorten(model["logit_bias"])
        raise ClipkitError(f"{where}: logit_bias: expected a finite number, got {got}")


def check_scale(name: str, value: Any) -> None:
    """Refuse a scale or temperature that is not finite and positive."""
    if not is_finite(value) or value <= 0:
        raise ClipkitError(f"{name}: expected a finite number above 0, got {shorten(value)}")


def is_finite(value: Any) -> bool:
    """Whether a value is a number, and neither NaN nor beyond a 64-bit float, as 10^400 is."""
    if isinstance(value, np.floating):
        value = float(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) <= sys.float_info.max
