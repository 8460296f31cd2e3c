"""Files that are whole or not there."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from faults import contents, unchanged

from clipkit import files
from clipkit.errors import ClipkitError, UsageError, WriteError


def test_a_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with (
        unchanged(tmp_path),
        pytest.raises(KeyError),
        files.atomic_write(str(tmp_path / "x")) as path,
    ):
        path.write_bytes(b"half")
        raise KeyError


def test_the_new_file_is_there_only_after_the_block(tmp_path: Path) -> None:
    with files.atomic_write(str(tmp_path / "x")) as path:
        path.write_bytes(b"new")
        assert not (tmp_path / "x").exists()
        assert path.parent == tmp_path
        assert path.name.startswith(f".x.{os.getpid()}.")
    assert contents(tmp_path) == {"x": b"new"}


def test_a_long_name_leaves_room_for_the_temporary_one(tmp_path: Path) -> None:
    name = "é" * 127
    with files.atomic_write(str(tmp_path / name)) as path:
        path.write_bytes(b"new")
    assert contents(tmp_path) == {name: b"new"}


def test_a_name_that_is_too_long_is_one_error(tmp_path: Path) -> None:
    with (
        pytest.raises(ClipkitError, match="File name too long"),
        files.atomic_write(str(tmp_path / ("x" * 300))),
    ):
        pass


def test_a_folder_that_vanishes_meanwhile(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    with (
        pytest.raises((WriteError, FileNotFoundError)),
        files.atomic_write(str(tmp_path / "sub" / "x")) as path,
    ):
        path.unlink()
        (tmp_path / "sub").rmdir()


def test_what_a_signal_left_is_removed_by_the_door(tmp_path: Path) -> None:
    left = tmp_path / ".x.1.tmp"
    left.write_bytes(b"half")
    files._unfinished.add(left)
    try:
        files.remove_unfinished()
    finally:
        files._unfinished.discard(left)
    assert not list(tmp_path.iterdir())


def test_text_input_has_a_limit(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"1234")
    assert files.read_bytes(str(tmp_path / "x"), limit=4) == b"1234"
    with pytest.raises(ClipkitError, match="must be at most 0 MiB of text; it is larger"):
        files.read_bytes(str(tmp_path / "x"), limit=3)
    with pytest.raises(ClipkitError, match=r"must be readable; .*nothing: No such file"):
        files.read_bytes(str(tmp_path / "nothing"))


def test_a_regular_file_is_not_copied(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"1234")
    with files.spool_input(str(tmp_path / "x")) as path:
        assert path == tmp_path / "x"


def test_copying_goes_on_where_a_write_takes_a_part() -> None:
    class Slow(io.BytesIO):
        def write(self, data: bytes) -> int:  # type: ignore[override]
            return super().write(bytes(data[:7]))

    sink = Slow()
    files._copy(io.BytesIO(b"x" * 1000), sink)
    assert sink.getvalue() == b"x" * 1000


def test_an_output_is_checked_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    for output in (str(tmp_path), str(tmp_path / "x"), str(tmp_path / "no" / "x")):
        with pytest.raises(UsageError):
            files.check_output(output)
    files.check_output(str(tmp_path / "x"), force=True)
    files.check_output("/dev/null")
