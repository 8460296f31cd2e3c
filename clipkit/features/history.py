"""The history of a feature file: which commands made it, from what, and with which settings.

A history comes from a file in which another program may have written anything. `Entry` gives out
what has the right type. `check_history` refuses what no command can read.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex

import numpy as np

from clipkit.base.errors import ClipkitError, shorten
from clipkit.base.version import __version__

if TYPE_CHECKING:
    from clipkit.features.model import FeatureFile

LONGEST = 60  # characters of a part: a history may hold any text
MAX_DEPTH = 16  # what walks a history is recursive
DOT_PRODUCT = "dot product"  # of a last hidden state and the output embedding
IMAGES_ALONE_HINT = "use them with: clipkit probe, cluster, variance"  # without a text tower


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
            raise ClipkitError(f"{message} {shorten(integer, 40)}")


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
        got = shorten(model["similarity"], 40)
        raise ClipkitError(f"{where}: similarity: expected {DOT_PRODUCT!r} or none, got {got!r}")
    for name in ("logit_scale", "logit_softcap"):
        if name in model:
            check_scale(f"{where}: {name}", model[name])
    if "logit_bias" in model and not is_finite(model["logit_bias"]):
        got = shorten(model["logit_bias"], 40)
        raise ClipkitError(f"{where}: logit_bias: expected a finite number, got {got}")


def check_scale(name: str, value: Any) -> None:
    """Refuse a scale or temperature that is not finite and positive."""
    if not is_finite(value) or value <= 0:
        raise ClipkitError(f"{name}: expected a finite number above 0, got {shorten(value, 40)}")


def is_finite(value: Any) -> bool:
    """Whether a value is a number, and neither NaN nor beyond a 64-bit float, as 10^400 is."""
    if isinstance(value, np.floating):
        value = float(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) <= sys.float_info.max


class Provenance(NamedTuple):
    """The provenance of a file. A part that the history does not name is empty."""

    model: str  # `clip-vit-base-patch32`, `untrained tiny`, `tiny layer 4 cls`, `tiny at 32 px`
    dataset: str
    prompts: str  # the name of a prompt file, or the templates of the classes' prompts


def provenance(file: FeatureFile) -> Provenance:
    """Return the model, data set and prompts that the history of a file names.

    The different names of files that were joined are joined by " + ".

    >>> from clipkit.features.model import FeatureFile
    >>> entry = {"command": "embed", "model": {"name": "org/m"}, "dataset": {"name": "shapes"}}
    >>> provenance(FeatureFile("images", [entry]))
    Provenance(model='m', dataset='shapes', prompts='')
    """
    named = [shorten(data["name"], LONGEST) for data in file.history.datasets if "name" in data]
    datasets = dict.fromkeys(Path(name).name for name in named)  # in the order of the history
    texts = [entry for entry in file.history if entry.command == "textembed"]
    return Provenance(_model(file), _join(datasets), _join(dict.fromkeys(map(_prompts, texts))))


def downsample(file: FeatureFile) -> int | None:
    """Return the length that `embed --downsample` gave the shorter side of images, or None."""
    sizes = [data.get("downsample") for data in file.history.datasets]
    return next((size for size in sizes if type(size) is int), None)


def is_untrained(file: FeatureFile) -> bool:
    """Whether the history names an untrained model."""
    return file.history.model.get("untrained") is not None


def prompts_entry(texts: FeatureFile) -> str | int:
    """Return what a history says of prompts that were used: their name, or else their number."""
    return provenance(texts).prompts or len(texts.texts or [])


def _join(names: Iterable[str]) -> str:
    return shorten(" + ".join(filter(None, names)), LONGEST)


def add_provenance(
    rows: Iterable[Mapping[str, Any]], file: FeatureFile
) -> Iterator[dict[str, Any]]:
    """Yield rows about a file with `model`, `dataset`, `prompts` and `shots` as further columns.

    None stands for what the history does not name, and for the shots of a probe on all rows.
    """
    parts: dict[str, Any] = {"shots": shots(file)}
    parts |= {name: part or None for name, part in provenance(file)._asdict().items()}
    for row in rows:
        yield {**row, **parts, **row}  # a row keeps its own columns, which come first


def shots(file: FeatureFile) -> int | None:
    """Return the rows per class of the probe that made a file; None for all, or several numbers."""
    numbers = [entry["shots"] for entry in file.history if "shots" in entry]
    if not numbers or not isinstance(numbers[-1], int):
        return None
    return numbers[-1]


def identities(files: Sequence[FeatureFile]) -> list[dict[str, str | None]]:
    """Return for each of M files the columns that tell its rows from the other files' rows.

    Those are `model`, `dataset` and `prompts`, if they differ, and `file`, if they do not suffice.

    >>> from clipkit.features.model import FeatureFile
    >>> first, second = FeatureFile("result"), FeatureFile("result", display_name="b.h5")
    >>> identities([first]), identities([first, second])
    ([{}], [{'file': 'the file'}, {'file': 'b.h5'}])
    """
    parts = [provenance(file) for file in files]
    columns: list[dict[str, str | None]] = [{} for _ in files]
    if len(set(parts)) < len(files):
        columns = [{"file": file.display_name} for file in files]
    for name, of_files in zip(Provenance._fields, zip(*parts, strict=True), strict=True):
        if len(set(of_files)) > 1:
            for column, part in zip(columns, of_files, strict=True):
                column[name] = part or None
    return columns


def original_split(file: FeatureFile, split: str) -> str:
    """Return the split from which `embed --split-off`, `split` or `probe --val` made a split.

    Raises
    ------
    ClipkitError
        If files were joined after splits were divided: then a name may stand for several splits.
    """
    original: dict[str, str] = {}
    for entry in file.history:
        if entry.command == "concat" and original:
            raise ClipkitError(
                f"{file.display_name}: expected splits of the data set, got splits that were "
                "divided and then joined"
            )
        source, parts = _division(file, entry)
        original |= dict.fromkeys(parts, original.get(source, source))
    return original.get(split, split)


def _division(file: FeatureFile, entry: Entry) -> tuple[str, list[str]]:
    """Return the split that a command divided, and the splits that it made, if it did so."""
    if entry.command == "probe" and str(entry.get("val", "")) not in ("", *file.splits):
        held_out = [name for name in file.splits if name != entry.get("eval_split")]
        return str(entry.get("fit_split")), held_out
    if entry.command == "split":
        return str(entry.get("source")), [*entry.object("rows")]
    splits = entry.dataset.object("splits")
    parts = [*entry.dataset.object("split_off", "fractions")]
    if not parts or not splits:
        return "", []
    source = str(entry.dataset.object("split_off").get("from"))
    if source in parts or source not in splits:
        parts.append("train")  # what is left of a split of another name
    return source, parts


def _model(file: FeatureFile) -> str:
    model = file.history.model
    name = Path(shorten(model.get("name", ""), LONGEST)).name
    if name and "untrained" in model:
        name = f"untrained {name}"
    size = downsample(file)
    at_size = "" if size is None else f"at {shorten(size, LONGEST)} px"
    size = model.get("image_size")
    taking = "" if size is None else f"taking {shorten(size, LONGEST)} px"
    return " ".join(filter(None, [name, feature_name(model), taking, at_size]))


def feature_name(model: Mapping[str, Any]) -> str:
    """Return which features of a model an entry of a history names: "" for its embeddings.

    >>> feature_name({"name": "m", "layer": 4, "layers": 12, "pool": "mean", "norm": True})
    'layer 4 mean normed'
    >>> feature_name({"name": "m", "projection": "none"}), feature_name({"name": "m"})
    ('without projection', '')
    """
    at = str(model.get("at", ""))  # a position of a generative model's prompt
    if "layer" not in model and at == "image":
        return "at the image"
    if "layer" not in model:
        return "without projection" if model.get("projection") == "none" else ""
    layer = model["layer"]
    number = f"layer {layer}"
    if isinstance(layer, list):  # of an encoder of several layers
        number = f"layers {', '.join(map(str, layer))}"
    parts = [number, str(model.get("pool", at))]
    if model.get("norm"):
        parts.append("normed")
    return shorten(" ".join(filter(None, parts)), LONGEST)


def _prompts(entry: Entry) -> str:
    """Return the name of a prompt file, the only template, or the number of templates."""
    templates = entry.list_of("templates")
    if len(templates) > 1:
        return f"{len(templates)} templates"
    return shorten(templates[0] if templates else entry.get("prompts", ""), LONGEST)


def has_text_tower(file: FeatureFile) -> bool:
    """Whether the model of images may have a text tower: it learned a scale, or is not known."""
    model = file.history.model
    return model.get("tower") != "image" or not model.keys().isdisjoint(("logit_scale", "question"))
