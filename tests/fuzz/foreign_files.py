"""Convert changed .npz, .npy and .parquet files, and check what they become."""

from __future__ import annotations

import copy
import io
import json
import pickle
import random
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from canary import Canary
from forkserver import ForkServer, Outcome
from fuzz import content, mutate, seeds
from fuzz.commands import MEMORY_BYTES, Runner
from fuzz.content import Content

from clipkit.base.errors import ClipkitError
from clipkit.features import FeatureFile, read

Arrays = dict[str, Any]
SOURCES = ("img.h5", "classes.h5", "generic32.logits.h5")
OPTIONS = ["", "", "", "--split train", "--split x", "--model m", "--labels labels.npy",
           "--prompts generic32.txt"]  # fmt: skip
BOMB_ROWS = 3000
MEMORY_RATIO = 40
FOREIGN_DTYPES = [
    "O",
    "M8[s]",
    "<U9",
    "<c16",
    ">f8",
    "<f2",
    "|b1",
    "|V4",
    [("a", "<f4"), ("b", "<i8")],
]


class ForeignFiles:
    """Judges cases: each writes what a feature file may hold in another format, and imports it."""

    def __init__(self, server: ForkServer, folder: Path) -> None:
        self.runner = Runner(server, folder)
        self.folder = folder
        seeds.write_results(self.runner)
        self.originals = [Content.read(folder / name) for name in SOURCES]
        self.canary = folder / "tmp" / "canary"
        np.save(folder / "labels.npy", np.arange(32) % 3)

    def __call__(self, case: int) -> str:
        rng = random.Random(case)
        ending = rng.choice((".npz", ".npz", ".parquet", ".parquet", ".npy"))
        self.name = f"foreign{ending}"
        writers: dict[str, Callable[..., list[str]]] = {
            ".npz": self._write_npz,
            ".parquet": self._write_parquet,
            ".npy": self._write_npy,
        }
        path = self.folder / self.name
        self.expected: Arrays = {}  # features by split, where they are known
        try:
            changed, mutations = copy.deepcopy(rng.choice(self.originals)), list[str]()
            if rng.random() < 0.7:
                changed, mutations = content.mutate(changed, rng)
            mutations += writers[ending](path, changed, rng)
        except (*content.IMPOSSIBLE, pa.ArrowException):
            return "impossible"
        if rng.random() < 0.2:
            path.write_bytes(mutate.damaged([path.read_bytes()], case))
            self.expected = {}
        problem = self._judge(rng.choice(OPTIONS).split(), rng)
        if problem in ("used", "refused"):
            return problem
        return f"{problem}: {ending} {' '.join(mutations)}"

    # writers; each returns the names of what it did

    def _write_npz(self, path: Path, changed: Content, rng: random.Random) -> list[str]:
        arrays = _arrays(changed, rng)
        done = []
        if rng.random() < 0.5:
            mutation = rng.choice(NPZ_MUTATIONS)
            done.append(mutation.__name__)
            mutation(arrays, rng)
        for name, array in arrays.items():
            group, _, key = name.rpartition("_")
            if name == "features" or (group and key == "features"):
                self.expected[group] = array
        is_bomb = any(name.startswith("inflate") for name in done)
        compression = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        if is_bomb:
            compression = zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(path, "w", compression, compresslevel=1) as archive:
            for name, array in arrays.items():
                archive.writestr(f"{name}.npy", self._npy(array))
            if rng.random() < 0.1:
                name = f"{rng.choice(list(arrays))}{rng.choice(('', '.npy', '.txt', '/'))}"
                with warnings.catch_warnings(action="ignore"):
                    archive.writestr(name, b"twice")
        return done

    def _npy(self, array: Any) -> bytes:
        """Return the bytes of an .npy, or those given. An array of objects runs code when read."""
        if isinstance(array, bytes):
            return array
        stream = io.BytesIO()
        if array.dtype.hasobject:
            np.lib.format.write_array_header_1_0(
                stream, {"descr": "|O", "fortran_order": False, "shape": array.shape}
            )
            return stream.getvalue() + pickle.dumps(Canary(self.canary))
        np.lib.format.write_array(stream, array, allow_pickle=False)
        return stream.getvalue()

    def _write_npy(self, path: Path, changed: Content, rng: random.Random) -> list[str]:
        name = rng.choice(changed.named("features") or list(changed.datasets))
        arrays = {"features": changed.datasets[name]}
        mutation = rng.choice(NPZ_MUTATIONS)
        mutation(arrays, rng)
        path.write_bytes(self._npy(arrays["features"]))
        return [mutation.__name__]

    def _write_parquet(self, path: Path, changed: Content, rng: random.Random) -> list[str]:
        table = _table(changed, rng)
        done = []
        if rng.random() < 0.6:
            mutation = rng.choice(TABLE_MUTATIONS)
            done.append(mutation.__name__)
            table = mutation(table, rng)
        else:
            names = changed.named("features")
            self.expected = {name.rpartition("/")[0]: changed.datasets[name] for name in names}
        if rng.random() < 0.5:
            metadata = {"clipkit": _metadata(changed, rng, rooted=True)}
            table = table.replace_schema_metadata(metadata)
        form = {
            "compression": rng.choice(("none", "zstd", "gzip", "snappy")),
            "use_dictionary": rng.random() < 0.7,
            "row_group_size": rng.choice((1, 7, 10_000)),
        }
        if any(name.startswith("inflate") for name in done):  # into a small file
            form = {"compression": "zstd", "use_dictionary": True}
        pq.write_table(table, path, **form)
        return done

    def _judge(self, options: list[str], rng: random.Random) -> str:
        for name in ("out.h5", "back.h5", "back.npz", "back.parquet"):
            (self.folder / name).unlink(missing_ok=True)
        ended, problem = self._convert("convert", self.name, "out.h5", *options)
        if self.canary.exists():
            self.canary.unlink()
            return "RAN CODE"
        if problem or ended.exit_code:
            written = (self.folder / "out.h5").exists()
            return problem or ("OUTPUT OF A FAILED COMMAND" if written else "refused")
        try:
            file = read(self.folder / "out.h5")
        except ClipkitError as error:
            return f"UNREADABLE {error.message[:150]}"
        if _has_other_features(file, self.expected):
            return "OTHER DATA"
        back = rng.choice(("back.npz", "back.parquet"))
        again = [("info", "out.h5"), ("convert", "out.h5", back), ("convert", back, "back.h5")]
        for words in again:
            ended, problem = self._convert(*words)
            if problem or ended.exit_code:
                return f"{problem or 'UNREADABLE'} {words[0]} {back}: {ended.stderr[:150]}"
        imported = read(self.folder / "back.h5")
        imported.history = file.history
        return "used" if seeds.same(file, imported) else f"OTHER DATA after {back}"

    def _convert(self, *words: str) -> tuple[Outcome, str]:
        """Run a command with memory in proportion to its input, as docs/reliability.md says."""
        size = (self.folder / words[1]).stat().st_size
        return self.runner.judge(*words, memory=MEMORY_BYTES + MEMORY_RATIO * size)


