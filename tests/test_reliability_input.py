"""Input files that break a rule are refused in one line, by path and through a pipe."""

import fcntl
import gzip
import hashlib
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import versions
from factories import random_features, refused, unchanged, write_feature_file
from shell import clipkit, ok

from clipkit.base.console import escaped
from clipkit.base.errors import ClipkitError
from clipkit.base.files import HDF5_SIGNATURE, OpenFile
from clipkit.features import read
from clipkit.features.checked_file import CheckedFile


def refused_everywhere(path, *parts):
    """Check refusal by path, by pipe, and by a command whose earlier output must stay."""
    texts = write_feature_file(path.with_name("texts.h5"), "texts")
    output = path.with_name("out.h5")
    output.write_bytes(b"earlier")
    with unchanged(path.parent):
        refused(clipkit("info", path), 1, f"clipkit info: {path}: ", *parts)
        refused(clipkit("logits", path, texts, "-o", output, "--force"), 1, *parts)
        if path.stat().st_size < 1 << 20:
            piped = clipkit("info", stdin=path.read_bytes())
            refused(piped, 1, "clipkit info: standard input: ", *parts)


def flip(data, at):
    assert at >= 0
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def flip_in(text, offset):
    return lambda data: flip(data, data.find(text) + offset)


DAMAGED = {
    "empty": (lambda data: b"", "empty input; hint: check whether the command before it failed"),
    "text": (lambda data: b"a dot\na line\n", "expected a feature file, got text"),
    "gzip": (gzip.compress, "expected a feature file, got gzip"),
    "other": (lambda data: data[::-1], "expected a feature file, got other data"),
    "cut by a byte": (lambda data: data[:-1], ": it was cut short; hint: make the file again"),
    "signature": (lambda data: HDF5_SIGNATURE, "but it ends within its first bytes"),
    "twice": (lambda data: data + data, ": something was added to it"),
    "junk before": (lambda data: b"\n" + data, "got an HDF5 file behind other bytes"),
    "bit in features": (flip_in(random_features().tobytes(), 50), "features does not match its"),
    "bit in labels": (flip_in((np.arange(6) % 2).tobytes(), 8), "labels does not match its SHA"),
    "bit in ids": (flip_in(b"5.png", 0), "ids does not match its SHA-256: it was changed"),
    "bit in history": (flip_in(b'"name"', 2), "it is damaged; hint: make the file again"),
    "bit in a header": (flip_in(b"OHDR", 9), "it is damaged; hint: make the file again"),
    "bit in the superblock": (lambda data: flip(data, 37), "cannot read the file: it is damaged"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_file_that_is_not_whole(tmp_path, damage, message):
    path = write_feature_file(tmp_path / "img.h5")
    path.write_bytes(damage(path.read_bytes()))
    refused_everywhere(path, message)


@pytest.mark.long
def test_every_truncation_and_every_flipped_byte_of_the_head(tmp_path):
    path = write_feature_file(tmp_path / "img.h5")
    data = path.read_bytes()
    truncated = [data[:length] for length in [*range(60), *range(60, len(data), 211)]]
    for damaged in [*truncated, *(flip(data, at) for at in range(48))]:
        path.write_bytes(damaged)
        with pytest.raises(ClipkitError):
            read(path)


def test_what_is_no_file_is_named_with_the_reason(tmp_path):
    loop = tmp_path / "loop.h5"
    loop.symlink_to(loop)
    for path, message in (
        (tmp_path / "no.h5", f"cannot read {tmp_path}/no.h5: there is no such file"),
        (tmp_path, f"expected a file as input, got the folder {tmp_path}"),
        (loop, f"cannot read {loop}: Too many levels of symbolic links"),
        ("/dev/zero", "/dev/zero: expected a feature file, got other data"),  # it has no end
    ):
        refused(clipkit("entropy", path), 1, message)


def replace(name, **options):
    def change(h5):
        del h5[name]
        h5.create_dataset(name, **options).attrs["sha256"] = np.bytes_("0" * 64)

    return change


def link(name, target):
    def change(h5):
        del h5[name]
        h5[name] = target

    return change


def attribute(name, value, **options):
    return lambda h5: h5.attrs.create(name, value, **options)


def without(name, owner="/"):
    return lambda h5: h5[owner].attrs.__delitem__(name)


def external_storage(h5):
    secret = Path(h5.filename).with_name("secret.bin")
    secret.write_bytes(b"x" * 96)
    replace(FEATURES, shape=(6, 4), dtype="<f4", external=[(str(secret), 0, 96)])(h5)


def virtual(h5):
    layout = h5py.VirtualLayout((6, 4), "<f4")
    layout[:] = h5py.VirtualSource("other.h5", "features", (6, 4))
    del h5[FEATURES]
    h5.create_virtual_dataset(FEATURES, layout)


def many_links(h5):
    replace(FEATURES, data=np.ones((1000, 100), "<f4"))(h5)
    for i in range(100):
        h5[f"split{i}/features"] = h5[FEATURES]


def group(h5):
    del h5[FEATURES]
    h5.create_group(FEATURES)


def text_behind_a_nul(h5):
    """Store ids that HDF5 cuts at a NUL, with the digest of what HDF5 then returns."""
    h5type = h5py.h5t.C_S1.copy()
    h5type.set_size(5)
    stored = np.array([b"a\0b"] * 6, "S5")
    del h5["train/ids"]
    space = h5py.h5s.create_simple((6,))
    ids = h5py.h5d.create(h5["train"].id, b"ids", h5type, space)
    ids.write(h5py.h5s.ALL, h5py.h5s.ALL, stored, h5type)
    sha256 = hashlib.sha256(h5["train/ids"][:].tobytes()).hexdigest()
    h5["train/ids"].attrs["sha256"] = np.bytes_(sha256)


def many_groups(h5):
    for i in range(4097):
        h5.create_group(f"split{i}")


FEATURES, LABELS = "train/features", "train/labels"
VLEN = h5py.string_dtype()
HUGE = {"shape": (2**40, 1024), "dtype": "<f4", "chunks": (512, 1024), "fletcher32": True}
BOMB = {"shape": (6, 4), "maxshape": (None,) * 2, "dtype": "<f4", "chunks": (1 << 14, 1 << 14)}
ENUM = h5py.enum_dtype({"A": 0}, "i8")
CLASSES = np.array([b"dog", b"cat"])
HISTORY = np.bytes_('[{"command":"other"}]')
FIXED_SIZE = "expected a fixed-size scalar"
FEATURES_TYPE = f"{FEATURES}: expected type <f4, got"
LABELS_TYPE = f"{LABELS}: expected type <i8, got another type"
NO_LINK = "expected data in the file itself, got a link"
NO_REFERENCE = f"{FEATURES}: expected data in the file itself, got a reference"
NO_FILTER = f"{FEATURES}: expected no filter but fletcher32, got filters"
STRANGE = {
    "external link": (link(FEATURES, h5py.ExternalLink("/etc/passwd", "/x")), NO_LINK),
    "external link to a split": (link("train", h5py.ExternalLink("texts.h5", "/")), NO_LINK),
    "soft link": (link(FEATURES, h5py.SoftLink("/test/features")), f"/{FEATURES}: {NO_LINK}"),
    "soft link to nowhere": (link("class_names", h5py.SoftLink("/nowhere")), NO_LINK),
    "external storage": (external_storage, NO_REFERENCE),
    "virtual": (virtual, NO_REFERENCE),
    "text behind a NUL": (text_behind_a_nul, "train/ids does not match its SHA-256"),
    "empty columns": (lambda h5: h5.create_group("runs"), "runs: expected data sets, got an empty"),
    "empty split": (lambda h5: h5.create_group("val"), "val: expected data sets, got an empty"),
    "many groups": (many_groups, "got 4,100"),
    "group": (group, f"{FEATURES}: expected a data set, got a group"),
    "data set as split": (replace("train", data=np.zeros(3)), "train is not part of a file of"),
    "unknown data set": (lambda h5: h5.create_dataset("more", data=[1]), "more is not part of"),
    "unknown in a split": (lambda h5: h5.create_dataset("train/x", data=[1]), "train/x is not"),
    "features as a column": (lambda h5: h5.move(FEATURES, "runs/features"), "runs/features is not"),
    "4 PB": (replace(FEATURES, **HUGE), f"{FEATURES}: expected data that fits into"),
    "one block, many names": (many_links, "features: expected data that fits into"),
    "chunk bomb": (replace(FEATURES, **BOMB), f"{FEATURES}: expected 1 chunks of {1 << 30} b"),
    "gzip filter": (
        replace(FEATURES, data=random_features(), compression="gzip"),
        f"{NO_FILTER} [1]",
    ),
    "scale-offset": (replace(FEATURES, data=random_features(), scaleoffset=3), NO_FILTER),
    "1-D": (replace(FEATURES, data=random_features()[0]), "got 1"),
    "null": (replace(FEATURES, data=h5py.Empty("<f4")), f"{FEATURES}: expected"),
    "float64": (replace(FEATURES, data=random_features().astype("f8")), f"{FEATURES_TYPE} <f8"),
    "vlen text": (replace("train/ids", data=["x"] * 6, dtype=VLEN), "expected type S, got another"),
    "reference": (replace(LABELS, shape=(6,), dtype=h5py.ref_dtype), LABELS_TYPE),
    "enum": (replace(LABELS, data=np.zeros(6, "i8"), dtype=ENUM), LABELS_TYPE),
    "no checksum": (without("sha256", FEATURES), f"expected the attribute sha256 of /{FEATURES}"),
    "vlen attribute": (attribute("history", "[]", dtype=VLEN), f"history of /: {FIXED_SIZE} str"),
    "array attribute": (attribute("version", [1, 1]), f"version of /: {FIXED_SIZE} int"),
    "unknown attribute": (attribute("more", 1), "expected no root attributes but format, version"),
    "interrupted": (without("complete"), "interrupted; hint: run the command that made it again"),
    "complete = 0": (attribute("complete", 0), "expected a complete file"),
    "from the future": (attribute("version", 2), "version 2 was made by a newer clipkit; hint: "),
    "not ours": (without("format"), "HDF5 file that clipkit did not make; hint: clipkit convert"),
    "class names": (replace("class_names", data=CLASSES), "class_names does not match its SHA-256"),
    "history": (attribute("history", HISTORY), "the metadata does not match the digest: it was"),
}


@pytest.mark.parametrize(("change", "message"), STRANGE.values(), ids=STRANGE)
def test_an_untrusted_file(tmp_path, change, message):
    path = write_feature_file(tmp_path / "img.h5")
    with h5py.File(path, "r+") as h5:
        change(h5)
    refused_everywhere(path, message)


@versions.CHUNKS
def test_a_chunk_beyond_the_end_of_the_file(tmp_path):
    path = write_feature_file(tmp_path / "img.h5")
    with h5py.File(path, "r+") as h5:
        replace(FEATURES, data=random_features(), chunks=(6, 4), maxshape=(None, 4))(h5)
        address = h5[FEATURES].id.get_chunk_info(0).byte_offset.to_bytes(8, "little")
    data = path.read_bytes()
    path.write_bytes(data.replace(address, (len(data) - 8).to_bytes(8, "little")))
    refused_everywhere(path, f"{FEATURES}: expected 1 chunks of 96 bytes: it is damaged")


HOLDER = """
import fcntl, sys, h5py, numpy
files = [
    h5py.File("read.h5"),
    h5py.File("read-swmr.h5", swmr=True, libver="latest"),
    h5py.File("append.h5", "a"),
    h5py.File("append-unlocked.h5", "r+", locking=False),
    h5py.File("append-swmr.h5", "r+", libver="latest"),
    h5py.File("new.h5", "w", libver="v110"),
    open("locked.h5", "wb"),
]
files[4].swmr_mode = True
files[5]["x"] = numpy.zeros(10**6)
files[5].flush()
fcntl.flock(files[6], fcntl.LOCK_EX)
print("open", flush=True)
sys.stdin.read()
"""


@pytest.mark.long
def test_a_file_that_another_process_has_open_is_read_or_said_to_be_open(tmp_path):
    readable = ("read", "read-swmr")
    writable = ("append", "append-unlocked", "append-swmr", "new", "locked")
    for name in (*readable, *writable):
        write_feature_file(tmp_path / f"{name}.h5")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLDER], cwd=tmp_path, **pipes) as holder:
        assert holder.stdout.readline() == b"open\n"
        for name in readable:
            ok("info", tmp_path / f"{name}.h5")
        for name in writable:
            path = tmp_path / f"{name}.h5"
            message = f"clipkit info: {path} is open for writing elsewhere; hint: close it there"
            refused(clipkit("info", path), 1, message)
        holder.stdin.close()
    for name in ("append", "append-unlocked", "append-swmr"):
        ok("info", tmp_path / f"{name}.h5")


