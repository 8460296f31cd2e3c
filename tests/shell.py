"""Run clipkit as a user does: in this process, which is fast, or in a real shell."""

from __future__ import annotations

import csv
import functools
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import typer.main
import typer.testing
from factories import refused
from typer.testing import CliRunner, Result

from clipkit.cli import app

PROGRAMS = Path(sys.executable).parent
Make = Callable[..., subprocess.CompletedProcess[str]]

# Typer builds the group of all commands anew for each command line.
typer.main.get_command = functools.cache(typer.main.get_command)
typer.testing._get_command = typer.main.get_command


def clipkit(*words: object, stdin: bytes | None = None) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(app, [str(word) for word in words], input=stdin)


def ok(*words: object, stdin: bytes | None = None) -> Result:
    """Run a command that must succeed."""
    result = clipkit(*words, stdin=stdin)
    assert result.exit_code == 0, result.stderr
    return result


def partly(*words: object) -> Result:
    """Run a command that must succeed, but leave something out."""
    result = clipkit(*words)
    assert result.exit_code == 3, result.stderr
    return result


def fails(*words: object, exit_code: int = 1, stdin: bytes | None = None) -> str:
    """Run a command that must be refused, and return its only line."""
    return refused(clipkit(*words, stdin=stdin), exit_code)


def rows(text: str) -> list[dict[str, str]]:
    """Return a TSV report as one dict per row."""
    return list(csv.DictReader(io.StringIO(text), delimiter="\t"))


def shell(line: str, folder: Path, programs: Path = PROGRAMS) -> subprocess.CompletedProcess[str]:
    """Run a line in bash with pipefail.

    `clipkit` is that of the folder `programs`, `python` that of this process.
    """
    path = os.pathsep.join((str(programs), str(PROGRAMS), os.environ["PATH"]))
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )


def environment() -> dict[str, str]:
    """Return the environment without what a make above the tests has put there."""
    inherited = ("MAKE", "MFLAGS")
    return {k: value for k, value in os.environ.items() if not k.startswith(inherited)}
