"""Downloads of data sets from a local server: complete or not at all, and never twice."""

import errno
import fcntl
import gzip
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from factories import fails_with
from factories.miniatures import idx, write_cifar, write_tiny_imagenet
from factories.server import BLOCK, serving
from shell import environment
from torchvision.datasets import CIFAR10, FashionMNIST

from clipkit import datasets
from clipkit.datasets import downloads, registry
from clipkit.datasets.downloads import Download

TOP = "tiny-imagenet-200"
ZIP = f"{TOP}.zip"


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server on this machine in place of the hosts of the data sets."""
    monkeypatch.setattr(downloads, "PAUSE_SECONDS", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "served").mkdir()
    with serving(tmp_path / "served") as running:
        yield running


def publish(server, padding):
    """Serve a small Tiny ImageNet in the form of the published one."""
    top = write_tiny_imagenet(server.root / TOP)
    (top / "padding").write_bytes(os.urandom(padding))
    return download_of(server, Path(shutil.make_archive(str(top), "zip", server.root, TOP)))


def download_of(server, path):
    return Download(f"{server.url}/{path.name}", md5_of(path))


def offer(monkeypatch, name, *downloads):
    """Let a data set have other published files."""
    files = {file.url: file.md5 for file in downloads}
    monkeypatch.setitem(registry.REGISTRY, name, replace(registry.REGISTRY[name], files=files))


def md5_of(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def published(server, monkeypatch):
    """A Tiny ImageNet that clipkit downloads from the server."""
    download = publish(server, 30_000)
    offer(monkeypatch, "tiny-imagenet", download)
    return (server.root / ZIP).read_bytes()


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def load(root):
    return datasets.load("tiny-imagenet", root=root)


def write_part(root, data):
    """Write what an earlier run downloaded."""
    root.mkdir()
    (root / f"{ZIP}.part").write_bytes(data)
    return root / f"{ZIP}.part"


def test_tiny_imagenet_is_downloaded_and_what_and_where_to_is_said_before(
    server, published, tmp_path, capfd
):
    root = tmp_path / "root"
    data = load(root)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 4, "test": 2}
    assert names_in(root) == [TOP]
    size = f"{len(published) / 1e6:.1f} MB"
    text = f"clipkit: downloading {server.url}/{ZIP} ({size}) to {root}\n"
    assert capfd.readouterr() == ("", text)
    load(root)
    assert server.sent == len(published)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("has_ranges", [True, False])
def test_a_download_continues_where_it_stopped(has_ranges, server, published, tmp_path, capfd):
    server.has_ranges = has_ranges
    half = len(published) // 2
    part = write_part(tmp_path / "root", published[:half])
    load(part.parent)
    assert server.sent == (len(published) - half if has_ranges else len(published))
    assert names_in(part.parent) == [TOP]
    assert (f"; {half / 1e6:.1f} MB of it are there" in capfd.readouterr().err) == has_ranges


def test_a_connection_that_is_cut_is_opened_again_as_long_as_bytes_come(
    server, published, tmp_path
):
    server.cut_after = len(published) // 3
    load(tmp_path / "root")
    assert server.sent == len(published)
    server.has_ranges = False  # then it never comes to an end
    with fails_with("the connection was cut, ") as caught:
        load(tmp_path / "other")
    assert caught.value.hint.startswith("the same command continues the download; or put http://")
    assert names_in(tmp_path / "other") == [f"{ZIP}.part"]


def test_a_whole_part_is_not_downloaded_again_and_a_half_unpacked_folder_is_removed(
    server, published, tmp_path
):
    root = write_part(tmp_path / "root", published).parent
    (root / f"{TOP}.part" / TOP).mkdir(parents=True)  # as left by SIGKILL
    (root / f"{TOP}.part" / TOP / "wnids.txt").write_text("n0\n")
    assert len(load(root).splits["train"]) == 4
    assert server.sent == 0
    assert names_in(root) == [TOP]


def test_without_locks_a_folder_that_another_process_unpacks_stays(
    published, tmp_path, monkeypatch
):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    other = tmp_path / "root" / f"{TOP}.part"
    other.mkdir(parents=True)
    load(tmp_path / "root")
    assert names_in(tmp_path / "root") == [TOP, other.name]


def test_an_archive_with_another_checksum_is_not_unpacked(server, published, tmp_path):
    root = tmp_path / "root"
    (server.root / ZIP).write_bytes(published[:-1] + b"x")
    with fails_with(f"cannot download tiny-imagenet to {root}: ") as caught:
        load(root)
    assert "expected the MD5 checksum" in caught.value.message
    assert names_in(root) == []
    mine = root / ZIP
    mine.write_bytes(b"another file")
    with fails_with("expected the MD5 checksum"):
        load(root)
    assert mine.read_bytes() == b"another file"


@pytest.mark.parametrize("has_ranges", [True, False])
def test_a_download_without_a_length_that_was_cut_keeps_its_part(
    has_ranges, server, published, tmp_path
):
    root = tmp_path / "root"
    server.says_length, server.has_ranges, server.cut_after = False, has_ranges, 10_000
    with fails_with(f"expected all of {ZIP}, got 10,000 bytes of a file whose size") as caught:
        load(root)
    assert caught.value.hint.startswith("the same command continues the download")
    assert names_in(root) == [f"{ZIP}.part"]
    server.cut_after = None
    load(root)
    assert names_in(root) == [TOP]
    assert server.sent == len(published) + (0 if has_ranges else 10_000)


def test_an_archive_that_was_brought_by_hand_is_used_and_kept(server, published, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / ZIP).write_bytes(published)
    load(root)
    assert names_in(root) == [TOP, ZIP]
    assert server.sent == 0


def test_a_web_page_is_no_archive_and_does_not_replace_a_part(server, published, tmp_path):
    server.content_type = "text/html; charset=utf-8"
    server.has_ranges = False
    part = write_part(tmp_path / "root", b"half")
    with fails_with(f"expected {ZIP}, got a web page"):
        load(part.parent)
    assert part.read_bytes() == b"half"


def test_a_silent_server_is_not_waited_for(server, published, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "TIMEOUT_SECONDS", 0.1)
    (server.root / ZIP).write_bytes(published * 100)
    server.has_ranges, server.pause = False, 0.5
    with fails_with(f"silent for 0.1 s, at {BLOCK:,} of "):
        load(tmp_path / "root")
    server.has_ranges, server.pause = True, 0.0
    with fails_with("expected the MD5 checksum"):
        load(tmp_path / "root")


def test_an_unknown_file_on_the_server_is_an_error_of_one_line(server, published, tmp_path):
    (server.root / ZIP).unlink()
    with fails_with("HTTP Error 404") as caught:
        load(tmp_path / "root")
    hint = f"put {server.url}/{ZIP} in {tmp_path}/root by other means"
    assert hint in caught.value.hint
    assert names_in(tmp_path / "root") == []


def test_cifar_is_downloaded_in_the_same_way(server, tmp_path, monkeypatch):
    folder = server.root / CIFAR10.base_folder
    write_cifar(folder, "CIFAR10", monkeypatch)
    archive = server.root / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    offer(monkeypatch, "cifar10", download_of(server, archive))
    root = tmp_path / "root"
    root.mkdir()
    (root / f"{archive.name}.part").write_bytes(archive.read_bytes()[:20])
    assert len(datasets.load("cifar10", root=root).splits["train"]) == 2
    assert server.sent == archive.stat().st_size - 20
    assert names_in(root) == [folder.name]


def test_the_files_of_fashion_mnist_are_downloaded_one_by_one(server, tmp_path, monkeypatch):
    published = []
    for name, _ in FashionMNIST.resources:
        shape = (2, 28, 28) if "images" in name else (2,)
        (server.root / name).write_bytes(gzip.compress(idx(np.zeros(shape, np.uint8))))
        published.append(download_of(server, server.root / name))
    offer(monkeypatch, "fashion-mnist", *published)
    raw = tmp_path / "root" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    first, *others = (file.name for file in published)
    shutil.copy(server.root / first, raw)  # the process was killed after this one
    assert len(datasets.load("fashion-mnist", root=tmp_path / "root").splits["test"]) == 2
    assert names_in(raw) == names_in(server.root)
    assert sorted(server.requests) == sorted(f"/{name}" for name in others)


# clipkit, which downloads another Tiny ImageNet than the published one
PATCHED = """
from dataclasses import replace
from clipkit.datasets.registry import REGISTRY

