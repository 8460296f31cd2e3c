"""Long runs: the number of threads is part of a run, and several processes share one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from factories import contents, messages, unchanged
from shell import clipkit, fails, ok

from clipkit import embedding, models
from clipkit.datasets import load
from clipkit.embedding import checkpoint
from clipkit.errors import UsageError

RUN = ("embed", "digits", "--split", "test", "--limit", 20, "-m", "tiny", "-b", 4)


@pytest.fixture(autouse=True)
def shards_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SHARD_ROWS", 4)


@pytest.fixture(autouse=True)
def own_threads() -> Iterator[None]:
    """Set the number of threads back at the end."""
    number = models.num_threads()
    yield
    models.set_num_threads(number)


def stop_at(shard: int, monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    """Run a command that is interrupted before it saves a shard."""
    save = checkpoint.Checkpoint.save

    def save_some(self: Any, which: Any, *arguments: Any) -> None:
        if which.number >= shard:
            raise KeyboardInterrupt
        save(self, which, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Checkpoint, "save", save_some)
        assert clipkit(*words).exit_code == 130


def test_a_run_continues_with_the_number_of_threads_that_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.h5"
    models.set_num_threads(3)
    stop_at(2, monkeypatch, *RUN, "-o", output)
    models.set_num_threads(1)
    note = "clipkit: computing with 3 threads in place of 1, as the run began\n"
    assert note in messages(ok(*RUN, "-o", output).stderr)
    assert models.num_threads() == 3
    ok(*RUN, "-o", tmp_path / "once.h5")
    assert output.read_bytes() == (tmp_path / "once.h5").read_bytes()


def test_a_run_that_starts_over_uses_its_own_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models.set_num_threads(3)
    stop_at(2, monkeypatch, *RUN, "-o", tmp_path / "out.h5")
    models.set_num_threads(1)
    ok(*RUN, "-o", tmp_path / "out.h5", "--restart")
    assert models.num_threads() == 1
    assert list(contents(tmp_path)) == ["out.h5"]


def test_the_library_refuses_another_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.h5"
    models.set_num_threads(3)
    stop_at(2, monkeypatch, *RUN, "-o", output)
    models.set_num_threads(1)
    data = load("digits", splits=["test"], limit=20)
    encoder = models.load("tiny", tower="image")
    with unchanged(tmp_path), pytest.raises(UsageError, match=r"threads was 3, is 1$"):
        embedding.embed_images(data, encoder, str(output), batch_size=4)


@pytest.mark.parametrize("number", [0, -1, 100_000, "2", None])
def test_a_number_of_threads_that_cannot_be_used_is_refused(
    number: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(2, monkeypatch, *RUN, "-o", tmp_path / "out.h5")
    manifest = tmp_path / "out.h5.partial" / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "threads": number}))
    with unchanged(tmp_path):
        line = fails(*RUN, "-o", tmp_path / "out.h5", exit_code=2)
    assert f"belongs to another run: threads was {number}, is " in line