def _has_other_features(file: FeatureFile, expected: Arrays) -> bool:
    """Whether a split that the import kept by its name has other numbers."""
    pairs = [(name, split.features) for name, split in file.splits.items()]
    for name, got in [*pairs, ("", file.features)]:
        array = expected.get(name)
        if got is None or not isinstance(array, np.ndarray):
            continue
        with np.errstate(all="ignore"):
            if not np.array_equal(got, array.astype(np.float32)):
                return True
    return False


def _metadata(changed: Content, rng: random.Random, rooted: bool = False) -> str:
    """Return the JSON that clipkit puts into such files, sometimes with odd values."""
    values = {**changed.attributes, "history": changed.history}
    if rooted:
        for name in ("class_names", "texts", "class_index"):
            if name in changed.datasets and changed.attributes.get("kind") != "texts":
                array = changed.datasets[name]
                values[name] = [
                    item.decode("utf-8", "replace") if isinstance(item, bytes) else item
                    for item in array.tolist()
                ]
    if rng.random() < 0.4:
        values[rng.choice([*values, "x", "texts", "class_names"])] = rng.choice(content.JSON)
    if rng.random() < 0.1:
        return str(rng.choice(["", "[", "[" * 200_000, "null", "[]", '"x"', "{}", "\x00"]))
    return json.dumps(values, ensure_ascii=True, default=str)


