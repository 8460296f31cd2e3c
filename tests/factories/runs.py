"""Runs of clipkit that end before they are done."""

from __future__ import annotations

from typing import Any

import pytest
from shell import clipkit

from clipkit.embedding import checkpoint


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
