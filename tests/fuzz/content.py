"""Change what a feature file holds, legally or not, and sign it again.

A mutation changes a `Content` in place. The file has right digests afterwards, so that clipkit sees
the change and not damage.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np
from factories import write_content

PLANTED = "# planted"  # a heading, if a page takes a name as it is
TEXTS = [
    "a", "", " ", "été", "犬", "a\tb", f"x\n{PLANTED}\ny", "| x |", "a\rb", "a,b", '"', "nan", "-1",
    "\x1b[31mred", "\u202e", "\u2028", "\ufeff", "a\x00b", "$x^2$", "$\\frac{", "_x_", "[/red]",
    "{0}", "%s", "=1+1", "<b>", "../x", "train", "-", "a" * 300, "é" * 3000, "x " * 20_000, "\x9b",
    "a" + "\u0301" * 99,
]  # fmt: skip
NUMBERS = [
    0.0, -0.0, -1.0, 0.5, 1.0, 2.0, 1e-45, 1e-320, 1e-30, 1e-5, 1e5, 1e19, 3.4e38, 1e39, 1.7e308,
    np.nan, np.inf, -np.inf,
]  # fmt: skip
INTEGERS = [0, -1, 1, 2, 3, 255, 2**20 - 1, 2**20, 2**31, 2**53 + 1, 2**63 - 1, -(2**63)]
JSON = [
    None, True, *INTEGERS, 2**64, 10**400, *NUMBERS, *TEXTS, "\ud800", [], {}, ["x"], [None],
    {"x": 1}, {"": ""}, [[]], [1, "x", None], {"name": "m"}, {"command": "x"}, list(range(99)),
]  # fmt: skip
TYPES = ["<f8", "<f2", ">f4", "<i8", "<i4", "|i1", "<u8", "|b1", "<c8"]
COMMANDS = ["embed", "textembed", "logits", "entropy", "probe", "zeroshot", "cluster", "convert"]
COLUMNS = ["acc1", "split", "eval_split", "temperature", "C", "k", "x", "label"]
SPLITS = ["test", "all", "val", "_", "a.b-c", "x" * 101, "0", "-", ".", "a b", "é", "runs"]
LABELS = ("labels", "class_index", "predicted")
NAMES = ("class_names", "texts", "ids")
# what is raised if a mutation does not fit the one before it, or HDF5 cannot hold the result
IMPOSSIBLE = (ValueError, TypeError, LookupError, OSError, RuntimeError, OverflowError)


@dataclass
class Content:
    """What a feature file holds: root attributes, history and data sets, as numpy has them."""

    attributes: dict[str, Any]
    history: Any  # what JSON has, or the text itself
    datasets: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> Content:
        with h5py.File(path) as file:
            names: list[str] = []
            file.visit(names.append)
            datasets = {name: file[name][()] for name in names if hasattr(file[name], "dtype")}
            attributes = {name: file.attrs[name].decode() for name in ("format", "kind", "history")}
            attributes["version"] = 1
            for name in ("temperature", "logit_scale"):
                if name in file.attrs:
                    attributes[name] = float(file.attrs[name])
        for name, array in datasets.items():
            if array.dtype.kind == "S":
                datasets[name] = np.array(array.tolist())  # without h5py's type
        return cls(attributes, json.loads(attributes.pop("history")), datasets)

    def write(self, path: Path) -> None:
        """Write the file. Raise what h5py raises for what HDF5 cannot hold."""
        path.unlink(missing_ok=True)
        history = self.history
        if not isinstance(history, str):
            history = json.dumps(history, ensure_ascii=False)
        write_content(path, {**self.attributes, "history": history}, self.datasets)

    def named(self, *keys: str) -> list[str]:
        """Return the data sets whose last part is one of the keys."""
        return [name for name in self.datasets if name.rpartition("/")[2] in keys]

    def below(self, group: str) -> list[str]:
        return [name for name in self.datasets if name.startswith(f"{group}/")]

    def splits(self) -> list[str]:
        names = dict.fromkeys(name.partition("/")[0] for name in self.datasets if "/" in name)
        return [name for name in names if name not in ("runs", "fitted")]


def mutate(original: Content, rng: Random) -> Content:
    """Return a copy with one to three mutations; raise one of `IMPOSSIBLE` if one does not fit."""
    content = copy.deepcopy(original)
    for _ in range(rng.choice((1, 1, 2, 3))):
        with np.errstate(all="ignore"):
            rng.choice(MUTATIONS)(content, rng)
    return content


def texts(values: list[str]) -> np.ndarray[Any, Any]:
    """Return texts as stored; half a surrogate pair makes them invalid UTF-8."""
    return np.array([text.encode("utf-8", "surrogatepass") for text in values])


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each list or object in a JSON value, with each of its keys."""
    items: Any = ()
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    for key, part in items:
        yield value, key
        yield from places(part)


# mutations


def set_labels(content: Content, rng: Random) -> None:
    array = content.datasets[rng.choice(content.named(*LABELS))].reshape(-1)
    array[rng.choice((slice(1), slice(None), slice(-1, None)))] = rng.choice(INTEGERS)


def spread_labels(content: Content, rng: Random) -> None:
    """Give every row another class, and drop the names, which would be too few."""
    content.datasets.pop("class_names", None)
    step = rng.choice((1, 1000, 30_000))
    for name in content.named(*LABELS):
        array = content.datasets[name]
        content.datasets[name] = (np.arange(array.size) * step % 2**20).reshape(array.shape)