def test_a_lock_on_the_descriptor_that_is_read_stays(tmp_path):
    path = write_feature_file(tmp_path / "img.h5")
    with path.open("ab") as damaged:
        damaged.write(b"more")
    with path.open("rb") as given, path.open("rb") as other:
        fcntl.flock(given, fcntl.LOCK_SH)
        with pytest.raises(ClipkitError):
            CheckedFile(OpenFile(given.fileno(), path), "img.h5")
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("locking", [True, False, "best-effort", None])
def test_a_file_that_a_notebook_has_open_is_read_in_the_notebook(tmp_path, locking):
    path = write_feature_file(tmp_path / "x.h5")
    with h5py.File(path, locking=locking) as h5:
        assert read(path).splits["test"].features.shape == h5["test/features"].shape


def test_another_superblock_and_a_user_block(tmp_path):
    for options in ({"libver": "earliest"}, {"libver": "v110", "userblock_size": 512}):
        with h5py.File(tmp_path / "x.h5", "w", **options) as h5:
            h5.attrs["format"] = np.bytes_("clipkit")
        refused(clipkit("info", tmp_path / "x.h5"), 1, "expected a feature file, got")


def infinite_rows():
    """Return features in several blocks, with NaN in the first and Inf in the last."""
    matrix = random_features(9000, 600)
    matrix[[7, 8999], 5] = [np.nan, np.inf]
    train = {"train/features": matrix, "train/labels": np.arange(9000) % 2}
    return {**train, "train/ids": ["x"] * 9000, "test/features": random_features(6, 600)}