published = REGISTRY["tiny-imagenet"]
files = {{{archive.url!r}: {archive.md5!r}}}
REGISTRY["tiny-imagenet"] = replace(published, files=files)
from clipkit.cli import app
app(prog_name="clipkit")
"""


def start(command, folder, archive, *words):
    """Start a command on Tiny ImageNet, which has to be downloaded."""
    words = [*command.split(), "tiny-imagenet", "--root", folder / "root", *words]
    line = [sys.executable, "-c", PATCHED.format(archive=archive), *map(str, words)]
    pipe = subprocess.PIPE
    return subprocess.Popen(line, env=environment(), stdout=pipe, stderr=pipe, text=True)


@pytest.mark.long
def test_embed_that_is_killed_in_the_download_fetches_only_the_rest(server, tmp_path):
    archive = publish(server, 2_000_000)
    root = tmp_path / "root"
    part = root / f"{ZIP}.part"
    total = (server.root / ZIP).stat().st_size
    server.pause = 0.1
    killed = start("embed", tmp_path, archive, "--model", "tiny", "-o", tmp_path / "img.h5")
    while not part.exists() or part.stat().st_size == 0:
        assert killed.poll() is None
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    time.sleep(0.3)  # until the server has noticed
    stored, server.sent, server.pause = part.stat().st_size, 0, 0
    assert 0 < stored < total
    assert names_in(root) == [part.name]
    pictures = [tmp_path / name for name in ("a.png", "b.png")]  # both need the data set
    running = [start("plot images", tmp_path, archive, "-o", path) for path in pictures]
    for process in running:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert server.sent == total - stored
    assert names_in(root) == [TOP]
