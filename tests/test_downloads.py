"""Downloads of data sets from a local server: complete or not at all, and never twice."""

import errno
import fcntl
import gzip
import hashlib
import os
import shutil
import signal
import socket
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
from factories.server import serving
from shell import environment
from torchvision.datasets import CIFAR10, FashionMNIST

from clipkit import datasets
from clipkit.base import console
from clipkit.datasets import downloads, registry
from clipkit.datasets.downloads import Download

TOP = "tiny-imagenet-200"
ZIP = f"{TOP}.zip"


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server on this machine in place of the hosts of the data sets."""
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


def offer(monkeypatch, name, *published):
    """Let a data set have other published files."""
    files = {file.url: file.md5 for file in published}
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


def test_tiny_imagenet_is_downloaded_and_what_and_where_to_is_said_before(
    server, published, tmp_path, capfd
):
    root = tmp_path / "root"
    data = load(root)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 4, "test": 2}
    assert names_in(root) == [TOP]
    text = f"clipkit: downloading {server.url}/{ZIP} to {root}\n"
    assert capfd.readouterr() == ("", text)
    server.forget()
    load(root)
    assert server.requests == []
    assert capfd.readouterr() == ("", "")


def test_on_a_terminal_torchvision_shows_its_bar_unless_one_asks_for_quiet(
    published, tmp_path, capfd, monkeypatch
):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    load(tmp_path / "root")
    assert "100%" in capfd.readouterr().err
    monkeypatch.setattr(console, "_quiet", True)
    load(tmp_path / "quiet")
    assert capfd.readouterr() == ("", "")


def test_a_connection_that_is_cut_is_an_error_that_leaves_nothing(server, published, tmp_path):
    server.cut_after = len(published) // 2
    with fails_with("expected the MD5 checksum") as caught:
        load(tmp_path / "root")
    assert caught.value.message.startswith("cannot download tiny-imagenet to ")
    assert caught.value.hint.startswith(f"put {server.url}/{ZIP} in {tmp_path}/root")
    assert names_in(tmp_path / "root") == []


def test_a_silent_server_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(downloads, "TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/{ZIP}"
        offer(monkeypatch, "tiny-imagenet", Download(url, "0" * 32))
        with fails_with("timed out"):
            load(tmp_path / "root")
    assert names_in(tmp_path / "root") == []
    assert socket.getdefaulttimeout() is None


def test_what_a_killed_process_left_is_removed(published, tmp_path):
    root = tmp_path / "root"
    (root / f"{TOP}.part" / TOP).mkdir(parents=True)
    (root / f"{TOP}.part" / TOP / "wnids.txt").write_text("n0\n")
    (root / f"{ZIP}.lock").touch()
    assert len(load(root).splits["train"]) == 4
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


def test_an_archive_that_was_brought_by_hand_is_used_and_kept(server, published, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / ZIP).write_bytes(published)
    load(root)
    assert names_in(root) == [TOP, ZIP]
    assert server.requests == []


def test_an_unknown_file_on_the_server_is_an_error_of_one_line(server, published, tmp_path):
    (server.root / ZIP).unlink()
    with fails_with("HTTP Error 404") as caught:
        load(tmp_path / "root")
    hint = f"put {server.url}/{ZIP} in {tmp_path}/root by other means"
    assert hint in caught.value.hint
    caught.value.__cause__.close()
    assert names_in(tmp_path / "root") == []


def test_cifar_is_downloaded_in_the_same_way(server, tmp_path, monkeypatch):
    folder = server.root / CIFAR10.base_folder
    write_cifar(folder, "CIFAR10", monkeypatch)
    archive = server.root / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    offer(monkeypatch, "cifar10", download_of(server, archive))
    root = tmp_path / "root"
    assert len(datasets.load("cifar10", root=root).splits["train"]) == 2
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
    assert set(server.requests) == {f"/{name}" for name in others}


# clipkit, which downloads another Tiny ImageNet than the published one
PATCHED = """
from dataclasses import replace
from clipkit.datasets.registry import REGISTRY

published = REGISTRY["tiny-imagenet"]
files = {{{archive.url!r}: {archive.md5!r}}}
REGISTRY["tiny-imagenet"] = replace(published, files=files)
from clipkit.cli import main
main()
"""


def start(command, folder, archive, *words):
    """Start a command on Tiny ImageNet, which has to be downloaded."""
    words = [*command.split(), "tiny-imagenet", "--root", folder / "root", *words]
    line = [sys.executable, "-c", PATCHED.format(archive=archive), *map(str, words)]
    pipe = subprocess.PIPE
    return subprocess.Popen(line, env=environment(), stdout=pipe, stderr=pipe, text=True)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_download_that_is_interrupted_leaves_nothing_that_looks_complete(
    number, server, tmp_path
):
    archive = publish(server, 2_000_000)
    root = tmp_path / "root"
    part = root / f"{TOP}.part"
    server.pause = 0.1
    process = start("embed", tmp_path, archive, "--model", "tiny", "-o", tmp_path / "img.h5")
    while not list(part.glob("*")):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, number)
    _, errors = process.communicate()
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert errors.endswith("clipkit embed: interrupted by SIGINT\n")
        assert names_in(root) == []
    else:
        assert names_in(root) == [part.name, f"{ZIP}.lock"]


@pytest.mark.long
def test_two_processes_that_need_a_data_set_download_it_once(server, tmp_path):
    archive = publish(server, 2_000_000)
    server.pause = 0.05
    pictures = [tmp_path / name for name in ("a.png", "b.png")]
    running = [start("plot images", tmp_path, archive, "-o", path) for path in pictures]
    for process in running:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert server.requests == [f"/{ZIP}"] * 2  # the first one asks where it is redirected to
    assert names_in(tmp_path / "root") == [TOP]