def set_texts(content: Content, rng: Random) -> None:
    name = rng.choice(content.named(*NAMES))
    values = content.datasets[name].tolist()
    for row in rng.choice(([0], [-1], range(len(values)))):
        values[row] = rng.choice([*TEXTS, "\ud800"]).encode("utf-8", "surrogatepass")
    content.datasets[name] = np.array(values)


def resize_classes(content: Content, rng: Random) -> None:
    names = content.datasets["class_names"].tolist()
    more = [f"class {number}".encode() for number in range(rng.choice((0, 1, 100, 20_000)))]
    content.datasets["class_names"] = np.array((names + more)[rng.choice((0, 1, 2)) :])


def change_history(content: Content, rng: Random) -> None:
    owner, key = rng.choice(list(places(content.history)))
    if rng.random() < 0.3:
        del owner[key]
    else:
        owner[key] = copy.deepcopy(rng.choice(JSON))


def replace_history(content: Content, rng: Random) -> None:
    large = [{"command": "embed", "skipped": [{"id": f"{i}.png"} for i in range(20_000)]}]
    deep = json.loads("[" * 30 + "]" * 30)
    content.history = rng.choice(["", "{", "[" * 200_000, "[NaN]", "[]", deep, large, *JSON])


def change_column(content: Content, rng: Random) -> None:
    """Change the type, the values or the number of values of a result's column, or add one."""
    name = rng.choice([*content.below("runs"), f"runs/{rng.choice(COLUMNS)}"])
    old = content.datasets.get(name, np.arange(2))
    n = len(old)
    odd: dict[str, Any] = {"f": NUMBERS, "i": INTEGERS, "S": [text.encode() for text in TEXTS]}
    columns = [np.array([rng.choice(odd[old.dtype.kind])] * n), np.resize(old, 40), old[:0]]
    columns += [np.arange(n), np.arange(n) / 3, np.full(n, np.nan), texts(["svm", "1", "x"] * n)]
    content.datasets[name] = rng.choice(columns)


def change_fitted(content: Content, rng: Random) -> None:
    name = rng.choice(content.below("fitted"))
    array = content.datasets[name]
    if rng.random() < 0.5:
        odd = {"f": NUMBERS, "i": INTEGERS, "S": [b"knn", b"logits", b"x"]}[array.dtype.kind]
        array.reshape(-1)[rng.choice((slice(None), slice(1)))] = rng.choice(odd)
        return
    shape = list(array.shape)
    shape[rng.randrange(len(shape))] += rng.choice((-1, 1, 100))
    content.datasets[name] = np.resize(array, shape)


def set_scale(content: Content, rng: Random) -> None:
    name = rng.choice(("temperature", "logit_scale"))
    content.attributes[name] = rng.choice([*NUMBERS, 0.01, 1, "x"])


def change_features(content: Content, rng: Random) -> None:
    """Set or multiply a matrix, a row or a column, or make all rows or columns equal."""
    array = content.datasets[rng.choice(content.named("features"))]
    part = rng.choice((np.s_[:], np.s_[:1], np.s_[:, :1], np.s_[1:]))
    value = np.float32(rng.choice(NUMBERS))
    array[part] = rng.choice((array[:1], array[:, :1], array[part] * value, value))


def cut(content: Content, rng: Random) -> None:
    """Keep few rows or columns: of a whole split, of the prompts, or of one array alone."""
    group = rng.choice([*content.splits(), ""])
    names = [name for name in content.datasets if name.rpartition("/")[0] == group]
    axis = rng.choice((0, -1))
    for name in rng.choice((names, names[:1])):
        array = content.datasets[name]
        content.datasets[name] = np.take(array, range(rng.choice((0, 1, 2))), axis)


def reshape(content: Content, rng: Random) -> None:
    name = rng.choice(list(content.datasets))
    array = content.datasets[name]
    shapes = [array.reshape(-1), array[None], array.T, array[..., None]]
    types = ["S1", "S999"] if array.dtype.kind == "S" else TYPES
    content.datasets[name] = rng.choice([*shapes, array.astype(rng.choice(types))])


def drop(content: Content, rng: Random) -> None:
    del content.datasets[rng.choice(list(content.datasets))]


def move_split(content: Content, rng: Random) -> None:
    """Rename, copy or drop a split."""
    old = rng.choice(content.splits())
    kept = rng.random() < 0.3
    news = rng.choice(([], [rng.choice(SPLITS)], [f"copy{i}" for i in range(60)]))
    for name in content.below(old):
        array = content.datasets[name] if kept else content.datasets.pop(name)
        for new in news:
            content.datasets[f"{new}/{name.rpartition('/')[2]}"] = array


def change_attributes(content: Content, rng: Random) -> None:
    values = {"format": ["x", 1], "version": [0, 2, -1, 2**62, "1"], "x": [1], "kind": ["x", 1]}
    values["kind"] += ["images", "texts", "logits", "result", "probe"]
    name = rng.choice(list(values))
    content.attributes[name] = rng.choice(values[name])


MUTATIONS = [
    set_labels, spread_labels, set_texts, set_texts, resize_classes, change_history,
    change_history, replace_history, change_column, change_column,
    change_fitted, set_scale, change_features, change_features, cut, reshape, drop, move_split,
    change_attributes,
]  # fmt: skip
