"""Files that are written whole or not at all, and inputs that are read or copied."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import sys
from pathlib import Path

import pytest
from factories import contents, fails_with, unchanged

from clipkit.base import files
from clipkit.base.errors import UsageError, WriteError


@pytest.mark.parametrize(
    ("error", "expected"),
    [(KeyError(), KeyError), (OSError(errno.ENOSPC, "No space left on device"), WriteError)],
)
def test_a_failing_block_leaves_the_earlier_file(tmp_path, error, expected):
    (tmp_path / "x").write_bytes(b"earlier")

    def fail_halfway() -> None:
        with files.atomic_write(str(tmp_path / "x"), force=True) as path:
            path.write_bytes(b"half")
            raise error

    with unchanged(tmp_path), pytest.raises(expected):
        fail_halfway()


def test_a_folder_that_disappears_meanwhile_is_reported(tmp_path):
    folder = tmp_path / "sub"
    folder.mkdir()
    with pytest.raises((WriteError, FileNotFoundError)), files.atomic_write(str(folder / "x")):
        shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["x", "é" * 127], ids=["short", "as long as names may be"])
def test_the_file_appears_after_the_block(tmp_path, name):
    with files.atomic_write(str(tmp_path / name)) as path:
        path.write_bytes(b"new")
        assert not (tmp_path / name).exists()
        assert path.parent == tmp_path
        assert path.name.startswith(f".{name[:90]}.{os.getpid()}.")
    assert contents(tmp_path) == {name: b"new"}


def test_a_name_that_is_too_long_is_reported(tmp_path):
    output = str(tmp_path / ("x" * 300))
    with fails_with("File name too long"), files.atomic_write(output):
        pass


def test_a_quota_that_is_reported_at_close_publishes_nothing(tmp_path, monkeypatch):
    close = os.close

    def fail(descriptor: int) -> None:
        close(descriptor)
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    def write() -> None:
        with files.atomic_write(str(tmp_path / "x"), force=True) as path:
            path.write_bytes(b"new")
            monkeypatch.setattr(os, "close", fail)

    (tmp_path / "x").write_bytes(b"earlier")
    with unchanged(tmp_path), fails_with(f"cannot write {tmp_path}/x: Disk quota exceeded"):
        write()
    monkeypatch.undo()


def test_an_error_when_an_input_is_closed_is_none_of_the_command(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(b"1234")
    close, closed = os.close, []

    def fail(descriptor: int) -> None:
        close(descriptor)
        closed.append(descriptor)
        raise OSError(errno.EIO, "Input/output error")

    with files.spool_input(str(tmp_path / "x")) as file:
        monkeypatch.setattr(os, "close", fail)
    monkeypatch.undo()
    assert closed == [file.descriptor]


def test_a_text_input_has_a_size_limit(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_bytes(b"1234")
    monkeypatch.setattr(files, "MAX_TEXT_BYTES", 4)
    assert files.read_bytes(str(path)) == b"1234"
    monkeypatch.setattr(files, "MAX_TEXT_BYTES", 3)
    with fails_with("expected at most 0 MiB of text, got more"):
        files.read_bytes(str(path))
    with fails_with("nothing: there is no such file"):
        files.read_bytes(str(tmp_path / "nothing"))


def test_an_input_that_cannot_be_read_is_named_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.h5")
    with fails_with("cannot read socket.h5: "), files.spool_input("socket.h5"):
        pass
    Path("x.h5").touch(mode=0)
    tmp_path.chmod(0o755)
    user = os.geteuid()
    os.seteuid(user or 65534)  # root may read everything
    try:
        with fails_with("cannot read x.h5: Permission denied"), files.spool_input("x.h5"):
            pass
    finally:
        os.seteuid(user)


def test_an_input_that_a_writer_replaces_is_read_to_its_end(tmp_path):
    source = tmp_path / "x"
    source.write_bytes(b"1234")
    with files.spool_input(str(source)) as file:
        assert file.path.samefile(source)  # it is not copied
        with files.atomic_write(str(source), force=True) as temporary:
            temporary.write_bytes(b"another")
        if sys.platform == "linux":
            assert file.path.read_bytes() == file.path.read_bytes() == b"1234"
    assert source.read_bytes() == b"another"


@pytest.mark.parametrize(
    ("position", "is_readable", "is_copied"),
    [(0, True, sys.platform != "linux"), (0, False, True), (2, True, True)],
    ids=["a file", "a file that may not be opened again", "the rest of a file"],
)
def test_a_file_on_standard_input_is_read_in_place(
    tmp_path, monkeypatch, position, is_readable, is_copied
):
    (tmp_path / "x").write_bytes(b"1234")
    monkeypatch.setattr(os, "access", lambda *_: is_readable)
    with (tmp_path / "x").open() as stdin:
        os.lseek(stdin.fileno(), position, os.SEEK_SET)
        monkeypatch.setattr(sys, "stdin", stdin)
        with files.spool_input("-") as file:
            assert file.path.samefile(tmp_path / "x") != is_copied
            assert file.path.read_bytes() == b"1234"[position:]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o666])
def test_a_file_that_replaces_another_keeps_its_permissions(tmp_path, mode):
    output = tmp_path / "x"
    output.write_bytes(b"earlier")
    output.chmod(mode)
    with files.atomic_write(str(output), force=True) as temporary:
        assert temporary.stat().st_mode & 0o077 == 0  # also while it is written
        temporary.write_bytes(b"new")
    assert (output.read_bytes(), output.stat().st_mode & 0o777) == (b"new", mode)


def test_a_new_file_has_the_permissions_that_the_umask_leaves(tmp_path):
    earlier = os.umask(0o027)
    try:
        with files.atomic_write(str(tmp_path / "x")) as temporary:
            temporary.write_bytes(b"new")
    finally:
        os.umask(earlier)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


def test_a_terminal_is_no_output_under_any_name():
    controller, terminal = os.openpty()
    try:
        with fails_with("cannot write binary data to a terminal", UsageError):
            files.check_output(os.ttyname(terminal))
    finally:
        os.close(terminal)
        os.close(controller)
