"""Run command lines of clipkit in forked processes, and judge how they end."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forkserver import BRIEF, ForkServer, Outcome
from hypothesis import HealthCheck, currently_in_test_context, given, note, settings
from hypothesis import strategies as st

TIMES = int(os.environ.get("FUZZ_TIMES", "1"))  # as many cases as the tests try
MEMORY_BYTES = 1 << 30  # of address space beyond what is loaded; an input has kilobytes
CPU_SECONDS = 20
WALL_SECONDS = 120  # the machine may be busy
MAX_LINE = 4000  # characters of a message
FRAME = re.compile(r'File ".*/clipkit/(\S+)\.py", line \d+, in (\S+)')
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def cases(count: int, source: Any = None) -> Callable[[Any], Any]:
    """Call a test `count` times with an `rng` whose choices Hypothesis draws and shrinks."""
    rng = st.randoms(use_true_random=False) if source is None else source
    options = settings(
        max_examples=count * TIMES,
        deadline=None,
        database=None,
        derandomize=TIMES == 1,
        suppress_health_check=list(HealthCheck),
    )
    return lambda test: options(given(rng=rng)(test))


class Runner:
    """Runs command lines in a folder, with limits of memory, processor time and time.

    Hypothesis prints those of the smallest case that fails. The commands' temporary folder is `tmp`
    below the folder.
    """

    def __init__(self, server: ForkServer, folder: Path) -> None:
        self.server = server
        self.folder = folder
        (folder / "tmp").mkdir(parents=True, exist_ok=True)

    def run(self, *words: object, **options: Any) -> Outcome:
        """Run a command to its end; the options are those of `Request`."""
        options = {"memory": MEMORY_BYTES, "fake": True, **options}
        env = {"TMPDIR": str(self.folder / "tmp"), BRIEF: "yes"}
        options["env"] = {**env, **options.get("env", {})}
        options["limits"] = {"RLIMIT_CPU": CPU_SECONDS, **options.get("limits", {})}
        ended = self.server.run(self.folder, *words, seconds=WALL_SECONDS, **options)
        if currently_in_test_context():
            line = shlex.join(map(str, words))
            note(f"$ clipkit {line}\n{ended.stderr}exit code {ended.exit_code}")
        return ended

    def judge(self, *words: object, **options: Any) -> tuple[Outcome, str]:
        """Run a command; return how it ended, and what is wrong with that or ""."""
        before = self._names()
        ended = self.run(*words, **options)
        problem = find_problem(ended)
        new = self._names() - before - {str(word) for word in words}
        if new and not problem:
            problem = f"LEFT BEHIND {sorted(new)[0]}"
        return ended, problem

    def clear(self, pattern: str = "out*") -> None:
        """Remove the outputs of earlier commands."""
        for path in self.folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _names(self) -> set[str]:
        """Return all files and folders, without the shards that a failed embed leaves."""
        names = {str(path.relative_to(self.folder)) for path in self.folder.rglob("*")}
        return {name for name in names if ".partial" not in name}


def find_problem(ended: Outcome) -> str:
    """Return what is wrong with the end of a command, or ""."""
    code, lines = ended.exit_code, ended.stderr.splitlines()
    if code in (-signal.SIGALRM, -signal.SIGXCPU, -signal.SIGKILL):
        return "HANG"
    if code < 0:
        return f"CRASH {signal.Signals(-code).name}"
    for words in ("Traceback", "bug in clipkit", "not enough memory"):
        if words in ended.stderr:
            return words.upper()
    if code not in (0, 1, 2, 3):
        return f"EXIT CODE {code}"
    wrong = [line for line in lines if not _is_message(line)]
    if wrong:
        return f"NO MESSAGE {wrong[0][:100]!r}"
    return _find_problem_of_error(ended, lines) if code in (1, 2) else ""


def _is_message(line: str) -> bool:
    return line.startswith("clipkit") and len(line) < MAX_LINE and not CONTROL.search(line)


def _find_problem_of_error(ended: Outcome, lines: list[str]) -> str:
    """An error is one line, after any notes and warnings, and there is no output."""
    errors = [line for line in lines if line.startswith("clipkit ")]
    if len(errors) != 1 or lines[-1] != errors[0]:
        return f"{len(errors)} ERRORS {ended.stderr[:100]!r}"
    if re.search(r":\s*($|; hint)", errors[0]):
        return f"MESSAGE CUT OFF {errors[0][-60:]!r}"
    return "OUTPUT OF A FAILED COMMAND" if ended.stdout else ""