ATTRIBUTES = {"version", "kind", "history", "temperature", "logit_scale"}
START = '[{"command":"a","x":'
# A few of the rules of content, which test_features.py covers, and those that only a reader meets.
INVALID = [
    ("images", infinite_rows(), "got NaN or Inf in 2 of 9000 rows, the first is row 7"),
    ("images", {LABELS: np.full(6, 2**62), "class_names": None}, "expected values in 0..1048575"),
    ("images", {"train/ids": None}, "train/ids: "),
    ("images", {"a b/ids": ["x"], "a b/features": random_features(1)}, "name of a split: expected"),
    ("images", {"train/ids": np.array([b"\xff"] * 6)}, "train/ids: expected UTF-8, got b'\\xff'"),
    ("images", {"version": 7}, "format version 7 was made by a newer clipkit"),
    ("images", {"version": 0}, "expected the format version 1, got 0"),
    ("images", {"history": START + "NaN}]"}, "history: "),
    ("images", {"history": START + '"\\ud800"}]'}, "history: "),
    ("images", {"history": START + "9" * 5000 + "}]"}, "history: "),
    ("images", {"history": START + "[" * 60000 + "]" * 60000 + "}]"}, "expected valid JSON"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "changes", "message"), INVALID, ids=[message for _, _, message in INVALID]
)
def test_content_that_breaks_the_format(tmp_path, kind, changes, message):
    """Files whose digests are right, as a program that does not know the rules would write them."""
    attributes = {name: value for name, value in changes.items() if name in ATTRIBUTES}
    datasets = {name: value for name, value in changes.items() if name not in ATTRIBUTES}
    path = write_feature_file(tmp_path / "x.h5", kind, attributes=attributes, datasets=datasets)
    refused(clipkit("info", path), 1, f"clipkit info: {path}: ", message)


@pytest.mark.parametrize("kind", ["images", "texts", "logits", "result", "probe"])
def test_a_file_made_by_hand_is_read(tmp_path, kind):
    result = ok("info", write_feature_file(tmp_path / "x.h5", kind))
    assert result.stderr == ""
    assert result.stdout == escaped(result.stdout).replace("\\n", "\n").replace("\\t", "\t")


def test_the_wrong_kind_names_the_command_that_makes_the_right_one(tmp_path):
    images = write_feature_file(tmp_path / "img.h5")
    for words, message in (
        (("entropy", images), "expected logits, got images; hint: add texts: clipkit textembed "),
        (("logits", images, images), "expected texts, got images; hint: make one with: clipkit te"),
    ):
        refused(clipkit(*words), 1, f"{images}: {message}")
