"""Running clipkit as a user does: in this process for speed, or in a real shell."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from clipkit.cli import app


def clipkit(*words: object, stdin: bytes | None = None) -> Result:
    """Run a command in this process, through the door."""
    return CliRunner().invoke(app, [str(word) for word in words], input=stdin)


def ok(*words: object, stdin: bytes | None = None) -> Result:
    """Run a command that must succeed."""
    result = clipkit(*words, stdin=stdin)
    assert result.exit_code == 0, result.stderr
    return result


def rows(text: str) -> list[dict[str, str]]:
    """A TSV report as dictionaries."""
    return list(csv.DictReader(io.StringIO(text), delimiter="\t"))


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line in bash, `clipkit` being this environment's, with pipefail."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
