"""Changed files and folders of other tools become the same feature file, or give one line."""

import copy
import io
import os
import pickle
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from canary import Canary
from fuzz import content, seeds
from fuzz.commands import MEMORY_BYTES, Runner, cases
from fuzz.content import Content
from fuzz.damage import damaged
from hypothesis import reject
from safetensors import SafetensorError
from safetensors.numpy import save_file

from clipkit.features import read

pytestmark = pytest.mark.long

MEMORY_RATIO = 40
SOURCES = ("img.h5", "classes.h5", "generic32.logits.h5")


@pytest.fixture(scope="module")
def runner(fork_server, tmp_path_factory):
    runner = Runner(fork_server, tmp_path_factory.mktemp("foreign"))
    seeds.write_results(runner)
    return runner


@pytest.mark.exhaustive
@cases(15)
def test_an_import_gives_the_right_data_or_one_line(rng, runner):
    folder = runner.folder
    canary = folder / "tmp" / "canary"
    runner.clear()
    ending = rng.choice(list(WRITERS))
    path = folder / f"foreign.{ending}"
    original = Content.read(folder / rng.choice(SOURCES))
    write = WRITERS[ending]
    try:
        changed = content.mutate(original, rng) if rng.random() < 0.7 else copy.deepcopy(original)
        write(path, changed, rng, canary)
    except (*content.IMPOSSIBLE, pa.ArrowException, SafetensorError):
        reject()
    if rng.random() < 0.2:
        path.write_bytes(damaged(path.read_bytes(), rng))
    if not convert(runner, path.name, "out.h5"):
        assert not canary.exists()
        assert not (folder / "out.h5").exists()
        return
    back = f"out.{rng.choice(('npz', 'parquet'))}"
    assert convert(runner, "out.h5", back)
    assert convert(runner, back, "out.back.h5")
    first, second = read(folder / "out.h5"), read(folder / "out.back.h5")
    second.history = first.history
    assert seeds.same(first, second)


PART_NAMES = ("part.{}.parquet", "part-{:05d}.parquet", "x-{:05d}-of-00003.parquet")


@cases(10)
def test_a_folder_of_parts_is_whole_or_refused(rng, runner):
    """A part is left out, damaged, or something other than a file."""
    folder = runner.folder / "out.parts"
    runner.clear()
    folder.mkdir()
    name = rng.choice(PART_NAMES)
    for number in range(3):
        features = pa.array([[float(number), 1.0]] * 2, pa.list_(pa.float32()))
        pq.write_table(pa.table({"feature": features}), folder / name.format(number))
    path = folder / name.format(rng.randrange(3))
    kind = rng.choice(("whole", "absent", "damaged", "FIFO", "folder", "lost link", "/dev/zero"))
    data = path.read_bytes()
    if kind != "whole":
        path.unlink()
    if kind == "damaged":
        path.write_bytes(damaged(data, rng))
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind in ("lost link", "/dev/zero"):
        path.symlink_to(kind)
    is_read = convert(runner, "out.parts", "out.h5")
    is_end = name != PART_NAMES[2] and path.name in (name.format(0), name.format(2))
    assert is_read == (kind == "whole" or (kind == "absent" and is_end)) or kind == "damaged"
    if is_read:
        whole = np.repeat([0.0, 1.0, 2.0], 2)
        features = read(runner.folder / "out.h5").splits["all"].features
        assert set(features[:, 0]) <= set(whole)
        assert len(features) == (6 if kind == "whole" else len(features))


def convert(runner, source, output):
    """Convert with memory in proportion to the input, as docs/reliability.md says."""
    path = runner.folder / source
    size = path.stat().st_size if path.is_file() else 10_000
    memory = MEMORY_BYTES + MEMORY_RATIO * size
    ended, problem = runner.judge("convert", source, output, memory=memory)
    assert not problem
    return ended.exit_code == 0


def write_npz(path, changed, rng, canary):
    arrays = {n.replace("/", "_"): a for n, a in changed.datasets.items()}
    for name, array in arrays.items():
        if array.dtype.kind == "S" and rng.random() < 0.7:
            arrays[name] = np.char.decode(array, "utf-8", "replace")
    if rng.random() < 0.5:
        name = rng.choice(list(arrays))
        arrays[rng.choice((name, "features", "labels", "clipkit", "../x"))] = rng.choice(ODD)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            archive.writestr(f"{name}.npy", npy(array, canary))


ODD = [
    np.zeros((400_000, 100), "<f4"),  # of many bytes that compress well
    np.full(2000, "x" * 20_000),
    ("|O", (1,)),  # runs code when it is read
    np.zeros(3, [("a", "<f4"), ("b", "<i8")]),
    ("<f4", (10**12, 4)),
    ("<U999999", (2**63,)),
    ("|S0", (-1, 4)),
]


def write_safetensors(path, changed, rng, _):
    arrays = {}
    for name, array in changed.datasets.items():
        if array.dtype.kind in "fiu":
            arrays[name.replace("/", "_")] = np.ascontiguousarray(array)
    if rng.random() < 0.5:
        name = rng.choice(list(arrays))
        arrays[rng.choice((name, "features", "labels", "clipkit", "../x", ""))] = arrays[name]
    save_file(arrays, path)


def npy(array, canary):
    """Return the bytes of an .npy: of an array, or of a header and some that do not fit it."""
    stream = io.BytesIO()
    if not isinstance(array, tuple):
        np.lib.format.write_array(stream, array, allow_pickle=False)
        return stream.getvalue()
    header = {"descr": array[0], "fortran_order": False, "shape": array[1]}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + pickle.dumps(Canary(canary))


def write_parquet(path, changed, rng, _):
    group = rng.choice([*changed.splits(), ""])
    names = {"ids": "id", "labels": "label", "texts": "text", "class_index": "class_index"}
    columns = {}
    for name in [name for name in changed.datasets if name.rpartition("/")[0] == group]:
        key, array = name.rpartition("/")[2], changed.datasets[name]
        if key == "features":
            columns["feature"] = pa.array(array.tolist(), pa.list_(pa.float32()))
        elif key in names:
            columns[names[key]] = pa.array([decoded(value) for value in array.tolist()])
    table = pa.table(columns)
    for _column in range(rng.choice((0, 1, 2))):
        name = rng.choice([*table.column_names, "label", "class_name", "text", "split", "x"])
        number = rng.choice((content.NUMBERS, content.INTEGERS, content.TEXTS, [None], [["x"]]))
        values = pa.array([rng.choice(number)] * table.num_rows)
        if name in table.column_names:
            table = table.drop_columns([name])
        table = table.append_column(name, values)
    if rng.random() < 0.3:  # many rows take few bytes in a dictionary
        table = table.take(pa.array(np.zeros(3000, int)))
    pq.write_table(table, path, compression="zstd", row_group_size=rng.choice((1, 7, 10_000)))


WRITERS = {"npz": write_npz, "parquet": write_parquet, "safetensors": write_safetensors}


def decoded(value):
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
