"""Downloads of data sets from a local server: complete or not at all, and never twice."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import http.server
import os
import pickle
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from shell import environment

from clipkit import datasets
from clipkit.base.errors import ClipkitError
from clipkit.datasets import downloads, registry
from clipkit.datasets.downloads import Download

TOP = "tiny-imagenet-200"
BLOCK = 1 << 16


class StandIn:
    """What the server serves, how it behaves, and how many bytes it sent."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.url = ""
        self.sent = 0
        self.has_ranges = True
        self.cut_after = 0  # bytes of an answer
        self.pause = 0.0  # seconds after each block
        self.content_type = "application/zip"

    def publish(self, path: Path) -> Download:
        """Serve a file; return its URL and checksum."""
        self.files[path.name] = path.read_bytes()
        md5 = hashlib.md5(self.files[path.name]).hexdigest()
        return Download(f"{self.url}/{path.name}", md5)


def handler_of(stand_in: StandIn) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = stand_in.files[self.path.rpartition("/")[2]]
            start, status = 0, 200
            match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
            if match and stand_in.has_ranges:
                start, status = int(match[1]), 206
            if start >= len(data):
                self.send_error(416)
                return
            self.send_response(status)
            self.send_header("Content-Type", stand_in.content_type)
            self.send_header("Content-Length", str(len(data) - start))
            if status == 206:
                content_range = f"bytes {start}-{len(data) - 1}/{len(data)}"
                self.send_header("Content-Range", content_range)
            self.end_headers()
            end = start + stand_in.cut_after if stand_in.cut_after else len(data)
            for position in range(start, min(end, len(data)), BLOCK):
                block = data[position : min(position + BLOCK, end)]
                try:
                    self.wfile.write(block)
                except OSError:
                    return
                stand_in.sent += len(block)
                time.sleep(stand_in.pause)

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    return Handler


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A server on this machine in place of the hosts of the data sets."""
    monkeypatch.setattr(downloads, "PAUSE_SECONDS", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    state = StandIn()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler_of(state)) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        state.url = f"http://127.0.0.1:{server.server_port}"
        yield state
        server.shutdown()


def tiny_imagenet_zip(folder: Path, images: int = 4) -> Path:
    """Write a small archive in the form of the published one."""
    top = folder / "published" / TOP
    rng = np.random.default_rng(0)
    lines = []
    for number in range(images):
        for name in (f"train/n{number % 2}/images/t{number}.JPEG", f"val/images/v{number}.JPEG"):
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(top / name, quality=95)
        lines.append(f"v{number}.JPEG\tn{number % 2}\t0\t0\t63\t63\n")
    (top / "val" / "val_annotations.txt").write_text("".join(lines))
    (top / "wnids.txt").write_text("n1\nn0\n")
    (top / "words.txt").write_text("n0\tgoldfish, Carassius\nn1\tcat\n")
    path = folder / f"{TOP}.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(top.rglob("*")):
            archive.write(file, file.relative_to(top.parent))
    return path


@pytest.fixture
def published(stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Download:
    """A small Tiny ImageNet on the server."""
    download = stand_in.publish(tiny_imagenet_zip(tmp_path))
    monkeypatch.setattr(registry, "TINY_IMAGENET", download)
    return download


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_tiny_imagenet_is_downloaded_and_what_and_where_to_is_said_before(
    stand_in, published, tmp_path, capfd
):
    root = tmp_path / "root"
    data = datasets.load("tiny-imagenet", root=root)
    assert data.class_names == ["goldfish", "cat"]
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 4, "test": 4}
    assert data.splits["test"].image(0).size == (64, 64)
    assert names_in(root) == [TOP]
    size = len(stand_in.files[published.name])
    text = f"clipkit: downloading {published.url} ({size / 1e6:.1f} MB) to {root}\n"
    assert capfd.readouterr() == ("", text)
    datasets.load("tiny-imagenet", root=root)
    assert stand_in.sent == size
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("has_ranges", [True, False])
def test_a_download_continues_where_it_stopped(has_ranges, stand_in, published, tmp_path, capfd):
    stand_in.has_ranges = has_ranges
    data = stand_in.files[published.name]
    half = len(data) // 2
    part = tmp_path / "root" / f"{TOP}.zip.part"
    part.parent.mkdir()
    part.write_bytes(data[:half])
    datasets.load("tiny-imagenet", root=part.parent)
    assert stand_in.sent == (len(data) - half if has_ranges else len(data))
    assert names_in(part.parent) == [TOP]
    assert (f"; {half / 1e6:.1f} MB of it are there" in capfd.readouterr().err) == has_ranges


def test_a_connection_that_is_cut_is_opened_again_as_long_as_bytes_come(
    stand_in, published, tmp_path
):
    data = stand_in.files[published.name]
    stand_in.cut_after = len(data) // 3
    datasets.load("tiny-imagenet", root=tmp_path / "root")
    assert stand_in.sent == len(data)
    stand_in.has_ranges = False  # then it never comes to an end
    with pytest.raises(ClipkitError, match=r"the connection was cut, .*, at \S+ of ") as caught:
        datasets.load("tiny-imagenet", root=tmp_path / "other")
    assert caught.value.hint.startswith("the same command continues the download; or put http://")
    assert names_in(tmp_path / "other") == [f"{TOP}.zip.part"]


def test_a_whole_part_is_not_downloaded_again_and_a_half_unpacked_folder_is_removed(
    stand_in, published, tmp_path
):
    root = tmp_path / "root"
    (root / f"{TOP}.part" / TOP).mkdir(parents=True)  # as left by SIGKILL
    (root / f"{TOP}.part" / TOP / "wnids.txt").write_text("n0\n")
    (root / f"{TOP}.zip.part").write_bytes(stand_in.files[published.name])
    assert len(datasets.load("tiny-imagenet", root=root).splits["train"]) == 4
    assert stand_in.sent == 0
    assert names_in(root) == [TOP]


def test_without_locks_a_folder_that_another_process_unpacks_stays(
    stand_in, published, tmp_path, monkeypatch
):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    other = tmp_path / "root" / f"{TOP}.part"
    other.mkdir(parents=True)
    assert len(datasets.load("tiny-imagenet", root=tmp_path / "root").splits["train"]) == 4
    assert names_in(tmp_path / "root") == [TOP, other.name]


def test_an_archive_with_another_checksum_is_not_unpacked(stand_in, published, tmp_path):
    root = tmp_path / "root"
    stand_in.files[published.name] = stand_in.files[published.name][:-1] + b"x"
    with pytest.raises(ClipkitError, match=r"expected the MD5 checksum .*, got ") as caught:
        datasets.load("tiny-imagenet", root=root)
    assert caught.value.message.startswith(f"cannot download tiny-imagenet to {root}: ")
    assert names_in(root) == []
    mine = root / published.name
    mine.write_bytes(b"another file")
    with pytest.raises(ClipkitError, match="expected the MD5 checksum"):
        datasets.load("tiny-imagenet", root=root)
    assert mine.read_bytes() == b"another file"


def test_an_archive_that_was_brought_by_hand_is_used_and_kept(stand_in, published, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / published.name).rename(root / published.name)
    assert len(datasets.load("tiny-imagenet", root=root).splits["test"]) == 4
    assert names_in(root) == [TOP, published.name]
    assert stand_in.sent == 0


def test_a_web_page_is_no_archive_and_does_not_replace_a_part(stand_in, published, tmp_path):
    stand_in.content_type = "text/html; charset=utf-8"
    stand_in.has_ranges = False
    part = tmp_path / "root" / f"{TOP}.zip.part"
    part.parent.mkdir()
    part.write_bytes(b"half")
    with pytest.raises(ClipkitError, match=f"expected {TOP}.zip, got a web page"):
        datasets.load("tiny-imagenet", root=part.parent)
    assert part.read_bytes() == b"half"


def test_a_silent_server_is_not_waited_for(stand_in, published, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "TIMEOUT_SECONDS", 0.1)
    stand_in.files[published.name] *= 100
    stand_in.has_ranges, stand_in.pause = False, 0.5
    message = f"silent for 0.1 s, at {BLOCK:,} of "
    with pytest.raises(ClipkitError, match=message):
        datasets.load("tiny-imagenet", root=tmp_path / "root")
    stand_in.has_ranges, stand_in.pause = True, 0.0
    with pytest.raises(ClipkitError, match="expected the MD5 checksum"):
        datasets.load("tiny-imagenet", root=tmp_path / "root")


def test_an_unknown_file_on_the_server_is_an_error_of_one_line(stand_in, published, tmp_path):
    class Absent(dict):
        def __missing__(self, name: str) -> bytes:
            return b""  # which this server answers with 416

    stand_in.files = Absent()
    with pytest.raises(ClipkitError, match="HTTP Error 416") as caught:
        datasets.load("tiny-imagenet", root=tmp_path / "root")
    assert f"put {published.url} in {tmp_path}/root by other means" in caught.value.hint
    assert names_in(tmp_path / "root") == []


def test_cifar_is_downloaded_in_the_same_way(stand_in, tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "published" / CIFAR10.base_folder
    folder.mkdir(parents=True)
    pixels = np.zeros((2, 3072), np.uint8)
    contents = {
        "one": {"data": pixels, "labels": [1, 0]},
        "two": {"data": pixels, "labels": [0, 1]},
        "meta": {"label_names": ["cat", "dog"]},
    }
    checksums = {}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content))
        checksums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR10, "train_list", [["one", checksums["one"]]])
    monkeypatch.setattr(CIFAR10, "test_list", [["two", checksums["two"]]])
    meta = {"filename": "meta", "key": "label_names", "md5": checksums["meta"]}
    monkeypatch.setattr(CIFAR10, "meta", meta)
    archive = tmp_path / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    url, md5 = stand_in.publish(archive)
    monkeypatch.setattr(CIFAR10, "url", url)
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5)
    root = tmp_path / "root"
    root.mkdir()
    (root / f"{archive.name}.part").write_bytes(archive.read_bytes()[:20])
    assert len(datasets.load("cifar10", root=root).splits["train"]) == 2
    assert stand_in.sent == archive.stat().st_size - 20
    assert names_in(root) == [folder.name]


def test_the_files_of_fashion_mnist_are_downloaded_one_by_one(stand_in, tmp_path, monkeypatch):
    import gzip

    from torchvision.datasets import FashionMNIST

    resources = []
    for name, _ in FashionMNIST.resources:
        axes = (2, 28, 28) if "images" in name else (2,)
        header = bytes([0, 0, 8, len(axes)]) + np.array(axes, ">i4").tobytes()
        (tmp_path / name).write_bytes(gzip.compress(header + bytes(int(np.prod(axes)))))
        resources.append((name, stand_in.publish(tmp_path / name).md5))
    monkeypatch.setattr(FashionMNIST, "resources", resources)
    monkeypatch.setattr(FashionMNIST, "mirrors", [f"{stand_in.url}/"])
    raw = tmp_path / "root" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    first = resources[0][0]
    (raw / first).write_bytes(stand_in.files[first])  # the process was killed after this one
    assert len(datasets.load("fashion-mnist", root=tmp_path / "root").splits["test"]) == 2
    assert names_in(raw) == sorted(stand_in.files)
    assert stand_in.sent == sum(map(len, stand_in.files.values())) - len(stand_in.files[first])


PATCHED = """
import sys
from clipkit.datasets import registry
from clipkit.datasets.downloads import Download
registry.TINY_IMAGENET = Download({url!r}, {md5!r})
from clipkit.cli import app
app()
"""


def start_embed(folder: Path, archive: Download) -> subprocess.Popen[str]:
    script = folder / "patched.py"
    script.write_text(PATCHED.format(url=archive.url, md5=archive.md5))
    words = ["embed", "tiny-imagenet", "--root", folder / "root", "--limit", 8, "--model", "tiny"]
    line = [sys.executable, script, *words, "-f", "-o", folder / f"{time.monotonic_ns()}.h5"]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        list(map(str, line)), env=environment(), stdout=pipe, stderr=pipe, text=True
    )


@pytest.mark.long
def test_embed_that_is_killed_in_the_download_fetches_only_the_rest(stand_in, tmp_path):
    archive = stand_in.publish(tiny_imagenet_zip(tmp_path, images=100))
    root = tmp_path / "root"
    part = root / f"{TOP}.zip.part"
    total = len(stand_in.files[archive.name])
    stand_in.pause = 0.1
    killed = start_embed(tmp_path, archive)
    while not part.exists() or part.stat().st_size == 0:
        assert killed.poll() is None
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    time.sleep(0.3)  # until the server has noticed
    stored, stand_in.sent, stand_in.pause = part.stat().st_size, 0, 0
    assert 0 < stored < total
    assert names_in(root) == [part.name]
    running = [start_embed(tmp_path, archive) for _ in range(2)]  # both need the data set
    for process in running:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert stand_in.sent == total - stored
    assert names_in(root) == [TOP]