def _arrays(changed: Content, rng: random.Random) -> Arrays:
    """Return data sets under the names that an .npz has for them."""
    arrays = {name.replace("/", "_"): array for name, array in changed.datasets.items()}
    for name, array in arrays.items():
        if array.dtype.kind == "S" and rng.random() < 0.7:
            arrays[name] = np.char.decode(array, "utf-8", "replace")
    if rng.random() < 0.5:
        arrays["clipkit"] = np.array(_metadata(changed, rng))
    return arrays


# mutations of the arrays of an .npz


def change_dtype(arrays: Arrays, rng: random.Random) -> None:
    name = rng.choice(list(arrays))
    arrays[name] = np.zeros(arrays[name].shape, rng.choice(FOREIGN_DTYPES))


def order_columns(arrays: Arrays, rng: random.Random) -> None:
    name = rng.choice(list(arrays))
    arrays[name] = np.asfortranarray(arrays[name])


def lie_in_header(arrays: Arrays, rng: random.Random) -> None:
    """Write a header that does not fit the data."""
    name = rng.choice(list(arrays))
    stream = io.BytesIO()
    shapes: list[Any] = [(10**12, 4), (2**63, 2**63), (0, 4), (-1, 4), (), (1,) * 40, (3.0, 4)]
    header = {"descr": rng.choice(("<f4", "<U999999", "|S0", "<i8")), "fortran_order": False}
    np.lib.format.write_array_header_1_0(stream, {**header, "shape": rng.choice(shapes)})
    arrays[name] = stream.getvalue() + rng.randbytes(64)


def inflate(arrays: Arrays, rng: random.Random) -> None:
    """Replace an array by one of many bytes that compress well."""
    name = rng.choice(list(arrays))
    large: list[Any] = [
        np.zeros((400_000, 100), "<f4"),
        np.zeros(3, "<U9000000"),
        np.zeros((5_000_000, 1), "|i1"),
        np.full(2000, "x" * 20_000),
        np.zeros(20_000_000, "<i8"),
    ]
    arrays[name] = rng.choice(large)


def inflate_all(arrays: Arrays, rng: random.Random) -> None:
    """Add many splits that are small enough by themselves."""
    for number in range(20):
        arrays[f"x{number}_features"] = np.zeros((160_000, 100), "<f4")


def rename(arrays: Arrays, rng: random.Random) -> None:
    name = rng.choice(list(arrays))
    names = [
        "X",
        "../x",
        "train_",
        "_features",
        "a_b_features",
        "features",
        "labels",
        "ids",
        "clipkit",
    ]
    arrays[rng.choice(names)] = arrays.pop(name)


def add_array(arrays: Arrays, rng: random.Random) -> None:
    names = [
        "features",
        "labels",
        "ids",
        "texts",
        "class_index",
        "class_names",
        "clipkit",
        "x_labels",
    ]
    arrays[rng.choice(names)] = arrays[rng.choice(list(arrays))]


def replace_by_numbers(arrays: Arrays, rng: random.Random) -> None:
    """Replace an array by as many odd numbers or texts."""
    name = rng.choice(list(arrays))
    shape = arrays[name].shape
    texts = [text.encode("utf-8", "replace").decode() for text in content.TEXTS]
    arrays[name] = np.resize(
        np.array(rng.choice((content.NUMBERS, content.INTEGERS, texts))), shape
    )


NPZ_MUTATIONS = [
    change_dtype, order_columns, lie_in_header, inflate, inflate_all, rename, add_array,
    replace_by_numbers, replace_by_numbers,
]  # fmt: skip


# mutations of a table


