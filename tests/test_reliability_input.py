"""Input files that are not what they must be: every one is refused in one line, by path and through a pipe."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from factories import MODEL, content, random_features, refused, unchanged, write_feature_file
from shell import clipkit

from clipkit.console import escaped
from clipkit.features.checked_file import SIGNATURE


def refused_everywhere(path: Path, code: int, *parts: str) -> None:
    """By path, through standard input, and with an earlier output that must not be touched."""
    texts = write_feature_file(path.with_name("texts.h5"), "texts")
    output = path.with_name("out.h5")
    output.write_bytes(b"earlier")
    with unchanged(path.parent):
        refused(
            clipkit("info", path),
            code,
            f"clipkit info: {path}: " if path.stat().st_size else str(path),
            *parts,
        )
        if path.stat().st_size < 1 << 20:
            refused(
                clipkit("info", stdin=path.read_bytes()),
                code,
                "clipkit info: standard input: ",
                *parts,
            )
        refused(clipkit("logits", path, texts, "-o", output, "--force"), code, *parts)


def cut(keep: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.write_bytes(keep(path.read_bytes()))

    return damage


WHOLE = {
    "empty": (cut(lambda _: b""), "empty input: did the command before it fail?"),
    "text": (cut(lambda _: b"a dot\na line\n"), "the input must be a feature file; got text"),
    "gzip": (cut(gzip.compress), "the input must be a feature file; got gzip"),
    "other": (cut(lambda data: data[::-1]), "the input must be a feature file; got other data"),
    "by a byte": (cut(lambda data: data[:-1]), "bytes long; it is", ": it was cut short"),
    "by half": (cut(lambda data: data[: len(data) // 2]), ": it was cut short"),
    "signature": (cut(lambda _: SIGNATURE), "the file must be whole; it ends within its first bytes"),
    "twice": (cut(lambda data: data + data), ": something was added to it"),
    "newline": (cut(lambda data: data + b"\n"), ": something was added to it"),
    "junk before": (cut(lambda data: b"\n" + data), "got an HDF5 file behind other bytes"),
    "bit in features": (cut(lambda data: flip(data, data.find(random_features().tobytes()) + 50)), "features must match its SHA-256; it was changed"),
    "bit in labels": (cut(lambda data: flip(data, data.find((np.arange(6) % 2).tobytes()) + 8)), "labels must match its SHA-256"),
    "bit in ids": (cut(lambda data: flip(data, data.find(b"5.png"))), "ids must match its SHA-256"),
    "bit in history": (cut(lambda data: flip(data, data.find(b'"name"') + 2)), "must be readable; it is damaged"),
    "bit in a header": (cut(lambda data: flip(data, data.find(b"OHDR") + 9)), "must be readable; it is damaged"),
    "bit in the superblock": (cut(lambda data: flip(data, 37)), "must be readable; it is damaged"),
}  # fmt: skip


def flip(data: bytes, at: int) -> bytes:
    assert at > 8
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(("damage", "says"), [(d, s) for d, *s in WHOLE.values()], ids=WHOLE)
def test_a_file_that_is_not_whole(
    tmp_path: Path, damage: Callable[[Path], None], says: list[str]
) -> None:
    path = write_feature_file(tmp_path / "img.h5")
    damage(path)
    refused_everywhere(path, 1, *says)


def test_every_truncation_and_every_flipped_byte_of_the_head(tmp_path: Path) -> None:
    path = write_feature_file(tmp_path / "img.h5")
    data = path.read_bytes()
    for length in [*range(60), *range(60, len(data), 211)]:
        path.write_bytes(data[:length])
        refused(clipkit("info", path), 1)
    for at in range(48):
        path.write_bytes(
            flip(data, at) if at > 8 else bytes([*data[:at], data[at] ^ 1, *data[at + 1 :]])
        )
        refused(clipkit("info", path), 1)


def test_missing_folder_and_unreadable(tmp_path: Path) -> None:
    refused(
        clipkit("entropy", tmp_path / "no.h5"),
        1,
        f"the input must exist; {tmp_path}/no.h5 does not",
    )
    refused(clipkit("entropy", tmp_path), 1, f"the input must be a file; {tmp_path} is a folder")
    loop = tmp_path / "loop.h5"
    loop.symlink_to(loop)
    refused(
        clipkit("entropy", loop),
        1,
        f"{loop} must be reachable; got: Too many levels of symbolic links",
    )
    secret = write_feature_file(tmp_path / "secret.h5")
    secret.chmod(0)
    if os.access(secret, os.R_OK):
        pytest.skip("this user may read every file")
    refused(clipkit("entropy", secret), 1, "secret.h5: Permission denied")


def reopened(change: Callable[[h5py.File], Any]) -> Callable[[Path], None]:
    """Damage by h5py: what a stranger, or another program, does to a file."""

    def damage(path: Path) -> None:
        with h5py.File(path, "r+") as h5:
            change(h5)

    return damage


def replace(name: str, **options: Any) -> Callable[[h5py.File], None]:
    def change(h5: h5py.File) -> None:
        del h5[name]
        attributes = h5.create_dataset(name, **options).attrs
        attributes["sha256"] = np.bytes_("0" * 64)

    return change


def link(name: str, target: Any) -> Callable[[h5py.File], None]:
    def change(h5: h5py.File) -> None:
        del h5[name]
        h5[name] = target

    return change


def external_storage(h5: h5py.File) -> None:
    secret = Path(h5.filename).with_name("secret.bin")
    secret.write_bytes(b"x" * 96)
    replace("train/features", shape=(6, 4), dtype="<f4", external=[(str(secret), 0, 96)])(h5)


def virtual(h5: h5py.File) -> None:
    layout = h5py.VirtualLayout((6, 4), "<f4")
    layout[:] = h5py.VirtualSource("other.h5", "features", (6, 4))
    del h5["train/features"]
    h5.create_virtual_dataset("train/features", layout)


def many_links(h5: h5py.File) -> None:
    replace("train/features", data=np.ones((1000, 100), "<f4"))(h5)
    for i in range(100):
        h5[f"split{i}/features"] = h5["train/features"]


def opaque(h5: h5py.File) -> None:
    del h5["train/labels"]
    h5["train"].create_dataset("labels", data=np.zeros(6, "V8"))


VLEN = h5py.string_dtype()
TYPE = "train/features must be of type <f4; got"
STRANGERS = {
    "external link": (link("train/features", h5py.ExternalLink("/etc/passwd", "/x")), "train/features must be in the file itself; it is a link"),
    "external link to a split": (link("train", h5py.ExternalLink("other.h5", "/train")), "/train must be in the file itself; it is a link"),
    "soft link": (link("train/features", h5py.SoftLink("/test/features")), "it is a link"),
    "soft link to nowhere": (link("class_names", h5py.SoftLink("/nowhere")), "class_names must be in the file itself; it is a link"),
    "external storage": (external_storage, "train/features must be stored in the file itself; it points to another"),
    "virtual": (virtual, "train/features must be stored in the file itself; it points to another"),
    "group": (lambda h5: (h5.__delitem__("train/features"), h5.create_group("train/features")), "train/features must be a data set; it is not"),
    "data set as split": (replace("train", data=np.zeros(3)), "train is not a part of a file of images"),
    "unknown at the root": (lambda h5: h5.create_dataset("more", data=[1]), "more is not a part of a file of images"),
    "unknown in a split": (lambda h5: h5.create_dataset("train/weights", data=[1.0]), "train/weights is not a part of a file of images"),
    "unknown attribute": (lambda h5: h5.attrs.create("more", 1), "only known attributes may stand at the root"),
    "4 PB": (replace("train/features", shape=(2**40, 1024), dtype="<f4", chunks=(512, 1024), fletcher32=True), "train/features must fit in the file's"),
    "one block, many names": (many_links, "must fit in the file's"),
    "chunk bomb": (replace("train/features", shape=(6, 4), maxshape=(None, None), dtype="<f4", chunks=(1 << 14, 1 << 14)), "chunks of at most 64 MiB"),
    "gzip filter": (replace("train/features", data=random_features(), compression="gzip"), "with no filter but fletcher32; got filters [1]"),
    "scale-offset": (replace("train/features", data=random_features(), scaleoffset=3), "with no filter but fletcher32"),
    "scalar": (replace("train/features", data=np.float32(1)), "train/features must have 2 dimensions; got 0"),
    "1-D": (replace("train/features", data=random_features()[0]), "train/features must have 2 dimensions; got 1"),
    "0 rows": (replace("train/features", shape=(0, 4), dtype="<f4"), "must hold at least one row; its shape is (0, 4)"),
    "null": (replace("train/features", data=h5py.Empty("<f4")), "train/features must"),
    "float64": (replace("train/features", data=random_features().astype("f8")), f"{TYPE} <f8"),
    "big-endian": (replace("train/features", data=random_features().astype(">f4")), f"{TYPE} >f4"),
    "vlen text": (replace("train/ids", data=["x"] * 6, dtype=VLEN), "train/ids must be of type S; got another type"),
    "vlen numbers": (replace("train/labels", shape=(6,), dtype=h5py.vlen_dtype("i8")), "train/labels must be of type <i8; got another type"),
    "reference": (replace("train/labels", shape=(6,), dtype=h5py.ref_dtype), "got another type"),
    "compound": (replace("train/labels", data=np.zeros(6, [("a", "i8")])), "got another type"),
    "enum": (replace("train/labels", data=np.zeros(6, "i8"), dtype=h5py.enum_dtype({"A": 0}, "i8")), "got another type"),
    "opaque": (opaque, "got another type"),
    "no checksum": (lambda h5: h5["train/features"].attrs.__delitem__("sha256"), "/train/features must have the attribute sha256"),
    "vlen attribute": (lambda h5: h5.attrs.create("history", "[]", dtype=VLEN), "attribute history must be a fixed-size scalar str"),
    "array attribute": (lambda h5: h5.attrs.create("version", [1, 1]), "attribute version must be a fixed-size scalar int"),
    "interrupted": (lambda h5: h5.attrs.__delitem__("complete"), "the file must be complete; its writing was interrupted", "run the command that made it again"),
    "complete = 0": (lambda h5: h5.attrs.modify("complete", 0), "the file must be complete"),
    "from the future": (lambda h5: h5.attrs.modify("version", 2), "version 1 or older, from 1; it is 2, made by a newer clipkit: update"),
    "not ours": (lambda h5: h5.attrs.__delitem__("format"), "this HDF5 file was not made by clipkit", "clipkit convert"),
    "class names changed": (replace("class_names", data=np.array([b"dog", b"cat"])), "class_names must match its SHA-256"),
    "history changed": (lambda h5: h5.attrs.modify("history", np.bytes_('[{"command":"other"}]')), "the metadata must match the digest"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "says"), [(c, s) for c, *s in STRANGERS.values()], ids=STRANGERS
)
def test_a_file_from_a_stranger(
    tmp_path: Path, change: Callable[[h5py.File], Any], says: list[str]
) -> None:
    path = write_feature_file(tmp_path / "img.h5")
    reopened(change)(path)
    refused_everywhere(path, 1, *says)


def test_an_external_link_is_not_followed(tmp_path: Path) -> None:
    """The file behind the link is sound, so that following it would go unnoticed."""
    write_feature_file(tmp_path / "other.h5")
    path = write_feature_file(tmp_path / "img.h5")
    reopened(link("train", h5py.ExternalLink("other.h5", "/train")))(path)
    refused(clipkit("info", path), 1, "it is a link")


def test_another_superblock_and_a_user_block(tmp_path: Path) -> None:
    for options in ({"libver": "earliest"}, {"libver": "v110", "userblock_size": 512}):
        with h5py.File(tmp_path / "x.h5", "w", **options) as h5:
            h5.attrs["format"] = np.bytes_("clipkit")
        refused(clipkit("info", tmp_path / "x.h5"), 1, "the input must be a feature file")


def nan(row: int) -> dict[str, Any]:
    matrix = random_features(9000, 600)
    matrix[[row, 8999], 5] = [np.nan, np.inf]
    rows = {"labels": np.arange(9000) % 2, "ids": np.array(["x"] * 9000)}
    return {f"train/{name}": value for name, value in rows.items()} | {
        "train/features": matrix,
        "test/features": random_features(6, 600),
    }


def model(**parts: Any) -> dict[str, str]:
    import json

    return {"history": json.dumps([{"command": "embed", "model": {**MODEL, **parts}}])}


LONG = "x" * 6
FORGED: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "NaN": ("images", {}, nan(7), "train/features must be finite; got NaN or Inf in 2 rows, the first is row 7"),
    "labels short": ("images", {}, {"train/labels": np.zeros(5, int)}, "lengths must agree; got train/ids 6, train/labels 5, train/features 6"),
    "ids long": ("images", {}, {"test/ids": list("abcdefg")}, "lengths must agree; got test/ids 7"),
    "texts short": ("texts", {}, {"texts": ["a"]}, "lengths must agree; got features 3, texts 1, class_index 3"),
    "widths": ("images", {}, {"test/features": random_features(6, 5)}, "all features must have one width; got test/features 5, train/features 4"),
    "prompts": ("logits", {}, {"texts": ["a", "b"], "class_index": np.zeros(2, int)}, "all features must have one width"),
    "runs": ("result", {}, {"runs/k": np.arange(3)}, "lengths must agree; got runs/acc1 2, runs/k 3"),
    "label too high": ("images", {}, {"train/labels": np.full(6, 2)}, "train/labels must lie in 0..1 (2 class names); got 2..2"),
    "label too low": ("images", {}, {"train/labels": np.full(6, -1)}, "train/labels must lie in 0..1"),
    "label bomb": ("images", {}, {"train/labels": np.full(6, 2**62), "class_names": None}, "train/labels must lie in 0..1048575"),
    "prediction bomb": ("result", {}, {"test/predicted": np.full((2, 6), 2**62), "class_names": None}, "test/predicted must lie in 0..1048575"),
    "class index": ("texts", {}, {"class_index": np.full(3, -2)}, "class_index must lie in -1..1"),
    "no features": ("images", {}, {"train/features": None}, "must hold train/features; it does not"),
    "no ids": ("images", {}, {"train/ids": None}, "lengths must agree; got train/ids 0"),
    "no splits": ("images", {}, dict.fromkeys(content("images")[1]) | {"class_names": ["a", "b"]}, "must hold at least one split"),
    "no texts": ("texts", {}, {"texts": None}, "must hold texts; it does not"),
    "split's name": ("images", {}, {"a b/ids": ["x"], "a b/features": random_features(1)}, "a b is not a part of a file of images"),
    "not UTF-8": ("images", {}, {"train/ids": np.array([b"\xff"] * 6)}, "train/ids must be UTF-8; got b'\\xff'"),
    "kind": ("images", {"kind": "video"}, {}, "the kind must be one of images, texts, logits, result; got 'video'"),
    "temperature 0": ("logits", {"temperature": 0.0}, {}, "temperature must be a finite number above 0; got 0.0"),
    "temperature nan": ("logits", {"temperature": float("nan")}, {}, "temperature must be"),
    "no temperature": ("logits", {"temperature": None}, {}, "must have a temperature if it holds logits"),
    "scale inf": ("logits", {"logit_scale": float("inf")}, {}, "logit_scale must be a finite number above 0; got inf"),
    "history no JSON": ("images", {"history": "hello"}, {}, "history must be a JSON list"),
    "history an object": ("images", {"history": "{}"}, {}, "history must be a JSON list"),
    "history NaN": ("images", {"history": '[{"command":"a","x":NaN}]'}, {}, "history must be a JSON list"),
    "history 1e999": ("images", {"history": '[{"command":"a","x":1e999}]'}, {}, "history must be a JSON list"),
    "history surrogate": ("images", {"history": '[{"command":"\\ud800"}]'}, {}, "history must be a JSON list"),
    "history deep": ("images", {"history": '[{"command":"a","x":' + "[" * 60000 + "]" * 60000 + "}]"}, {}, "history must be a JSON list"),
    "history 17 deep": ("images", {"history": '[{"command":"a","x":' + "[" * 17 + "]" * 17 + "}]"}, {}, "history must be a JSON list"),
    "history digits": ("images", {"history": '[{"command":"a","x":' + "9" * 5000 + "}]"}, {}, "history must be a JSON list"),
    "model no name": ("images", {"history": '[{"command":"a","model":{}}]'}, {}, "history must be a JSON list"),
    "model scale text": ("images", model(logit_scale="high"), {}, "history must be a JSON list"),
    "model scale 0": ("images", model(logit_scale=0), {}, "history must be a JSON list"),
    "future version": ("images", {"version": 7}, {}, "it is 7, made by a newer clipkit: update"),
    "version 0": ("images", {"version": 0}, {}, "the format must be version 1 or older, from 1; it is 0"),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "attributes", "datasets", "says"), FORGED.values(), ids=FORGED)
def test_content_that_breaks_the_format(
    tmp_path: Path, kind: str, attributes: Any, datasets: Any, says: str
) -> None:
    """Files whose digests are right, as a program that does not know the rules would write them."""
    path = write_feature_file(tmp_path / "x.h5", kind, attributes=attributes, datasets=datasets)
    refused(clipkit("info", path), 1, str(path), says)


@pytest.mark.parametrize("kind", ["images", "texts", "logits", "result"])
def test_a_file_made_by_hand_is_read(tmp_path: Path, kind: str) -> None:
    result = clipkit("info", write_feature_file(tmp_path / "x.h5", kind))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == escaped(result.stdout).replace("\\n", "\n").replace("\\t", "\t")


def test_the_wrong_kind_names_the_command_that_makes_the_right_one(tmp_path: Path) -> None:
    images = write_feature_file(tmp_path / "img.h5")
    refused(
        clipkit("entropy", images),
        1,
        "must hold logits; it holds images",
        "hint: make one with: clipkit logits",
    )
    refused(
        clipkit("logits", images, images),
        1,
        "must hold texts; it holds images",
        "clipkit textembed",
    )
