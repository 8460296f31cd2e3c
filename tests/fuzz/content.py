"""Change what a feature file holds, legally or not, and sign it again.

A mutation changes a `Content` in place. The file has right digests afterwards, so that clipkit sees
the change and not damage.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from factories import write_content

from clipkit.features.model import KINDS

PLANTED = "# planted"  # a heading, if a page takes a name as it is
TEXTS = [
    "", " ", "a", "A", "été", "犬", "a\tb", "a\nb", f"x\n{PLANTED}\ny", "| x |", "a\rb", "a,b", '"',
    "\x1b[31mred", "\u202e", "\u2028", "\ufeff", "\x00", "a\x00b", "$x^2$", "$\\frac{", "_x_", "\\",
    "[red]", "[/red]", "{}", "{c}", "{0}", "%s", "-1", "nan", "=1+1", "<b>", "`", "../x", "a/b",
    "train", "test", "-", "a" * 300, "é" * 3000, "x " * 20_000, "\x7f\x9b", "𝔘",
    "a" + "\u0301" * 99,
]  # fmt: skip
NUMBERS = [
    0.0, -0.0, -1.0, 0.5, 1.0, 2.0, 1e-45, 1e-320, 1e-38, 1e-30, 1e-12, 1e-5, 1e5, 1e12, 1e19, 1e20,
    1e38, 3.4e38, 1e39, 1e300, 1.7e308, np.nan, np.inf, -np.inf,
]  # fmt: skip
INTEGERS = [0, -1, 1, 2, 3, 7, 255, 2**20 - 1, 2**20, 2**31, 2**53 + 1, 2**63 - 1, -(2**63)]
JSON = [
    None, True, False, *INTEGERS, 2**64, 10**400, *NUMBERS, *TEXTS, "\ud800", [], {}, [1], ["x"],
    [None], {"x": 1}, {"": ""}, [[]], [1, "x", None], {"name": "m"}, {"command": "x"},
    list(range(99)),
]  # fmt: skip
TYPES = ["<f8", "<f4", "<f2", ">f4", ">f8", "<i8", "<i4", "|i1", "|u1", "<u8", ">i8", "|b1", "<c8"]
COMMANDS = ["embed", "textembed", "logits", "entropy", "probe", "zeroshot", "cluster", "convert"]
COLUMNS = [
    "acc1",
    "acc5",
    "split",
    "eval_split",
    "fit_split",
    "temperature",
    "C",
    "k",
    "x",
    "label",
]
SPLITS = [
    "train", "test", "all", "val", "_", "a.b-c", "x" * 100, "x" * 101, "0", "-", ".", "a b", "é",
    "features", "runs",
]  # fmt: skip
DATASETS = [
    "x", "train/x", "train/predicted", "texts", "class_index", "class_names", "features", "a/b/c",
]  # fmt: skip


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
            attributes = {name: file.attrs[name] for name in ("format", "kind", "history")}
            attributes = {name: value.decode() for name, value in attributes.items()}
            attributes["version"] = 2 if attributes["kind"] == "probe" else 1
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

    def columns(self) -> list[str]:
        return [name for name in self.datasets if name.startswith("runs/")]

    def splits(self) -> list[str]:
        names = dict.fromkeys(name.partition("/")[0] for name in self.datasets if "/" in name)
        return [name for name in names if name != "runs"]

    def rename(self, old: str, new: str) -> None:
        """Rename a split."""
        self.datasets = {
            name.replace(f"{old}/", f"{new}/", 1) if name.startswith(f"{old}/") else name: array
            for name, array in self.datasets.items()
        }


Mutation = Callable[[Content, random.Random], None]
# what is raised if a mutation does not fit the one before it, or HDF5 cannot hold the result
IMPOSSIBLE = (ValueError, TypeError, LookupError, OSError, RuntimeError, OverflowError)


def mutate(original: Content, rng: random.Random) -> tuple[Content, list[str]]:
    """Return a copy with one to three mutations, and their names."""
    content = copy.deepcopy(original)
    mutations = [rng.choice(MUTATIONS) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    for mutation in mutations:
        mutation(content, rng)
    return content, [mutation.__name__ for mutation in mutations]


def _choose(content: Content, rng: random.Random, *keys: str) -> str | None:
    return rng.choice(content.named(*keys) or [None])  # type: ignore[list-item]


def _texts(texts: list[str]) -> np.ndarray[Any, Any]:
    """Return texts as stored; half a surrogate pair makes them invalid UTF-8."""
    return np.array([text.encode("utf-8", "surrogatepass") for text in texts])


# labels, classes and predictions


def set_some_labels(content: Content, rng: random.Random) -> None:
    name = _choose(content, rng, "labels", "class_index", "predicted")
    if name and content.datasets[name].size:
        array = content.datasets[name]
        array.reshape(-1)[rng.randrange(array.size)] = rng.choice(INTEGERS)


def set_all_labels(content: Content, rng: random.Random) -> None:
    name = _choose(content, rng, "labels", "class_index", "predicted")
    if name:
        content.datasets[name][...] = rng.choice((0, 0, 1, 2, 2**20 - 1, -1))


def spread_labels(content: Content, rng: random.Random) -> None:
    """Give every row another class, and drop the names, which would be too few."""
    content.datasets.pop("class_names", None)
    step = rng.choice((1, 1, 1000, 30_000))
    for name in content.named("labels", "class_index", "predicted"):
        array = content.datasets[name]
        content.datasets[name] = (np.arange(array.size) * step % 2**20).reshape(array.shape)


def drop_labels(content: Content, rng: random.Random) -> None:
    name = _choose(content, rng, "labels", "class_index", "class_names")
    content.datasets.pop(name, None)


def keep_one_class(content: Content, rng: random.Random) -> None:
    for name in content.named("labels", "class_index"):
        content.datasets[name] = np.minimum(content.datasets[name], 0)
    content.datasets["class_names"] = _texts(["only"])


def repeat_class_names(content: Content, rng: random.Random) -> None:
    names = content.datasets.get("class_names")
    if names is not None:
        names[rng.randrange(len(names))] = names[0]


def set_texts(content: Content, rng: random.Random) -> None:
    """Replace some of the class names, texts or ids."""
    name = _choose(content, rng, "class_names", "texts", "ids")
    if name:
        texts = content.datasets[name].tolist()
        for _ in range(rng.choice((1, 1, 2, 5))):
            texts[rng.randrange(len(texts))] = rng.choice(TEXTS).encode()
        content.datasets[name] = np.array(texts)


def set_all_texts(content: Content, rng: random.Random) -> None:
    name = _choose(content, rng, "class_names", "texts", "ids")
    if name:
        texts = [rng.choice([*TEXTS, "\ud800"])] * len(content.datasets[name])
        content.datasets[name] = _texts(texts)


def add_classes(content: Content, rng: random.Random) -> None:
    """Add many class names, none of which has a row."""
    if "class_names" in content.datasets:
        count = rng.choice((1, 100, 4900, 20_000))
        names = content.datasets["class_names"].tolist()
        more = [f"class {rng.choice((i, i, 0))}".encode() for i in range(count)]
        content.datasets["class_names"] = np.array(names + more)


def drop_classes(content: Content, rng: random.Random) -> None:
    if "class_names" in content.datasets:
        content.datasets["class_names"] = content.datasets["class_names"][: rng.choice((1, 2, 0))]


# the history


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


def set_history_value(content: Content, rng: random.Random) -> None:
    found = list(places(content.history))
    if found:
        owner, key = rng.choice(found)
        owner[key] = copy.deepcopy(rng.choice(JSON))


def drop_history_key(content: Content, rng: random.Random) -> None:
    found = list(places(content.history))
    if found:
        owner, key = rng.choice(found)
        del owner[key]


def change_entries(content: Content, rng: random.Random) -> None:
    """Drop, repeat, reverse, rename or add entries of the history."""
    entries = content.history
    if not isinstance(entries, list) or not entries:
        return
    kind = rng.randrange(5)
    if kind == 0:
        content.history = entries[: rng.randrange(len(entries))]
    elif kind == 1:
        content.history = entries * rng.choice((2, 50))
    elif kind == 2:
        entries.reverse()
    elif kind == 3 and isinstance(entries[-1], dict):
        entries[-1]["command"] = rng.choice([*COMMANDS, *TEXTS])
    else:
        entries.append({"command": rng.choice(COMMANDS)})


def set_model(content: Content, rng: random.Random) -> None:
    """Change what the history says about the model."""
    entries = content.history if isinstance(content.history, list) else []
    for entry in entries:
        if isinstance(entry, dict) and isinstance(entry.get("model"), dict):
            key = rng.choice(("logit_scale", "logit_scale", "logit_bias", "digest", "name", "dim"))
            entry["model"][key] = rng.choice([rng.choice(NUMBERS), *rng.sample(JSON, 2)])
            return


def replace_history(content: Content, rng: random.Random) -> None:
    """Replace the whole history, also by deep or large JSON, or by what is no JSON."""
    nested: Any = 1
    for _ in range(rng.choice((12, 13, 14, 15, 30))):
        nested = [nested]
    entry = {"command": "embed", "x": nested}
    deep = "[" * 200_000
    large = [{"command": "embed", "skipped": [{"id": f"{i}.png"} for i in range(20_000)]}]
    content.history = rng.choice(["", "{", deep, "[NaN]", "[1]", "[]", [entry], large, *JSON])


# columns of results


def drop_column(content: Content, rng: random.Random) -> None:
    if content.columns():
        del content.datasets[rng.choice(content.columns())]


def retype_column(content: Content, rng: random.Random) -> None:
    """Make a column one of texts, integers or floats."""
    if content.columns():
        name = rng.choice(content.columns())
        n = len(content.datasets[name])
        numbers = (np.arange(n), np.arange(n) / 3, np.full(n, np.nan))
        texts = (_texts(["x"] * n), _texts(["svm", "1", "test", "", "nan"] * n)[:n])
        content.datasets[name] = rng.choice((*numbers, *texts))


def set_column(content: Content, rng: random.Random) -> None:
    """Set one or all values of a column, within its type."""
    if content.columns():
        name = rng.choice(content.columns())
        values = content.datasets[name].tolist()
        odd: dict[str, list[Any]] = {"f": NUMBERS, "i": INTEGERS, "S": [t.encode() for t in TEXTS]}
        kind = content.datasets[name].dtype.kind
        value = rng.choice(odd[kind])
        for row in rng.choice((range(len(values)), [rng.randrange(len(values))])):
            values[row] = value
        content.datasets[name] = np.array(values)


def add_column(content: Content, rng: random.Random) -> None:
    n = max((len(content.datasets[name]) for name in content.columns()), default=1)
    values = rng.choice((np.arange(n), np.full(n, np.nan)))
    content.datasets[f"runs/{rng.choice(COLUMNS)}"] = values


def resize_column(content: Content, rng: random.Random) -> None:
    """Change the number of runs, of one column or of all of them."""
    columns = rng.choice((content.columns(), content.columns()[:1]))
    count = rng.choice((0, 1, 2, 40))
    for name in columns:
        content.datasets[name] = np.resize(content.datasets[name], count)


# what a probe fitted


def fitted_arrays(content: Content) -> list[str]:
    return [name for name in content.datasets if name.startswith("fitted/")]


def set_fitted_value(content: Content, rng: random.Random) -> None:
    if fitted_arrays(content):
        array = content.datasets[rng.choice(fitted_arrays(content))]
        odd = {"f": NUMBERS, "i": INTEGERS, "S": [b"knn", b"logits", b"x"]}[array.dtype.kind]
        value = rng.choice(odd)
        rows = rng.choice((slice(None), rng.randrange(array.size)))
        with np.errstate(over="ignore"):
            array.reshape(-1)[rows] = value


def resize_fitted(content: Content, rng: random.Random) -> None:
    if fitted_arrays(content):
        name = rng.choice(fitted_arrays(content))
        shape = list(content.datasets[name].shape)
        axis = rng.randrange(len(shape))
        shape[axis] = max(0, shape[axis] + rng.choice((-1, 1, 100)))
        content.datasets[name] = np.resize(content.datasets[name], shape)


def drop_fitted(content: Content, rng: random.Random) -> None:
    if fitted_arrays(content):
        del content.datasets[rng.choice(fitted_arrays(content))]


# features and scales


def set_scale(content: Content, rng: random.Random) -> None:
    value = rng.choice([*NUMBERS, *NUMBERS, 0.01, 1, "x", None])
    content.attributes[rng.choice(("temperature", "logit_scale"))] = value
    if value is None:
        content.attributes = {k: v for k, v in content.attributes.items() if v is not None}


def scale_features(content: Content, rng: random.Random) -> None:
    """Multiply a matrix, a row or a column by a number, as far as float32 goes."""
    name = _choose(content, rng, "features")
    if name:
        part = rng.choice((np.s_[:], np.s_[:1], np.s_[:, :1], np.s_[-1:]))
        with np.errstate(all="ignore"):
            content.datasets[name][part] *= np.float32(rng.choice(NUMBERS))


def set_features(content: Content, rng: random.Random) -> None:
    name = _choose(content, rng, "features")
    if name:
        part = rng.choice((np.s_[:], np.s_[0], np.s_[:, 0], np.s_[0, 0], np.s_[1:]))
        with np.errstate(all="ignore"):
            content.datasets[name][part] = np.float32(rng.choice(NUMBERS))


def repeat_rows(content: Content, rng: random.Random) -> None:
    """Make all rows of a matrix equal, or all columns."""
    name = _choose(content, rng, "features")
    if name:
        array = content.datasets[name]
        array[:] = array[:1] if rng.random() < 0.5 else array[..., :1]


# shapes, types and names


def cut_rows(content: Content, rng: random.Random) -> None:
    """Keep few rows: of a whole split, of the prompts, or of one array alone."""
    group = rng.choice([*content.splits(), ""])
    names = [name for name in content.datasets if name.rpartition("/")[0] == group]
    names = [name for name in names if name != "class_names"]
    if not names:
        return
    count = rng.choice((0, 1, 1, 2, 3))
    for name in rng.choice((names, names, names[:1])):
        axis = int(name.endswith("/predicted"))
        content.datasets[name] = np.take(content.datasets[name], range(count), axis)


def cut_columns(content: Content, rng: random.Random) -> None:
    """Keep few columns of features, everywhere."""
    count = rng.choice((0, 1, 1, 2))
    for name in content.named("features"):
        content.datasets[name] = np.ascontiguousarray(content.datasets[name][..., :count])
    for name in ("texts", "class_index"):
        if content.attributes.get("kind") == "logits" and name in content.datasets:
            content.datasets[name] = content.datasets[name][:count]


def reshape(content: Content, rng: random.Random) -> None:
    name = rng.choice(list(content.datasets))
    array = content.datasets[name]
    shapes = (array.reshape(-1), array[None], array.T, array[..., None])
    content.datasets[name] = rng.choice(shapes)


def retype(content: Content, rng: random.Random) -> None:
    name = rng.choice(list(content.datasets))
    array = content.datasets[name]
    if array.dtype.kind == "S":
        types = (np.arange(array.size), array.astype("S1"), array.astype("S999"))
        content.datasets[name] = rng.choice(types)
        return
    with np.errstate(all="ignore"):
        content.datasets[name] = array.astype(rng.choice(TYPES))


def rename_split(content: Content, rng: random.Random) -> None:
    if content.splits():
        content.rename(rng.choice(content.splits()), rng.choice(SPLITS))


def copy_split(content: Content, rng: random.Random) -> None:
    """Add copies of a split, some or many."""
    if content.splits():
        old = rng.choice(content.splits())
        parts = {name: a for name, a in content.datasets.items() if name.startswith(f"{old}/")}
        for i in range(rng.choice((1, 1, 60))):
            for name, array in parts.items():
                content.datasets[f"copy{i}/{name.rpartition('/')[2]}"] = array


def drop_split(content: Content, rng: random.Random) -> None:
    names = content.splits()
    for split in rng.choice((names, names[:1], names[1:])):
        for name in [name for name in content.datasets if name.startswith(f"{split}/")]:
            del content.datasets[name]


def add_dataset(content: Content, rng: random.Random) -> None:
    values = (np.arange(3), _texts(["a", "b", "c"]), np.ones((3, 2), "<f4"))
    content.datasets[rng.choice(DATASETS)] = rng.choice(values)


def change_attributes(content: Content, rng: random.Random) -> None:
    name = rng.choice(("format", "version", "kind", "kind", "x"))
    values: dict[str, list[Any]] = {
        "format": ["x", 1, ""],
        "version": [0, 2, -1, 2**62, 1.0, "1"],
        "kind": [*KINDS, "x", 1],
        "x": [1, "x"],
    }
    content.attributes[name] = rng.choice(values[name])


MUTATIONS: list[Mutation] = [
    set_some_labels, set_all_labels, spread_labels, drop_labels, keep_one_class, repeat_class_names,
    set_texts, set_texts, set_all_texts, add_classes, drop_classes, set_history_value,
    set_history_value, set_history_value, drop_history_key, change_entries, set_model,
    replace_history, drop_column, retype_column, set_column, set_column, add_column, resize_column,
    set_scale, scale_features, set_features, repeat_rows, cut_rows, cut_columns, reshape, retype,
    rename_split, copy_split, drop_split, add_dataset, change_attributes, set_fitted_value,
    set_fitted_value, resize_fitted, drop_fitted,
]  # fmt: skip