def _table(changed: Content, rng: random.Random) -> pa.Table:
    """Return the rows of all splits, or of the prompts, as a table."""
    number = rng.choice(("float32", "float32", "float64", "float16", "int8"))
    for name in changed.named("features"):
        with np.errstate(all="ignore"):  # what the column can hold
            changed.datasets[name] = changed.datasets[name].astype(number).astype("<f4")
    columns: dict[str, list[Any]] = {}
    texts = {"text": "texts", "class_index": "class_index", "feature": "features"}
    images = {"id": "ids", "label": "labels", "feature": "features"}
    if "features" in changed.datasets:
        columns = {name: changed.datasets[key].tolist() for name, key in texts.items()}
    else:
        for split in changed.splits():
            rows = changed.datasets[f"{split}/features"].tolist()
            columns.setdefault("split", []).extend([split] * len(rows))
            for name, key in images.items():
                array = changed.datasets.get(f"{split}/{key}")
                values = [None] * len(rows) if array is None else array.tolist()
                columns.setdefault(name, []).extend(values)
    for name, values in columns.items():
        columns[name] = [
            v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values
        ]
    width = len(columns["feature"][0])
    arrow_type = pa.from_numpy_dtype(number)
    lists = rng.choice(
        (pa.list_(arrow_type), pa.list_(arrow_type, width), pa.large_list(arrow_type))
    )
    feature = np.array(columns.pop("feature"), number).tolist()
    if number == "float16":
        feature = [list(map(np.float16, row)) for row in feature]
    arrays = {name: pa.array(values) for name, values in columns.items()}
    return pa.table({**arrays, "feature": pa.array(feature, lists)})


def _set(table: pa.Table, name: str, values: Any) -> pa.Table:
    column = values if isinstance(values, pa.Array) else pa.array(values)
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, column)
    return table.append_column(name, column)


def put_nulls(table: pa.Table, rng: random.Random) -> pa.Table:
    name = rng.choice(table.column_names)
    values = table.column(name).to_pylist()
    for row in rng.choice((range(len(values)), [0], [len(values) - 1])):
        values[row] = None
    return _set(table, name, pa.array(values, table.schema.field(name).type))


def set_column(table: pa.Table, rng: random.Random) -> pa.Table:
    """Fill a column, known or not, with odd values of one type."""
    name = rng.choice(
        [*table.column_names, "label", "class_name", "text", "split", "class_index", "x"]
    )
    texts = [text.encode("utf-8", "replace").decode() for text in content.TEXTS]
    n = table.num_rows
    values: list[Any] = rng.choice(
        (
            [rng.choice(texts)] * n,
            [rng.choice(content.INTEGERS)] * n,
            [rng.choice(content.NUMBERS)] * n,
            [True] * n,
            [b"\xff"] * n,
            [["x"]] * n,
            [{"a": 1}] * n,
            [rng.choice(("a", "b")) for _ in range(n)],
        )
    )
    return _set(table, name, values)


def repeat_column(table: pa.Table, rng: random.Random) -> pa.Table:
    name = rng.choice(table.column_names)
    return table.append_column(name, table.column(rng.choice(table.column_names)))


def drop_columns(table: pa.Table, rng: random.Random) -> pa.Table:
    return table.drop_columns([rng.choice(table.column_names)])


def inflate_text(table: pa.Table, rng: random.Random) -> pa.Table:
    """Make a table of many rows with one long text, which takes few bytes in a dictionary."""
    table = table.take(pa.array(np.zeros(BOMB_ROWS, int)))
    name = rng.choice(("id", "text", "split", "class_name"))
    texts = ["x" * rng.choice((1000, 1_000_000)), "x"]
    index = np.zeros(BOMB_ROWS, "<i4")
    if rng.random() < 0.5:
        index[1:] = 1  # a single long one
    return _set(table, name, pa.DictionaryArray.from_arrays(index, texts))


def inflate_features(table: pa.Table, rng: random.Random) -> pa.Table:
    width = rng.choice((1000, 60_000))
    zeros = pa.array(np.zeros(BOMB_ROWS * width, "<f4"))
    rows = pa.array(np.zeros(BOMB_ROWS, int))
    lists = pa.FixedSizeListArray.from_arrays(zeros, width)
    return _set(table.take(rows).drop_columns(["feature"]), "feature", lists)


def repeat_rows(table: pa.Table, rng: random.Random) -> pa.Table:
    """Keep no row, one row, or many."""
    rows = rng.choice(([], [0], list(range(table.num_rows)) * 200))
    return table.take(pa.array(rows, pa.int64()))


TABLE_MUTATIONS = [
    put_nulls, put_nulls, set_column, set_column, set_column, repeat_column, drop_columns,
    inflate_text, inflate_features, repeat_rows,
]  # fmt: skip
